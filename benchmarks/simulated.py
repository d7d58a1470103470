"""Made-up models of known truth, for `verdicts.py`: what two of them answer, and how much worse the second one is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from autotune.config import JudgeTable
from autotune.judge.scores import Scored
from autotune.judge.verdicts import Judgement

FLIPS = 0.03
SHRINKAGE = JudgeTable().shrinkage
Truths = Callable[[np.random.Generator], np.ndarray]
Case = tuple[np.ndarray, Truths, float]  # sizes of slices, true drops, flips without any drop


@dataclass(frozen=True)
class Counts:
    """Flips of right-or-wrong scores per slice, `[slices]` each."""

    sizes: np.ndarray
    worse: np.ndarray
    better: np.ndarray

    @classmethod
    def draw(cls, rng: np.random.Generator, sizes: np.ndarray, true: np.ndarray, flips: float) -> Counts:
        worse, better = flips / 2 + np.maximum(true, 0), flips / 2 + np.maximum(-true, 0)
        lost = rng.binomial(sizes, worse)
        return cls(sizes, lost, rng.binomial(sizes - lost, better / (1 - worse)))

    @property
    def drops(self) -> np.ndarray:
        return (self.worse - self.better) / self.sizes

    @property
    def overall(self) -> float:
        return float((self.worse - self.better).sum() / self.sizes.sum())

    @property
    def variances(self) -> np.ndarray:
        """Of the drops, pooled as `judge.verdicts` does."""
        each = (self.worse + self.better + 1) / (self.sizes + 1)
        overall = ((self.worse + self.better).sum() + 1) / (self.sizes.sum() + 1)
        return (each * self.sizes + overall * SHRINKAGE) / (self.sizes + SHRINKAGE) / self.sizes

    @staticmethod
    def classes(
        rng: np.random.Generator, n: int, rate: float, worse: float
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Labels of three unequal classes, answers that are 92 % right, and answers that differ on some."""
        labels = rng.choice(3, n, p=[0.6, 0.3, 0.1])
        other = (labels + rng.integers(1, 3, n)) % 3
        first = np.where(rng.random(n) < 0.08, other, labels)
        changed, lose = rng.random(n) < rate, rng.random(n) < worse
        return labels, first, np.where(changed & lose, other, np.where(changed, labels, first))


def judged(rng: np.random.Generator, sizes: np.ndarray, true: np.ndarray, flips: float, limit: float) -> Judgement:
    """Two models that are right on about 90 %, judged as the product does it, on slices "0", "1", ..."""
    counts = Counts.draw(rng, sizes, true, flips)
    original, candidate = [], []
    for n, worse, better in zip(sizes, counts.worse, counts.better, strict=True):
        same = (rng.random(n - worse - better) < 0.9).astype(float)
        original.append(np.concatenate([np.ones(worse), np.zeros(better), same]))
        candidate.append(np.concatenate([np.zeros(worse), np.ones(better), same]))
    of = np.repeat(np.arange(len(sizes)), sizes)
    masks = {"all": np.ones(len(of), dtype=bool), **{str(k): of == k for k in range(len(sizes))}}
    scored = Scored.of_samples(np.concatenate(original), np.concatenate(candidate))
    return Judgement.of({"accuracy": scored}, masks, JudgeTable(limit=limit))


def one_bad(slices: int, drop: float) -> np.ndarray:
    """True drops: one slice loses, the others nothing."""
    return np.array([drop] + [0.0] * (slices - 1))


def worst_cases() -> dict[str, Case]:
    """How slices may differ, for the optimism of the worst one."""
    unequal = np.array([60] * 6 + [120] * 5 + [300] * 4 + [1000] * 3 + [3000])
    return {
        "30 x 500, no loss": (np.full(30, 500), lambda rng: np.zeros(30), FLIPS),
        "5 x 200, no loss": (np.full(5, 200), lambda rng: np.zeros(5), FLIPS),
        "50 x 200, no loss": (np.full(50, 200), lambda rng: np.zeros(50), FLIPS),
        "30 x 200, no loss, 1 % flips": (np.full(30, 200), lambda rng: np.zeros(30), 0.01),
        "19 unequal (60 to 3,000), no loss": (unequal, lambda rng: np.zeros(19), FLIPS),
        "20 x 1,000, one loses 3 points": (np.full(20, 1000), lambda rng: one_bad(20, 0.03), FLIPS),
        "20 x 1,000, normal 0.5 +- 0.5 points": (np.full(20, 1000), lambda rng: rng.normal(0.005, 0.005, 20), FLIPS),
        "30 x 500, normal 1 +- 1 points": (np.full(30, 500), lambda rng: rng.normal(0.01, 0.01, 30), 0.04),
        "12 x 300, normal 2 +- 2 points": (np.full(12, 300), lambda rng: rng.normal(0.02, 0.02, 12), 0.04),
        "10 x 500, half lose 2 points": (np.full(10, 500), lambda rng: np.repeat([0.02, 0.0], 5), FLIPS),
        "19 unequal, normal 1 +- 1 points": (unequal, lambda rng: rng.normal(0.01, 0.01, 19), FLIPS),
    }


def hard_cases() -> dict[str, Case]:
    """A loss that these data hardly show: nobody can know of it."""
    unequal = np.array([60] * 6 + [120] * 5 + [300] * 4 + [1000] * 3 + [3000])
    return {
        "20 x 500, one loses 2 points": (np.full(20, 500), lambda rng: one_bad(20, 0.02), FLIPS),
        "19 unequal, one of 60 loses 10 points": (unequal, lambda rng: one_bad(19, 0.1), FLIPS),
    }


def changed_scores(rng: np.random.Generator, n: int, rate: float, worse: float) -> tuple[np.ndarray, np.ndarray]:
    """Scores in 0 to 1 of which a share changed, by 0.25 on average."""
    base = np.full(n, 0.5)
    size = rng.beta(1, 3, n) * (rng.random(n) < rate) * np.where(rng.random(n) < worse, 1, -1)
    return base + size / 2, base - size / 2


def correlated(rng: np.random.Generator, n: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Numbers, and two estimates of them, the second one noisier."""
    truth = rng.normal(size=n)
    first = truth + rng.normal(scale=0.5, size=n)
    return truth, first, first + rng.normal(scale=0.3, size=n)


def calibrated(
    rng: np.random.Generator, n: int, before: float, after: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Confidence and being right of two models; 1.0: calibrated, above: too sure."""
    logit = rng.normal(2.2, 1.5, n)
    right = rng.random(n) < 1 / (1 + np.exp(-logit))
    moved = logit + rng.normal(0, 0.5, n)
    after_right = np.where(rng.random(n) < 0.04, ~right, right)
    return 1 / (1 + np.exp(-before * logit)), right, 1 / (1 + np.exp(-after * moved)), after_right
