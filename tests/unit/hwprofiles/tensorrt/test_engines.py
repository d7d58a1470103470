"""Engines are really built by TensorRT-RTX, in a process of their own and without a card; and how that goes wrong."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from hwprofiles.runtimes import tensorrt_engines, tensorrt_layers
from hwprofiles.runtimes.conformance import _MODEL
from hwprofiles.runtimes.tensorrt_build import BuildProblem
from hwprofiles.runtimes.tensorrt_engines import Engines, ranges

pytest.importorskip("tensorrt_rtx_bindings", reason="TensorRT-RTX is not installed: pip install '.[dev]'")

NO_CARD = pytest.mark.skipif(Path("/proc/driver/nvidia").exists(), reason="this machine has an NVIDIA driver")
SHAPES = {"x": [[2, 8], [2, 8], [2, 8]]}


@pytest.fixture
def model(tmp_path: Path) -> str:
    (tmp_path / "model.onnx").write_bytes(_MODEL)
    return str(tmp_path / "model.onnx")


@pytest.fixture
def make(tmp_path: Path) -> Callable[..., Engines]:
    def engines(**changes: Any) -> Engines:
        request = {"runtime": "tensorrt-rtx", "builder": changes.get("builder", {}), "capability": "8.9"}
        request.update({key: changes[key] for key in ("runtime", "capability") if key in changes})
        return Engines(
            changes.get("folder", tmp_path / "engines"),
            tmp_path,
            request,
            changes.get("identity", "card"),
            changes.get("timeout", 60.0),
            changes.get("limit", 1 << 30),
        )

    return engines


def test_an_engine_is_built_once(make: Callable[..., Engines], model: str) -> None:
    first = make().get(model, SHAPES)
    assert first.seconds > 0 and len(first.plan) > 1000
    assert first.builds == [{"digest": first.digest, "seconds": first.seconds, "latency": None}]
    again = make()
    found = again.get(model, SHAPES)
    assert (found.seconds, found.plan, found.builds, again.notes) == (0.0, first.plan, first.builds, [])
    assert [port["name"] for port in found.inputs] == ["x"] and found.outputs[0]["type"] == "FLOAT"


@pytest.mark.parametrize(
    "changes", [{"identity": "another card"}, {"builder": {"builder_level": 2}}, {"capability": "12.0"}]
)
def test_another_card_or_other_options_are_another_engine(
    make: Callable[..., Engines], model: str, changes: dict[str, Any]
) -> None:
    make().get(model, SHAPES)
    assert make(**changes).get(model, SHAPES).seconds > 0


def test_other_shapes_are_another_engine(make: Callable[..., Engines], model: str) -> None:
    make().get(model, SHAPES)
    assert make().get(model, {"x": [[1, 8], [2, 8], [4, 8]]}).seconds > 0


@pytest.mark.parametrize("suffix", [".engine", ".json"])
def test_a_damaged_file_in_the_cache_is_built_anew_and_it_is_said(
    make: Callable[..., Engines], model: str, tmp_path: Path, suffix: str
) -> None:
    make().get(model, SHAPES)
    (file,) = (tmp_path / "engines").glob("*" + suffix)
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 0xFF
    file.write_bytes(bytes(data))
    engines = make()
    assert engines.get(model, SHAPES).seconds > 0
    assert "was damaged; it was built anew" in engines.notes[0]
    assert make().get(model, SHAPES).seconds == 0


def test_the_cache_has_a_bound(make: Callable[..., Engines], model: str, tmp_path: Path) -> None:
    size = len(make().get(model, SHAPES).plan)
    small = make(limit=2 * size)
    for batch in (3, 4, 5):
        small.get(model, {"x": [[batch, 8]] * 3})
    left = [file.stat().st_size for file in (tmp_path / "engines").glob("*.engine")]
    assert left and sum(left) <= 2.1 * size
    assert len(list((tmp_path / "engines").glob("*.json"))) == len(left)


def test_without_a_folder_there_is_no_cache_and_it_is_said(
    make: Callable[..., Engines], model: str, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    engines = make(folder=tmp_path / "file" / "engines")
    assert engines.get(model, SHAPES).seconds > 0 and engines.get(model, SHAPES).seconds > 0
    assert "engines are not kept" in engines.notes[0]


@pytest.mark.parametrize(
    ("shapes", "said"),
    [
        ({"x": [[2, 9]] * 3}, r"the model takes 'x' \[-1, 8\]; it was given \[2, 9\]"),
        ({"x": [[2, 8, 1]] * 3}, r"the model takes 'x' \[-1, 8\]; it was given \[2, 8, 1\]"),
        ({"y": [[2, 8]] * 3}, r"the model takes 'x' \[-1, 8\]; it was given y"),
    ],
)
def test_inputs_that_do_not_fit_are_one_line(
    make: Callable[..., Engines], model: str, shapes: dict[str, Any], said: str
) -> None:
    with pytest.raises(BuildProblem, match=said) as caught:
        make().get(model, shapes)
    assert caught.value.kind == "bad_model"


def test_what_is_no_model_is_one_line(make: Callable[..., Engines], tmp_path: Path) -> None:
    (tmp_path / "broken.onnx").write_bytes(b"\x08\x07garbage")
    with pytest.raises(BuildProblem, match=r"parser refuses the model: .*Failed to parse the ONNX model") as caught:
        make().get(str(tmp_path / "broken.onnx"), SHAPES)
    assert caught.value.kind == "bad_model" and "\n" not in str(caught.value)


def test_an_operator_that_the_parser_does_not_know_is_unsupported(make: Callable[..., Engines], tmp_path: Path) -> None:
    path = save(tmp_path, [node("DynamicQuantizeLinear", ["x"], ["q", "s", "z"]), node("Cast", ["q"], ["y"], to=1)])
    with pytest.raises(BuildProblem, match=r"DynamicQuantizeLinear") as caught:
        make().get(path, SHAPES)
    assert caught.value.kind == "unsupported" and "\n" not in str(caught.value)


def test_a_builder_that_makes_none_is_one_line(make: Callable[..., Engines], tmp_path: Path) -> None:
    """SM 8.6 has no fp8: the parser takes the model, and the builder has the last word by returning None."""
    nodes = [
        node("QuantizeLinear", ["x", "s", "z"], ["q"]),
        node("DequantizeLinear", ["q", "s", "z"], ["d"]),
        node("MatMul", ["d", "w"], ["y"]),
    ]
    zero = helper.make_tensor("z", TensorProto.FLOAT8E4M3FN, [], b"\0", raw=True)
    path = save(tmp_path, nodes, [numpy_helper.from_array(np.array(0.1, np.float32), "s"), zero], opset=19)
    assert make(capability="8.9").get(path, SHAPES).plan
    with pytest.raises(BuildProblem, match=r"TensorRT's builder made no engine: .*sm86") as caught:
        make(capability="8.6").get(path, SHAPES)
    assert caught.value.kind == "unsupported" and "\n" not in str(caught.value)


@NO_CARD
def test_for_a_card_that_rtx_does_not_list_it_builds_for_the_one_there(
    make: Callable[..., Engines], model: str
) -> None:
    """An engine for other cards would be built, and not load. Here is no card, and the builder says so."""
    with pytest.raises(BuildProblem, match="TensorRT's builder found no card") as caught:
        make(capability="9.0").get(model, SHAPES)
    assert caught.value.kind == "unavailable"


def test_the_builder_takes_our_modules_and_no_others(
    make: Callable[..., Engines], model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "elsewhere" / "hwprofiles"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("raise ImportError('not this one')")
    monkeypatch.setenv("PYTHONPATH", str(package.parent))
    monkeypatch.chdir(package.parent)
    assert make().get(model, SHAPES).plan


def test_layers_tell_what_each_really_got(make: Callable[..., Engines], tmp_path: Path) -> None:
    """An 8-bit product and a float one in the same model, told apart without a card."""
    weights = np.clip(np.arange(32).reshape(8, 4) - 16, -127, 127).astype(np.int8)
    zero = numpy_helper.from_array(np.array(0, np.int8), "z")
    nodes = [
        node("QuantizeLinear", ["x", "s", "z"], ["q"]),
        node("DequantizeLinear", ["q", "s", "z"], ["d"]),
        node("DequantizeLinear", ["w8", "s", "z"], ["dw"]),
        node("MatMul", ["d", "dw"], ["h"]),
        node("Relu", ["h"], ["r"]),
        node("MatMul", ["r", "v"], ["y"]),
    ]
    inits = [
        numpy_helper.from_array(np.array(0.1, np.float32), "s"),
        zero,
        numpy_helper.from_array(weights, "w8"),
        numpy_helper.from_array(np.ones((4, 4), np.float32), "v"),
    ]
    engine = make().get(save(tmp_path, nodes, inits, opset=19), SHAPES)
    told = [tensorrt_layers.kernel(layer, "TensorRT-RTX", engine.types, 0.0) for layer in engine.layers]
    by_node = {name: kernel["op"] for kernel in told for name in kernel["node"].split(" + ")}
    assert by_node["h_MatMul"] == "MatMul:int8"
    assert by_node["y_MatMul"] == "MatMul:float32"


def child_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str, name: str = "tensorrt_rtx") -> None:
    """Let the build process find this as TensorRT-RTX, before the real one."""
    folder = tmp_path / "modules"
    folder.mkdir()
    (folder / f"{name}.py").write_text(source)
    monkeypatch.setenv("PYTHONPATH", str(folder))


def test_a_builder_that_dies_of_a_signal_is_one_line(
    make: Callable[..., Engines], model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    child_with(tmp_path, monkeypatch, "import ctypes\nctypes.string_at(0)\n")
    with pytest.raises(BuildProblem, match=r"^the builder died: SIGSEGV") as caught:
        make().get(model, SHAPES)
    assert caught.value.kind == "crash" and "\n" not in str(caught.value)


def test_a_builder_that_hangs_is_ended_with_its_process(
    make: Callable[..., Engines], model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pid = tmp_path / "pid"
    text = f"import os, time\nopen({str(pid)!r}, 'w').write(str(os.getpid()))\ntime.sleep(600)\n"
    child_with(tmp_path, monkeypatch, text)
    with pytest.raises(BuildProblem, match="not built within 3 s; raise `timeout`") as caught:
        make(timeout=3.0).get(model, SHAPES)
    assert caught.value.kind == "timeout"
    deadline = time.monotonic() + 10
    while Path(f"/proc/{pid.read_text()}").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    with pytest.raises(ProcessLookupError):
        os.kill(int(pid.read_text()), 0)


def test_a_bug_of_ours_is_not_taken_for_the_model_s(
    make: Callable[..., Engines], model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    child_with(tmp_path, monkeypatch, "ILogger = object\n")
    with pytest.raises(BuildProblem, match="the builder died: exit code 1: AttributeError") as caught:
        make().get(model, SHAPES)
    assert caught.value.kind == "crash"


def test_a_library_that_is_missing_is_unavailable(
    make: Callable[..., Engines], model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    child_with(tmp_path, monkeypatch, "raise ImportError('libtensorrt_rtx.so.1: cannot open shared object file')\n")
    with pytest.raises(BuildProblem, match="cannot import tensorrt-rtx: libtensorrt_rtx") as caught:
        make().get(model, SHAPES)
    assert caught.value.kind == "unavailable"


# TensorRT itself, as far as a build uses it; SAYS: what it logs before it gives up.
PRODUCT = """
from types import SimpleNamespace as N
__version__ = "simulated"
class ILogger:
    ERROR, INTERNAL_ERROR, WARNING = 1, 0, 2
NetworkDefinitionCreationFlag = N(STRONGLY_TYPED=1)
ProfilingVerbosity = N(DETAILED=1)
BuilderFlag = N(TF32=1)
port = N(name="x", dtype=N(name="FLOAT"), shape=(-1, 8), is_shape_tensor=False)
network = N(num_inputs=1, num_outputs=1, num_layers=0, get_input=lambda i: port, get_output=lambda i: port)
cache = N(serialize=lambda: b"times")
config = N(set_flag=lambda flag: True, create_timing_cache=lambda data: cache, set_timing_cache=lambda cache, way: True,
           get_timing_cache=lambda: cache, add_optimization_profile=lambda profile: 0)
class Builder:
    def __init__(self, log):
        self.log = log
        if SAYS[:1] == ["no builder"]:
            log.log(1, SAYS[1])
            raise TypeError("factory function returned nullptr")
    def create_network(self, flags): return network
    def create_builder_config(self): return config
    def create_optimization_profile(self): return N(set_shape=lambda *given: None)
    def build_serialized_network(self, network, config):
        for text in SAYS: self.log.log(1, text)
        return None if SAYS else b"plan"
OnnxParser = lambda network, log: N(parse_from_file=lambda path: True)
"""


@pytest.mark.parametrize("blob", ["times", "none"])
def test_a_timing_cache_that_cannot_be_kept_is_a_note_and_the_engine_stays(
    make: Callable[..., Engines], model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, blob: str
) -> None:
    source = PRODUCT.replace('b"times"', "None") if blob == "none" else PRODUCT
    child_with(tmp_path, monkeypatch, source + "SAYS = []\n", "tensorrt")
    engines = make(runtime="tensorrt")
    assert engines.build(model, SHAPES).plan == b"plan"
    kept = list((tmp_path / "engines").glob("*.timing"))
    assert [file.read_bytes() for file in kept] == ([b"times"] if blob == "times" else [])
    if blob == "times":
        kept[0].unlink()
        (kept[0] / "in the way").mkdir(parents=True)
        engines = make(runtime="tensorrt")
        assert engines.build(model, SHAPES).plan == b"plan"
    (note,) = engines.notes
    assert note.startswith("the timing cache was not kept: ")
    assert not list((tmp_path / "engines").glob("*.part")), "nothing half written stays"


@pytest.mark.parametrize(
    ("says", "kind"),
    [
        (["Error Code 2: OutOfMemory (Requested size was 9 bytes.)"], "oom"),
        (
            ["Error Code 2: OutOfMemory (Requested size was 9 bytes.)", "Could not find any implementation for n."],
            "oom",
        ),
        (["CUDA initialization failure with error: 2. Please check your CUDA installation"], "oom"),
        (["no builder", "CUDA initialization failure with error: 2. Please check"], "oom"),
        (["no builder", "CUDA initialization failure with error: 222. Please check"], "unavailable"),
        (["CUDA initialization failure with error: 35"], "unavailable"),
        (["Could not find any implementation for node n."], "unsupported"),
        (["out of memory for one kernel", "Network has an unsupported type"], "unsupported"),
    ],
)
def test_a_builder_for_which_there_is_no_room_is_told_as_such(
    make: Callable[..., Engines],
    model: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    says: list[str],
    kind: str,
) -> None:
    child_with(tmp_path, monkeypatch, f"{PRODUCT}\nSAYS = {says!r}\n", "tensorrt")
    with pytest.raises(BuildProblem) as caught:
        make(runtime="tensorrt").build(model, SHAPES)
    assert caught.value.kind == kind and "\n" not in str(caught.value)


def test_a_disk_that_is_full_is_told_as_such(make: Callable[..., Engines], model: str, tmp_path: Path) -> None:
    engines = make()
    with pytest.raises(BuildProblem, match="the engine cannot be written: ") as caught:
        engines._child({"model": model, "shapes": SHAPES, "plan": str(tmp_path / "no folder" / "plan")})
    assert caught.value.kind == "disk"
    (tmp_path / "engines").rmdir()
    (tmp_path / "engines").write_text("a file")
    assert engines.get(model, SHAPES).plan and engines.notes[-1].startswith("the engine was not kept: ")


def test_ranges_hold_every_feed_and_the_first_is_usual() -> None:
    found = ranges([{"x": [2, 8], "m": [2]}, {"x": [1, 16], "m": [1]}])
    assert found == {"x": [[1, 8], [2, 8], [2, 16]], "m": [[1], [2], [2]]}
    assert tensorrt_engines.fits(found, {"x": [2, 12], "m": [1]})
    assert not tensorrt_engines.fits(found, {"x": [3, 8], "m": [1]})
    assert not tensorrt_engines.fits(found, {"x": [2, 12]})
    wide = tensorrt_engines.widen(found, [{"x": [2, 20], "m": [2]}])
    assert wide == {"x": [[1, 1], [2, 8], [2, 32]], "m": [[1], [2], [2]]}
    with pytest.raises(BuildProblem, match="'x' was given with 2 and 1 dimensions"):
        ranges([{"x": [2, 8]}, {"x": [2]}])


def node(op: str, inputs: list[str], outputs: list[str], **attributes: Any) -> onnx.NodeProto:
    return helper.make_node(op, inputs, outputs, name=f"{outputs[0]}_{op}", **attributes)


def save(
    folder: Path, nodes: list[onnx.NodeProto], inits: list[onnx.TensorProto] | None = None, opset: int = 17
) -> str:
    """A model from x [batch, 8] to y, with a weight `w` of shape [8, 4]."""
    port = helper.make_tensor_value_info
    weight = numpy_helper.from_array(np.arange(32, dtype=np.float32).reshape(8, 4) - 16, "w")
    there = [init for init in [weight, *(inits or [])] if any(init.name in node.input for node in nodes)]
    graph = helper.make_graph(
        nodes,
        "g",
        [port("x", TensorProto.FLOAT, ["batch", 8])],
        [port("y", TensorProto.FLOAT, ["batch", None])],
        there,
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=9)
    path = folder / "made.onnx"
    onnx.save(made, path)
    return str(path)
