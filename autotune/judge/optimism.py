"""The largest drop of many slices, without the optimism of having looked at all of them.

The largest of many noisy drops is too large: with 30 slices of 500 samples and 3 % of flips it reads 1.6 points where
nothing was lost. Two steps take that out.

A hierarchical model says how much slices differ at all: the true drop of a slice is the common one (the spike), or
drawn from a normal distribution around it (the slab). How many are in the slab, how wide it is and where the common
drop lies is averaged over, weighted by how well it explains all measured drops (Bayes with grids as priors; spike and
slab after Mitchell and Beauchamp 1988). A slice's posterior mean is its `shrunk` drop (Efron and Morris 1975).

The optimism is what the model expects the largest *measured* drop of such slices to exceed the largest *true* one by,
when the measurement is repeated (posterior predictive; a parametric bootstrap as in Efron and Tibshirani 1993, chapter
10, that knows that the parameters are uncertain). It is taken off the largest measured drop. So a model that shrinks
too much, which it does with a single bad slice among good ones, shifts little. `benchmarks/verdicts.py` compares this
with other ways.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import stats

from autotune.judge.intervals import Floats

DRAWS = 1000
_SHARES = np.array([1e-9, 0.03, 0.06, 0.12, 0.25, 0.5, 1 - 1e-9])  # of slices in the slab
_WIDTHS = np.geomspace(1, 16, 9)  # of the slab, in standard errors of the median slice
_CENTRES = np.linspace(-2.5, 2.5, 11)  # of the common drop, in its standard errors


@dataclass(frozen=True)
class Drops:
    """What is believed of the true drops of slices: draws `[draws, slices]`, and the same measured again."""

    true: Floats
    measured: Floats

    @property
    def shrunk(self) -> Floats:
        """Posterior means, `[slices]`."""
        return np.asarray(self.true.mean(axis=0))


def drops(measured: Floats, variances: Floats, deciding: Floats, *, seed: int = 0) -> Drops:
    """Beliefs about the true drops of slices, given the measured ones and their sampling variances, `[slices]` each.

    Only those where `deciding` is not 0 say how much slices differ. With fewer than two of them nothing can be said
    about that, and every slice stays as measured.
    """
    rng = np.random.default_rng(seed)
    errors = np.sqrt(variances)
    use = deciding != 0
    if use.sum() < 2:
        true = measured + errors * rng.standard_normal((DRAWS, len(measured)))
        true += measured - true.mean(axis=0)
        return Drops(true, true + errors * _noise(rng, true.shape))
    centres, widths = _grids(measured[use], variances[use])
    spike = stats.norm.pdf(measured, centres[:, None], errors)  # [centre, slice]
    slab = stats.norm.pdf(measured, centres[:, None, None], np.sqrt(variances + widths[:, None] ** 2))
    share = _SHARES[:, None, None]
    mixed = (1 - share) * spike[:, None, None, use] + share * slab[:, None, :, use]  # [centre, share, width, slice]
    evidence = np.log(np.maximum(mixed, 1e-300)).sum(axis=-1)
    weights = np.exp(evidence - evidence.max())
    picked = rng.choice(weights.size, DRAWS, p=weights.ravel() / weights.sum())
    centre, among, width = np.unravel_index(picked, weights.shape)
    inside, outside = _SHARES[among, None] * slab[centre, width], (1 - _SHARES[among, None]) * spike[centre]
    in_slab = rng.random(inside.shape) * np.maximum(inside + outside, 1e-300) < inside
    middle, spread = centres[centre][:, None], widths[width][:, None] ** 2
    kept = spread / (spread + variances)
    own = middle + kept * (measured - middle) + np.sqrt(kept * variances) * rng.standard_normal(inside.shape)
    true = np.where(in_slab, own, middle)
    return Drops(true, true + errors * _noise(rng, true.shape))


def largest(measured: Floats, beliefs: Drops) -> float:
    """The largest true drop: the largest measured one without its expected optimism."""
    optimism = beliefs.measured.max(axis=1) - beliefs.true.max(axis=1)
    return float(measured.max() - max(0.0, optimism.mean()))


def _noise(rng: np.random.Generator, shape: tuple[int, ...]) -> Floats:
    """Standard normal numbers whose mean over the draws is exactly 0."""
    drawn = rng.standard_normal(shape)
    return np.asarray(drawn - drawn.mean(axis=0))


def _grids(measured: Floats, variances: Floats) -> tuple[Floats, Floats]:
    """Where the common drop may lie, and how wide the slab may be."""
    order = np.argsort(measured)
    weights = np.cumsum(1 / variances[order])
    median = measured[order][np.searchsorted(weights, weights[-1] / 2)]
    spread = 1.25 * float(np.median(np.abs(measured - median))) / np.sqrt(len(measured))
    centres = median + max(1 / float(np.sqrt(weights[-1])), spread) * _CENTRES
    return centres, float(np.sqrt(np.median(variances))) * _WIDTHS
