"""Mean average precision of object detection, as COCO defines it (Lin et al. 2014, and the code of pycocotools).

A prediction and a label are lists of boxes, one list per image: {"box": [x0, y0, x1, y1], "label": class}, and of a
prediction "score" as well. Boxes may be in any unit; their order does not matter.

The same number as pycocotools' `AP` and `AP50` for all areas with at most 100 boxes per image and class, without crowd
regions. Ours because a paired bootstrap asks for it a thousand times per slice: which box of an image matches which
does not depend on the other images, so it is found once and kept. pycocotools begins anew each time.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Hashable, Mapping, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Boxes = tuple[tuple[Hashable, float, tuple[float, float, float, float]], ...]

THRESHOLDS = tuple(0.5 + 0.05 * step for step in range(10))  # of intersection over union
MOST = 100  # boxes of one class in one image
_RECALLS: Floats = np.linspace(0.0, 1.0, 101)
_KEPT = 8192  # images whose matches are remembered


class _Found(NamedTuple):
    """One class in one image: scores `[boxes]`, falling, which boxes match `[thresholds, boxes]`, and the true ones."""

    scores: Floats
    hits: NDArray[np.bool_]
    true: int


def detection_map(predictions: Sequence[Any], labels: Sequence[Any]) -> float:
    """Average precision of boxes, averaged over classes and over thresholds of 0.50, 0.55, ... 0.95 of the overlap.

    Classes that no label has do not count. Raises `ValueError` where no image has a labelled box, and for what is no
    list of boxes.
    """
    return _mean(predictions, labels, len(THRESHOLDS))


def detection_map50(predictions: Sequence[Any], labels: Sequence[Any]) -> float:
    """The same at an overlap of 0.50 only."""
    return _mean(predictions, labels, 1)


def _mean(predictions: Sequence[Any], labels: Sequence[Any], thresholds: int) -> float:
    if len(predictions) != len(labels):
        raise ValueError(f"{len(predictions)} predictions for {len(labels)} labels")
    classes: dict[Hashable, list[_Found]] = defaultdict(list)
    for found, true in zip(predictions, labels, strict=True):
        for name, matched in _matched(_boxes(found, "prediction"), _boxes(true, "label")).items():
            classes[name].append(matched)
    values = [_precision(each, thresholds) for each in classes.values() if any(found.true for found in each)]
    if not values:
        raise ValueError("detection needs at least one labelled box")
    return float(np.mean(values))


def _boxes(given: Any, what: str) -> Boxes:
    """As a key of the matches. Raises `ValueError`."""
    if not isinstance(given, Sequence) or isinstance(given, str):
        raise ValueError(f"a {what} must be a list of boxes, not {type(given).__name__}")
    return tuple(_box(each, what) for each in given)


def _box(given: Any, what: str) -> tuple[Hashable, float, tuple[float, float, float, float]]:
    if not isinstance(given, Mapping):
        raise ValueError(f"a box of a {what} must be a mapping, not {type(given).__name__}")
    try:
        name, box, score = given["label"], given["box"], given["score"] if what == "prediction" else 0.0
    except KeyError as error:
        raise ValueError(f"a box of a {what} has no {error}") from error
    corners = [float(number) for number in box]
    if len(corners) != 4 or not all(map(_ordered, corners[:2], corners[2:])):
        raise ValueError(f"a box of a {what} is [x0, y0, x1, y1] with x0 <= x1 and y0 <= y1, not {corners}")
    if not math.isfinite(score):
        raise ValueError(f"the score of a box must be a finite number, not {score}")
    return name, float(score), (corners[0], corners[1], corners[2], corners[3])


def _ordered(low: float, high: float) -> bool:
    return -math.inf < low <= high < math.inf


@lru_cache(maxsize=_KEPT)
def _matched(found: Boxes, true: Boxes) -> dict[Hashable, _Found]:
    """One image: which of its boxes are right, class by class."""
    return {
        name: _class([box for box in found if box[0] == name], [box for box in true if box[0] == name])
        for name in dict.fromkeys(box[0] for box in (*found, *true))
    }


def _class(found: Sequence[Any], true: Sequence[Any]) -> _Found:
    """Greedy, from the surest box on: each takes the true box it overlaps most of those that are left."""
    scores = np.array([score for _, score, _ in found])
    order = np.argsort(-scores, kind="stable")[:MOST]
    overlaps = _overlaps(np.array([found[i][2] for i in order]), np.array([corners for *_, corners in true]))
    hits = np.zeros((len(THRESHOLDS), len(order)), dtype=bool)
    for row, threshold in zip(hits, THRESHOLDS, strict=True):
        left = np.ones(len(true), dtype=bool)
        for index in range(len(order)):
            free = np.where(left, overlaps[index], -1.0)
            if len(free) and free.max() >= threshold:
                row[index] = True
                left[len(free) - 1 - int(np.argmax(free[::-1]))] = False  # of equals the last, as pycocotools has it
    return _Found(scores[order], hits, len(true))


def _overlaps(found: Floats, true: Floats) -> Floats:
    """Intersection over union, `[found, true]`."""
    found, true = found.reshape(-1, 1, 4), true.reshape(1, -1, 4)
    sides = np.minimum(found[..., 2:], true[..., 2:]) - np.maximum(found[..., :2], true[..., :2])
    shared = np.prod(np.maximum(sides, 0.0), axis=-1)
    areas = [np.prod(boxes[..., 2:] - boxes[..., :2], axis=-1) for boxes in (found, true)]
    return np.asarray(shared / np.maximum(areas[0] + areas[1] - shared, 1e-300))


def _precision(images: Sequence[_Found], thresholds: int) -> float:
    """Precision at 101 recalls, each the best of any higher recall, averaged; then averaged over thresholds."""
    true = sum(found.true for found in images)
    order = np.argsort(-np.concatenate([found.scores for found in images]), kind="stable")
    hits = np.concatenate([found.hits[:thresholds] for found in images], axis=1)[:, order]
    if not hits.shape[1]:
        return 0.0
    counts = np.cumsum(hits, axis=1)
    precision = counts / np.arange(1, hits.shape[1] + 1)
    best = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
    total = 0.0
    for recall, row in zip(counts / true, best, strict=True):
        at = np.searchsorted(recall, _RECALLS, side="left")
        total += float(np.append(row, 0.0)[at].mean())
    return total / thresholds
