"""How the search went: what was tried when, who proposed it, how the best moved, where the time went."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

from autotune.errors import DataError
from autotune.search.forecast import Forecast
from autotune.trial import Trial
from dashboards.info.headline import gaps
from dashboards.info.study import StudyStore, StudyView

Standing = Literal["within", "beyond", "rejected", "failed"]


class Step(NamedTuple):
    """One trial in order of number.

    `proposer` is the first word of what is recorded; `size` in bytes where something was built; `best` is the smallest
    so far that keeps every limit by its search values, None before there is one.
    """

    trial: int
    proposer: str
    standing: Standing
    size: float | None
    best: float | None


class Stage(NamedTuple):
    """Total seconds of one stage over all trials, and the share of all stages together."""

    name: str
    seconds: float
    share: float


class Progress(NamedTuple):
    """`original_size` in bytes; `stages` from the longest to the shortest."""

    steps: tuple[Step, ...]
    stages: tuple[Stage, ...]
    original_size: float | None
    states: tuple[tuple[str, int], ...]
    seconds: float


class Batch(NamedTuple):
    """How well the trials before `trial` were predicted, per objective; None where that is not known."""

    trial: int
    rank_correlation: Mapping[str, float | None]
    relative_error: Mapping[str, float | None]
    good: bool


class Prediction(NamedTuple):
    """`batches` in order of time; `outlook` and `stopped` in words, "" where nothing was recorded."""

    batches: tuple[Batch, ...]
    outlook: str
    stopped: str


def prediction(store: StudyStore) -> Prediction:
    """How well the search knew beforehand what it would measure, and what more of it would bring.

    Raises `DataError` where the store's record of it cannot be read.
    """
    try:
        batches = tuple(
            Batch(entry["trial"], dict(entry["rank_correlation"]), dict(entry["relative_error"]), bool(entry["good"]))
            for entry in store.meta("health") or ()
        )
        kept: Mapping[str, Any] = store.meta("outlook") or {}
        told = kept.get("forecast")
        outlook = "" if told is None else str(Forecast(**{"small": 0.0, **told}))
        return Prediction(batches, outlook, str(kept.get("stopped", "")))
    except (TypeError, KeyError, AttributeError) as error:
        raise DataError("the store's saved 'health' or 'outlook' cannot be read; it is damaged") from error


def progress(view: StudyView) -> Progress:
    """Of all trials but the baseline, whose time counts all the same."""
    steps: list[Step] = []
    best: float | None = None
    for trial in view.trials:
        if trial.number == 0 or trial.state == "running":
            continue
        standing = _standing(view, trial)
        value = trial.metrics.get(view.keys.size)
        size = value.value if value else None
        if standing == "within" and size is not None:
            best = size if best is None else min(best, size)
        steps.append(Step(trial.number, (trial.proposer or "unknown").split()[0], standing, size, best))
    original = view.baseline.metrics.get(view.keys.size) if view.baseline else None
    stages = _stages(view)
    states: dict[str, int] = {}
    for trial in view.trials:
        states[trial.state] = states.get(trial.state, 0) + 1
    return Progress(
        steps=tuple(steps),
        stages=stages,
        original_size=original.value if original else None,
        states=tuple(states.items()),
        seconds=sum(stage.seconds for stage in stages),
    )


def proposers(steps: Sequence[Step]) -> tuple[str, ...]:
    """In order of first appearance, so that colours do not move while a study grows."""
    return tuple(dict.fromkeys(step.proposer for step in steps))


def _standing(view: StudyView, trial: Trial) -> Standing:
    if trial.state == "failed":
        return "failed"
    if gaps(view, trial, final=False):
        return "beyond"
    return "within" if trial.state == "complete" else "rejected"


def _stages(view: StudyView) -> tuple[Stage, ...]:
    totals: dict[str, float] = {}
    for trial in view.trials:
        for stage, seconds in trial.durations.items():
            totals[stage] = totals.get(stage, 0.0) + seconds
    everything = sum(totals.values()) or 1.0
    ordered = sorted(totals.items(), key=lambda item: -item[1])
    return tuple(Stage(name, seconds, seconds / everything) for name, seconds in ordered)
