"""How a session uses a card, on a simulated one; its engines are really built, by TensorRT-RTX's parser and builder."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hwprofiles.agent import cuda, nvml, timing
from hwprofiles.runtimes import tensorrt_backend, tensorrt_buffers, tensorrt_build, tensorrt_engines
from hwprofiles.runtimes.conformance import _MODEL
from hwprofiles.runtimes.tensorrt import TensorRtRtx
from hwprofiles.target import Target
from tests.unit.hwprofiles.tensorrt.simulated_card import WEIGHTS, Card, Cuda

pytest.importorskip("tensorrt_rtx_bindings", reason="TensorRT-RTX is not installed: pip install '.[dev]'")

FOUND = {
    "name": "Simulated",
    "uuid": "GPU-0",
    "compute_capability": "8.9",
    "memory_bytes": 1 << 30,
    "cuda": "13.0",
}

OPTIONS = TensorRtRtx().options(Target(name="x", runtime="tensorrt-rtx"))


@pytest.fixture
def start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Makes a session on a card; every engine is built at most once per test."""
    (tmp_path / "model.onnx").write_bytes(_MODEL)
    monkeypatch.setattr(tensorrt_engines, "cache_folder", lambda: tmp_path / "engines")

    def make(card: Card, shapes: list[dict[str, list[int]]], **changes: Any) -> tensorrt_backend.Session:
        trt = card.module(**changes)
        monkeypatch.setattr(tensorrt_build, "load", lambda runtime: trt)
        monkeypatch.setattr(cuda, "probe", lambda least=0: dict(FOUND))
        monkeypatch.setattr(cuda, "open_cuda", lambda: Cuda(card))
        options = {**OPTIONS, "scratch": str(tmp_path), "shapes": shapes}
        return tensorrt_backend.Session(str(tmp_path / "model.onnx"), options)

    return make


def feeds(*batches: int) -> list[dict[str, Any]]:
    rng = np.random.default_rng(0)
    return [{"x": rng.normal(size=(batch, 8)).astype(np.float32)} for batch in batches]


def answer(feed: dict[str, Any]) -> Any:
    return np.maximum(feed["x"] @ WEIGHTS, 0)


def test_time_is_the_card_s_and_inputs_are_used_in_turn(start: Any) -> None:
    card = Card(seconds=2e-3)
    session = start(card, [{"x": [2, 8]}])
    told = session.time_block(feeds(2, 2, 2), 30)
    assert told["wall"] == pytest.approx([2e-3] * 30) and len(told["enqueue"]) == 30
    assert len(told["end_to_end"]) == 3 and told["inferences"] == 33
    assert card.replayed == 33 and card.inferences == 3  # one before each of the three graphs
    assert session.conditions == {"cuda_graph": True} and session.notes == []
    assert session.first_seconds > 0 and session.load_seconds > 0


def test_short_inferences_share_a_pair_of_events(start: Any) -> None:
    """6 us is twelve steps of an event's clock: 17 replays between two events make it 1/200 of what is timed."""
    card = Card(seconds=6e-6)
    session = start(card, [{"x": [2, 8]}])
    one = feeds(2)
    session.time_block(one, 20)
    before = card.replayed
    told = session.time_block(one, 340)
    assert len(told["wall"]) == 20 and told["inferences"] == 343 and card.replayed - before == 343
    assert told["wall"] == pytest.approx([6e-6] * 20)
    block = timing.time_block(session, one, 340)
    assert block["count"] == 20 and block["inferences"] == 343 and len(block["enqueue"]) == 20


def test_an_engine_that_takes_no_graph_is_asked_one_by_one_and_it_is_said(start: Any) -> None:
    card = Card(graphs=False)
    session = start(card, [{"x": [2, 8]}])
    told = session.time_block(feeds(2, 2), 10)
    assert told["wall"] == pytest.approx([1e-3] * 10) and card.replayed == 0
    assert session.conditions == {"cuda_graph": False}
    assert "no CUDA graph could be captured" in session.notes[0] and "stream is capturing" in session.notes[0]


def test_what_is_timed_are_the_kernels_for_these_shapes_and_no_stand_in(start: Any) -> None:
    """By default RTX runs a slower stand-in first, and a graph would hold on to it."""
    card = Card(seconds=1e-3)
    session = start(card, [{"x": [1, 8]}, {"x": [4, 8]}])
    assert session.time_block(feeds(1, 4), 10)["wall"] == pytest.approx([1e-3] * 10)
    assert card.compiled == 2


def test_what_rtx_compiled_is_kept_beside_the_engine(start: Any, tmp_path: Path) -> None:
    first, second, third = Card(), Card(), Card()
    start(first, [{"x": [2, 8]}]).time_block(feeds(2), 3)
    (kept,) = (tmp_path / "engines").glob("*.kernels")
    assert kept.with_suffix(".engine").exists() and kept.read_bytes() == b"[(2, 8)]"
    session = start(second, [{"x": [2, 8]}])
    session.run(feeds(2)[0])
    assert (first.compiled, second.compiled, session.notes) == (1, 0, [])
    kept.write_bytes(b"of another card")
    start(third, [{"x": [2, 8]}]).run(feeds(2)[0])
    assert third.compiled == 1 and kept.read_bytes() == b"[(2, 8)]"


def test_rtx_is_asked_whether_a_graph_can_be_captured(start: Any) -> None:
    card = Card()
    card.capturable = False
    session = start(card, [{"x": [2, 8]}])
    assert session.time_block(feeds(2), 5)["wall"] == pytest.approx([1e-3] * 5)
    assert card.replayed == 0 and session.conditions == {"cuda_graph": False}
    assert "TensorRT-RTX says that this inference cannot be captured" in session.notes[0]


def test_less_than_a_step_of_the_events_clock_is_one_step(start: Any) -> None:
    session = start(Card(seconds=0.0), [{"x": [2, 8]}])
    assert session.time_block(feeds(2), 5)["wall"] == [5e-7] * 5


def test_outputs_are_those_of_each_input(start: Any) -> None:
    session = start(Card(), [{"x": [2, 8]}])
    for feed, (found,) in zip(feeds(2, 2), session.run_all(feeds(2, 2)), strict=True):
        np.testing.assert_allclose(found, answer(feed), rtol=1e-6)


def test_another_shape_makes_the_engine_wider_once(start: Any) -> None:
    session = start(Card(), [{"x": [2, 8]}])
    assert session._shapes == {"x": [[2, 8], [2, 8], [2, 8]]}
    (found,) = session.run(feeds(5)[0])
    np.testing.assert_allclose(found, answer(feeds(5)[0]), rtol=1e-6)
    assert session._shapes == {"x": [[1, 8], [2, 8], [8, 8]]}
    first = session._opened
    session.run_all(feeds(1, 7, 8))
    assert session._opened is first and "several shapes" in session.notes[0]


def test_a_model_opened_without_shapes_tells_its_ports_and_builds_for_the_first_input(start: Any) -> None:
    session = start(Card(), [])
    assert [port["name"] for port in session.inputs] == ["x"] and session.outputs[0]["shape"] == [-1, 4]
    session.run(feeds(3)[0])
    assert session._shapes == {"x": [[3, 8], [3, 8], [3, 8]]}


def test_an_engine_of_another_version_in_the_cache_is_built_anew_and_it_is_said(start: Any) -> None:
    plan = start(Card(), [{"x": [2, 8]}]).engine()
    refused = [plan]

    class Once(list):  # type: ignore[type-arg]
        def __contains__(self, item: object) -> bool:
            return bool(refused) and refused.pop() == item

    session = start(Card(), [{"x": [2, 8]}], refuses=Once())
    assert "could not be loaded and was built anew" in session.notes[0] and "Version mismatch" in session.notes[0]
    assert len(session.run(feeds(2)[0])) == 1


def test_an_engine_that_nothing_loads_is_one_line(start: Any) -> None:
    class Every(list):  # type: ignore[type-arg]
        def __contains__(self, item: object) -> bool:
            return True

    with pytest.raises(
        tensorrt_backend.TensorRtProblem, match=r"does not load the engine: .*Version mismatch"
    ) as caught:
        start(Card(), [{"x": [2, 8]}], refuses=Every())
    assert tensorrt_backend.classify(caught.value, "load") == "unavailable"


def test_four_numbers_of_memory_are_never_one(start: Any) -> None:
    session = start(Card(), [{"x": [2, 8]}])
    told = session.accelerator_memory(feeds(2)[0])
    assert told == {"plan": len(session.engine()), "weights": 128, "activations": 4096}


def test_the_card_is_told_as_by_every_runtime(start: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the package for NVML nvidia-smi is asked; and the card's own number is no part of what is told."""
    start(Card(), [])

    def missing(*_: Any) -> Any:
        raise nvml.NvmlProblem("no package")

    told = nvml.parse_program("NVIDIA L4, GPU-0, 8.9, 580.65, 72.00, [N/A], 23034", "CUDA Version: 13.0")
    monkeypatch.setattr(nvml, "open_card", missing)
    monkeypatch.setattr(nvml, "from_program", lambda index=0: told)
    found = tensorrt_backend.describe(OPTIONS)
    assert found["card"]["driver"] == "580.65" and found["card"]["power_limit_w"] == 72.0
    assert "uuid" not in found["card"] and found["card_uuid"] == "GPU-0" and "card_problem" not in found
    monkeypatch.setattr(nvml, "from_program", lambda index=0: None)
    found = tensorrt_backend.describe(OPTIONS)
    assert found["card_problem"] == "no package" and found["card"]["name"] == "Simulated"


def test_out_of_memory_on_the_card_has_its_kind(start: Any) -> None:
    session = start(Card(memory=32), [{"x": [2, 8]}])
    with pytest.raises(cuda.CudaProblem) as caught:
        session.run(feeds(2)[0])
    assert tensorrt_backend.classify(caught.value, "latency") == "oom"


def test_an_input_of_another_type_is_refused_by_name(start: Any) -> None:
    session = start(Card(), [{"x": [2, 8]}])
    with pytest.raises(tensorrt_backend.TensorRtProblem, match="input 'x' is float64; the model takes float32"):
        session.run({"x": np.ones((2, 8))})


def test_of_several_builds_the_fastest_is_kept_and_all_are_told(
    start: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    card = Card()
    session = start(card, [{"x": [2, 8]}])
    speeds = iter([3e-3, 1e-3, 2e-3])
    plans = iter([b"slow", b"fast", b"middle"])
    build = tensorrt_engines.Engines.build

    def differ(self: Any, model: str, shapes: Any, *, fresh: bool = False) -> Any:
        assert fresh  # with the timing cache every build would choose the same kernels
        made = build(self, model, shapes)
        made.plan = next(plans)
        made.digest = hashlib.sha256(made.plan).hexdigest()
        made.builds = [{"digest": made.digest, "seconds": 1.0, "latency": None}]
        return made

    real = tensorrt_backend.Session.__init__

    def open_slower(self: Any, path: str, options: Any) -> None:
        real(self, path, options)
        card.seconds = next(speeds)

    monkeypatch.setattr(tensorrt_engines.Engines, "build", differ)
    monkeypatch.setattr(tensorrt_backend.Session, "__init__", open_slower)
    options = {**OPTIONS, "scratch": str(tmp_path), "shapes": [{"x": [2, 8]}]}
    tensorrt_backend.prepare(str(tmp_path / "model.onnx"), options, 3, feeds(2))
    del session
    (kept,) = (tmp_path / "engines").glob("*.engine")
    facts = json.loads(kept.with_suffix(".json").read_text())
    assert kept.read_bytes() == b"fast" and facts["digest"] == hashlib.sha256(b"fast").hexdigest()
    assert [build["latency"] for build in facts["builds"]] == pytest.approx([1e-3, 2e-3, 3e-3])
    assert facts["builds"][0]["digest"] == facts["digest"] and len({b["digest"] for b in facts["builds"]}) == 3
    tensorrt_backend.prepare(str(tmp_path / "model.onnx"), options, 3, feeds(2))  # would ask for a fourth plan
    assert kept.read_bytes() == b"fast", "once is enough: what was measured is what is exported"


@pytest.mark.parametrize("value", [1.0, -2.5, 3.14159, 1e-30, 65504.0])
def test_bfloat16_is_rounded_to_nearest(value: float) -> None:
    """Against torch's own conversion."""
    torch = pytest.importorskip("torch")
    here = np.array([value], np.float32)
    bits = tensorrt_buffers.typed(here, "x", "BF16")
    wanted = torch.tensor([value]).to(torch.bfloat16).view(torch.int16).numpy().view(np.uint16)
    assert bits.tolist() == wanted.tolist()
