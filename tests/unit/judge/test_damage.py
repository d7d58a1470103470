"""Damage: zero for the original itself, larger for worse candidates, bounded in memory."""

from __future__ import annotations

import numpy as np
import pytest

from autotune.errors import DataError
from autotune.judge.damage import Damage, probe_indices

Outputs = list[dict[str, np.ndarray]]


def masks(n: int = 60) -> dict[str, np.ndarray]:
    index = np.arange(n)
    return {"all": np.ones(n, bool), "rare": index >= n - 3, "even": index % 2 == 0, "odd": index % 2 == 1}


def softmax(logits: np.ndarray) -> np.ndarray:
    e = np.exp(logits - logits.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def outputs(count: int, noise: float, *, distribution: bool) -> Outputs:
    rng, shake = np.random.default_rng(0), np.random.default_rng(1)
    found = []
    for _ in range(count):
        logits = rng.normal(size=(1, 5, 40)) * 3 + noise * shake.normal(size=(1, 5, 40))
        found.append({"y": (softmax(logits) if distribution else logits * 1e6).astype(np.float32)})
    return found


def test_every_slice_gets_its_turn() -> None:
    chosen = probe_indices(masks(), 12, 0)
    assert len(chosen) == len(set(chosen)) == 12
    assert chosen == sorted(chosen)
    assert {57, 58, 59} <= set(chosen)
    counts = [masks()[name][chosen].sum() for name in ("even", "odd")]
    assert min(counts) >= 4


def test_the_choice_depends_on_the_seed_only() -> None:
    assert probe_indices(masks(), 12, 3) == probe_indices(masks(), 12, 3)
    assert probe_indices(masks(), 12, 3) != probe_indices(masks(), 12, 4)


def test_small_and_large_counts() -> None:
    assert probe_indices(masks(), 0) == []
    assert probe_indices(masks(), 1000) == list(range(60))
    assert len(probe_indices({"all": np.ones(9, bool)}, 4)) == 4
    some = {"all": np.ones(9, bool), "few": np.arange(9) < 2}
    assert len(probe_indices(some, 6)) == 6


@pytest.mark.parametrize("distribution", [True, False])
def test_more_noise_is_more_damage_and_none_is_none(distribution: bool) -> None:
    chosen = probe_indices(masks(), 12, 0)
    damage = Damage(chosen, masks(), outputs(12, 0.0, distribution=distribution))
    found = [damage.compare(outputs(12, noise, distribution=distribution)) for noise in (0.0, 0.1, 0.5, 2.0)]
    assert list(found[0]) == ["all", "rare", "even", "odd"]
    assert found[0]["all"] < 1e-3
    for slice_name in found[0]:
        values = [each[slice_name] for each in found]
        assert values == sorted(values)
    assert found[2]["all"] > 10 * found[0]["all"]


def test_a_slice_is_the_mean_of_its_samples() -> None:
    tags = {"all": np.ones(4, bool), "bad": np.array([0, 0, 1, 1], bool)}
    first = outputs(4, 0.0, distribution=True)
    second = [*first[:2], *outputs(4, 2.0, distribution=True)[2:]]
    found = Damage(range(4), tags, first).compare(second)
    assert found["all"] == pytest.approx(found["bad"] / 2, rel=1e-3)


def test_little_memory_keeps_some_rows() -> None:
    original, candidate = (outputs(12, noise, distribution=True) for noise in (0.0, 0.5))
    chosen = probe_indices(masks(), 12, 0)
    whole = Damage(chosen, masks(), original).compare(candidate)["all"]
    part = Damage(chosen, masks(), original, memory=12 * 2 * 40 * 2).compare(candidate)["all"]
    assert part != whole
    assert part == pytest.approx(whole, rel=0.5)


def test_other_shapes_integers_and_several_outputs() -> None:
    tags = {"all": np.ones(1, bool)}
    original = {"boxes": np.ones((1, 3, 4), np.float32), "classes": np.array([[1, 2, 3, 4]])}
    damage = Damage([0], tags, [original])
    assert damage.compare([original]) == {"all": 0.0}
    assert damage.compare([{**original, "classes": np.array([[1, 2, 3, 9]])}])["all"] == pytest.approx(0.25 / 2)
    assert damage.compare([{**original, "boxes": np.ones((1, 2, 4), np.float32)}])["all"] == pytest.approx(0.5)


def test_empty_and_scalar_outputs() -> None:
    tags = {"all": np.ones(1, bool)}
    original = {"none": np.zeros((0, 4), np.float32), "one": np.float32(3).reshape(())}
    found = Damage([0], tags, [original]).compare([{"none": original["none"], "one": np.float32(6).reshape(())}])
    assert found["all"] == pytest.approx(0.5)


def test_a_missing_output_is_noticed() -> None:
    with pytest.raises(DataError, match="2 outputs were given for 3 probe samples"):
        Damage([0, 1, 2], {"all": np.ones(3, bool)}, outputs(2, 0.0, distribution=True))
