"""Parameters that scale what others cost: a pruned layer has half the bytes in any format."""

from __future__ import annotations

from typing import Any

import numpy as np
import optuna
import pytest
from optuna.distributions import CategoricalDistribution

from autotune.errors import UsageError
from autotune.search.surrogate import SurrogateSampler
from autotune.search.surrogate.designs import balanced_designs
from autotune.search.surrogate.space import Space

LAYERS, FORMATS, CUTS = 8, ("none", "int8", "int4"), ("none", "half")
BYTES = {"none": 4.0, "int8": 1.0, "int4": 0.5}
DISTRIBUTIONS: dict[str, Any] = {f"prune/{i}": CategoricalDistribution(CUTS) for i in range(2)} | {
    f"quantize/{i}": CategoricalDistribution(FORMATS) for i in range(LAYERS)
}
# The first unit holds the first four layers, the second the others.
OUTER = {
    f"prune/{unit}": {"half": {f"quantize/{i}": 0.5 for i in range(LAYERS) if i // 4 == unit}} for unit in range(2)
}
EXACT = {0: {f"quantize/{i}": {c: BYTES[c] * (i + 1) for c in FORMATS} for i in range(LAYERS)}}


def size(params: dict[str, str]) -> float:
    cut = {unit: 0.5 if params[f"prune/{unit}"] == "half" else 1.0 for unit in range(2)}
    return 10.0 + sum(BYTES[params[f"quantize/{i}"]] * (i + 1) * cut[i // 4] for i in range(LAYERS))


def loss(params: dict[str, str]) -> float:
    """Cutting the first unit hurts, the second hardly; int4 hurts in odd layers."""
    lost = 3.0 * (params["prune/0"] == "half") + 0.05 * (params["prune/1"] == "half")
    return lost + sum({"none": 0.0, "int8": 0.01, "int4": 0.6 if i % 2 else 0.05}[params[f"quantize/{i}"]]
                      for i in range(LAYERS))  # fmt: skip


def space() -> Space:
    return Space(DISTRIBUTIONS, exact=EXACT, outer=OUTER)


def test_weights_are_the_products_of_all_factors() -> None:
    made = space()
    config = made.encode({**{f"quantize/{i}": "none" for i in range(LAYERS)}, "prune/0": "half", "prune/1": "none"})
    assert config is not None
    weights = made.weights(config[None])
    assert weights is not None
    by_name = dict(zip(made.names, weights[0], strict=True))
    assert [by_name[f"quantize/{i}"] for i in range(LAYERS)] == [0.5] * 4 + [1.0] * 4
    assert by_name["prune/0"] == by_name["prune/1"] == 1.0


def test_no_outer_parameter_no_weights() -> None:
    assert Space(DISTRIBUTIONS).weights(np.zeros((1, 10), np.int64)) is None


def test_a_space_under_a_structure_has_only_its_choice() -> None:
    made = space()
    config = made.random(np.random.default_rng(0), 1)[0]
    fixed = made.given(config)
    for parameter in made.outer:
        assert np.flatnonzero(fixed.valid[parameter]).tolist() == [config[parameter]]
    inner = [i for i in range(len(made)) if i not in made.outer]
    np.testing.assert_array_equal(fixed.valid[inner], made.valid[inner])
    assert made.valid.sum() == fixed.valid.sum() + len(made.outer), "the space itself stays as it is"


def test_designs_change_few_outer_parameters_and_each_of_them() -> None:
    made = space()
    designs = balanced_designs(made, 16, np.random.default_rng(1))
    assert ((designs[:, made.outer] > 0).sum(1) <= 2).all()
    assert (designs[:, made.outer] > 0).any(0).all()


@pytest.mark.parametrize("outer", [{"prune/9": {}}, {"prune/0": {"half": {"nothing": 0.5}}}])
def test_unknown_names_are_refused(outer: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="no parameter of the search space"):
        Space(DISTRIBUTIONS, outer=outer)


def test_a_factor_below_zero_is_refused() -> None:
    with pytest.raises(UsageError, match="from 0 on"):
        Space(DISTRIBUTIONS, outer={"prune/0": {"half": {"quantize/0": -1.0}}})


def searched(trials: int) -> tuple[SurrogateSampler, optuna.Study]:
    sampler = SurrogateSampler(seed=3, space=DISTRIBUTIONS, exact=EXACT, outer=OUTER, reference=[160.0, 4.0])
    study = optuna.create_study(directions=["minimize", "minimize"], sampler=sampler)
    for _ in range(trials):
        trial = study.ask(DISTRIBUTIONS)
        study.tell(trial, [size(trial.params), loss(trial.params)])
    return sampler, study


def test_exact_sizes_are_exact_under_any_structure() -> None:
    sampler, _ = searched(30)
    rng = np.random.default_rng(5)
    asked = [{name: str(rng.choice(d.choices)) for name, d in DISTRIBUTIONS.items()} for _ in range(50)]
    predicted = sampler.predict(asked)[:, 0]
    np.testing.assert_allclose(predicted, [size(params) for params in asked], rtol=1e-9)


def test_the_solution_within_a_size_uses_the_structure() -> None:
    """36 parts of 0.5 at the least without a cut: 28 needs the second unit cut, and 26 layers' parts at int4."""
    sampler, _ = searched(45)
    found = sampler.solve({0: 36.0}, minimise=1)
    assert found.params is not None
    assert size(found.params) <= 36.0 + 1e-9
    assert found.params["prune/1"] == "half" and found.params["prune/0"] == "none"
    best = min(loss(p) for p in all_within(36.0))
    assert loss(found.params) <= best + 0.3


def all_within(limit: float) -> list[dict[str, str]]:
    """Every configuration within a size, for the two settings that can be best."""
    import itertools

    found = []
    for cuts in (("none", "none"), ("none", "half")):
        for formats in itertools.product(FORMATS, repeat=LAYERS):
            params = {f"quantize/{i}": f for i, f in enumerate(formats)} | {"prune/0": cuts[0], "prune/1": cuts[1]}
            if size(params) <= limit:
                found.append(params)
    return found


def test_the_search_finds_structure_and_formats_together() -> None:
    """Within 60 trials the front dominates nearly all that random search finds in as many."""
    _, study = searched(60)
    from optuna._hypervolume import compute_hypervolume

    def volume(points: np.ndarray) -> float:
        inside = points[(points < [160.0, 4.0]).all(1)]
        return float(compute_hypervolume(inside, np.array([160.0, 4.0])))

    rng = np.random.default_rng(0)
    asked = [{name: str(rng.choice(d.choices)) for name, d in DISTRIBUTIONS.items()} for _ in range(60)]
    random = volume(np.array([[size(p), loss(p)] for p in asked]))
    everything = [p | {"prune/0": a} for a in CUTS for p in all_within(1e9)]
    ideal = volume(np.array([[size(p), loss(p)] for p in everything]))
    ours = volume(np.array([t.values for t in study.trials]))
    assert ours > 0.97 * ideal > random
