"""Which layers cost accuracy, estimated from the trials of the study."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from autotune.trial import Trial
from dashboards.info.layermap import decisions
from dashboards.info.study import StudyView


class Culprit(NamedTuple):
    """A layer with its most harmful choice. `loss` is the estimated rise of the worst drop by it, a fraction."""

    layer: str
    choice: str
    loss: float
    trials: int  # judged trials that had it


class Sensitivity(NamedTuple):
    """`culprits` from the largest loss down; empty where the trials do not explain the drops.

    `explained` is the share of the variance of the worst drop (on a square-root scale) that the estimate
    predicts for trials it was not fitted to (leave one out); below `TRUSTED` nothing is claimed.
    """

    culprits: tuple[Culprit, ...]
    explained: float
    trials: int


TRUSTED = 0.5
SEEN = 4  # trials that must have a choice before it is blamed
FEWEST = 12  # judged trials


def sensitivity(view: StudyView, most: int = 6) -> Sensitivity:
    """Ridge regression of the worst drop on "this layer has this choice", strength picked by leave-one-out.

    Drops add up while they are small and saturate later, so they are fitted on a square-root scale; a loss
    is the change that the choice makes to the mean recipe.
    """
    judged = view.judged
    if len(judged) < FEWEST:
        return Sensitivity((), 0.0, len(judged))
    tables = [decisions(trial) for trial in judged]
    pairs = sorted({pair for table in tables for pair in table.items()})
    # A choice that nearly every trial or only one has cannot be told from the rest.
    counts = {pair: sum(table.get(pair[0]) == pair[1] for table in tables) for pair in pairs}
    pairs = [pair for pair in pairs if 2 <= counts[pair] <= len(judged) - 2]
    if not pairs:
        return Sensitivity((), 0.0, len(judged))
    single = np.array([[float(table.get(layer) == choice) for layer, choice in pairs] for table in tables])
    shared = _shared(pairs)
    target = np.sqrt(_drops(judged, view.keys.drop))
    weights, explained = _ridge(single @ np.hstack([np.eye(len(pairs)), shared]), target)
    effects = weights[: len(pairs)] + shared @ weights[len(pairs) :]
    level = float(target.mean())
    losses = np.maximum(level + effects * (1 - single.mean(axis=0)), 0.0) ** 2 - level**2
    ranked = sorted(zip(pairs, losses, strict=True), key=lambda item: -item[1])
    worst: dict[str, Culprit] = {}
    for (layer, choice), loss in ranked:
        if loss > 0 and counts[(layer, choice)] >= SEEN:
            worst.setdefault(layer, Culprit(layer, choice, float(loss), counts[(layer, choice)]))
    culprits = tuple(worst.values())[:most]
    return Sensitivity(culprits if explained >= TRUSTED else (), explained, len(judged))


def _shared(pairs: Sequence[tuple[str, str]]) -> np.ndarray:
    """What pairs have in common, one column per choice: a layer is blamed only for what its choice does not explain."""
    choices = sorted({choice for _, choice in pairs})
    return np.array([[float(choice == other) for other in choices] for _, choice in pairs])


def _drops(trials: Sequence[Trial], key: str) -> np.ndarray:
    return np.array([max(trial.metrics[key].value, 0.0) for trial in trials])


def _ridge(design: np.ndarray, target: np.ndarray) -> tuple[np.ndarray, float]:
    """Coefficients and leave-one-out R², by the closed form for linear smoothers (Golub et al. 1979)."""
    centred = design - design.mean(axis=0)
    residual = target - target.mean()
    total = float(residual @ residual)
    if total == 0:
        return np.zeros(design.shape[1]), 0.0
    kernel = centred @ centred.T
    best: tuple[float, np.ndarray] = (-np.inf, np.zeros(design.shape[1]))
    for strength in (0.1, 0.3, 1.0, 3.0, 10.0, 30.0):
        inverse = np.linalg.inv(kernel + strength * np.eye(len(target)))
        dual = inverse @ residual
        smoother = kernel @ inverse + 1.0 / len(target)
        left_out = (residual - kernel @ dual) / np.maximum(1.0 - np.diag(smoother), 1e-6)
        score = 1.0 - float(left_out @ left_out) / total
        if score > best[0]:
            best = (score, centred.T @ dual)
    return best[1], best[0]
