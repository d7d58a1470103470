"""Several targets: what the one model for all of them costs each, against the best for that target alone."""

from __future__ import annotations

from typing import NamedTuple

from autotune import pareto
from autotune.trial import Trial, Value
from dashboards.info.headline import limits
from dashboards.info.study import StudyView, keys_of


class TargetRow(NamedTuple):
    """One target. `own` is the number of its own best trial; what is None is not there. Sizes in bytes.

    `change` is that of time, as a share (0.04: the common model is 4 % slower); `verified` says that the own best was
    measured again, too.
    """

    target: str
    own: int | None
    verified: bool
    time_common: Value | None
    time_own: Value | None
    change: Value | None
    tie: bool
    size_common: float | None
    size_own: float | None
    drop_common: Value | None
    drop_own: Value | None
    words: str


class TargetsInfo(NamedTuple):
    """`common` is the recommended trial: the one model for all targets."""

    common: int
    rows: tuple[TargetRow, ...]


def targets_info(view: StudyView, common: int | None) -> TargetsInfo | None:
    """None for a study with costs of one target only, and where no trial is recommended."""
    if len(view.timed) < 2 or common is None or view.config is None:
        return None
    trials = [t.model_copy(update={"metrics": {**t.metrics, **t.final}}) for t in view.trials]
    chosen = next((trial for trial in trials if trial.number == common), None)
    if chosen is None:
        return None
    known = {key for trial in trials if trial.state == "complete" for key in trial.metrics}
    bounds = {key: limit for key, limit in limits(view).items() if key in known}
    rows = []
    guards = pareto.guards(trials, view.config, bounds)
    for target in view.timed:
        served = pareto.serve(
            trials, target, view.config.objective_keys, bounds, chosen, shown={}, guard=guards.get(target)
        )
        rows.append(_row(view, served, chosen))
    return TargetsInfo(common, tuple(rows))


def _row(view: StudyView, served: pareto.Served, common: Trial) -> TargetRow:
    keys = keys_of(view.trials, served.target)
    own = served.own.on(served.target) if served.own is not None else None
    common = common.on(served.target)
    time = next((d for d in served.differences if d.key.target == served.target), None)
    return TargetRow(
        target=served.target,
        own=own.number if own is not None else None,
        verified=bool(own is not None and (own.final or own.number == 0)),
        time_common=common.metrics.get(keys.ratio),
        time_own=own.metrics.get(keys.ratio) if own is not None else None,
        change=time.change if time is not None else None,
        tie=time is None or time.tie,
        size_common=_number(common, keys.size),
        size_own=_number(own, keys.size),
        drop_common=common.metrics.get(keys.drop),
        drop_own=own.metrics.get(keys.drop) if own is not None else None,
        words=f"{served.price}; {served.guard}" if served.guard else served.price,
    )


def _number(trial: Trial | None, key: str) -> float | None:
    value = trial.metrics.get(key) if trial is not None else None
    return value.value if value is not None else None
