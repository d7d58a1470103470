"""How a session uses a card, on a simulated one; its engines are really built, by TensorRT-RTX's parser and builder."""

from __future__ import annotations

import hashlib
import json
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hwprofiles.agent import card_block, cuda, cuda_events, nvml, timing
from hwprofiles.runtimes import (
    tensorrt_backend,
    tensorrt_buffers,
    tensorrt_build,
    tensorrt_engines,
    tensorrt_timing,
)
from hwprofiles.runtimes.conformance import _MODEL
from hwprofiles.runtimes.tensorrt import TensorRtRtx
from hwprofiles.target import Target
from tests.unit.hwprofiles.tensorrt.simulated_card import WEIGHTS, Card
from tests.unit.hwprofiles.tensorrt.simulated_cuda import Bindings, Torch

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
    """Makes a session on a card, by torch or by `bindings`; every engine is built at most once per test."""
    (tmp_path / "model.onnx").write_bytes(_MODEL)
    monkeypatch.setattr(tensorrt_engines, "cache_folder", lambda: tmp_path / "engines")

    torches: dict[Card, Torch] = {}

    def make(
        card: Card, shapes: list[dict[str, list[int]]], bindings: Bindings | None = None, **changes: Any
    ) -> tensorrt_backend.Session:
        trt = card.module(**changes)
        torch = torches.setdefault(card, Torch(card))
        monkeypatch.setattr(tensorrt_build, "load", lambda runtime: trt)
        monkeypatch.setattr(cuda, "probe", lambda least=0: dict(FOUND))
        opened = partial(cuda.TorchCuda, torch) if bindings is None else partial(cuda.BoundCuda, bindings)
        monkeypatch.setattr(cuda, "open_cuda", opened)
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
    assert told["wall"] == pytest.approx([2e-3] * 30) and len(told["enqueue"]) == 3
    assert len(told["end_to_end"]) == 3 and told["inferences"] == 36
    assert card.replayed == 36 and card.inferences == 3  # one before each of the three graphs
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
    assert len(told["wall"]) == 20 and told["inferences"] == 346 and card.replayed - before == 346
    assert told["wall"] == pytest.approx([6e-6] * 20)
    block = timing.time_block(session, one, 340)
    assert block["count"] == 20 and block["inferences"] == 346 and len(block["enqueue"]) == 3


def test_asking_is_not_the_wait_for_a_full_queue(start: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """An engine of 50 us that takes 5 us to ask for: a thousand of them do not fit into the queue."""
    card = Card(seconds=50e-6, asking=5e-6)
    monkeypatch.setattr(card_block, "time", card.clock())
    monkeypatch.setattr(tensorrt_backend, "time", card.clock())
    session = start(card, [{"x": [2, 8]}])
    told = session.time_block(feeds(2), 1000)
    assert told["wall"] == pytest.approx([50e-6] * 1000, rel=0.101)  # the first finds the card at rest
    assert told["enqueue"] == pytest.approx([5e-6] * 10)
    assert session.notes == []


@pytest.mark.parametrize("graphs", [True, False])
def test_a_model_that_is_slower_to_ask_for_than_to_compute_is_told_as_such(
    start: Any, monkeypatch: pytest.MonkeyPatch, graphs: bool
) -> None:
    """25 us of the card, 30 us of asking: 30 us are told for it, because the card waits between the two events."""
    card = Card(seconds=25e-6, asking=30e-6, graphs=graphs)
    monkeypatch.setattr(card_block, "time", card.clock())
    monkeypatch.setattr(tensorrt_backend, "time", card.clock())
    session = start(card, [{"x": [2, 8]}])
    one = feeds(2)
    told = session.time_block(one, 100)
    assert told["enqueue"] == pytest.approx([30e-6] * 10) and told["wall"][1:] == pytest.approx([30e-6] * 99)
    assert session.notes[-1] == card_block.LAUNCHING
    card.asking = 1e-6
    session.time_block(one, 10)
    assert card_block.LAUNCHING not in session.notes, "the last block counts"


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


@pytest.mark.parametrize("by", ["torch", "cuda-bindings"])
def test_two_sessions_at_once_keep_to_their_streams(start: Any, by: str) -> None:
    """As baseline and candidate of a pair, in turn: whoever was opened last must not get what the other asks for."""
    card = Card(seconds=1e-3)
    bindings = Bindings(card) if by == "cuda-bindings" else None
    base, other = (start(card, [{"x": [2, 8]}], bindings=bindings) for _ in range(2))
    ours, theirs = feeds(2, 2), feeds(2)
    for session, given in ((base, ours), (other, theirs), (base, ours), (other, theirs)):
        told = session.time_block(given, 10)
        assert told["wall"] == pytest.approx([1e-3] * 10)
        for (buffers, replay), feed in zip(session._sets, [*given, *given], strict=False):
            assert replay is not None
            np.testing.assert_allclose(buffers.answers()["y"], answer(feed), rtol=1e-6)
    for session, given in ((base, ours), (other, theirs), (base, ours)):
        (found,) = session.run(given[0])
        np.testing.assert_allclose(found, answer(given[0]), rtol=1e-6)
    assert base._cuda.stream != other._cuda.stream


def test_events_are_made_before_they_are_needed(start: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Making one takes the host 5 us, in which the card would wait between two stamps."""
    card = Card(seconds=1e-6)
    monkeypatch.setattr(card_block, "time", card.clock())
    session = start(card, [{"x": [2, 8]}])
    assert session.time_block(feeds(2), 5)["wall"] == pytest.approx([1e-6] * 5)


@pytest.mark.parametrize("by", ["torch", "cuda-bindings"])
def test_a_closed_session_gives_everything_back(start: Any, by: str) -> None:
    """Also what torch would keep for itself: TensorRT, beside it in the process, takes from the card."""
    card = Card(memory=4096, weights=3800)
    bindings = Bindings(card) if by == "cuda-bindings" else None
    for _ in range(3):
        session = start(card, [{"x": [2, 8]}], bindings=bindings)
        session.time_block(feeds(2), 4)
        assert card.memory < 4096 - 3800
        session.close()
        assert card.memory == 4096
    del session
    assert bindings is None or set(bindings.alive.values()) == {0}


def test_an_engine_for_other_shapes_has_the_room_of_the_first(start: Any) -> None:
    card = Card(memory=4096, weights=3800)
    session = start(card, [{"x": [2, 8]}])
    session.time_block(feeds(2), 4)
    (found,) = session.run(feeds(3)[0])
    np.testing.assert_allclose(found, answer(feeds(3)[0]), rtol=1e-6)


@pytest.mark.parametrize(
    ("changes", "kind", "said"),
    [
        ({"memory": 100}, "oom", r"does not load the engine: .*OutOfMemory \(Requested size was 200 bytes"),
        ({"no_runtime": True}, "oom", "has no runtime here .*failure with error: 2"),
        (
            {"no_context": "Error Code 2: OutOfMemory (Requested size was 9 bytes.)"},
            "oom",
            "makes no execution context",
        ),
        ({"no_context": "unsupported kernel for this device"}, "unavailable", "unsupported kernel for this device"),
        ({"no_context": "illegal memory access was encountered"}, "", ""),
    ],
)
def test_what_keeps_an_engine_from_being_loaded_has_its_kind(
    start: Any, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any], kind: str, said: str
) -> None:
    start(Card(), [{"x": [2, 8]}])  # it lies in the cache from now on
    built: list[Any] = []
    build = tensorrt_engines.Engines.build
    monkeypatch.setattr(
        tensorrt_engines.Engines, "build", lambda *given, **named: built.append(1) or build(*given, **named)
    )
    card = Card(weights=200)
    for name, value in changes.items():
        setattr(card, name, value)
    if not kind:
        with pytest.raises(cuda_events.CardBroken):
            start(card, [{"x": [2, 8]}])
        return
    with pytest.raises(tensorrt_backend.TensorRtProblem, match=said) as caught:
        start(card, [{"x": [2, 8]}])
    assert tensorrt_backend.classify(caught.value, "load") == kind and "\n" not in str(caught.value)
    assert len(built) == (kind == "unavailable"), "for want of memory nothing is built anew"


def test_what_was_said_of_an_earlier_inference_is_not_said_of_this_one(start: Any) -> None:
    session = start(Card(), [{"x": [2, 8]}])
    session._opened._log.log(1, "a kernel was skipped: out of memory")
    session._opened.context.execute_async_v3 = lambda stream: False
    with pytest.raises(tensorrt_backend.TensorRtProblem, match="the inference was refused") as caught:
        session.run(feeds(2)[0])
    assert caught.value.kind == "crash"


def test_an_input_that_is_missing_is_named(start: Any) -> None:
    session = start(Card(), [{"x": [2, 8]}])
    with pytest.raises(tensorrt_backend.TensorRtProblem, match="the model takes 'x'; it was given z"):
        tensorrt_buffers.Buffers(session._opened, session._cuda, {"z": np.ones((2, 8))})
    session._opened.context.infer_shapes = _raise_runtime_error
    with pytest.raises(tensorrt_backend.TensorRtProblem, match="no shapes of outputs") as caught:
        session.run(feeds(2)[0])
    assert caught.value.kind == "bad_model"


def _raise_runtime_error() -> None:
    raise RuntimeError("shape inference failed")


def test_an_input_of_another_type_is_refused_by_name(start: Any) -> None:
    session = start(Card(), [{"x": [2, 8]}])
    with pytest.raises(tensorrt_backend.TensorRtProblem, match="input 'x' is float64; the model takes float32"):
        session.run({"x": np.ones((2, 8))})


@pytest.fixture
def build_of(start: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """Builds these plans, in this order, and picks one; the rest of the builder is the real one."""
    build = tensorrt_engines.Engines.build

    def prepare(card: Card, speeds: dict[bytes, float], refuses: tuple[bytes, ...] = ()) -> Path:
        card.speeds = dict(speeds)
        plans = iter(speeds)

        def differ(self: Any, model: str, shapes: Any, *, fresh: bool = False) -> Any:
            assert fresh  # with the timing cache every build would choose the same kernels
            made = build(self, model, shapes)
            made.plan = next(plans)
            if made.plan.startswith(b"dies"):
                raise tensorrt_build.BuildProblem("crash", "the builder died: SIGSEGV")
            made.digest = hashlib.sha256(made.plan).hexdigest()
            made.builds = [{"digest": made.digest, "seconds": 1.0, "latency": None}]
            return made

        for module in (card_block, tensorrt_backend, tensorrt_timing):
            monkeypatch.setattr(module, "time", card.clock())
        start(card, [], refuses=refuses)  # nothing is opened yet
        monkeypatch.setattr(tensorrt_engines.Engines, "build", differ)
        options = {**OPTIONS, "scratch": str(tmp_path), "shapes": [{"x": [2, 8]}]}
        for _ in range(2):  # the second time would ask for one more plan: once is enough
            tensorrt_backend.prepare(str(tmp_path / "model.onnx"), options, len(speeds), feeds(2))
        (kept,) = (tmp_path / "engines").glob("*.engine")
        return kept

    return prepare


def latencies(kept: Path) -> list[float]:
    facts = json.loads(kept.with_suffix(".json").read_text())
    assert facts["builds"][0]["digest"] == facts["digest"] == hashlib.sha256(kept.read_bytes()).hexdigest()
    assert len({build["digest"] for build in facts["builds"]}) == len(facts["builds"])
    return [build["latency"] for build in facts["builds"]]


def test_of_several_builds_the_fastest_is_kept_and_all_are_told(build_of: Any) -> None:
    card = Card()
    kept = build_of(card, {b"slow": 3e-3, b"fast": 1e-3, b"middle": 2e-3})
    assert kept.read_bytes() == b"fast"
    assert latencies(kept) == pytest.approx([1e-3, 2e-3, 3e-3])
    assert card.loaded[:6] == [b"slow", b"fast", b"middle", b"middle", b"fast", b"slow"], "in rounds, in changing order"
    assert not list(kept.parent.parent.glob("*.kernels")), "what the builds compiled goes with them"


def test_a_build_that_fails_is_told_and_the_others_are_compared(build_of: Any, start: Any) -> None:
    """One dies in the builder, one is not loaded: two of four are left, and are not built again."""
    card = Card(weights=10)
    kept = build_of(card, {b"slow": 3e-3, b"dies": 1.0, b"bad": 1e-3, b"fast": 2e-3}, (b"bad",))
    assert kept.read_bytes() == b"fast" and latencies(kept) == pytest.approx([2e-3, 3e-3])
    assert card.memory == 1 << 30, "whatever was loaded is gone"
    first, second = start(card, [{"x": [2, 8]}]).notes
    assert first == "build 2 of 4 failed, the others were compared: the builder died: SIGSEGV"
    assert second.startswith("build 3 of 4 failed, the others were compared: tensorrt-rtx does not load the engine")


def test_where_every_build_fails_it_is_the_last_one_s_error(build_of: Any) -> None:
    with pytest.raises(tensorrt_build.BuildProblem, match="SIGSEGV") as caught:
        build_of(Card(), {b"dies": 1.0, b"dies too": 1.0})
    assert caught.value.kind == "crash"


def test_builds_are_compared_at_the_clocks_of_a_card_under_load(build_of: Any) -> None:
    """Its clocks fall while an engine is loaded, and need 0.15 s of work to be up again."""
    kept = build_of(Card(cold=0.15), {b"slow": 1.1e-4, b"fast": 1e-4})
    assert latencies(kept) == pytest.approx([1e-4, 1.1e-4])


def test_a_card_that_warms_up_favours_no_build(build_of: Any) -> None:
    """The first one timed would look faster than one that is 1 % faster, were they timed one after another."""
    kept = build_of(Card(drift=0.2), {b"slow": 1.01e-3, b"fast": 1e-3})
    assert kept.read_bytes() == b"fast"
    fast, slow = latencies(kept)
    assert slow / fast == pytest.approx(1.01, rel=5e-3)


def test_builds_of_microseconds_have_as_many_samples(build_of: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[int] = []
    sample = tensorrt_backend.Session.sample

    def count(self: Any, given: Any, samples: int) -> list[float]:
        found = sample(self, given, samples)
        taken.append(len(found))
        return found

    monkeypatch.setattr(tensorrt_backend.Session, "sample", count)
    kept = build_of(Card(), {b"slow": 6e-6, b"fast": 5e-6})
    assert set(taken) == {10} and latencies(kept) == pytest.approx([5e-6, 6e-6])


@pytest.mark.parametrize("value", [1.0, -2.5, 3.14159, 1e-30, 65504.0])
def test_bfloat16_is_rounded_to_nearest(value: float) -> None:
    """Against torch's own conversion."""
    torch = pytest.importorskip("torch")
    here = np.array([value], np.float32)
    bits = tensorrt_buffers.typed(here, "x", "BF16")
    wanted = torch.tensor([value]).to(torch.bfloat16).view(torch.int16).numpy().view(np.uint16)
    assert bits.tolist() == wanted.tolist()
