"""Bounds that hold however often one looks."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autotune.judge.sequential import (
    FEWEST,
    Bounds,
    bounds,
    hopeless,
    look_sizes,
    nested_parts,
    shrinkage_weights,
    slice_bounds,
)

SLICES = 5


def masks_of(n: int) -> dict[str, np.ndarray]:
    """All, and overlapping slices."""
    rng = np.random.default_rng(n)
    masks = {"all": np.ones(n, bool)}
    masks |= {f"s{i}": np.arange(n) % SLICES == i for i in range(SLICES)}
    return masks | {"rare": rng.random(n) < 0.06}


def stopped_at(differences: np.ndarray, masks: dict[str, np.ndarray], limit: float, seed: int) -> int | None:
    """At which look a recipe is given up because some slice has lost more than `limit`."""
    weights = shrinkage_weights(masks, list(masks), 0.0)
    seen = np.zeros(len(differences), bool)
    for look, part in enumerate(nested_parts(masks, look_sizes(len(differences)), seed)[:-1]):
        seen[part] = True
        found = slice_bounds(differences, {name: mask & seen for name, mask in masks.items()}, among=len(masks))
        if hopeless(found, {}, worst=limit, weights=weights):
            return look
    return None


def flips(rng: np.random.Generator, n: int, drop: float, better: float) -> np.ndarray:
    return rng.choice([1.0, -1.0, 0.0], size=n, p=[drop + better, better, 1 - drop - 2 * better])


@pytest.mark.parametrize("better", [0.005, 0.05])
def test_a_drop_exactly_at_the_limit_is_hardly_ever_called_hopeless(better: float) -> None:
    masks = {"all": np.ones(800, bool)}  # one slice: nothing of the 5 % is left to others
    rng = np.random.default_rng(3)
    wrong = sum(stopped_at(flips(rng, 800, 0.05, better), masks, 0.05, seed) is not None for seed in range(400))
    assert wrong <= 20  # 5 % of 400


def test_nor_is_one_of_many_slices_of_graded_scores() -> None:
    masks = masks_of(600)
    rng = np.random.default_rng(4)
    wrong = 0
    for seed in range(400):
        graded = rng.beta(0.5, 4.5, size=600) * rng.choice([1, 0], size=600)  # mean 0.05
        wrong += stopped_at(graded, masks, 0.05, seed) is not None
    assert wrong <= 20


def test_strata_that_lose_differently_keep_the_bound() -> None:
    """One stratum loses everything: the parts must hold their share of it, not its accidental start."""
    masks = masks_of(800)
    rng = np.random.default_rng(5)
    wrong = 0
    for seed in range(400):
        lost = np.zeros(800)
        lost[rng.permutation(np.flatnonzero(masks["s0"]))[:40]] = 1.0  # 5 % of all, in one slice
        wrong += stopped_at(lost, {"all": masks["all"], "s0": masks["s0"]}, 0.25, seed) is not None
    assert wrong <= 20  # s0 loses exactly 25 %


def test_hopeless_recipes_end_after_the_first_part() -> None:
    masks = masks_of(2000)
    rng = np.random.default_rng(6)
    looks = [stopped_at(flips(rng, 2000, 0.3, 0.03), masks, 0.05, seed) for seed in range(50)]
    assert sum(look == 0 for look in looks) >= 48


def test_one_ruined_slice_is_enough() -> None:
    masks = masks_of(2000)
    lost = np.where(masks["s2"], 1.0, 0.0)
    assert stopped_at(lost, masks, 0.5, 0) == 0


@settings(max_examples=60, deadline=None)
@given(
    n=st.integers(1, 300),
    drop=st.floats(0, 0.9),
    seed=st.integers(0, 1000),
    alpha=st.sampled_from([0.05, 0.001]),
)
def test_bounds_are_in_order(n: int, drop: float, seed: int, alpha: float) -> None:
    differences = flips(np.random.default_rng(seed), n, drop, 0.04)
    found = bounds(differences, alpha)
    assert -1 <= found.low <= found.value <= found.high <= 1
    assert found.value == pytest.approx(differences.mean()) and found.n == n
    mirrored = bounds(-differences, alpha)
    assert mirrored.low == pytest.approx(-found.high, abs=1e-4)
    assert bounds(differences, alpha / 10).low <= found.low + 1e-6  # more certain, so wider


def test_scores_beyond_one_are_refused() -> None:
    with pytest.raises(ValueError, match="between 0 and 1"):
        bounds(np.array([0.0, 1.5]), 0.05)
    with pytest.raises(ValueError, match="samples"):
        bounds(np.array([]), 0.05)


def test_a_slice_is_judged_by_its_own_limit_and_the_worst_after_shrinkage() -> None:
    found = {"all": Bounds(500, 0.02, 0.01, 0.03), "blur": Bounds(60, 0.2, 0.08, 0.3)}
    assert hopeless(found, {"blur": 0.1}) is None
    verdict = hopeless(found, {"blur": 0.05, "all": 0.05})
    assert verdict is not None and (verdict.slice, verdict.low, verdict.limit) == ("blur", 0.08, 0.05)
    shrunk = {"all": 1.0, "blur": 0.5}  # 0.5 * 0.08 + 0.5 * 0.01 = 0.045
    assert hopeless(found, {}, worst=0.05, weights=shrunk) is None
    assert hopeless(found, {}, worst=0.04, weights=shrunk) is not None


@settings(max_examples=40, deadline=None)
@given(n=st.integers(130, 700), seed=st.integers(0, 100))
def test_parts_are_nested_whole_and_even(n: int, seed: int) -> None:
    masks = masks_of(n)
    sizes = look_sizes(n)
    parts = nested_parts(masks, sizes, seed)
    together = np.concatenate(parts)
    assert sorted(together.tolist()) == list(range(n)) and tuple(np.cumsum([len(p) for p in parts])) == sizes
    for mask in masks.values():
        for size in sizes:
            share = mask[together[:size]].sum()
            assert abs(share - mask.sum() * size / n) <= 4  # rounding, of at most ten strata
    again = nested_parts(masks, sizes, seed)
    assert all((one == other).all() for one, other in zip(parts, again, strict=True))


def test_small_data_are_judged_in_one_go() -> None:
    assert look_sizes(100) == (100,)
    assert look_sizes(2000) == (250, 500, 1000, 2000)
    assert look_sizes(300) == (FEWEST, 75, 150, 300)
