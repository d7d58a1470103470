"""Verdicts: original and candidate on the same samples, slice by slice, with what can be said and what
cannot."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
from scipy import stats

from autotune.config import JudgeTable
from autotune.errors import DataError, TrialFailure
from autotune.evaluation import Evaluation, SliceKind, SliceResult, Verdict
from autotune.judge import intervals, optimism, power
from autotune.judge.checks import check_masks, check_predictions, doubt
from autotune.judge.intervals import Paired
from autotune.judge.metrics import ResolvedMetric
from autotune.judge.outputs import Outputs, outcomes
from autotune.judge.predictions import Predictions
from autotune.judge.scores import Scored, same, score
from autotune.judge.user_code import user_code_failure
from autotune.slices import ALL, Mask
from autotune.workload import Dataset
from hwprofiles.measurement import Estimate

FEWEST_TO_REFUSE = 20  # samples; of fewer it may happen that none is right
SMALL = 0.2  # of the error for failures: the part of slices below the floor, where there are any
SIGNIFICANT = 0.05  # of the q value: the expected share of false alarms among the slices that are called worse


def judge(
    *,
    artifact: str,
    target: str,
    dataset: Dataset,
    masks: Mapping[str, Mask],
    metrics: Sequence[ResolvedMetric],
    original: Predictions,
    candidate: Predictions,
    table: JudgeTable,
    limits: Mapping[str, float] = {},
    kinds: Mapping[str, str] = {},
    hypotheses: Collection[str] = (),
    noise: Mapping[str, float] | None = None,
    damage: Mapping[str, float] | None = None,
    dataset_digest: str | None = None,
    share: float = 1.0,
) -> Evaluation:
    """Judge a candidate's predictions against the original's, per slice of `masks` (from `slices.assign`).

    The first of `metrics` names its results after the slices; those of another one are called METRIC:SLICE. All of
    them are one family: they share the correction for many tests, and the largest drop is that of all.

    A result passes when the upper end of the 95 % interval of its drop is within its limit (`limits`, by the name of
    the result, or `table.limit`). It fails when the lower end is beyond the limit, widened so that at most 2.5 % of
    judgements have such a failure anywhere by chance (Bonferroni), or when the loss is certain (Benjamini-Hochberg
    over the family) and more than half the limit. Otherwise it is undecided, and `needed` says about how many more
    samples would decide. Slices with fewer than `table.floor` samples can only fail: where a loss above the limit is
    certain by an exact test, as one of the same family. Otherwise they get no verdict and never are the worst one.

    `share` is the part of all these errors that this judgement may make, where several models are judged on the same
    data and one of them is chosen (`autotune.judge.spending`): the interval that decides is wider, and q is 1 / `share`
    times as large. The intervals of single slices stay at 95 %, that of the worst one is the wider one.

    `kinds` and `hypotheses` (by slice) are passed on, and so is `damage` (divergence on the probe samples). `noise`
    is the largest |drop| of the original against itself, by the name of the result. Divergence and confidence are
    reported with the first metric, where the predictions have them. `dataset_digest` saves reading all inputs again.

    Raises `DataError` when the predictions are not of these samples and when a mask is not `[n]` bool with a sample in
    it, `TrialFailure` when a metric fails. A metric that seems to compare nothing is told in `warnings`.
    """
    check_predictions(dataset, original, candidate)
    check_masks(masks, dataset)
    labels = [sample.label for sample in dataset.samples]
    scored = [score(metric, labels, original, candidate) for metric in metrics]
    _refuse_hopeless(scored[0], original, labels, metrics[0].name)
    doubts = [doubt(m, labels, original, each) for m, each in zip(metrics, scored, strict=True)]
    found = Judgement.of(dict(zip((m.name for m in metrics), scored, strict=True)), masks, table, limits, share)
    results = [_beside(each, kinds, hypotheses, noise, damage) for each in found.results]
    known = Outputs(original, candidate, scored[0].right)
    results = [known.add(each, masks[each.name]) if not each.metric else each for each in results]
    return Evaluation(
        artifact=artifact,
        dataset=dataset.name,
        dataset_digest=dataset_digest or dataset.digest(),
        metric=metrics[0].name,
        target=target,
        n=len(labels),
        slices=tuple(results),
        worst_slice=found.worst,
        worst_drop=found.worst_drop,
        worst_raw=found.worst_raw,
        limit=table.limit,
        share=share,
        warnings=tuple(each for each in doubts if each is not None),
        outcomes=outcomes(original, candidate, scored[0]),
        seconds=candidate.seconds,
    )


def _refuse_hopeless(scored: Scored, original: Predictions, labels: Sequence[Any], metric: str) -> None:
    """An original that gets nothing right can lose nothing, and every candidate would pass."""
    if len(labels) < FEWEST_TO_REFUSE or np.any(scored.original != 0.0):
        return
    if any(same(answer, label) for answer, label in zip(original.predictions, labels, strict=True)):
        return  # 0 is the best value of some metrics: minus a distance
    answer, label = original.predictions[0], labels[0]
    raise DataError(
        f"the original scores 0 in {metric!r} on all {len(labels)} samples, so nothing could be lost; its answers are "
        f"like {answer!r:.40} ({type(answer).__name__}), the labels like {label!r:.40} ({type(label).__name__}): make "
        "decode and labels speak of the same thing"
    )


@dataclass(frozen=True)
class Judgement:
    """The statistics of every slice under every metric, and of the worst of them."""

    results: tuple[SliceResult, ...]
    worst: str
    worst_drop: Estimate
    worst_raw: Estimate

    @classmethod
    def of(
        cls,
        scored: Mapping[str, Scored],
        masks: Mapping[str, Mask],
        table: JudgeTable,
        limits: Mapping[str, float] = {},
        share: float = 1.0,
    ) -> Judgement:
        """`scored` by the name of the metric, the first one first. Among `masks` must be "all". `share` as `judge`."""
        first = next(iter(scored))
        rows = [
            _Row(name, "" if metric == first else metric, mask, _compare(each, name, mask), each)
            for metric, each in scored.items()
            for name, mask in masks.items()
        ]
        large = [row for row in rows if row.n >= table.floor] or [row for row in rows if row.slice == ALL]
        p_values = {row.name: row.paired.p_worse for row in rows if row.n >= table.floor}
        q_values = {name: min(1.0, q / share) for name, q in _false_discovery(p_values).items()}
        limit_of = {row.name: limits.get(row.name, table.limit) for row in rows}
        small = [row for row in rows if row.n < table.floor and row.paired.lost is not None]
        error = share * intervals.ONE_SIDED
        error_large = error * (1 - SMALL if small else 1) / len(large)
        lost = {row.name for row in small if row.certainly_lost(limit_of[row.name], error * SMALL / len(small))}
        beliefs = _beliefs(rows, table, lost)
        shrunk = dict(zip((row.name for row in rows), beliefs.shrunk.tolist(), strict=True))
        shrunk |= {name: max(shrunk[name], limit_of[name]) for name in lost}  # less is refuted
        results = []
        for row in rows:
            limit, drop = limit_of[row.name], row.paired.drop
            if row.n < table.floor:
                verdict: Verdict = "fail" if row.name in lost else "insufficient"
            else:
                beyond = row.paired.low_at(error_large) > limit
                verdict = _verdict(row.paired.high_at(error), drop, q_values[row.name], beyond, limit)
            worse, better = row.scored.flips(row.mask)
            results.append(
                SliceResult(
                    name=row.name,
                    n=row.n,
                    original=row.paired.original,
                    candidate=row.paired.candidate,
                    drop=drop,
                    shrunk_drop=shrunk[row.name],
                    flips_worse=worse,
                    flips_better=better,
                    p_value=row.paired.p_value,
                    q_value=q_values.get(row.name),
                    verdict=verdict,
                    needed=_needed(row, verdict, limit, table.floor, share),
                    metric=row.metric,
                    limit=limits.get(row.name),
                    detectable=row.detectable,
                )
            )
        shares = np.array([_share(limits.get(row.name), table.limit) for row in rows])
        of = dict(zip((row.name for row in rows), shares.tolist(), strict=True))
        counted = [*large, *(row for row in small if row.name in lost and row not in large)]
        worst = max(counted, key=lambda row: of[row.name] * shrunk[row.name])
        raw = max((row.paired.drop for row in counted), key=lambda drop: drop.value)
        certain = max((of[name] * limit_of[name] for name in lost), default=-np.inf)
        drop = _worst_drop(counted, rows, beliefs, (error_large, error), shares, certain)
        return cls(tuple(results), worst.name, drop, raw)


@dataclass(frozen=True)
class _Row:
    slice: str
    metric: str  # "" is the first one
    mask: Mask
    paired: Paired
    scored: Scored

    @property
    def name(self) -> str:
        return f"{self.metric}:{self.slice}" if self.metric else self.slice

    @property
    def n(self) -> int:
        return int(self.mask.sum())

    def certainly_lost(self, limit: float, error: float) -> bool:
        return self.paired.lost is not None and self.paired.lost(limit, error)

    @property
    def detectable(self) -> float | None:
        if self.paired.flips is not None:
            return power.detectable(self.n, sum(self.paired.flips) / self.n)
        return power.detectable_mean(self.n, self.paired.variance)


def _compare(scored: Scored, name: str, mask: Mask) -> Paired:
    try:
        return scored.compare(np.flatnonzero(mask))
    except TrialFailure as error:
        failure = error.failure
        raise user_code_failure(f"on slice {name!r}: {failure.message}", failure.traceback) from error


def _verdict(high: float, drop: Estimate, q_value: float, beyond: bool, limit: float) -> Verdict:
    if high <= limit:
        return "pass"
    certain = q_value < SIGNIFICANT and drop.value > max(limit, 0.0) / 2
    return "fail" if beyond or certain else "undecided"


def _needed(row: _Row, verdict: Verdict, limit: float, floor: int, share: float) -> int | None:
    if verdict not in ("undecided", "insufficient"):
        return None
    return max(floor - row.n, power.more_samples(row.paired, limit, row.n, share))


def _false_discovery(p_values: Mapping[str, float]) -> dict[str, float]:
    """q values (Benjamini and Hochberg 1995) of these slices."""
    if not p_values:
        return {}
    adjusted = stats.false_discovery_control(list(p_values.values()))
    return dict(zip(p_values, (float(q) for q in adjusted), strict=True))


def _beliefs(rows: Sequence[_Row], table: JudgeTable, lost: Collection[str]) -> optimism.Drops:
    """Of the true drops of all rows; each metric has its own scale, so its slices are believed alike on their own.

    A slice's variance is pooled with that of all samples as if `table.shrinkage` of these had been added. How much
    slices differ is told by those that are large enough, and by small ones that certainly `lost`.
    """
    parts = []
    for metric in dict.fromkeys(row.metric for row in rows):
        own = [row for row in rows if row.metric == metric]
        overall = next(row.paired.variance for row in own if row.slice == ALL)
        n = np.array([row.n for row in own], dtype=float)
        each = np.array([row.paired.variance for row in own])
        variances = (each * n + overall * table.shrinkage) / (n + table.shrinkage) / n
        deciding = np.array([float((row.n >= table.floor or row.name in lost) and row.slice != ALL) for row in own])
        measured = np.array([row.paired.drop.value for row in own])
        parts.append(optimism.drops(measured, np.maximum(variances, 1e-18), deciding))
    return optimism.Drops(*(np.hstack([getattr(part, side) for part in parts]) for side in ("true", "measured")))


def _share(own: float | None, general: float) -> float:
    """How much of a slice's drop counts: a slice that is allowed twice as much as the others counts half."""
    return general / own if own is not None and own > general > 0 else 1.0


def _worst_drop(
    large: Sequence[_Row],
    rows: Sequence[_Row],
    beliefs: optimism.Drops,
    errors: tuple[float, float],
    shares: intervals.Floats,
    certain: float,
) -> Estimate:
    """The largest true drop of all `large` slices: corrected, but no smaller than the overall drop, nor than what is
    `certain`. `shares` of all rows.

    Its interval needs no belief: a slice's own upper end holds for the worst slice too, whichever it is, and the lower
    ends hold together (Bonferroni). `errors` of a lower and of an upper end.
    """
    names = {row.name for row in large}
    columns = np.array([row.name in names for row in rows])
    kept = shares[columns]
    high = max(share * row.paired.high_at(errors[1]) for share, row in zip(kept, large, strict=True))
    low = max(share * row.paired.low_at(errors[0]) for share, row in zip(kept, large, strict=True))
    if len(large) == 1 and kept[0] == 1.0:
        return Estimate(value=large[0].paired.drop.value, low=low, high=high)
    measured = kept * [row.paired.drop.value for row in large]
    drawn = optimism.Drops(kept * beliefs.true[:, columns], kept * beliefs.measured[:, columns])
    overall = max((m for m, row in zip(measured, large, strict=True) if row.slice == ALL), default=-np.inf)
    value = min(max(optimism.largest(measured, drawn), overall, certain), high)
    return Estimate(value=value, low=min(value, max(low, certain)), high=high)


def _beside(
    result: SliceResult,
    kinds: Mapping[str, str],
    hypotheses: Collection[str],
    noise: Mapping[str, float] | None,
    damage: Mapping[str, float] | None,
) -> SliceResult:
    """What is known of a slice beside its samples."""
    name = result.name.removeprefix(f"{result.metric}:") if result.metric else result.name
    floor = noise.get(result.name) if noise is not None else None
    return result.model_copy(
        update={
            "kind": cast(SliceKind, kinds.get(name, "declared")),
            "hypothesis": name in hypotheses,
            "noise": floor,
            "within_noise": floor is not None and abs(result.drop.value) <= floor,
            "damage": damage.get(name) if damage and not result.metric else None,
        }
    )
