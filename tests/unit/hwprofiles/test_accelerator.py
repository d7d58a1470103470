"""What the agent and the protocol make of a runtime on a card; the card is simulated and nothing here is a measurement.

The agent, its process and everything on this side are the real ones. NVML finds no card here, which is a case of its
own; readings of one are given where they are looked at.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hwprofiles.agent import accelerator, nvml, timing
from hwprofiles.agent.client import AgentClient, shapes_of
from hwprofiles.agent.frames import FrameError
from hwprofiles.agent.readings import card_reading
from hwprofiles.collect import Collected, Subject, on_accelerator
from hwprofiles.device import Device
from hwprofiles.errors import DeviceFailure
from hwprofiles.measure import Model, timed_inputs
from hwprofiles.openings import Opening
from hwprofiles.runtimes.conformance import _MODEL, _QUICK
from hwprofiles.scenario import Scenario
from hwprofiles.target import Target
from hwprofiles.transports.local import LocalTransport

# A card on which an inference takes a millisecond, asking for it 10 us, and one with its copies 3 ms.
BACKEND = """
import json, os, time
from pathlib import Path
import numpy

BUILT = {}

def describe(options):
    return {"runtime": "simulated", "version": "1", "providers": ["Simulated"], "timer": "host",
            "builds": options["builds"], "card": {"name": "Simulated 9000", "driver": "0.1"},
            "cuda_graph": True, "transfers": False, "arena": "default"}

class Broken(Exception):
    pass

ERRORS = (Broken,)
classify = lambda error, stage: "bad_model"
explain = str

class Session:
    def __init__(self, path, options):
        self.inputs = [{"name": "x"}]
        self.outputs = [{"name": "y"}]
        self.load_seconds = 0.25
        self.conditions = {"cuda_graph": False}
        self.notes = ["no CUDA graph: simulated", "shapes " + json.dumps(options["shapes"])]
        self._made = json.loads(Path(options["log"]).read_text()) if Path(options["log"]).exists() else []
    def run(self, feed):
        return [numpy.ones((2, 4), numpy.float32)]
    def time_block(self, feeds, count):
        return {"wall": [1e-3] * count, "enqueue": [1e-5] * count, "end_to_end": [3e-3], "cpu": 1e-4,
                "thread_cpu": 1e-4, "load": 0.25, "first": 0.5, "inferences": count + 1}
    def accelerator_memory(self, feed):
        return {"plan": 100, "weights": 80, "activations": None}
    def builds(self):
        return self._made
    def engine(self):
        return b"plan"

def prepare(path, options, count, feeds):
    made = [{"digest": str(n) * 64, "seconds": 1.0, "latency": 1e-3 * (n + 1)} for n in range(count)]
    Path(options["log"]).write_text(json.dumps(made))

def kernels(*_):
    raise Broken("none")
"""
FEEDS = [{"x": np.full((batch, 8), batch, np.float32)} for batch in (2, 2, 3)]
CARD = {
    "at": 10.0,
    "clock_hz": 1.98e9,
    "memory_clock_hz": 2.6e9,
    "temperature_c": 41.0,
    "reasons": [],
    "thermal_seconds": 0.0,
    "power_w": 300.0,
    "energy_j": 5.0,
    "used_bytes": 1 << 30,
    "processes": [{"pid": 7, "bytes": 1 << 20}],
}


class Simulated:
    """`hwprofiles.runtimes.protocol.Runtime` of the card above."""

    def __init__(self, log: Path, builds: int = 1) -> None:
        self._options = {"log": str(log), "builds": builds}

    def backend(self) -> str:
        return BACKEND

    def options(self, target: Target) -> dict[str, Any]:
        return dict(self._options)

    def files(self, target: Target) -> dict[str, Path]:
        return {}

    def address_space(self, target: Target) -> int:
        return 0

    def install_hint(self, target: Target) -> str:
        return "nothing"


def open_simulated(folder: Path, builds: int = 1) -> Device:
    target = Target(
        name="card", runtime="simulated", provider="Simulated", provenance="simulated", options={"quiet_wait_final": 0}
    )
    return Device(target, LocalTransport(), Simulated(folder / "builds.json", builds), folder / "work")


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "model.onnx"
    path.write_bytes(_MODEL)
    return path


@pytest.mark.skipif(Path("/proc/driver/nvidia").exists(), reason="this machine has a card of its own to tell of")
def test_a_measurement_keeps_the_card_s_times_apart(tmp_path: Path, model: Path) -> None:
    with open_simulated(tmp_path) as device:
        found = device.measure(model, FEEDS, baseline=model, scenario=_QUICK.model_copy(update={"batch": 1}))
    assert found.failure is None, found.failure
    card = found.accelerator
    assert card is not None and found.latency is not None and found.conditions is not None
    assert found.latency.median.value == pytest.approx(1e-3)
    assert (card.card, card.driver, card.timer) == ("Simulated 9000", "0.1", "host")
    assert card.enqueue == pytest.approx(1e-5) and card.end_to_end == pytest.approx(3e-3)
    assert (card.memory.plan, card.memory.weights, card.memory.activations) == (100, 80, None)
    assert card.clock_hz is None and card.others is None and card.throttled == () and card.builds == ()
    assert found.conditions.cuda_graph is False, "what the session says of itself counts"
    assert found.conditions.clocks == "unknown", "the processor's clock says nothing of the card's"
    assert found.latency.load_seconds == 0.25 and found.latency.first_seconds == 0.5
    notes = str(found.environment["candidate_notes"])
    assert notes.startswith("no CUDA graph: simulated; shapes ")
    assert '[{"x": [2, 8]}, {"x": [3, 8]}]' in notes, "it is opened for the shapes that it is timed with"
    assert "driver" in str(found.environment["card_problem"]) or "pynvml" in str(found.environment["card_problem"])
    assert found.energy is None and found.quality != ("contended",)


def test_finalists_are_built_several_times_and_the_first_record_is_what_ran(tmp_path: Path, model: Path) -> None:
    scenario = _QUICK.model_copy(update={"phase": "final", "batch": 1})
    with open_simulated(tmp_path, builds=3) as device:
        found = device.measure(model, FEEDS, baseline=model, scenario=scenario)
        again = device.measure(model, FEEDS, scenario=_QUICK.model_copy(update={"batch": 1}))
        assert device.engine(model, FEEDS) == b"plan"
    assert found.failure is None and found.accelerator is not None and again.accelerator is not None
    assert [build.latency for build in found.accelerator.builds] == pytest.approx([1e-3, 2e-3, 3e-3])
    assert found.accelerator.builds[0].digest == "0" * 64


def test_a_runtime_that_builds_nothing_has_no_engine(tmp_path: Path, model: Path) -> None:
    from hwprofiles.device import open_device

    with open_device(Target(name="here"), work=tmp_path / "work") as device:
        with pytest.raises(DeviceFailure, match="this runtime builds no engine") as caught:
            device.engine(model, [FEEDS[0]])
        assert caught.value.failure.kind == "unsupported"


def test_energy_of_the_processor_is_not_the_card_s(tmp_path: Path, model: Path) -> None:
    with open_simulated(tmp_path) as device:
        scenario = _QUICK.model_copy(update={"batch": 1, "energy_seconds": 0.1})
        assert device.measure(model, FEEDS, scenario=scenario).energy is None


class Steady:
    """A session whose blocks become steady after a while."""

    def __init__(self, blocks: int) -> None:
        self.left = blocks
        self.counts: list[int] = []

    def accelerator_memory(self, feed: Any) -> dict[str, Any]:
        return {}

    def time_block(self, feeds: Any, count: int) -> dict[str, Any]:
        self.counts.append(count)
        self.left -= 1
        seconds = 1e-3 if self.left < 0 else 1e-3 * (2 + self.left)
        return {"wall": [seconds] * count, "first": 0.5}


def test_a_card_is_warm_when_its_blocks_are_steady() -> None:
    session = Steady(12)
    told = timing.warm_up(session, [{}] * 2, 1e-6, 4, 60.0)
    assert told["stable"] and told["first"] == 0.5
    assert len(session.counts) >= 12 + 5 and all(count % 2 == 0 for count in session.counts)
    gives_up = timing.warm_up(Steady(10**9), [{}], 1e-6, 4, 0.0)
    assert not gives_up["stable"]


def test_who_else_is_on_the_card_and_why_it_is_slow() -> None:
    collected = Collected(
        card=[CARD, {**CARD, "at": 20.0, "temperature_c": 55.0}], others=[0, 2], throttled={"power brake"}
    )
    runtime = {"timer": "cuda-events", "card": {"name": "N", "driver": "D"}}
    told = on_accelerator(runtime, collected, [Opening(0, {})], "", (5, "nvml:device"))
    assert told is not None and told.others == 2 and told.throttled == ("power brake",)
    assert told.temperature == (41.0, 55.0) and told.memory.process == 5
    assert told.memory.process_source == "nvml:device"
    assert on_accelerator({}, collected, [], "", None) is None


@pytest.mark.parametrize(
    "change", [{"at": None}, {"clock_hz": -1.0}, {"temperature_c": "hot"}, {"processes": [{"pid": 1}]}, {"reasons": 3}]
)
def test_readings_that_no_driver_gives_are_refused(change: dict[str, Any]) -> None:
    told = card_reading(CARD)
    assert told is not None and told["processes"] == CARD["processes"] and card_reading(None) is None
    assert nvml.throttled(told, told) == []
    with pytest.raises((FrameError, ValueError, LookupError, TypeError)):
        card_reading({**CARD, **change})


def test_agents_of_ours_are_no_disturbance(tmp_path: Path) -> None:
    """The process that this one started with an agent's program is known by it."""
    from hwprofiles.device import open_device

    with open_device(Target(name="here"), work=tmp_path) as device:
        agent: AgentClient = device._slots[0].agent()
        reply, _ = agent.request("pressure", stage="latency", seconds=0.0)
        assert reply["own"] == [] and reply["after"]["card"] is None, "no card, nothing to tell"
        assert accelerator._agents(), "agents that run now"
    assert accelerator.Watched(True, None).own()


def test_memory_is_the_difference_of_one_source_and_the_process_s_before_the_device_s() -> None:
    def both(process: int | None, device: int | None) -> dict[str, int | None]:
        return {"nvml:process": process, "nvml:device": device}

    assert accelerator.grown(both(100, 900), both(180, 990)) == {"process": 80, "process_source": "nvml:process"}
    hidden = accelerator.grown(both(0, 900), both(None, 990))  # no context yet, and then bytes that the driver hides
    assert hidden == {"process": 90, "process_source": "nvml:device"}
    unlisted = accelerator.grown(both(0, 1 << 30), both(0, 3 << 30))  # it worked on the card, and is not shown
    assert unlisted == {"process": 2 << 30, "process_source": "nvml:device"}
    assert accelerator.grown(both(0, 900), both(80, 990)) == {"process": 80, "process_source": "nvml:process"}
    nothing = {"process": None, "process_source": ""}
    assert accelerator.grown(both(100, None), both(None, 990)) == nothing
    assert accelerator.grown(both(0, None), both(0, None)) == nothing
    assert accelerator.grown({}, {}) == nothing
    assert accelerator.Watched(True, None).memory() == {}


def test_shapes_are_told_once_each_and_only_of_what_is_timed() -> None:
    assert shapes_of(FEEDS) == [{"x": [2, 8]}, {"x": [3, 8]}]
    few = Scenario(block_iterations=2)
    assert len(timed_inputs(FEEDS, few)) == 2
    by_shape = Scenario(shapes={"two": {"x": (2, 8)}, "three": {"x": (3, 8)}}, block_iterations=1)
    assert [feed["x"].shape[0] for feed in timed_inputs(FEEDS, by_shape)] == [2, 3]
    assert Subject({"a": Model(Path("m"), "d")}, {"": FEEDS}).feeds
