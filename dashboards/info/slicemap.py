"""The drop of every slice against the original, for the trials worth looking at."""

from __future__ import annotations

from typing import NamedTuple

from autotune.evaluation import SliceResult
from autotune.trial import Trial
from dashboards.info.front import uniform_choice
from dashboards.info.study import StudyView, evaluation_of


class SliceColumn(NamedTuple):
    """One trial, on one data set. `results` run parallel to the slices; None where it was not judged."""

    trial: int
    label: str  # "#27" or "#3 int8"
    finalist: bool
    dataset: str
    results: tuple[SliceResult | None, ...]


class SliceMap(NamedTuple):
    """Slices as rows: "all" first, then from the largest drop to the smallest."""

    metric: str
    limit: float
    slices: tuple[str, ...]
    columns: tuple[SliceColumn, ...]


MOST_UNIFORM = 6  # more columns than this no longer fit on a page


def slice_map(view: StudyView, recommended: int | None) -> SliceMap:
    """The recommended trial first, then the other finalists, then uniform recipes for comparison."""
    shown = list(view.shown)
    if recommended is not None and recommended not in {trial.number for trial in shown}:
        shown.insert(0, next(trial for trial in view.trials if trial.number == recommended))
    shown.sort(key=lambda trial: trial.number != recommended)
    numbers = {trial.number for trial in shown}
    uniform = [t for t in view.judged if uniform_choice(t, len(view.layers)) and t.number not in numbers]
    judged = []
    for trial in [*shown, *uniform[:MOST_UNIFORM]]:
        evaluation = evaluation_of(trial, view.targets[0])
        if evaluation is not None:
            judged.append((trial, evaluation))
    worst: dict[str, float] = {}
    for index, (_, evaluation) in enumerate(judged):
        for result in evaluation.slices:
            # Rows are ordered by the first column that judged the slice, which is the recommended trial's.
            worst.setdefault(result.name, result.drop.value - index)
    names = tuple(sorted(worst, key=lambda name: (name != "all", -worst[name])))
    columns = []
    for trial, evaluation in judged:
        by_name = {result.name: result for result in evaluation.slices}
        results = tuple(by_name.get(name) for name in names)
        columns.append(SliceColumn(trial.number, _label(view, trial), trial in shown, evaluation.dataset, results))
    metric = judged[0][1].metric if judged else ""
    return SliceMap(metric, view.limit, names, tuple(columns))


def _label(view: StudyView, trial: Trial) -> str:
    uniform = uniform_choice(trial, len(view.layers))
    return f"#{trial.number} {uniform}".rstrip()
