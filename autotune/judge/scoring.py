"""The metrics that come with the package: callables (predictions, labels) -> float, larger is better.

An error that is better when smaller is given as its negative (`negative_mae`) or as what is left of 1
(`character_accuracy` is 1 - CER). Limits on a drop are in the unit of the metric. Boxes are in `detection`.
"""

from __future__ import annotations

import math
import warnings
from collections import Counter
from collections.abc import Callable, Collection, Hashable, Sequence
from typing import Any

import numpy as np
from scipy import stats


def accuracy(predictions: Sequence[Any], labels: Sequence[Any]) -> float:
    """Fraction of predictions that equal their label exactly."""
    return sum(_equal(p, label) for p, label in _pairs(predictions, labels)) / len(labels)


def exact_match(predictions: Sequence[str], labels: Sequence[str]) -> float:
    """Fraction of texts that equal their label, but for case and white space (Rajpurkar et al. 2016)."""
    return sum(_plain(p) == _plain(label) for p, label in _pairs(predictions, labels)) / len(labels)


def f1(predictions: Sequence[Any], labels: Sequence[Any]) -> float:
    """F1 of the class 1 (or True) against 0; 0.0 where it occurs in neither. Raises `ValueError` for other classes."""
    pairs = _pairs(predictions, labels)
    others = {value for pair in pairs for value in pair} - {0, 1}
    if others:
        raise ValueError(f"f1 is for classes 0 and 1, not {min(map(repr, others))}; f1_macro takes any")
    named = sum(p + label for p, label in pairs)
    return float(2 * sum(p * label for p, label in pairs) / named) if named else 0.0


def f1_macro(predictions: Sequence[Hashable], labels: Sequence[Hashable]) -> float:
    """F1 of each class that occurs in predictions or labels, averaged without weights."""
    hits = Counter(p for p, label in _pairs(predictions, labels) if p == label)
    named = Counter(predictions)
    named.update(labels)
    return sum(2 * hits[name] / count for name, count in named.items()) / len(named)


def edit_similarity(predictions: Sequence[Any], labels: Sequence[Any]) -> float:
    """1 - Levenshtein distance / length of the longer one, averaged; 1.0 for equal texts (or sequences of
    tokens)."""
    return sum(_similarity(p, label) for p, label in _pairs(predictions, labels)) / len(labels)


def character_accuracy(predictions: Sequence[str], labels: Sequence[str]) -> float:
    """1 - character error rate: all edits over all characters of the labels. Below 0 where there are more edits."""
    return _rate(predictions, labels, list)


def word_accuracy(predictions: Sequence[str], labels: Sequence[str]) -> float:
    """1 - word error rate: all edits of words over all words of the labels."""
    return _rate(predictions, labels, str.split)


def pearson(predictions: Sequence[float], labels: Sequence[float]) -> float:
    """Pearson's correlation; no number where one side is constant."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", stats.ConstantInputWarning)
        warnings.simplefilter("ignore", stats.NearConstantInputWarning)
        return float(stats.pearsonr(np.asarray(predictions, float), np.asarray(labels, float)).statistic)


def spearman(predictions: Sequence[float], labels: Sequence[float]) -> float:
    """Spearman's rank correlation; no number where one side is constant."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", stats.ConstantInputWarning)
        return float(stats.spearmanr(np.asarray(predictions, float), np.asarray(labels, float)).statistic)


def average_precision(predictions: Sequence[float], labels: Sequence[int]) -> float:
    """Of ranking all samples by a score, labels being 0 or 1: precision at each hit, averaged. Ties share a rank.

    Raises `ValueError` where nothing is relevant.
    """
    scores, relevant = np.asarray(predictions, float), np.asarray(labels, bool)
    if not relevant.any():
        raise ValueError("average precision needs at least one label 1")
    at = np.unique(scores)[::-1]
    ordered = np.searchsorted(-at, -scores)
    hits = np.cumsum(np.bincount(ordered, weights=relevant, minlength=len(at)))
    seen = np.cumsum(np.bincount(ordered, minlength=len(at)))
    return float(np.sum(np.diff(hits, prepend=0.0) * hits / seen) / hits[-1])


def mean_average_precision(predictions: Sequence[Sequence[Any]], labels: Sequence[Collection[Any]]) -> float:
    """Of retrieval: each prediction is a ranked list, each label the set of what is relevant; averaged over samples.

    A sample without anything relevant counts 1.0 if nothing was retrieved, else 0.0.
    """
    return sum(_precision(p, label) for p, label in _pairs(predictions, labels)) / len(labels)


def negative_mae(predictions: Sequence[float], labels: Sequence[float]) -> float:
    """Minus the mean absolute error."""
    return -float(np.mean(np.abs(np.asarray(predictions, float) - np.asarray(labels, float))))


def negative_rmse(predictions: Sequence[float], labels: Sequence[float]) -> float:
    """Minus the root of the mean squared error."""
    return -math.sqrt(float(np.mean((np.asarray(predictions, float) - np.asarray(labels, float)) ** 2)))


def _pairs(predictions: Sequence[Any], labels: Sequence[Any]) -> list[tuple[Any, Any]]:
    if len(predictions) != len(labels):
        raise ValueError(f"{len(predictions)} predictions for {len(labels)} labels")
    return list(zip(predictions, labels, strict=True))


def _equal(prediction: Any, label: Any) -> bool:
    same = prediction == label
    return bool(np.all(same)) if isinstance(same, np.ndarray) else bool(same)


def _plain(text: str) -> str:
    return " ".join(text.split()).casefold()


def _rate(predictions: Sequence[str], labels: Sequence[str], split: Callable[[str], list[str]]) -> float:
    pairs = [(split(p), split(label)) for p, label in _pairs(predictions, labels)]
    length = sum(len(label) for _, label in pairs)
    if not length:
        raise ValueError("an error rate needs labels that are not empty")
    return 1.0 - sum(_distance(p, label) for p, label in pairs) / length


def _similarity(one: Sequence[Any], other: Sequence[Any]) -> float:
    longer = max(len(one), len(other))
    return 1.0 - _distance(one, other) / longer if longer else 1.0


def _distance(one: Sequence[Any], other: Sequence[Any]) -> int:
    """Wagner and Fischer (1974), row by row."""
    if one == other:
        return 0
    row = list(range(len(other) + 1))
    for i, a in enumerate(one, start=1):
        diagonal, row[0] = row[0], i
        for j, b in enumerate(other, start=1):
            diagonal, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, diagonal + (a != b))
    return row[-1]


def _precision(ranked: Sequence[Any], relevant: Collection[Any]) -> float:
    if not relevant:
        return float(not ranked)
    hits, total = 0, 0.0
    for place, name in enumerate(ranked, start=1):
        if name in relevant and name not in ranked[: place - 1]:
            hits += 1
            total += hits / place
    return total / len(relevant)
