"""A judgement slice by slice, as tables and charts show it; and how often the held-out data were looked at."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from autotune.errors import DataError
from autotune.evaluation import Evaluation, SliceResult
from autotune.judge.noise import NoiseFloor
from autotune.slices import ALL
from autotune.trial import Trial
from dashboards.info.study import StudyStore


class JudgedSlice(NamedTuple):
    """One row. `limit` is what its drop is judged against."""

    result: SliceResult
    limit: float

    @property
    def name(self) -> str:
        return "all samples" if self.result.name == ALL else self.result.name


class Judgement(NamedTuple):
    """One evaluation. `rows`: the whole first, then from the largest drop to the smallest, one metric after the
    other."""

    evaluation: Evaluation
    rows: tuple[JudgedSlice, ...]
    noise: NoiseFloor | None

    @property
    def confident(self) -> tuple[JudgedSlice, ...]:
        """The rows that say how sure the models are."""
        return tuple(row for row in self.rows if row.result.overconfident_candidate is not None)


class Hypothesis(NamedTuple):
    """A discovered slice. `share` of the compressed models' answers in it differ from the original's, `share_else`
    elsewhere; `confirmed` are the trials whose held-out judgement confirms the harm."""

    name: str
    n: int
    share: float
    share_else: float
    p_value: float
    confirmed: tuple[int, ...]


def judgement(evaluation: Evaluation, noise: NoiseFloor | None = None) -> Judgement:
    """`noise` is that of the same data."""
    groups: dict[str, list[SliceResult]] = {}
    for result in evaluation.slices:
        groups.setdefault(result.metric, []).append(result)
    ordered = [
        result
        for group in groups.values()
        for result in (group[0], *sorted(group[1:], key=lambda r: (-r.drop.value, r.name)))
    ]
    rows = tuple(JudgedSlice(r, evaluation.limit if r.limit is None else r.limit) for r in ordered)
    return Judgement(evaluation, rows, noise)


def stored_noise(store: StudyStore, dataset_digest: str) -> NoiseFloor | None:
    """What the search kept under "noise/DIGEST". Raises `DataError` for something else."""
    kept = store.meta(f"noise/{dataset_digest}")
    if kept is None:
        return None
    try:
        return NoiseFloor.model_validate(kept["floor"])
    except (TypeError, KeyError, ValueError) as error:
        raise DataError(f"the store's saved noise floor cannot be read: {error}; run the study again") from error


def hypotheses(store: StudyStore) -> tuple[Hypothesis, ...]:
    """What the search kept under "discovered". Raises `DataError` for something else."""
    kept: Any = store.meta("discovered") or []
    try:
        return tuple(
            Hypothesis(
                str(each["name"]),
                int(each["n"]),
                float(each["share"]),
                float(each["share_else"]),
                float(each["p_value"]),
                tuple(int(number) for number in each["confirmed"]),
            )
            for each in kept
        )
    except (TypeError, KeyError, ValueError) as error:
        raise DataError(f"the store's discovered slices cannot be read: {error}; run the study again") from error


def gap(trial: Trial, key: str) -> Mapping[str, float] | None:
    """A metric of the search and of the held-out data, and their difference; None before both are known."""
    if key not in trial.metrics or key not in trial.final:
        return None
    search, final = trial.metrics[key].value, trial.final[key].value
    return {"search": search, "heldout": final, "gap": final - search}
