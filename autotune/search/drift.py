"""Has a target changed its speed during the study? The baseline, which every measurement is paired with, tells.

Ratios are paired and stay valid when a machine drifts. Absolute times do not: those taken before the change are stale.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import median

from autotune.trial import Trial
from hwprofiles.measurement import Measurement

WINDOW = 5  # measurements whose median stands for the speed of the baseline at a time
DRIFT = 0.03  # relative; below that it is the same machine


@dataclass(frozen=True)
class Drift:
    """The baseline took `before` seconds on `target` when the study began there, and takes `after` now.

    `stale` are trials whose search times on `target` are of before the change, and that were not measured again.
    """

    target: str
    before: float
    after: float
    stale: frozenset[int]

    @property
    def change(self) -> float:
        """+0.05: the target has become 5 % slower."""
        return self.after / self.before - 1

    def __str__(self) -> str:
        how = "slower" if self.change > 0 else "faster"
        return (
            f"target {self.target} has become {abs(self.change):.1%} {how} during the study (the original, timed with "
            f"every trial); compare absolute times with care, ratios are paired and stay valid"
        )


def drifts(trials: Sequence[Trial]) -> tuple[Drift, ...]:
    """One entry for each target whose baseline moved by more than 3 %, from its first five good measurements to the
    last five. Trials need their measurements.
    """
    series: dict[tuple[str, str, str], list[tuple[str, float, int]]] = {}
    for trial in trials:
        for record in _search_times(trial.measurements):
            if record.baseline_latency is not None and record.quality == ("ok",):
                key = (record.target, record.fingerprint.key, record.scenario.model_dump_json())
                point = (record.started_at, record.baseline_latency.median.value, trial.number)
                series.setdefault(key, []).append(point)
    found = (_drift(target, sorted(points)) for (target, _, _), points in series.items())
    again = {target: {t.number for t in trials if f"latency_p50@{target}" in t.final} for target, _, _ in series}
    return tuple(
        Drift(drift.target, drift.before, drift.after, drift.stale - again[drift.target]) for drift in found if drift
    )


def _search_times(measurements: Iterable[Measurement]) -> Iterable[Measurement]:
    return (m for m in measurements if m.scenario.phase == "search" and m.provenance == "hardware")


def _drift(target: str, points: Sequence[tuple[str, float, int]]) -> Drift | None:
    """`points` in order of time. Trials with equal bytes share a measurement, which counts once."""
    times = dict.fromkeys((started, seconds) for started, seconds, _ in points)
    if len(times) < 2 * WINDOW:
        return None
    seconds = [value for _, value in times]
    before, after = median(seconds[:WINDOW]), median(seconds[-WINDOW:])
    if abs(after / before - 1) <= DRIFT:
        return None
    place = {started: index for index, (started, _) in enumerate(times)}
    stale = set()
    for started, _, number in points:
        # The machine's speed at that time: the median of the measurements around it.
        first = min(max(0, place[started] - WINDOW // 2), len(seconds) - WINDOW)
        if abs(after / median(seconds[first : first + WINDOW]) - 1) > DRIFT:
            stale.add(number)
    return Drift(target, before, after, frozenset(stale))
