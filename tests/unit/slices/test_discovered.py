"""Discovered slices: what is planted is found, noise gives nothing, and what is known is left out."""

from __future__ import annotations

import numpy as np
import pytest

from autotune.errors import DataError
from autotune.slices import Declaration, assign
from autotune.slices.discovered import describe, discover
from autotune.workload import Dataset, Sample

INPUTS = {"x": np.zeros((1, 1), np.float32)}


def data(seed: int, count: int = 600) -> tuple[Dataset, np.random.Generator]:
    rng = np.random.default_rng(seed)
    samples = [
        Sample(
            str(i),
            INPUTS,
            int(rng.integers(4)),
            {
                "font": str(rng.choice(["mono", "sans", "serif"])),
                "effect": str(rng.choice(["blur", "clean", "noise", "faint"])),
                "length": int(rng.integers(3, 60)),
                "name": f"file {i}",
            },
        )
        for i in range(count)
    ]
    return Dataset("search", samples), rng


def columns(rng: np.random.Generator, count: int) -> dict[str, list[str]]:
    return {"difficulty": [str(word) for word in rng.choice(["hard", "medium", "easy"], count)]}


def test_a_planted_pair_is_found_first() -> None:
    found = 0
    for seed in range(20):
        rows, rng = data(seed)
        planted = [s.metadata["font"] == "mono" and int(s.metadata["length"]) >= 30 for s in rows.samples]
        discoveries = describe(rows, rng.binomial(5, np.where(planted, 0.25, 0.04)), most=3)
        if discoveries:
            best = discoveries[0]
            mask = assign(rows, [best.declaration])[f"discovered: {best.declaration.text}"]
            found += (mask & planted).sum() > 0.7 * mask.sum() and best.lift > 3
            assert best.p_value <= 0.02 and best.n == mask.sum()
            assert best.declaration.name == f"discovered: {best.declaration.text}"
    assert found >= 19


def test_a_planted_value_is_described_by_itself() -> None:
    rows, rng = data(1)
    planted = np.array([s.metadata["effect"] == "faint" for s in rows.samples])
    (best, *_) = discover(rows, rng.binomial(5, np.where(planted, 0.3, 0.03)), most=1)
    assert best.text == "effect=faint"
    assert assign(rows, [best]).kinds["discovered: effect=faint"] == "discovered"


def test_noise_gives_nothing() -> None:
    alarms = 0
    for seed in range(60):
        rows, rng = data(1000 + seed, 400)
        odd = rng.binomial(5, rng.beta(0.2, 2.0, len(rows)))  # some samples are odd for every compressed model
        alarms += bool(discover(rows, odd, most=3, columns=columns(rng, 400)))
    assert alarms <= 3  # at most 5 %; 2 % are expected


def test_what_difficulty_explains_is_no_discovery() -> None:
    alarms = 0
    for seed in range(30):
        rows, rng = data(2000 + seed, 600)
        hard = np.array([s.metadata["font"] == "mono" and rng.random() < 0.8 for s in rows.samples])
        known = {"difficulty": ["hard" if each else "easy" for each in hard]}
        alarms += bool(discover(rows, rng.binomial(5, np.where(hard, 0.3, 0.03)), most=3, columns=known))
    assert alarms <= 3


def test_known_slices_and_near_copies_are_left_out() -> None:
    rows, rng = data(3)
    planted = np.array([s.metadata["effect"] == "faint" for s in rows.samples])
    odd = rng.binomial(5, np.where(planted, 0.3, 0.03))
    assert "effect=faint" in [each.text for each in discover(rows, odd, most=3)]
    left = discover(rows, odd, most=3, known=assign(rows, ["effect"]))
    assert "effect=faint" not in [each.text for each in left]
    masks = [assign(rows, [each])[str(each.name)] for each in describe_many(rows, odd)]
    assert all((a & b).sum() < 0.5 * (a | b).sum() for i, a in enumerate(masks) for b in masks[:i])


def describe_many(rows: Dataset, odd: np.ndarray) -> list[Declaration]:
    return discover(rows, odd, most=5)


def test_perturbed_samples_are_left_aside() -> None:
    rows, rng = data(4)
    planted = np.array([s.metadata["effect"] == "faint" for s in rows.samples])
    odd = rng.binomial(5, np.where(planted, 0.3, 0.03))
    copies = [Sample(f"{s.id}~blur(2)", INPUTS, s.label, s.metadata, perturbation="blur(2)") for s in rows.samples[:50]]
    both = Dataset("search", [*rows.samples, *copies])
    assert discover(both, [*odd, *[5] * 50], most=2) == discover(rows, odd, most=2)


def test_nothing_to_look_for() -> None:
    rows, _ = data(5, 100)
    assert discover(rows, np.zeros(100), most=3) == []
    assert discover(rows, np.arange(100), most=0) == []
    with pytest.raises(DataError, match=r"disagreements have the shape \(3,\) for 100 samples"):
        discover(rows, [1, 2, 3], most=1)
    with pytest.raises(DataError, match="one finite number per sample"):
        discover(rows, np.full(100, np.nan), most=1)
