"""Accuracy in growing parts of the search data: a recipe that is certainly hopeless is not judged to the end.

What counts as hopeless (`stopping_limits`): a loss beyond a constraint; beyond five times what the budget allows; and,
where `drop/worst` is an objective, beyond five times `judge.limit`, where the search's corner lies. A recipe a little
outside of a budget is worth knowing, so a budget by itself never ends a judgement.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar, overload

import numpy as np

from autotune.config import StudyConfig
from autotune.judge.predictions import Predictions
from autotune.judge.sequential import (
    Bounds,
    Hopeless,
    hopeless,
    look_sizes,
    nested_parts,
    shrinkage_weights,
    slice_bounds,
)
from autotune.keys import WORST, WORST_ANYWHERE, MetricKey, format_amount, parse_key
from autotune.search.judging import Judged, Judging
from autotune.slices import ALL
from autotune.trial import Value
from autotune.workload import Dataset, Sample

Item = TypeVar("Item")

_DROP = MetricKey("drop", WORST)
USEFUL_DROPS = 5.0  # a drop beyond this many limits is never wanted


@dataclass(frozen=True)
class StoppingLimits:
    """Slice -> the largest drop after which going on is pointless; `worst` that of any slice, None: no matter."""

    slices: Mapping[str, float]
    worst: float | None

    def __bool__(self) -> bool:
        return bool(self.slices) or self.worst is not None


@dataclass(frozen=True)
class Lost:
    """Why a recipe was given up, and what is known of its drops after `samples` of `of` samples."""

    reason: str
    metrics: Mapping[str, Value]
    samples: int
    of: int


def useful_drop(config: StudyConfig, key: MetricKey = _DROP) -> float:
    """The largest `drop/worst` (of one family: `key`) that is worth finding: the constraint, or five times what may
    ship."""
    for text in (str(key), str(_DROP)):
        if text in config.constraints:
            return config.constraints[text]
    return USEFUL_DROPS * config.drop_limit


def stopping_limits(config: StudyConfig, targets: Sequence[str] = ()) -> StoppingLimits:
    """See the module. Of keys with a target those count that name one of `targets`, the family that is judged."""
    slices: dict[str, float] = {}
    weighed = {f"drop/{WORST}", WORST_ANYWHERE, *(f"drop/{WORST}@{target}" for target in targets)}
    worst = useful_drop(config) if weighed & {*map(str, config.objective_keys)} else None
    wide = {key: USEFUL_DROPS * limit for key, limit in config.budget.items()}
    for text, limit in (*wide.items(), *config.constraints.items()):
        key = parse_key(text)
        if key.name != "drop" or not -1 < limit < 1 or (key.target and key.target not in (*targets, WORST)):
            continue
        if key.slice == WORST:
            worst = limit if worst is None else min(worst, limit)
        else:
            name = key.slice or ALL
            slices[name] = min(limit, slices.get(name, limit))
    return StoppingLimits(slices, worst)


@dataclass
class Stages:
    """Judges artifacts part by part. The order of the samples is fixed for the study, so every recipe gets the same."""

    judging: Judging
    judged: Judged
    limits: StoppingLimits
    config: StudyConfig
    _parts: list[np.ndarray] = field(init=False)
    _labels: list[object] = field(init=False)
    _original: np.ndarray | None = field(init=False, default=None)  # [n] scores; None: the metric is no mean of those
    _answers: dict[str, list[Predictions]] = field(init=False, default_factory=dict)  # digest -> parts answered so far

    def __post_init__(self) -> None:
        masks, samples = self.judged.masks, self.judged.dataset.samples
        sizes = look_sizes(len(samples)) if self.config.judge.sequential and self.limits else (len(samples),)
        self._parts = nested_parts(masks, sizes, self.config.search.seed)
        self._labels = [sample.label for sample in samples]
        answers = self.judged.original.predictions
        if len(self._parts) > 1 and self.judging.metric.decomposable(answers, self._labels):
            self._original = self._scores(answers, self._labels)
        if self._original is None:
            self._parts = [np.arange(len(samples))]

    @property
    def looks(self) -> int:
        """How often a recipe is looked at; 1: it is judged in one go."""
        return len(self._parts)

    def first(self, digest: str) -> Lost | None:
        """Judge the first part, the cheap gate. Raises `TargetPaused`."""
        return self._look(digest, 1) if self.looks > 1 and not self._known(digest) else None

    def rest(self, digest: str) -> Lost | Predictions | None:
        """Judge on; in the end the answers to all samples, or None where nothing is judged in parts.

        What was answered already, by `first` or before a target went away, is not asked again. Raises `TargetPaused`.
        """
        if self.looks == 1 or self._known(digest):
            return None
        lost = self._look(digest, self.looks)
        if lost is not None:
            return lost
        return _joined(self._answers.pop(digest), self._parts)

    def _known(self, digest: str) -> bool:
        """Equal bytes have been judged to the end before."""
        judging, judged = self.judging, self.judged
        found = judging.store.find_evaluation(digest, judged.digest, judging.target, fingerprint_key=judged.key)
        return found is not None

    def _look(self, digest: str, until: int) -> Lost | None:
        answers = self._answers.setdefault(digest, [])
        dataset = self.judged.dataset
        while len(answers) < until:
            part = self._parts[len(answers)]
            answers.append(self.judging.predict(digest, Dataset(dataset.name, _Chosen(dataset.samples, part))))
            if len(answers) == self.looks:
                break  # all samples: the judgement itself tells
            lost = self._lost(answers)
            if lost is not None:
                del self._answers[digest]
                return lost
        return None

    def _lost(self, answers: Sequence[Predictions]) -> Lost | None:
        assert self._original is not None  # there are parts
        seen = np.concatenate(self._parts[: len(answers)])
        scores = self._scores([p for each in answers for p in each.predictions], [self._labels[i] for i in seen])
        if scores is None:
            return None
        differences = np.zeros(len(self._labels))
        differences[seen] = self._original[seen] - scores
        reached = np.zeros(len(self._labels), bool)
        reached[seen] = True
        masks, table = self.judged.masks, self.config.judge
        large = [ALL, *(n for n, m in masks.items() if n != ALL and m.sum() >= table.floor)]
        weights = shrinkage_weights(masks, set(large) - self.judged.hypotheses, table.shrinkage)
        followed = {ALL, *self.limits.slices, *(weights if self.limits.worst is not None else ())}
        found = slice_bounds(differences, {n: m & reached for n, m in masks.items()}, among=len(followed))
        verdict = hopeless(found, self.limits.slices, worst=self.limits.worst, weights=weights)
        if verdict is None:
            return None
        return Lost(_words(verdict, len(seen), len(reached)), _values(found, weights), len(seen), len(reached))

    def _scores(self, predictions: Sequence[object], labels: Sequence[object]) -> np.ndarray | None:
        """`[n]`, None where they are not all between 0 and 1: then nothing can be bounded."""
        scores = self.judging.metric.scores(predictions, labels)
        return scores if scores.min() >= 0 and scores.max() <= 1 else None


class _Chosen(Sequence[Sample]):
    """Some samples of others, read only when they are asked for."""

    def __init__(self, samples: Sequence[Sample], indices: np.ndarray) -> None:
        self._samples, self._indices = samples, indices

    def __len__(self) -> int:
        return len(self._indices)

    @overload
    def __getitem__(self, index: int) -> Sample: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Sample]: ...
    def __getitem__(self, index: int | slice) -> Sample | Sequence[Sample]:
        if isinstance(index, slice):
            return _Chosen(self._samples, self._indices[index])
        return self._samples[int(self._indices[index])]

    def __iter__(self) -> Iterator[Sample]:
        return (self._samples[int(index)] for index in self._indices)


def _joined(answers: Sequence[Predictions], parts: Sequence[np.ndarray]) -> Predictions:
    """The answers to all samples, in the order of the data."""
    order = np.argsort(np.concatenate(parts))
    return Predictions(
        ids=_in_order([a.ids for a in answers], order) or (),
        predictions=_in_order([a.predictions for a in answers], order) or (),
        seconds=sum(a.seconds for a in answers),
        confidence=_in_order([a.confidence for a in answers], order),
        divergence=_in_order([a.divergence for a in answers], order),
    )


def _in_order(pieces: Sequence[Sequence[Item] | None], order: np.ndarray) -> tuple[Item, ...] | None:
    """The pieces one after the other, then sorted; None where one of them is missing."""
    there = [piece for piece in pieces if piece is not None]
    if len(there) < len(pieces):
        return None
    flat = [value for piece in there for value in piece]
    return tuple(flat[i] for i in order)


def _words(verdict: Hopeless, seen: int, of: int) -> str:
    drop = MetricKey("drop")
    who = "the model" if verdict.slice == ALL else verdict.slice
    return (
        f"after {seen:,} of {of:,} samples {who} has lost at least {format_amount(verdict.low, drop)}; "
        f"the limit is {format_amount(verdict.limit, drop)}"
    )


def _values(found: Mapping[str, Bounds], weights: Mapping[str, float]) -> dict[str, Value]:
    """The drops as far as they are known. Their intervals hold for all slices at once."""
    metrics = {
        "drop" if name == ALL else f"drop/{name}": Value(value=b.value, low=b.low, high=b.high)
        for name, b in found.items()
    }
    overall = found[ALL]
    shrunk = [
        tuple(own * mine + (1 - own) * all_of_it for mine, all_of_it in _pairs(found[name], overall))
        for name, own in weights.items()
        if name in found
    ]
    value, low, high = (max(column) for column in zip(*shrunk, strict=True))
    return metrics | {"drop/worst": Value(value=value, low=low, high=high)}


def _pairs(one: Bounds, other: Bounds) -> tuple[tuple[float, float], ...]:
    return (one.value, other.value), (one.low, other.low), (one.high, other.high)
