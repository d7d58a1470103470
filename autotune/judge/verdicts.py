"""Verdicts: original and candidate on the same samples, slice by slice, with what can be said and what
cannot."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import stats

from autotune.config import JudgeTable
from autotune.errors import DataError
from autotune.evaluation import Evaluation, Outcome, SliceResult, Verdict
from autotune.judge import intervals
from autotune.judge.intervals import Floats, Indices, Paired
from autotune.judge.metrics import ResolvedMetric, accuracy, resolve_metric
from autotune.judge.predictions import Predictions
from autotune.slices import ALL, Mask
from autotune.workload import Dataset, Metric
from hwprofiles.measurement import Estimate

SIGNIFICANT = 0.05  # of the q value: the expected share of false alarms among the slices that are called worse


def judge(
    *,
    artifact: str,
    target: str,
    dataset: Dataset,
    masks: Mapping[str, Mask],
    metric: str | Metric | ResolvedMetric,
    original: Predictions,
    candidate: Predictions,
    table: JudgeTable,
    damage: Mapping[str, float] | None = None,
    dataset_digest: str | None = None,
) -> Evaluation:
    """Judge a candidate's predictions against the original's, per slice of `masks` (from `slices.assign`).

    A slice passes when the upper end of the 95 % interval of its drop is within the limit. It fails when the
    lower end is beyond the limit, or when the loss is certain (Benjamini-Hochberg over all slices) and more
    than half the limit. Otherwise it is undecided, and `needed` says about how many more samples would
    decide. Slices with fewer than `table.floor` samples get no verdict and never are the worst slice.

    `damage` (slice -> divergence on the probe samples) is passed on; `dataset_digest` saves reading all
    inputs again.

    Raises `DataError` when the predictions are not of these samples, `TrialFailure` when the metric fails.
    """
    ids = tuple(sample.id for sample in dataset.samples)
    if original.ids != ids or candidate.ids != ids:
        raise DataError(
            f"the predictions are not those of the {dataset.name} data; judge the samples they were made of"
        )
    resolved = resolve_metric(metric)
    scored = _score(resolved, [sample.label for sample in dataset.samples], original, candidate)
    results = slice_results(scored, masks, table, damage)
    worst = _worst(results, table)
    return Evaluation(
        artifact=artifact,
        dataset=dataset.name,
        dataset_digest=dataset_digest or dataset.digest(),
        metric=resolved.name,
        target=target,
        n=len(ids),
        slices=results,
        worst_slice=worst.name,
        worst_drop=_shrunk(worst.drop, worst.n, results[0].drop, table),
        limit=table.limit,
        outcomes=tuple(
            Outcome(id=i, original=o, candidate=c, original_score=float(so), candidate_score=float(sc))
            for i, o, c, so, sc in zip(
                ids,
                original.predictions,
                candidate.predictions,
                scored.original,
                scored.candidate,
                strict=True,
            )
        ),
        seconds=candidate.seconds,
    )


@dataclass(frozen=True)
class Scored:
    """Per-sample scores `[n]` of both models, and how the two are compared over the samples at some
    indices."""

    original: Floats
    candidate: Floats
    compare: Callable[[Indices], Paired]

    @classmethod
    def of_samples(cls, original: Floats, candidate: Floats) -> Scored:
        """For a metric that is the mean of these scores: right or wrong (0.0 and 1.0 only), or graded."""
        right_or_wrong = bool(np.isin(np.concatenate([original, candidate]), (0.0, 1.0)).all())
        method = intervals.binary if right_or_wrong else intervals.graded
        return cls(original, candidate, lambda rows: method(original[rows], candidate[rows]))

    def flips(self, mask: Mask) -> tuple[int, int]:
        """(worse, better): samples on which the candidate's score is lower and higher."""
        change = (self.candidate - self.original)[mask]
        return int(np.sum(change < 0)), int(np.sum(change > 0))


def slice_results(
    scored: Scored, masks: Mapping[str, Mask], table: JudgeTable, damage: Mapping[str, float] | None = None
) -> tuple[SliceResult, ...]:
    """The statistics of every slice, with verdicts as in `judge`. The first of `masks` must be "all"."""
    paired = {name: scored.compare(np.flatnonzero(mask)) for name, mask in masks.items()}
    sizes = {name: int(mask.sum()) for name, mask in masks.items()}
    q_values = _false_discovery({name: p.p_value for name, p in paired.items() if sizes[name] >= table.floor})
    results = []
    for name, mask in masks.items():
        n, found = sizes[name], paired[name]
        verdict = _verdict(n, found.drop, q_values.get(name), table)
        worse, better = scored.flips(mask)
        results.append(
            SliceResult(
                name=name,
                n=n,
                original=found.original,
                candidate=found.candidate,
                drop=found.drop,
                shrunk_drop=_shrunk(found.drop, n, paired[ALL].drop, table).value,
                flips_worse=worse,
                flips_better=better,
                p_value=found.p_value,
                q_value=q_values.get(name),
                verdict=verdict,
                needed=_needed(n, found, verdict, table),
                damage=damage.get(name) if damage else None,
            )
        )
    return tuple(results)


def _score(metric: ResolvedMetric, labels: list[Any], original: Predictions, candidate: Predictions) -> Scored:
    before, after = original.predictions, candidate.predictions
    if metric.decomposable(before, labels):
        return Scored.of_samples(metric.scores(before, labels), metric.scores(after, labels))

    def compare(rows: Indices) -> Paired:
        return intervals.whole(lambda drawn: both(rows[drawn]), len(rows))

    def both(rows: Indices) -> tuple[float, float]:
        truth = [labels[i] for i in rows]
        return metric([before[i] for i in rows], truth), metric([after[i] for i in rows], truth)

    return Scored(_closeness(before, labels), _closeness(after, labels), compare)


def _closeness(predictions: Sequence[Any], labels: Sequence[Any]) -> Floats:
    """A score per sample where the metric has none: right or wrong, or minus the distance of real numbers."""
    pairs = list(zip(predictions, labels, strict=True))
    if any(isinstance(p, float) for p in predictions):
        return np.array([-abs(float(p) - float(label)) for p, label in pairs])
    return np.array([accuracy([p], [label]) for p, label in pairs])


def _verdict(n: int, drop: Estimate, q_value: float | None, table: JudgeTable) -> Verdict:
    if n < table.floor:
        return "insufficient"
    if drop.high <= table.limit:
        return "pass"
    certain = q_value is not None and q_value < SIGNIFICANT and drop.value > table.limit / 2
    return "fail" if drop.low > table.limit or certain else "undecided"


def _needed(n: int, found: Paired, verdict: Verdict, table: JudgeTable) -> int | None:
    if verdict not in ("undecided", "insufficient"):
        return None
    return max(table.floor - n, intervals.more_samples(found, table.limit, n))


def _false_discovery(p_values: Mapping[str, float | None]) -> dict[str, float]:
    """q values (Benjamini and Hochberg 1995) of the slices that have a p value."""
    known = {name: p for name, p in p_values.items() if p is not None}
    if not known:
        return {}
    adjusted = stats.false_discovery_control(list(known.values()))
    return dict(zip(known, (float(q) for q in adjusted), strict=True))


def _shrunk(drop: Estimate, n: int, overall: Estimate, table: JudgeTable) -> Estimate:
    """The drop of a slice pulled towards the overall one: the smaller the slice, the more.

    The ends of the interval are pulled by the same weight. That takes the two intervals as if they moved
    together, which is on the wide side for a slice that is a small part of the data.
    """
    own = n / (n + table.shrinkage)
    value, low, high = (
        own * mine + (1 - own) * all_of_it
        for mine, all_of_it in (
            (drop.value, overall.value),
            (drop.low, overall.low),
            (drop.high, overall.high),
        )
    )
    return Estimate(value=value, low=low, high=high)


def _worst(results: Sequence[SliceResult], table: JudgeTable) -> SliceResult:
    """The slice with the largest shrunk drop among those that are large enough, or else the whole."""
    large = [result for result in results if result.n >= table.floor]
    return max(large or results[:1], key=lambda result: result.shrunk_drop)
