"""What a measurement may say in objectives, constraints and tables."""

from __future__ import annotations

import pytest

from autotune.search.values import cost_metrics
from hwprofiles.measurement import Energy, Estimate, Memory
from hwprofiles.target import Provenance
from tests.unit.search.test_drift import measurement

MORE = {
    "memory": Memory(peak=10, load_peak=11, run_peak=12, import_only=2, runs=1),
    "energy": Energy(joules=Estimate(value=0.5, low=0.4, high=0.6), idle_watts=2.0, source="rapl"),
}


def test_hardware_gives_every_cost_under_its_target() -> None:
    found = cost_metrics(measurement(0, 0.01).model_copy(update=MORE))
    assert set(found) == {"latency_p50@pi", "latency_ratio@pi", "memory_peak@pi", "energy_j@pi"}
    assert found["energy_j@pi"].high == 0.6 and found["latency_ratio@pi"].low == 0.79


@pytest.mark.parametrize("provenance", ["emulated", "software", "simulated"])
def test_nothing_else_gives_any(provenance: Provenance) -> None:
    assert cost_metrics(measurement(0, 0.01, provenance=provenance).model_copy(update=MORE)) == {}
