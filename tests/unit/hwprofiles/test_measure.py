"""The protocol on a real runtime: what a measurement holds, when it stops, what it says about itself."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from pydantic import ValidationError

from hwprofiles.device import Device
from hwprofiles.measurement import Estimate, Latency, Measurement
from hwprofiles.runtimes.onnxruntime import OnnxRuntime
from hwprofiles.scenario import Scenario

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
    assert record.memory.runs == 2 and 0 < record.memory.import_only < record.memory.run_peak
    assert {"load", "psi_avg10", "wall_per_cpu", "memory_reset", "waited_seconds"} <= set(record.environment)


def test_without_baseline_there_is_no_ratio(opened: OpenDevice, dense: Path, quick: Scenario) -> None:
    record = opened().measure(dense, [X], scenario=quick)
    assert record.latency is not None and record.ratio is None and record.baseline is None


@pytest.mark.parametrize(("precision", "pairs"), [(1e9, 5), (1e-12, 8)])
def test_stops_by_precision_but_never_before_the_minimum(
    opened: OpenDevice, dense: Path, quick: Scenario, precision: float, pairs: int
) -> None:
    scenario = quick.model_copy(update={"precision": precision})
    record = opened().measure(dense, [X], baseline=dense, scenario=scenario)
    assert record.ratio is not None and record.ratio.pairs == pairs
    assert "short" not in record.quality


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


def test_baseline_stays_open_and_the_candidate_is_opened_afresh(
    opened: OpenDevice, dense: Path, wide: Path, quick: Scenario
) -> None:
    device = opened()
    first = device.measure(wide, [X], baseline=dense, scenario=quick)
    second = device.measure(wide, [X], baseline=dense, scenario=quick)
    assert first.baseline_latency is not None and second.baseline_latency is not None
    assert first.latency is not None and second.latency is not None
    assert first.baseline_latency.load_seconds == second.baseline_latency.load_seconds
    assert first.latency.load_seconds != second.latency.load_seconds


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
    assert record.latency is not None and record.latency.iterations == 15
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
    ):
        with pytest.raises(ValidationError):
            Measurement.model_validate({**facts, **change})
    with pytest.raises(ValidationError):
        Estimate(value=float("nan"), low=0, high=1)
