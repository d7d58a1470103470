"""The baseline's own times tell whether a target has changed its speed."""

from __future__ import annotations

import random

from autotune.search.drift import drifts
from autotune.trial import Trial, Value
from hwprofiles.measurement import Estimate, Latency, Measurement, Quality, Ratio
from hwprofiles.scenario import FINAL, SEARCH
from hwprofiles.target import Provenance
from tests.unit.dashboards.conftest import CONDITIONS, FINGERPRINT


def measurement(
    minute: int,
    baseline: float,
    *,
    target: str = "pi",
    quality: tuple[Quality, ...] = ("ok",),
    final: bool = False,
    provenance: Provenance = "hardware",
) -> Measurement:
    def latency(seconds: float) -> Latency:
        return Latency(
            median=Estimate(value=seconds, low=seconds, high=seconds), p90=None, p99=None, cpu_median=seconds, cv=0.01,
            iterations=30, blocks=(seconds,) * 3, load_seconds=0.1, first_seconds=0.1,
        )  # fmt: skip

    return Measurement(
        target=target,
        model=f"{minute:064x}",
        baseline="b" * 64,
        scenario=FINAL if final else SEARCH,
        fingerprint=FINGERPRINT,
        provenance=provenance,
        latency=latency(baseline * 0.8),
        baseline_latency=latency(baseline),
        ratio=Ratio(estimate=Estimate(value=0.8, low=0.79, high=0.81), cpu=0.8, pairs=3, log_ratios=(-0.2,) * 3),
        conditions=CONDITIONS,
        quality=quality,
        started_at=f"2026-01-01T{minute // 60:02d}:{minute % 60:02d}:00.000+00:00",
        seconds=1.0,
    )


def study(*times: float, **options: object) -> list[Trial]:
    return [trial(number, measurement(number, seconds, **options)) for number, seconds in enumerate(times)]  # type: ignore[arg-type]


def trial(number: int, *measurements: Measurement, final: dict[str, Value] | None = None) -> Trial:
    return Trial(number=number, recipe={}, state="complete", measurements=measurements, final=final or {})


def test_a_steady_target_has_not_drifted() -> None:
    chance = random.Random(0)
    for _ in range(50):
        assert drifts(study(*(0.01 * (1 + chance.gauss(0, 0.01)) for _ in range(30)))) == ()


def test_what_was_measured_before_the_change_is_stale() -> None:
    (drift,) = drifts(study(*[0.010] * 8, *[0.0106] * 8))
    assert (drift.target, drift.before, drift.after) == ("pi", 0.010, 0.0106)
    assert drift.stale == frozenset(range(8))
    assert "6.0% slower" in str(drift) and "pi" in str(drift)
    (drift,) = drifts(study(*[0.0106] * 8, *[0.010] * 8))
    assert "5.7% faster" in str(drift)


def test_three_percent_are_allowed() -> None:
    assert drifts(study(*[0.0100] * 8, *[0.01029] * 8)) == ()


def test_single_outliers_are_no_drift() -> None:
    times = [0.010] * 16
    times[1] = times[13] = times[15] = 0.020
    assert drifts(study(*times)) == ()


def test_too_few_measurements_say_nothing() -> None:
    assert drifts(study(*[0.010] * 4, *[0.020] * 5)) == ()
    assert len(drifts(study(*[0.010] * 5, *[0.020] * 5))) == 1


def test_only_good_measurements_of_hardware_in_the_search_count() -> None:
    assert drifts(study(*[0.010] * 5, *[0.020] * 5, quality=("contended",))) == ()
    assert drifts(study(*[0.010] * 5, *[0.020] * 5, provenance="emulated")) == ()
    assert drifts(study(*[0.010] * 5, *[0.020] * 5, final=True)) == ()


def test_targets_drift_on_their_own_and_a_finalist_was_measured_again() -> None:
    steady = [measurement(n, 0.005, target="server") for n in range(16)]
    moving = [measurement(n, 0.010 if n < 8 else 0.011) for n in range(16)]
    trials = [trial(n, steady[n], moving[n]) for n in range(16)]
    trials[3] = trial(3, steady[3], moving[3], final={"latency_p50@pi": Value.exact(0.0088)})
    (drift,) = drifts(trials)
    assert drift.target == "pi" and drift.stale == frozenset(range(8)) - {3}


def test_trials_of_equal_bytes_share_a_measurement_that_counts_once() -> None:
    shared = measurement(0, 0.010)
    trials = [trial(n, shared) for n in range(12)]
    trials += [trial(20 + n, measurement(20 + n, 0.012)) for n in range(8)]
    assert drifts(trials) == (), "nine different measurements, ten are needed"
