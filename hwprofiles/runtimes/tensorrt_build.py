"""Builds an engine from an ONNX file: a program of its own, because a builder can crash, hang and eat all memory.

`build(request)` is what the child process does; `main` reads the request from a file and writes the result to another.
TensorRT tells what went wrong in its log and by returning None, hardly ever by an exception. Python 3.9, stdlib only.

Source: NVIDIA TensorRT 11.4 Python API (strongly typed networks only); TensorRT-RTX 1.7 has the same names.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import os
import re
import sys
import time
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from hwprofiles.agent import cuda_events
from hwprofiles.runtimes import tensorrt_layers

_MODULES = {"tensorrt": ("tensorrt", "tensorrt_bindings"), "tensorrt-rtx": ("tensorrt_rtx", "tensorrt_rtx_bindings")}
_LINE = 600  # characters of a message
_KEPT = 20  # messages of the log

# What a builder's log says when it is not the model's fault, or not only.
_NO_ROOM = re.compile(r"cuda initialization failure with error: 2\b")  # cudaErrorMemoryAllocation
_GAVE_UP = "could not find any implementation"  # the last line where every kernel failed, each for its own reason
_NO_CARD = ("cudaerror 35", "cudaerror 100", "cuda initialization failure", "no cuda-capable device")


class BuildProblem(Exception):
    """No engine. `kind` is that of a Failure."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(" ".join(message.split())[:_LINE])
        self.kind = kind


def load(runtime: str) -> Any:
    """The module of TensorRT or TensorRT-RTX. Raises ImportError, also where its libraries are missing."""
    meta, bindings = _MODULES[runtime]
    try:
        return importlib.import_module(meta)
    except ModuleNotFoundError as error:
        if error.name != meta:
            raise
    return importlib.import_module(bindings)


def installed(runtime: str) -> bool:
    """Whether one of its packages is there, without loading it."""
    return any(importlib.util.find_spec(name) is not None for name in _MODULES[runtime])


def messages(trt: Any) -> Any:
    """A logger that keeps what TensorRT says: `errors`, `warned`, and the builder's `layers`."""

    class Messages(trt.ILogger):  # type: ignore[misc]  # the module is only known here
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.errors: list[str] = []
            self.warned: list[str] = []
            self.layers: list[str] = []  # one text for each part that the builder made an engine of

        def log(self, severity: Any, text: str) -> None:
            if severity in (trt.ILogger.ERROR, trt.ILogger.INTERNAL_ERROR):
                self.errors.append(text)
            elif severity == trt.ILogger.WARNING:
                self.warned.append(text)
            elif tensorrt_layers.LOGGED in text:
                self.layers.append(text)

    return Messages()


def build(request: dict[str, Any]) -> dict[str, Any]:
    """Build `request["model"]` into the file `request["plan"]`; without one only the model is read.

    `runtime` "tensorrt" or "tensorrt-rtx"; `shapes`: input -> least, usual and greatest dimensions, for inputs whose
    dimensions are not fixed; `builder`: options of the target; `capability` "8.9" to build for another card than the
    one here (TensorRT-RTX only); `timing_cache`: a file that is read and written, "" for none; `load` true: the engine
    must also load on the card here. Returns `inputs`,
    `outputs`, `version`, `seconds`, `types` (ONNX node -> layer type), `layers`, `notes`. Raises `BuildProblem`.
    """
    try:
        trt = load(request["runtime"])
    except (ImportError, OSError) as error:
        raise BuildProblem("unavailable", f"{sys.executable} cannot import {request['runtime']}: {error}") from error
    log = messages(trt)
    notes: list[str] = []
    try:
        builder = trt.Builder(log)
    except (TypeError, RuntimeError) as error:  # a null pointer in its bindings
        kind = "oom" if is_full(log.errors) else "unavailable"
        raise BuildProblem(kind, f"no builder: {_said(log) or error}") from error
    typed = 1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
    network = builder.create_network(typed)
    if network is None:
        raise BuildProblem("unavailable", f"the builder made no network: {_said(log)}")
    parser = trt.OnnxParser(network, log)
    if not parser.parse_from_file(request["model"]):
        raise _refusal(trt, parser, log)
    result = {
        "version": str(trt.__version__),
        "inputs": [_port(network.get_input(i)) for i in range(network.num_inputs)],
        "outputs": [_port(network.get_output(i)) for i in range(network.num_outputs)],
        "types": _types(network),
        "notes": notes,
        "layers": [],
        "seconds": 0.0,
    }
    if not request.get("plan"):
        return result
    config = builder.create_builder_config()
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED  # to know each layer's precision; costs no time
    _configure(trt, config, request, notes)
    _shape(builder, network, config, request["shapes"])
    cache = _attach_timing_cache(config, request.get("timing_cache", ""), notes)
    start = time.perf_counter()
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise _no_engine(log)
    result["seconds"] = time.perf_counter() - start
    if request.get("load"):
        _load_plan(trt, log, plan)
    try:
        Path(request["plan"]).write_bytes(memoryview(plan))
    except OSError as error:
        raise BuildProblem("disk", f"the engine cannot be written: {error.strerror}; free some space there") from error
    if cache is not None:
        _keep_timings(config, Path(request["timing_cache"]), notes)
    result["layers"] = [layer for text in log.layers for layer in tensorrt_layers.logged(text)]
    notes += [" ".join(text.split())[:200] for text in log.warned[:3]]
    return result


def listed(trt: Any, capability: str) -> Any:
    """The card that TensorRT-RTX builds for by this name ("8.9"); None for one that it does not list."""
    known = dict(trt.ComputeCapability.__members__)
    return known.get("SM" + capability.replace(".", ""))


def _load_plan(trt: Any, log: Any, plan: Any) -> None:
    """Raise `BuildProblem` unless the engine can be loaded here."""
    runtime = trt.Runtime(log)
    engine = runtime.deserialize_cuda_engine(plan)
    context = None if engine is None else engine.create_execution_context()
    if context is None:
        kind = "oom" if is_full(log.errors) else "unavailable"
        raise BuildProblem(kind, f"the engine that was built cannot be loaded: {_said(log)}")


def _configure(trt: Any, config: Any, request: dict[str, Any], notes: list[str]) -> None:
    """The target's builder options, and the card to build for."""
    wanted = request["builder"]
    if wanted.get("builder_level") is not None:
        config.builder_optimization_level = wanted["builder_level"]
    if wanted.get("tactics") is not None:
        config.max_num_tactics = wanted["tactics"]
    if wanted.get("workspace") is not None:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, wanted["workspace"])
    if wanted.get("aux_streams") is not None:
        config.max_aux_streams = wanted["aux_streams"]
    (config.set_flag if wanted.get("tf32", True) else config.clear_flag)(trt.BuilderFlag.TF32)
    if wanted.get("sparse", False):
        config.set_flag(trt.BuilderFlag.SPARSE_WEIGHTS)
    if request["runtime"] == "tensorrt-rtx":
        capability = request.get("capability", "")
        if capability:
            config.num_compute_capabilities = 1
            config.set_compute_capability(listed(trt, capability) or trt.ComputeCapability.CURRENT, 0)
            if listed(trt, capability) is None:
                notes.append(f"TensorRT-RTX does not list compute capability {capability}; built for the card there")


def _shape(builder: Any, network: Any, config: Any, shapes: dict[str, list[list[int]]]) -> None:
    """An optimization profile, if the model has inputs without fixed dimensions. Raises `BuildProblem`."""
    profile, open_inputs = builder.create_optimization_profile(), False
    for index in range(network.num_inputs):
        port = network.get_input(index)
        declared = list(port.shape)
        if port.is_shape_tensor:
            raise BuildProblem("unsupported", f"input {port.name!r} decides on shapes; give it as a constant")
        given = shapes.get(port.name)
        if given is None and -1 in declared:
            raise BuildProblem("bad_model", f"the model takes {port.name!r} {declared}; it was given {_list(shapes)}")
        for dims in given or ():
            if len(dims) != len(declared) or any(d not in (-1, g) for d, g in zip(declared, dims)):  # noqa: B905
                raise BuildProblem("bad_model", f"the model takes {port.name!r} {declared}; it was given {dims}")
        if given is not None and -1 in declared:
            open_inputs = True
            profile.set_shape(port.name, *[tuple(dims) for dims in given])
    if open_inputs and config.add_optimization_profile(profile) < 0:
        raise BuildProblem("bad_model", f"TensorRT takes no profile with {json.dumps(shapes)}")


def _attach_timing_cache(config: Any, path: str, notes: list[str]) -> Any:
    """Times of kernels that earlier builds have measured: the same layers are not timed again, nor chosen anew."""
    if not path:
        return None
    try:
        known = Path(path).read_bytes()
    except OSError:
        known = b""
    for data in (known, b"") if known else (b"",):
        try:
            cache = config.create_timing_cache(data)
        except (RuntimeError, TypeError, ValueError):
            cache = None
        if cache is not None and config.set_timing_cache(cache, False):
            return cache
        notes.append("the timing cache does not belong to this card or version, or is damaged; a new one was begun")
    return None


def _keep_timings(config: Any, path: Path, notes: list[str]) -> None:
    """Write the timing cache. The engine is there without it: what cannot be kept is a note."""
    cache = config.get_timing_cache()
    blob = None if cache is None else cache.serialize()
    if blob is None:
        notes.append("the timing cache was not kept: TensorRT gives none")
        return
    try:
        save(path, memoryview(blob))
    except OSError as error:
        notes.append(f"the timing cache was not kept: {error.strerror} ({path.parent})")


def _refusal(trt: Any, parser: Any, log: Any) -> BuildProblem:
    """What the parser says of the first node that it refuses."""
    unsupported = {code for name, code in trt.ErrorCode.__members__.items() if name.startswith("UNSUPPORTED")}
    for index in range(parser.num_errors):
        refused = parser.get_error(index)
        kind = "unsupported" if refused.code() in unsupported else "bad_model"
        where = f"node {refused.node_name()!r} ({refused.node_operator()}): " if refused.node_operator() else ""
        return BuildProblem(kind, f"TensorRT's parser refuses the model: {where}{refused.desc()}")
    return BuildProblem("bad_model", f"TensorRT's parser refuses the model: {_said(log) or 'it does not say why'}")


def _no_engine(log: Any) -> BuildProblem:
    said = _said(log) or "it does not say why"
    text = said.lower()
    full = is_full([said]) or (_GAVE_UP in text and is_full(log.errors))
    if not full and any(word in text for word in _NO_CARD):
        return BuildProblem("unavailable", f"TensorRT's builder found no card: {said}")
    kind = "oom" if full else "unsupported"
    return BuildProblem(kind, f"TensorRT's builder made no engine: {said}")


def is_full(texts: Iterable[str]) -> bool:
    """Whether one of these messages of TensorRT says that there was no memory for something."""
    return any(cuda_events.is_full(text) or _NO_ROOM.search(text.lower()) for text in texts)


def _types(network: Any) -> dict[str, str]:
    """ONNX node -> the layer type it became; the first that a node became, where it became several."""
    found: dict[str, str] = {}
    for index in range(network.num_layers):
        layer = network.get_layer(index)
        for node in tensorrt_layers.nodes_of({"Metadata": layer.metadata}):
            heavy = layer.type.name in tensorrt_layers.PRODUCTS
            if heavy or node not in found:
                found[node] = layer.type.name
    return found


def _port(tensor: Any) -> dict[str, Any]:
    return {"name": tensor.name, "type": tensor.dtype.name, "shape": list(tensor.shape)}


def _list(shapes: dict[str, list[list[int]]]) -> str:
    return ", ".join(f"{name} {dims[0]}" for name, dims in shapes.items()) or "nothing"


def _said(log: Any) -> str:
    """The last error of the log, without the repetitions of those who called whoever failed."""
    return " ".join(log.errors[-1].split()) if log.errors else ""


def save(path: Path, data: Any) -> None:
    """Write a file whole or not at all: a neighbour may be reading it. Raises OSError."""
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        part.write_bytes(data)
        part.replace(path)
    except OSError:
        part.unlink(missing_ok=True)  # on a disk that is full a piece of it would stay
        raise


def main() -> None:
    """`REQUEST.json RESULT.json`. A refusal is a result too; anything else ends the process with a traceback."""
    request = json.loads(Path(sys.argv[1]).read_text())
    warnings.simplefilter("ignore", DeprecationWarning)  # of RTX, for a call that TensorRT needs
    result: dict[str, Any]
    try:
        result = build(request)
    except BuildProblem as error:
        result = {"problem": {"kind": error.kind, "message": str(error)}}
    Path(sys.argv[2]).write_text(json.dumps(result))
