"""ONNX Runtime with bound inputs. The code for a card runs here with the CPU in its place, errors run for real."""

from __future__ import annotations

import io
import sys
import zipfile
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest

from hwprofiles.agent import card_block, cuda, cuda_events
from hwprofiles.agent.archive import build_agent
from hwprofiles.device import open_device
from hwprofiles.errors import BadProfile, TargetUnavailable
from hwprofiles.runtimes import onnxruntime_backend as plain
from hwprofiles.runtimes import onnxruntime_cuda_backend as backend
from hwprofiles.runtimes.onnxruntime_cuda import OnnxRuntimeCuda
from hwprofiles.runtimes.protocol import shipped
from hwprofiles.target import Target
from tests.unit import zoo
from tests.unit.hwprofiles.tensorrt.simulated_card import Card

CARD = Target(name="card", runtime="onnxruntime-cuda", provider="CUDAExecutionProvider")
HERE = {**OnnxRuntimeCuda().options(CARD), "provider": "CPUExecutionProvider", "cuda_graph": False}


@pytest.fixture
def model(tmp_path: Path) -> str:
    path = tmp_path / "model.onnx"
    path.write_bytes(zoo.mlp().SerializeToString())
    return str(path)


@pytest.fixture(autouse=True)
def cpu_in_its_place(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backend, "_PLACE", "cpu")


def test_bound_inputs_give_the_same_answers(model: str) -> None:
    session = backend.Session(model, HERE)
    feeds = [zoo.feeds(zoo.mlp(), seed=seed) for seed in range(3)]
    bound = session._bind(feeds)
    for one, feed in zip(bound, feeds, strict=True):
        session._session.run_with_iobinding(one.binding, session._settings(one.graph))
        for ours, theirs in zip(one.outputs, plain.Session(model, HERE).run(feed), strict=True):
            np.testing.assert_array_equal(ours.numpy(), theirs)
    bound[0].give(feeds[2])
    session._session.run_with_iobinding(bound[0].binding, session._settings(bound[0].graph))
    np.testing.assert_array_equal(bound[0].outputs[0].numpy(), session.run(feeds[2])[0])


def test_a_block_has_its_times_apart(model: str) -> None:
    session = backend.Session(model, HERE)
    feeds = [zoo.feeds(zoo.mlp(), seed=seed) for seed in range(2)]
    told = session.time_block(feeds, 40)
    assert len(told["wall"]) == 40 and len(told["end_to_end"]) == 4 and told["inferences"] == 44
    assert told["enqueue"] is None, "the host's clock cannot tell asking from computing"
    assert min(told["wall"]) > 0 and told["first"] > 0 and told["load"] > 0
    assert session.accelerator_memory(feeds[0]) == {"plan": None, "weights": None, "activations": None}


class Counting:
    """A clock in the place of the card's: each event happens a second after the last."""

    stream = 0

    def __init__(self) -> None:
        self.stamped: list[int] = []
        self.waited: list[int] = []

    def reserve(self, count: int) -> None:
        assert count in (10, 1)

    def stamp(self, number: int) -> None:
        self.stamped.append(number)

    def wait(self, number: int) -> None:
        assert number in self.stamped
        self.waited.append(number)

    def seconds(self, pairs: list[tuple[int, int]]) -> list[float]:
        return [float(self.stamped.index(end) - self.stamped.index(start)) for start, end in pairs]


def test_one_inference_is_asked_for_ahead(model: str) -> None:
    session = backend.Session(model, HERE)
    clock = session._clock = Counting()  # type: ignore[assignment]
    told = session.time_block([zoo.feeds(zoo.mlp())], 5)
    assert told["wall"] == [1.0] * 5 and len(told["enqueue"]) == 3 and told["inferences"] == 5 + 3 + 3
    assert clock.stamped[:10] == list(range(10)) and clock.waited[:5] == [1, 3, 5, 7, 9]
    assert clock.stamped[10:] == [0] * 4 and clock.waited[5:] == [0] * 4, "the queue is empty before each and after all"


def test_a_context_that_is_lost_while_timing_ends_the_process(model: str) -> None:
    """The launch itself may tell it, before anything is waited for."""
    session = backend.Session(model, HERE)
    feeds = [zoo.feeds(zoo.mlp())]
    session.time_block(feeds, 1)

    class Broken:
        def run_with_iobinding(self, *_: Any) -> None:
            raise RuntimeError("CUDA failure 700: an illegal memory access was encountered ; GPU=0")

    session._session = Broken()
    with pytest.raises(cuda_events.CardBroken, match="context is lost"):
        session.time_block(feeds, 5)


def test_a_closed_session_lets_go_of_the_model_before_the_clock(model: str) -> None:
    """ONNX Runtime was given the clock's stream."""
    session = backend.Session(model, HERE)

    class Closing(Counting):
        def close(self) -> None:
            assert session._session is None and session._bound == []
            closed.append(True)

    closed: list[bool] = []
    session._clock = Closing()  # type: ignore[assignment]
    session.time_block([zoo.feeds(zoo.mlp())], 5)
    session.close()
    session.close()
    assert closed == [True]


class Waiting:
    """A card with a queue, its events, and onnxruntime that replays a graph on it; `waits`: as `ReplayGraph(id, true)`
    does, though asked not to."""

    stream = 0

    def __init__(self, card: Card, session: Any) -> None:
        self._card, self._session = card, session
        self._at: dict[int, float] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(self._session, name)

    def reserve(self, count: int) -> None:
        pass

    def stamp(self, number: int) -> None:
        self._at[number] = self._card.mark()

    def wait(self, number: int) -> None:
        self._card.host = max(self._card.host, self._at[number])

    def seconds(self, pairs: list[tuple[int, int]]) -> list[float]:
        return [self._at[end] - self._at[start] for start, end in pairs]

    def run_with_iobinding(self, binding: Any, settings: Any) -> None:
        self._session.run_with_iobinding(binding, settings)
        self._card.launch(self._card.seconds)
        if self._card.waits:
            self._card.settle()


@pytest.mark.parametrize(
    ("seconds", "asking", "graph", "waits", "note"),
    [
        (50e-6, 5e-6, True, False, None),
        (50e-6, 5e-6, True, True, card_block.WAITED),
        (2e-6, 40e-6, False, False, card_block.LAUNCHING),
        (30e-6, 40e-6, False, False, card_block.LAUNCHING),  # 70 us are told for it
        (1e-3, 40e-6, False, False, None),
    ],
)
def test_where_asking_takes_as_long_as_the_inference_it_is_told(
    model: str,
    monkeypatch: pytest.MonkeyPatch,
    seconds: float,
    asking: float,
    graph: bool,
    waits: bool,
    note: str | None,
) -> None:
    session = backend.Session(model, {**HERE, "cuda_graph": graph})
    feeds = [zoo.feeds(zoo.mlp())]
    session.time_block(feeds, 1)
    card = Card(seconds, asking=asking)
    card.waits = waits
    simulated = Waiting(card, session._session)
    session._session = session._clock = simulated  # type: ignore[assignment]
    monkeypatch.setattr(card_block, "time", card.clock())
    told = session.time_block(feeds, 100)
    assert told["enqueue"] == pytest.approx([asking + seconds * waits] * 10)
    assert session.notes == ([] if note is None else [note])
    card.seconds, card.waits = 1.0, False
    session.time_block(feeds, 10)
    assert session.notes == [], "it is the last block that counts: the first ones are of a card that is not warm"


def test_nodes_that_run_elsewhere_are_listed(model: str) -> None:
    session = backend.Session(model, HERE)
    assert session.notes == []
    (told,) = backend.fallbacks(session._session, "CUDAExecutionProvider")
    assert "on CPUExecutionProvider: " in told and ("Gemm x" in told or "MatMul x" in told)


def test_a_replay_that_answers_otherwise_is_noticed() -> None:
    assert backend._alike(np.ones(3, np.float32), np.full(3, 1.001, np.float32))
    assert not backend._alike(np.ones(3, np.float32), np.array([1, 1, 2], np.float32))
    assert not backend._alike(np.array([1, 2]), np.array([1, 3]))
    assert backend._alike(np.array([np.nan, 1.0]), np.array([np.nan, 1.0]))


class Replaying:
    """Graphs as ONNX Runtime has them: one for each id as long as the session lives, onto the memory of its capture."""

    def __init__(self, session: Any, broken: bool = False) -> None:
        self._session = session
        self._broken = broken
        self._seen: Counter[str] = Counter()
        self.graphs: dict[str, Any] = {}
        self.replays = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._session, name)

    def run_with_iobinding(self, binding: Any, settings: Any) -> None:
        number = settings.get_run_config_entry("gpu_graph_id")
        if number in self.graphs:
            self.replays += 1
            if not self._broken:
                self._session.run_with_iobinding(self.graphs[number], settings)
            return
        self._session.run_with_iobinding(binding, settings)
        if number != "-1":
            self._seen[number] += 1
            if self._seen[number] == 2:
                self.graphs[number] = binding


def test_no_graph_is_replayed_for_other_inputs_than_it_was_captured_with(model: str) -> None:
    session = backend.Session(model, {**HERE, "cuda_graph": True})
    graphs = session._session = Replaying(session._session)
    blocks = [[zoo.feeds(zoo.mlp(), size=size, seed=seed) for size in (2, 3)] for seed in range(3)]
    blocks.append([zoo.feeds(zoo.mlp(), size=size, seed=9) for size in (4, 2, 2)])
    for feeds in blocks:
        told = session.time_block(feeds, 6)
        assert len(told["wall"]) == 6 and session.conditions["cuda_graph"] is True
        bound = session._bind(feeds)
        assert len({one.graph for one in bound}) == len(feeds)
        for one, feed in zip(bound, feeds, strict=True):
            assert graphs.graphs[one.graph] is one.binding
            for value in one.outputs:
                value.update_inplace(np.zeros_like(value.numpy()))
            session._session.run_with_iobinding(one.binding, session._settings(one.graph))
            for ours, theirs in zip(one.outputs, plain.Session(model, HERE).run(feed), strict=True):
                np.testing.assert_array_equal(ours.numpy(), theirs)
    assert len(graphs.graphs) == 4, "inputs of shapes that were there before use that memory and its graph again"


def test_a_replay_that_writes_nothing_is_noticed(model: str) -> None:
    """What the plain run left in the outputs must not be taken for its answer."""
    session = backend.Session(model, {**HERE, "cuda_graph": True})
    graphs = session._session = Replaying(session._session, broken=True)
    session.time_block([zoo.feeds(zoo.mlp())], 3)
    assert graphs.replays == 1 and session.conditions["cuda_graph"] is False
    assert session.notes[-1] == "no CUDA graph: its replays gave other outputs than a plain run"


def test_a_model_without_a_graph_goes_on_plain_and_says_why(model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = backend.Session._open

    def refuse(session: backend.Session, graph: bool) -> Any:
        if graph:
            raise RuntimeError("This session cannot use the graph capture feature as requested by the user")
        return opened(session, graph)

    monkeypatch.setattr(backend.Session, "_open", refuse)
    session = backend.Session(model, {**HERE, "cuda_graph": True})
    assert session.conditions["cuda_graph"] is False
    assert session.notes == [
        "no CUDA graph: This session cannot use the graph capture feature as requested by the user"
    ]
    assert len(session.time_block([zoo.feeds(zoo.mlp())], 3)["wall"]) == 3


def test_an_output_that_is_no_tensor_is_refused(tmp_path: Path) -> None:
    from onnx import TensorProto, helper

    nodes = [helper.make_node("SplitToSequence", ["x"], ["parts"], axis=0)]
    parts = helper.make_tensor_sequence_value_info("parts", TensorProto.FLOAT, None)
    graph = helper.make_graph(nodes, "g", [zoo.floats("x", 2, 3)], [parts])
    path = tmp_path / "model.onnx"
    path.write_bytes(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8).SerializeToString()
    )
    session = backend.Session(str(path), HERE)
    with pytest.raises(backend.ERRORS) as raised:
        session.time_block([{"x": np.ones((2, 3), np.float32)}], 3)
    assert "\n" not in backend.explain(raised.value)


def test_this_wheel_has_no_cuda_and_the_hint_says_what_has(tmp_path: Path) -> None:
    with pytest.raises(TargetUnavailable) as raised:
        open_device(CARD, work=tmp_path).close()
    said = str(raised.value)
    assert f"onnxruntime {onnxruntime.__version__} there has no CUDAExecutionProvider" in said and "\n" not in said
    assert "~/ort-gpu/bin/pip install numpy 'nvidia-ml-py" in said and "only one onnxruntime" in said
    assert sys.executable not in said, "not into ours: its onnxruntime would be lost"


def test_the_hint_is_for_the_interpreter_of_the_target() -> None:
    there = CARD.model_copy(update={"python": "/opt/gpu/python"})
    hint = OnnxRuntimeCuda().install_hint(there)
    assert hint.startswith("/opt/gpu/python -m pip install numpy 'nvidia-ml-py")
    assert "'onnxruntime-gpu[cuda,cudnn]>=1.31,<1.32'" in hint and "only one onnxruntime" in hint


def test_without_a_driver_it_is_the_driver_that_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    if Path("/dev/nvidia0").exists():
        pytest.skip("this machine has a card")
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: [backend.PROVIDER])
    with pytest.raises(cuda.CudaProblem, match="no NVIDIA driver here") as raised:
        backend.describe(OnnxRuntimeCuda().options(CARD))
    assert backend.classify(raised.value, "start") == "unavailable"


def test_libraries_are_looked_for_wherever_nvidias_packages_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An environment that sees another one's packages has its onnxruntime in one and CUDA in the other."""
    for name in ("cudnn", "cu13", "nccl"):
        (tmp_path / "nvidia" / name / "lib").mkdir(parents=True)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "nvidia", raising=False)
    asked: list[str | None] = []
    monkeypatch.setattr(onnxruntime, "preload_dlls", lambda directory=None: asked.append(directory))
    monkeypatch.setattr(backend, "_missing_library", lambda: "")
    backend.load_libraries()
    ours = [folder for folder in asked if folder and folder.startswith(str(tmp_path))]
    assert asked[0] is None and ours == [str(tmp_path / "nvidia" / name / "lib") for name in ("cu13", "cudnn")]


def test_errors_are_told_apart() -> None:
    full = RuntimeError("[ONNXRuntimeError] : 6 : RUNTIME_EXCEPTION : CUDA failure 2: out of memory ; GPU=0")
    assert backend.classify(full, "latency") == "oom"
    assert backend.explain(full).startswith("the card's memory is used up")
    assert backend.classify(backend.Unfit("x"), "latency") == "unsupported"
    assert backend.classify(backend.Unready("x"), "start") == "unavailable"
    assert backend.classify(RuntimeError("bad"), "latency") == "bad_model"


@pytest.mark.parametrize("options", [{"cuda_graph": "auto"}, {"tf32": 1}])
def test_options_that_are_none_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(BadProfile, match="write true or false"):
        OnnxRuntimeCuda().options(CARD.model_copy(update={"options": options}))


def test_the_plain_runtime_travels_with_it() -> None:
    runtime = OnnxRuntimeCuda()
    with zipfile.ZipFile(io.BytesIO(build_agent(runtime.backend(), shipped(runtime)))) as archive:
        names = set(archive.namelist())
    assert {
        "agent_backend.py",
        "hwprofiles/runtimes/__init__.py",
        "hwprofiles/runtimes/onnxruntime_backend.py",
    } <= names
