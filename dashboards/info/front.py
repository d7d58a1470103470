"""Size, speed and loss of every trial, ready to be drawn; and what the second look changed."""

from __future__ import annotations

from collections import Counter
from typing import Literal, NamedTuple

from autotune.trial import Trial, Value
from dashboards.info.study import StudyView, keys_of

Role = Literal["original", "recommended", "finalist", "front", "dominated", "rejected", "failed"]


class FrontPoint(NamedTuple):
    """One trial on one target. What is None was not measured. Sizes in bytes, ratio against the original."""

    trial: int
    role: Role
    proposer: str
    uniform: str  # the one choice of a uniform recipe, else ""
    size: float
    ratio: Value | None
    drop: Value | None
    reason: str  # why it was rejected or failed
    stale: bool = False  # its absolute time is of before the target drifted


class FrontInfo(NamedTuple):
    """All trials of a study that have a size. `final` are finalists with their confirmed values."""

    target: str
    points: tuple[FrontPoint, ...]
    final: tuple[FrontPoint, ...]
    original_size: float | None
    limit: float
    unplaced: int  # failed before anything was built, so without a size


class Curse(NamedTuple):
    """One metric of one finalist: the value that won the search, and the value on the second look."""

    trial: int
    key: str
    search: Value
    final: Value

    @property
    def change(self) -> float:
        """final - search. For costs and drops, positive means the search was too optimistic."""
        return self.final.value - self.search.value


def front_info(view: StudyView, target: str, recommended: int | None) -> FrontInfo:
    """The points of one target. `recommended` is the number of the headline's trial."""
    keys = keys_of(view.trials, target)
    stale = next((drift.stale for drift in view.drifts if drift.target == target), frozenset[int]())
    points, final = [], []
    for trial in view.trials:
        size = _size(trial)
        if size is None or trial.state == "running":
            continue
        role = _role(view, trial, recommended)
        uniform = uniform_choice(trial, len(view.layers))
        ratio, drop = trial.metrics.get(keys.ratio), trial.metrics.get(keys.drop)
        if trial.number == 0:
            ratio, drop = ratio or Value.exact(1.0), drop or Value.exact(0.0)
        reason = trial.failure.message if trial.failure else trial.reason
        old = trial.number in stale
        points.append(FrontPoint(trial.number, role, trial.proposer, uniform, size, ratio, drop, reason, old))
        if trial.final and trial.number != 0:
            confirmed = trial.final.get(keys.ratio), trial.final.get(keys.drop)
            final.append(FrontPoint(trial.number, role, trial.proposer, uniform, size, *confirmed, ""))
    baseline = _size(view.baseline) if view.baseline else None
    return FrontInfo(
        target,
        tuple(points),
        tuple(final),
        baseline,
        view.limit,
        sum(t.state == "failed" and _size(t) is None for t in view.trials),
    )


def winners_curse(view: StudyView) -> tuple[Curse, ...]:
    """Search value against final value of the measured metrics, for every finalist that has both."""
    used = (*(f"latency_ratio@{target}" for target in view.timed), view.keys.drop)
    return tuple(
        Curse(trial.number, key, trial.metrics[key], trial.final[key])
        for trial in view.finalists
        for key in used
        if key in trial.metrics and key in trial.final
    )


def uniform_choice(trial: Trial, layers: int) -> str:
    """The choice that a uniform recipe stands for; "" for mixed recipes and the original.

    A uniform recipe may fall back to a related choice on layers that cannot take it; its proposer, "uniform CHOICE",
    names it, or else the commonest choice.
    """
    counts = Counter(choice for table in trial.recipe.values() for choice in table.values())
    covered = max((len(table) for table in trial.recipe.values()), default=0)
    if trial.proposer.startswith("uniform "):
        return trial.proposer.removeprefix("uniform ")
    # One choice on a few layers only is a mix with the original precision, unless it was proposed as uniform.
    if not counts or not (trial.proposer.startswith("uniform") or (len(counts) == 1 and covered == layers)):
        return ""
    return counts.most_common(1)[0][0]


def _size(trial: Trial) -> float | None:
    value = trial.metrics.get("size_bytes")
    if value is not None:
        return value.value
    return float(trial.artifact.size_bytes) if trial.artifact else None


def _role(view: StudyView, trial: Trial, recommended: int | None) -> Role:
    if trial.number == 0:
        return "original"
    if trial.number == recommended:
        return "recommended"
    if trial.state == "failed":
        return "failed"
    if trial.state != "complete":
        return "rejected"
    if trial.final:
        return "finalist"
    return "front" if trial.number in view.front else "dominated"
