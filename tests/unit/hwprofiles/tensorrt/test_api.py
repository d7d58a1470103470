"""Every attribute that our TensorRT code uses exists in the real bindings of TensorRT 11.4, and in those of RTX.

The bindings need libraries that PyPI does not have. They are loaded against nine functions that a C compiler makes
here: enough to import them, and to see every class, method and enumeration that they have.
"""

from __future__ import annotations

import ast
import inspect
import json
import os
import platform
import shutil
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from types import ModuleType

import pytest

from hwprofiles.runtimes import tensorrt_backend, tensorrt_buffers, tensorrt_build, tensorrt_opened, tensorrt_timing

COMPILER = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
STUBS = """
void *createInferBuilder_INTERNAL(void *log, int v) { return 0; }
void *createInferRefitter_INTERNAL(void *engine, void *log, int v) { return 0; }
void *createInferRuntime_INTERNAL(void *log, int v) { return 0; }
void *createNvOnnxParserRefitter_INTERNAL(void *refitter, void *log, int v) { return 0; }
void *createNvOnnxParser_INTERNAL(void *network, void *log, int v) { return 0; }
void *getBuilderPluginRegistry(int capability) { return 0; }
int getNvOnnxParserVersion(void) { return 110400; }
void *getPluginRegistry(void) { return 0; }
int initLibNvInferPlugins(void *log, const char *space) { return 1; }
"""

# What a variable or an attribute of this name holds, in our files.
HOLDS = {
    "trt": "",
    "builder": "Builder",
    "network": "INetworkDefinition",
    "parser": "OnnxParser",
    "refused": "ParserError",
    "config": "IBuilderConfig",
    "profile": "IOptimizationProfile",
    "port": "ITensor",
    "tensor": "ITensor",
    "layer": "ILayer",
    "cache": "ITimingCache",
    "runtime": "Runtime",
    "engine": "ICudaEngine",
    "context": "IExecutionContext",
    "inspector": "EngineInspector",
    "runtime_config": "IRuntimeConfig",
    "runtime_cache": "IRuntimeCache",
}
# Only TensorRT-RTX builds for several cards at once, and compiles on the card.
RTX_ONLY = {"ComputeCapability.__members__", "IBuilderConfig.num_compute_capabilities"}
RTX_ONLY |= {"IBuilderConfig.set_compute_capability", "ComputeCapability"}
RTX_ONLY |= {"ComputeCapability.CURRENT", "IRuntimeConfig.dynamic_shapes_kernel_specialization_strategy"}
RTX_ONLY |= {"DynamicShapesKernelSpecializationStrategy", "DynamicShapesKernelSpecializationStrategy.EAGER"}
RTX_ONLY |= {"IRuntimeConfig.create_runtime_cache", "IRuntimeConfig.set_runtime_cache", "IRuntimeCache.serialize"}
RTX_ONLY |= {"IRuntimeCache.deserialize", "IExecutionContext.is_stream_capturable"}

# Gone in TensorRT 11: weak typing, calibration, algorithm selectors, the first versions of calls.
REMOVED = {
    *("FP16", "BF16", "INT8", "FP8", "INT4", "FP4", "OBEY_PRECISION_CONSTRAINTS", "PREFER_PRECISION_CONSTRAINTS"),
    *("DIRECT_IO", "SAFETY_SCOPE", "EXPLICIT_BATCH", "EXPLICIT_PRECISION", "CALIBRATE_BEFORE_FUSION"),
    *("precision", "precision_is_set", "reset_precision", "set_output_type", "reset_output_type", "dynamic_range"),
    *(
        "set_dynamic_range",
        "int8_calibrator",
        "set_calibration_profile",
        "get_calibration_profile",
        "set_quantization_flag",
    ),
    *("QuantizationFlag", "IAlgorithmSelector", "algorithm_selector", "IInt8Calibrator", "IInt8EntropyCalibrator2"),
    *("execute_async_v2", "execute_async", "execute", "device_memory_size", "max_workspace_size", "build_engine"),
    *("build_cuda_engine", "max_batch_size", "num_bindings", "get_binding_shape", "weight_streaming_budget"),
}
SUBJECTS = (tensorrt_build, tensorrt_opened, tensorrt_buffers, tensorrt_backend, tensorrt_timing)

ASK = """
import importlib, json, sys
trt = importlib.import_module(sys.argv[1])
found = []
for chain in json.loads(sys.argv[2]):
    thing = trt
    for name in chain.split("."):
        if not hasattr(thing, name):
            found.append(chain)
            break
        thing = getattr(thing, name)
print(json.dumps([trt.__version__, found]))
"""


def used(module: ModuleType, source: str = "") -> set[str]:
    """Attributes of TensorRT that the module's code names, as "Class.attribute" or "Enumeration.MEMBER"."""
    found = set()
    for node in ast.walk(ast.parse(source or inspect.getsource(module))):
        if not isinstance(node, ast.Attribute):
            continue
        names = [node.attr]
        inner = node.value
        while isinstance(inner, ast.Attribute):
            names.append(inner.attr)
            inner = inner.value
        names.append(inner.id if isinstance(inner, ast.Name) else "")
        chain = names[::-1]
        if "_trt" in chain[:2] or chain[0] == "trt":
            start = chain.index("_trt") if "_trt" in chain else 0
            found.add(".".join(chain[start + 1 :]))
        else:
            holders = [index for index, name in enumerate(chain[:-1]) if HOLDS.get(name)]
            if holders and holders[-1] == len(chain) - 2:
                found.add(f"{HOLDS[chain[-2]]}.{chain[-1]}")
    return {name for name in found if name}


def everything() -> set[str]:
    return set().union(*(used(module) for module in SUBJECTS))


def ask(module: str, names: set[str], libraries: Path | None = None) -> tuple[str, list[str]]:
    """The version of the bindings, and which of the names they do not have."""
    environment = dict(os.environ)
    if libraries is not None:
        environment["LD_LIBRARY_PATH"] = str(libraries)
    command = [sys.executable, "-c", ASK, module, json.dumps(sorted(names))]
    answer = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert answer.returncode == 0, answer.stderr
    version, missing = json.loads(answer.stdout)
    return version, missing


@pytest.fixture(scope="module")
def libraries(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The three libraries that the bindings ask for."""
    if COMPILER is None:
        pytest.skip("there is no C compiler here (cc, gcc or clang) to make the libraries that the bindings ask for")
    try:
        metadata.version("tensorrt-cu13-bindings")
    except metadata.PackageNotFoundError:
        if (sys.platform, platform.machine()) != ("linux", "x86_64"):
            pytest.skip("there are no bindings of TensorRT 11.4 for this machine")
        pytest.fail("tensorrt-cu13-bindings is not installed: pip install '.[dev]'")
    folder = tmp_path_factory.mktemp("libraries")
    (folder / "stubs.c").write_text(STUBS)
    for name in ("nvinfer", "nvinfer_plugin", "nvonnxparser"):
        file = f"lib{name}.so.11"
        command = [
            COMPILER,
            "-shared",
            "-fPIC",
            "-o",
            str(folder / file),
            f"-Wl,-soname,{file}",
            str(folder / "stubs.c"),
        ]
        subprocess.run(command, check=True, capture_output=True)
    return folder


def test_all_that_is_used_is_in_tensorrt_11_4(libraries: Path) -> None:
    version, missing = ask("tensorrt_bindings", everything() - RTX_ONLY, libraries)
    assert version == "11.4.0.106" and missing == []


def test_all_that_is_used_is_in_tensorrt_rtx() -> None:
    version, missing = ask("tensorrt_rtx_bindings", everything())
    assert version.startswith("1.") and missing == []


def test_what_only_rtx_has_is_not_in_tensorrt(libraries: Path) -> None:
    assert set(ask("tensorrt_bindings", RTX_ONLY, libraries)[1]) == RTX_ONLY


def test_the_scan_sees_what_our_code_does() -> None:
    found = everything()
    assert len(found) > 55
    for name in (
        "Builder.build_serialized_network",
        "IBuilderConfig.set_timing_cache",
        "BuilderFlag.SPARSE_WEIGHTS",
        "IExecutionContext.execute_async_v3",
        "ICudaEngine.device_memory_size_v2",
        "EngineInspector.get_engine_information",
        "Runtime.deserialize_cuda_engine",
        "LayerInformationFormat.JSON",
        *RTX_ONLY,
    ):
        assert name in found


@pytest.mark.parametrize(
    "line", ["config.set_calibration_profile(p)", "config.set_flag(trt.BuilderFlag.FP16)", "engine.device_memory_size"]
)
def test_the_scan_finds_what_was_removed(libraries: Path, line: str) -> None:
    found = used(tensorrt_build, line)
    assert ask("tensorrt_bindings", found, libraries)[1] and {name.rpartition(".")[2] for name in found} & REMOVED


def test_nothing_that_was_removed_is_used() -> None:
    for module in SUBJECTS:
        tree = ast.parse(inspect.getsource(module))
        names = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
        assert not names & REMOVED, module.__name__
