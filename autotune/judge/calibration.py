"""How well confidence matches being right: expected calibration error, and being sure and wrong."""

from __future__ import annotations

import numpy as np

from autotune.judge.intervals import Flags, Floats, Indices, Z
from hwprofiles.measurement import Estimate

BINS = 15  # of equal mass
SMALLEST = 1000  # samples from which the error says anything
SURE = 0.9
RESAMPLES = 200
_AT_ONCE = 2_000_000  # numbers that are resampled together


def calibration_error(confidence: Floats, right: Flags) -> float:
    """Expected calibration error over 15 adaptive bins (Naeini et al. 2015; equal mass as in Nixon et al. 2019).

    Samples in order of confidence, cut into bins of equal size: the mean over bins of |mean confidence - accuracy|.
    It is biased upwards: a perfectly calibrated model reads about 0.03 on 1,000 samples.
    """
    gaps = confidence - right
    return float(_errors(confidence, gaps, np.arange(len(gaps))[None])[0])


def calibration_change(
    original: Floats, original_right: Flags, candidate: Floats, candidate_right: Flags, *, seed: int = 0
) -> Estimate:
    """Candidate's minus original's calibration error, with a 95 % interval (paired bootstrap, normal).

    Not the percentiles of the resamples: resampling adds to the bias, and to the larger error less.
    """
    n = len(original)
    before, after = original - original_right, candidate - candidate_right
    value = calibration_error(candidate, candidate_right) - calibration_error(original, original_right)
    rng = np.random.default_rng(seed)
    drawn: list[Floats] = []
    left = RESAMPLES
    while left:
        rows = rng.integers(0, n, (min(left, max(1, _AT_ONCE // n)), n))
        drawn.append(_errors(candidate, after, rows) - _errors(original, before, rows))
        left -= len(rows)
    margin = Z * float(np.concatenate(drawn).std(ddof=1))
    return Estimate(value=value, low=value - margin, high=value + margin)


def overconfident(confidence: Floats, right: Flags) -> float:
    """Share of samples that are wrong with a confidence of at least 0.9."""
    return float(np.mean((confidence >= SURE) & ~right))


def _errors(confidence: Floats, gaps: Floats, rows: Indices) -> Floats:
    """The error of each resample: `rows` holds sample indices, `[resamples, n]`."""
    n = rows.shape[1]
    order = np.argsort(confidence[rows], axis=1, kind="stable")
    sorted_gaps = np.take_along_axis(gaps[rows], order, axis=1)
    starts = np.unique(np.linspace(0, n, min(BINS, n) + 1)[:-1].astype(int))
    return np.asarray(np.abs(np.add.reduceat(sorted_gaps, starts, axis=1)).sum(axis=1) / n)
