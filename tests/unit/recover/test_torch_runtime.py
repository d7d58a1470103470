"""ONNX files as torch programs written down for fixed shapes, against ONNX Runtime; on the CPU the code is the same."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from autotune.compress.ingest import load_model
from autotune.recover import card_session
from autotune.recover import runtime_backend as backend
from autotune.recover.card_session import CardSession
from autotune.recover.flat_program import move, place_of, write_down
from autotune.recover.graph import OnnxModule
from autotune.recover.host_session import Unfit
from autotune.recover.runtime import TorchCpu
from hwprofiles.agent import card_block, cuda, cuda_events
from hwprofiles.target import Target
from tests.unit import zoo
from tests.unit.hwprofiles.tensorrt.simulated_card import Card
from tests.unit.hwprofiles.tensorrt.simulated_cuda import Torch

ZOO = {
    "attention": zoo.attention, "residual": zoo.conv_residual, "convolutions": zoo.convolutions,
    "embedding": zoo.embedding, "contrib": zoo.contrib_domain, "loop": zoo.loop_with_weights, "lstm": zoo.lstm,
    "mlp": zoo.mlp, "odd": zoo.odd_matmuls, "dequantised": zoo.quantised_qdq, "transposed": zoo.transposed_weights,
}  # fmt: skip
OPTIONS = TorchCpu().options(Target(name="here", runtime="torch-cpu", provider="cpu"))


def saved(model: onnx.ModelProto, folder: Path) -> str:
    path = folder / "model.onnx"
    path.write_bytes(load_model(model).model.SerializeToString())
    return str(path)


def reference(path: str, feed: dict[str, Any]) -> list[Any]:
    settings = onnxruntime.SessionOptions()
    settings.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL  # as written, not fused
    session = onnxruntime.InferenceSession(path, settings, providers=["CPUExecutionProvider"])
    return list(session.run(None, feed))


@pytest.mark.parametrize("name", ZOO)
def test_computes_what_onnx_runtime_does_at_every_shape(name: str, tmp_path: Path) -> None:
    path = saved(ZOO[name](), tmp_path)
    session = backend.Session(path, OPTIONS)
    assert not hasattr(session, "time_block"), "on the CPU it is measured as any other runtime"
    for seed, size in enumerate((2, 3, 2)):  # the last one by the program that was written down for the first
        feed = zoo.feeds(load_model(ZOO[name]()).model, size=size, seed=seed)
        for ours, theirs in zip(session.run(feed), reference(path, feed), strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=1e-4)


def test_a_course_that_depends_on_the_data_is_refused_and_not_frozen(tmp_path: Path) -> None:
    path = saved(zoo.if_branches(), tmp_path)
    session = backend.Session(path, OPTIONS)
    feed = {**zoo.feeds(onnx.load(path)), "flag": np.array(True)}
    with pytest.raises(Unfit) as raised:
        session.run(feed)
    assert backend.classify(raised.value, "load") == "unsupported" and "If" in backend.explain(raised.value)
    assert "depends on the numbers in the inputs" in backend.explain(raised.value)


def test_what_torch_has_no_operator_for_is_named(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(zoo.quantised_qlinear().SerializeToString())
    with pytest.raises(Unfit, match=r"torch cannot run .*QLinear") as raised:
        backend.Session(str(path), OPTIONS)
    assert "recover" not in str(raised.value)


def test_a_session_of_a_card_times_blocks_and_tells_its_memory(tmp_path: Path) -> None:
    """The card's session on the CPU: what is not the card's own is the same."""
    path = saved(zoo.mlp(), tmp_path)
    session = CardSession(path, OPTIONS)
    feeds = [zoo.feeds(onnx.load(path), seed=seed) for seed in range(3)]
    told = session.time_block(feeds, 12)
    assert len(told["wall"]) == 12 and told["enqueue"] is None and len(told["end_to_end"]) == 3
    assert told["inferences"] == 15 and min(told["wall"]) > 0 and told["first"] > 0
    assert session._bind(feeds) is session._bind(feeds), "the same inputs stay where they are"
    weights = sum(int(np.prod(tensor.dims)) for tensor in onnx.load(path).graph.initializer) * 4
    told = session.accelerator_memory(feeds[0])
    assert weights * 0.9 <= told["weights"] <= weights * 1.1 and told["activations"] is None
    assert session.conditions == {"cuda_graph": False, "transfers": False}


class Launched:
    """torch.cuda of a simulated card: its events, and a program of `seconds` on it and `asking` of the host."""

    def __init__(self, seconds: float, asking: float) -> None:
        self.card = Card(seconds, asking=asking)
        self.synchronize = self.card.settle

    def run(self) -> None:
        self.card.launch(self.card.seconds)

    def Event(self, enable_timing: bool) -> Any:
        card = self.card

        class Event:
            at = 0.0

            def record(self) -> None:
                self.at = card.mark()

            def synchronize(self) -> None:
                card.host = max(card.host, self.at)

            def elapsed_time(self, other: Any) -> float:
                return float(other.at - self.at) * 1e3

        return Event()


@pytest.mark.parametrize(("seconds", "asking", "told"), [(1e-3, 4e-5, False), (2e-6, 4e-5, True)])
def test_a_model_that_is_slower_to_launch_than_to_compute_is_told_as_such(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seconds: float, asking: float, told: bool
) -> None:
    session = CardSession(saved(zoo.mlp(), tmp_path), OPTIONS)
    feeds = [zoo.feeds(onnx.load(tmp_path / "model.onnx"))]
    (bound,) = session._bind(feeds)
    simulated = Launched(seconds, asking)
    monkeypatch.setattr(card_session, "_cuda", simulated)
    monkeypatch.setattr(card_block, "time", simulated.card.clock())
    monkeypatch.setattr(bound, "run", simulated.run)
    monkeypatch.setattr(session, "_with_copies", lambda feed: 1.0)
    session._device = torch.device("cuda")
    block = session.time_block(feeds, 50)
    assert block["enqueue"] == pytest.approx([asking] * 5) and block["inferences"] == 50 + 5 + 5
    assert session.notes == [card_block.LAUNCHING] * told


def test_two_sessions_that_replay_graphs_are_timed_on_their_own_work(monkeypatch: pytest.MonkeyPatch) -> None:
    """Warm-up and capture go to streams of their own, copies, events and replays to the current one."""
    card = Card(1e-3)
    torch_there = Torch(card)
    monkeypatch.setattr(card_session, "_cuda", torch_there.cuda)
    done: list[str] = []

    def program(name: str, seconds: float) -> Any:
        def call() -> None:
            card.launch(seconds, stream=torch_there.current, work=lambda: done.append(name))

        return card_session._Bound(call, [])

    base, other = program("base", 2e-3), program("other", 3e-3)
    for bound in (base, other):
        bound.capture()
    session = CardSession.__new__(CardSession)
    for bound, seconds, name in ((base, 2e-3, "base"), (other, 3e-3, "other"), (base, 2e-3, "base")):
        done.clear()
        assert session._on_card([bound], 4) == pytest.approx([seconds] * 4)
        assert done == [name] * 4
    card.graphs = False
    with pytest.raises(RuntimeError, match="stream is capturing"):
        other.capture()
    assert torch_there.current == 0, "where the events of both are recorded"


def test_a_program_is_written_down_without_the_memory_that_it_will_need(tmp_path: Path) -> None:
    """640 GB: what a card has room for is the card's to say."""
    size = 400_000
    nodes = [onnx.helper.make_node("Transpose", ["x"], ["t"]), onnx.helper.make_node("MatMul", ["x", "t"], ["y"])]
    ports = [
        [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape)]
        for name, shape in (("x", ["n", 1]), ("y", ["n", "n"]))
    ]
    graph = onnx.helper.make_graph(nodes, "huge", *ports)
    made = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)
    program = write_down(OnnxModule(made, trains=False), {"x": torch.ones(size, 1)})
    (found,) = program(torch.ones(size, 1, device="meta"))
    assert tuple(found.shape) == (size, size)


def test_moving_a_program_leaves_nothing_behind(tmp_path: Path) -> None:
    """To torch's device "meta", which takes part in no computation with tensors of the CPU."""
    module = OnnxModule(load_model(zoo.attention()).model, trains=False)
    feed = {name: torch.from_numpy(value) for name, value in zoo.feeds(load_model(zoo.attention()).model).items()}
    program = write_down(module, feed)
    there = torch.device("meta")
    move(program, there, {place_of(v): v.to(there) for v in module.buffers() if v.numel()})
    outputs = program(*(feed[name].to(there) for name in module.inputs))
    assert {value.device.type for value in outputs} == {"meta"}


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of torch itself
def test_what_was_compiled_for_one_model_outlives_the_opening_of_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The baseline keeps its program while candidates come and go, more of them than torch allows one function."""
    compiled: list[Any] = []

    def count(program: torch.fx.GraphModule, _: Any) -> Any:
        compiled.append(program)
        return program.forward

    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend=count))
    path = saved(zoo.mlp(), tmp_path)
    feed = zoo.feeds(onnx.load(path))
    wanted = reference(path, feed)[0]
    baseline = backend.Session(path, {**OPTIONS, "mode": "compiled"})
    baseline.run(feed)
    for number in range(1, 13):
        candidate = backend.Session(path, {**OPTIONS, "mode": "compiled"})
        np.testing.assert_allclose(candidate.run(feed)[0], wanted, rtol=1e-3, atol=1e-4)
        np.testing.assert_allclose(baseline.run(feed)[0], wanted, rtol=1e-3, atol=1e-4)
        assert len(compiled) == number + 1, "one for each model, and none anew"


def test_less_than_a_step_of_the_cards_clock_is_one_step() -> None:
    class Event:
        def elapsed_time(self, _: Any) -> float:
            return 0.0

    assert card_session._between(Event(), Event()) == 5e-7


def test_errors_are_told_apart() -> None:
    full = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")
    assert backend.classify(full, "latency") == "oom" and "memory is used up" in backend.explain(full)
    assert backend.classify(cuda.CudaProblem("unavailable", "no driver"), "start") == "unavailable"
    assert backend.classify(RuntimeError("shapes differ"), "latency") == "bad_model"
    with pytest.raises(cuda_events.CardBroken):
        cuda_events.refuse_broken(RuntimeError("CUDA error: an illegal memory access was encountered"))
    cuda_events.refuse_broken(full)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of torch itself
def test_compiled_gives_the_same(tmp_path: Path) -> None:
    path = saved(zoo.mlp(), tmp_path)
    session = backend.Session(path, {**OPTIONS, "mode": "compiled"})
    feed = zoo.feeds(onnx.load(path))
    np.testing.assert_allclose(session.run(feed)[0], reference(path, feed)[0], rtol=1e-3, atol=1e-4)
