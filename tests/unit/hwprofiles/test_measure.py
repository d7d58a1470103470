"""The protocol on a real runtime: what a measurement holds, when it stops, what it says about itself."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper
from pydantic import ValidationError

from hwprofiles.agent.client import AgentClient
from hwprofiles.agent.energy import Counters
from hwprofiles.device import Device
from hwprofiles.errors import TargetLost
from hwprofiles.measure import Model, batch_of, measure
from hwprofiles.measurement import Estimate, Latency, Measurement
from hwprofiles.quiet import Patience
from hwprofiles.runtimes.onnxruntime import OnnxRuntime
from hwprofiles.scenario import Scenario
from tests.unit.hwprofiles.conftest import save

OpenDevice = Callable[..., Device]
X = {"x": np.ones((1, 64), np.float32)}


def test_same_model_on_both_sides_is_a_tie(opened: OpenDevice, wide: Path) -> None:
    scenario = Scenario(block_seconds=0.005, memory_runs=0, max_seconds=20)
    record = opened().measure(wide, [X], baseline=wide, scenario=scenario)
    assert record.ratio is not None and record.failure is None
    assert record.ratio.pairs >= scenario.min_pairs
    # How exact it is, a benchmark shows; here only that the pairs are of the same thing.
    assert 0.5 < record.ratio.estimate.low <= record.ratio.estimate.value <= record.ratio.estimate.high < 2
    assert record.baseline == record.model


def test_more_work_takes_longer(opened: OpenDevice, dense: Path, wide: Path, quick: Scenario) -> None:
    record = opened().measure(wide, [X], baseline=dense, scenario=quick)
    assert record.ratio is not None and record.ratio.estimate.low > 1 and record.ratio.cpu > 1
    assert record.latency is not None and record.baseline_latency is not None
    assert record.latency.median.value > record.baseline_latency.median.value


def test_a_measurement_is_complete(opened: OpenDevice, dense: Path, quick: Scenario) -> None:
    device = opened(threads=2)
    record = device.measure(dense, [X], baseline=dense, scenario=quick.model_copy(update={"memory_runs": 2}))
    assert Measurement.model_validate_json(record.model_dump_json()) == record
    assert record.fingerprint.threads == 2 and record.provenance == "hardware"
    assert record.latency is not None and record.ratio is not None and record.memory is not None
    latency = record.latency
    assert len(latency.blocks) == record.ratio.pairs == len(record.ratio.log_ratios) >= quick.min_pairs
    assert latency.median.low <= latency.median.value <= latency.median.high
    assert latency.cpu_median > 0 and latency.load_seconds > 0 and latency.first_seconds > 0
    assert latency.openings == record.ratio.openings and len(set(latency.openings)) >= 5
    assert latency.throughput is not None and latency.cold_seconds is not None
    assert latency.cold_seconds > latency.first_seconds
    conditions = record.conditions
    assert conditions is not None
    assert (conditions.runtime, conditions.provider, conditions.threads) == (
        "onnxruntime",
        "CPUExecutionProvider",
        2,
    )
    assert (conditions.arena, conditions.cuda_graph, conditions.transfers) == ("default", None, None)
    assert record.memory.runs == 2 and 0 < record.memory.import_only < record.memory.run_peak
    told = {"load", "psi_avg10", "wall_per_cpu", "memory_reset", "waited_seconds", "openings", "unread"}
    assert told <= set(record.environment)


def test_without_baseline_there_is_no_ratio(opened: OpenDevice, dense: Path, quick: Scenario) -> None:
    record = opened().measure(dense, [X], scenario=quick)
    assert record.latency is not None and record.ratio is None and record.baseline is None


@pytest.mark.parametrize(("precision", "fewest", "most"), [(1e9, 5, 7), (1e-12, 8, 10)])
def test_stops_by_precision_but_never_before_the_minimum(
    opened: OpenDevice, dense: Path, quick: Scenario, precision: float, fewest: int, most: int
) -> None:
    scenario = quick.model_copy(update={"precision": precision})
    record = opened().measure(dense, [X], baseline=dense, scenario=scenario)
    # Two more where a busy machine disturbed three openings, which then count after all.
    assert record.ratio is not None and fewest <= record.ratio.pairs <= most


def test_out_of_time_is_flagged_as_short(opened: OpenDevice, dense: Path, quick: Scenario) -> None:
    scenario = quick.model_copy(update={"max_seconds": 1e-6, "min_pairs": 1000, "max_pairs": 1000})
    record = opened().measure(dense, [X], baseline=dense, scenario=scenario)
    assert record.ratio is not None and record.ratio.pairs < 1000 and "short" in record.quality


def test_a_busy_machine_is_flagged(opened: OpenDevice, wide: Path, quick: Scenario) -> None:
    burn = [sys.executable, "-c", "while True: pass"]
    others = [subprocess.Popen(burn) for _ in range(2 * (os.cpu_count() or 1))]
    try:
        scenario = quick.model_copy(update={"block_seconds": 0.05})
        record = opened().measure(wide, [X], baseline=wide, scenario=scenario)
    finally:
        for other in others:
            other.kill()
            other.wait()
    assert "contended" in record.quality and record.environment["disturbed"]


def test_all_inputs_are_used_equally(opened: OpenDevice, dense: Path, quick: Scenario) -> None:
    inputs = [{"x": np.ones((n, 64), np.float32)} for n in (1, 2, 3)]
    record = opened().measure(dense, inputs, scenario=quick)
    assert record.latency is not None and record.latency.iterations % 3 == 0


class NotingRuntime(OnnxRuntime):
    """Writes down which model is opened by which process, and how large a block of memory lies before it."""

    def __init__(self, notes: Path) -> None:
        self.notes = notes

    def backend(self) -> str:
        return (
            super().backend()
            + f"""
import os
from hwprofiles.agent import timing
_honest = Session.__init__
def _noting(self, path, *rest, **more):
    with open({str(self.notes)!r}, "a") as file:
        print(os.getpid(), Path(path).stem, len(timing._padding), file=file)
    _honest(self, path, *rest, **more)
Session.__init__ = _noting
"""
        )

    def opened(self) -> list[tuple[int, str, int]]:
        lines = [line.split() for line in self.notes.read_text().splitlines()]
        return [(int(process), digest, int(size)) for process, digest, size in lines]


def test_both_models_are_opened_afresh_in_random_order(
    opened: OpenDevice, dense: Path, wide: Path, quick: Scenario, tmp_path: Path
) -> None:
    noting = NotingRuntime(tmp_path / "notes")
    scenario = quick.model_copy(update={"min_pairs": 8, "max_pairs": 8, "generation_pairs": 1})
    record = opened(noting).measure(wide, [X], baseline=dense, scenario=scenario)
    assert record.failure is None
    assert record.ratio is not None and len(set(record.ratio.openings)) == record.ratio.pairs >= 8
    notes = noting.opened()
    assert len({process for process, _, _ in notes}) == 1 and len({size for _, _, size in notes}) > 8
    firsts = [digest for _, digest, _ in notes[::2]]
    seconds = [digest for _, digest, _ in notes[1::2]]
    assert all({a, b} == {record.model, record.baseline} for a, b in zip(firsts, seconds, strict=True))
    assert abs(2 * firsts.count(record.model) - len(firsts)) <= 1  # both orders equally often


def test_a_final_measurement_opens_in_fresh_processes(
    opened: OpenDevice, dense: Path, wide: Path, quick: Scenario, tmp_path: Path
) -> None:
    noting = NotingRuntime(tmp_path / "notes")
    scenario = quick.model_copy(update={"phase": "final", "min_pairs": 3, "max_pairs": 3})
    record = opened(noting, options={"quiet_wait_final": 0}).measure(wide, [X], baseline=dense, scenario=scenario)
    assert record.failure is None and record.ratio is not None and len(set(record.ratio.openings)) >= 3
    processes = [process for process, _, _ in noting.opened()]
    assert len(processes) == 2 * len(set(processes)) >= 6
    assert "short" in record.quality  # rule B8


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="processes cannot be pinned here")
def test_fresh_processes_run_on_the_cores_of_the_policy(
    opened: OpenDevice, dense: Path, quick: Scenario, tmp_path: Path
) -> None:
    core = max(os.sched_getaffinity(0))
    notes = tmp_path / "notes"

    class Telling(NotingRuntime):
        def backend(self) -> str:
            return super().backend().replace("len(timing._padding)", "*os.sched_getaffinity(0)")

    scenario = quick.model_copy(update={"phase": "final", "min_pairs": 3, "max_pairs": 3, "memory_runs": 1})
    device = opened(Telling(notes), options={"quiet_wait_final": 0}, policy={"cpus": f"{core}"})
    assert device.measure(dense, [X], scenario=scenario).failure is None
    lines = [line.split() for line in notes.read_text().splitlines()]
    assert len(lines) >= 4 and all(cores == [str(core)] for _, _, *cores in lines)


def test_each_shape_is_measured_and_the_first_is_the_headline(
    opened: OpenDevice, dense: Path, wide: Path, quick: Scenario
) -> None:
    shapes = {"large": {"x": (48, 64)}, "small": {"x": (2, 64)}}
    inputs = [{"x": np.ones((n, 64), np.float32)} for n in (2, 48, 2)]
    record = opened().measure(wide, inputs, baseline=dense, scenario=quick.model_copy(update={"shapes": shapes}))
    large, small = record.by_shape
    assert (large.label, small.label) == ("large", "small")
    assert large.shapes == {"x": (48, 64)} and small.shapes == {"x": (2, 64)}
    assert (record.latency, record.baseline_latency, record.ratio) == (
        large.latency,
        large.baseline_latency,
        large.ratio,
    )
    assert large.ratio is not None and small.ratio is not None
    assert large.latency.median.value > small.latency.median.value
    assert record.conditions is not None and record.conditions.batch == 48
    assert Measurement.model_validate_json(record.model_dump_json()) == record


def test_a_shape_that_no_input_has_is_named(opened: OpenDevice, dense: Path, quick: Scenario) -> None:
    scenario = quick.model_copy(update={"shapes": {"line": {"x": (3, 64)}}})
    with pytest.raises(ValueError, match=r"shape 'line' .*x \[3, 64\]"):
        opened().measure(dense, [X], scenario=scenario)


def test_batch_is_what_the_inputs_have() -> None:
    four = [{"x": np.ones((4, 64), np.float32), "mask": np.ones((4, 2), np.int64)}]
    mixed = [{"x": np.ones((4, 64), np.float32), "size": np.ones((2,), np.int64)}]
    assert batch_of(four, Scenario()) == 4 and batch_of(mixed, Scenario()) == 1
    assert batch_of(four, Scenario(batch=1)) == 1  # somebody says that the first axis is none
    assert batch_of(mixed, Scenario(batch=4)) == 4
    with pytest.raises(ValueError, match="batch is 8"):
        batch_of(four, Scenario(batch=8))


def test_throughput_counts_items(opened: OpenDevice, wide: Path, quick: Scenario) -> None:
    record = opened().measure(wide, [{"x": np.ones((4, 64), np.float32)}], scenario=quick)
    assert record.latency is not None and record.latency.throughput is not None
    assert record.conditions is not None and record.conditions.batch == 4
    # Of the mean, which noise can only raise above the least.
    assert record.latency.throughput <= 4 / min(record.latency.blocks) * 1.5


def test_answers_that_are_no_numbers_are_a_failure(
    opened: OpenDevice, dense: Path, tmp_path: Path, quick: Scenario
) -> None:
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["p"]),
        helper.make_node("Sub", ["p", "p"], ["z"]),
        helper.make_node("Div", ["p", "z"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 64])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 64])],
        [numpy_helper.from_array(np.ones((64, 64), np.float32), "w")],
    )
    infinite = save(graph, tmp_path / "infinite.onnx")
    device = opened()
    record = device.measure(infinite, [X], baseline=dense, scenario=quick)
    assert record.failure is not None and record.failure.kind == "nonfinite" and "'y'" in record.failure.message
    both = device.measure(infinite, [X], baseline=infinite, scenario=quick)
    assert both.failure is None and "not finite" in str(both.environment["outputs"])


def test_energy_is_measured_where_there_is_a_counter(opened: OpenDevice, wide: Path, quick: Scenario) -> None:
    scenario = quick.model_copy(update={"energy_seconds": 0.6})
    record = opened().measure(wide, [X], scenario=scenario)
    assert record.failure is None
    missing = str(record.environment["unread"]).split(", ")
    if Counters().source:
        assert record.energy is not None and record.energy.idle_watts > 0
    else:
        assert record.energy is None and "energy" in missing


def test_a_lost_device_is_no_failure_of_the_model(opened: OpenDevice, dense: Path, quick: Scenario) -> None:
    class Gone:
        def resident(self) -> AgentClient:
            raise TargetLost("target 'here': the connection is gone")

        def fresh(self) -> AbstractContextManager[AgentClient]:
            raise AssertionError

    device = opened()
    model = Model(dense, "0" * 64)
    with pytest.raises(TargetLost):
        measure(
            Gone(), device.target, device.fingerprint, model, [X], baseline=None, scenario=quick, patience=Patience()
        )


def test_failing_baseline_is_named(opened: OpenDevice, dense: Path, tmp_path: Path, quick: Scenario) -> None:
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(b"nothing")
    record = opened().measure(dense, [X], baseline=broken, scenario=quick)
    assert record.failure is not None and record.failure.message.startswith("baseline:")


def test_missing_file_and_missing_inputs_are_errors_of_the_caller(
    opened: OpenDevice, dense: Path, tmp_path: Path
) -> None:
    device = opened()
    with pytest.raises(FileNotFoundError):
        device.measure(tmp_path / "no.onnx", [X])
    with pytest.raises(ValueError, match="at least one input"):
        device.measure(dense, [])


class GreedyRuntime(OnnxRuntime):
    """Takes 200 MiB for the time of one inference, without the runtime's own allocator, which keeps what it had."""

    def backend(self) -> str:
        return (
            super().backend()
            + """
import numpy
_honest = Session.run
def _run(self, feed):
    taken = numpy.ones(200 << 20, numpy.uint8)
    del taken
    return _honest(self, feed)
Session.run = _run
"""
        )


def test_memory_is_that_of_the_model_not_of_its_parent(opened: OpenDevice, dense: Path, quick: Scenario) -> None:
    """Rule B5. `ru_maxrss` of a child would report the parent's 400 MiB."""
    ballast = np.ones(400 << 20, np.uint8)
    scenario = quick.model_copy(
        update={"memory_runs": 1, "min_pairs": 3, "max_pairs": 3, "warmup_iterations": 1, "block_iterations": 1}
    )
    record = opened(GreedyRuntime()).measure(dense, [X], scenario=scenario)
    assert ballast[-1] == 1
    assert record.memory is not None
    assert abs(record.memory.peak - (200 << 20)) < 15 << 20
    assert record.memory.load_peak < record.memory.run_peak - (180 << 20)


def test_percentiles_need_their_samples(opened: OpenDevice, dense: Path, quick: Scenario) -> None:
    """Rule B4, in a record and in the schema."""
    few = quick.model_copy(update={"block_seconds": 1e-9, "min_pairs": 3, "max_pairs": 3})
    record = opened().measure(dense, [X], scenario=few)
    assert record.latency is not None and 15 <= record.latency.iterations < 64
    assert record.latency.p90 is None and record.latency.p99 is None
    many = few.model_copy(update={"block_iterations": 230})
    record = opened().measure(dense, [X], scenario=many)
    assert record.latency is not None and record.latency.p99 is not None and record.latency.p90 is not None
    assert record.latency.p90 <= record.latency.p99
    for name, count in (("p90", 63), ("p99", 661)):
        with pytest.raises(ValidationError, match=name):
            Latency.model_validate({**record.latency.model_dump(), "iterations": count})


@pytest.mark.parametrize(
    "field", ["scenario", "fingerprint", "provenance", "target", "model", "baseline", "started_at", "seconds"]
)
def test_no_record_without_its_protocol(opened: OpenDevice, dense: Path, quick: Scenario, field: str) -> None:
    """Rule B6."""
    facts = opened().measure(dense, [X], scenario=quick).model_dump()
    del facts[field]
    with pytest.raises(ValidationError, match=field):
        Measurement.model_validate(facts)


def test_no_record_without_runtime_or_outcome(opened: OpenDevice, dense: Path, quick: Scenario) -> None:
    facts = opened().measure(dense, [X], scenario=quick).model_dump()
    for change in (
        {"latency": None},
        {"fingerprint": {**facts["fingerprint"], "runtime_version": ""}},
        {"baseline": facts["model"]},
        {"conditions": None},
        {"conditions": {**facts["conditions"], "clocks": ""}},
    ):
        with pytest.raises(ValidationError):
            Measurement.model_validate({**facts, **change})
    with pytest.raises(ValidationError):
        Estimate(value=float("nan"), low=0, high=1)
