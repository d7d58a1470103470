"""Tables from measured swaps: gains of blocks, spread, believed as far as they are exact."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from autotune.recipe import Recipe
from autotune.search.space import Space, Variable
from autotune.search.swap_table import better_guesses, table
from autotune.search.swaps import Swap, few_pairs, known, starting_ratio, uniform
from autotune.store import Store, open_store
from autotune.trial import Value
from hwprofiles.scenario import Scenario

CHOICES = ("none", "int8", "w4")
NAMES = ("a", "b", "c", "d")
SPACE = Space(
    tuple(Variable(f"quantize/{name}", "quantize", (name,), CHOICES) for name in NAMES),
    tuple((f"all {c}", Recipe({"quantize": dict.fromkeys(NAMES, c)})) for c in CHOICES[1:]),
)
PROFILE = {f"quantize/{name}": {"none": 0.0, "int8": -0.02, "w4": -0.01} for name in NAMES}
KEYS = ["size_bytes", "latency_ratio@here", "latency_p50@here", "latency_ratio@there"]


def swap(names: str, gain: float | None, margin: float = 0.0, choice: str = "int8") -> Swap:
    return Swap(block=names, label="all", params={f"quantize/{n}": choice for n in names}, gain=gain, margin=margin)


def test_a_block_spreads_its_gain_as_the_profile_does() -> None:
    profile = {"quantize/a": {"int8": -0.03}, "quantize/b": {"int8": -0.01}}
    found = table(SPACE, [swap("ab", -0.2)], 2.0, profile)
    assert found["quantize/a"] == pytest.approx({"none": 0.0, "int8": -0.3, "w4": -0.3})
    assert found["quantize/b"]["int8"] == pytest.approx(-0.1)
    assert "quantize/c" not in found
    equal = table(SPACE, [swap("ab", -0.2), swap("cd", None), swap("x", -1.0)], 1.0, {})
    assert equal["quantize/a"]["int8"] == equal["quantize/b"]["int8"] == pytest.approx(-0.1)
    assert table(SPACE, [swap("ab", None)], 1.0, PROFILE) == {}


def test_what_was_not_swapped_is_as_profiled() -> None:
    found = table(SPACE, [swap("ab", -0.2)], 1.0, PROFILE)
    assert found["quantize/a"] == pytest.approx({"none": 0.0, "int8": -0.1, "w4": -0.01})
    assert found["quantize/c"] == PROFILE["quantize/c"]


def test_a_noisy_gain_is_hardly_believed() -> None:
    exact, noisy = (table(SPACE, [swap("ab", -0.3, m), swap("cd", 0.1, m)], 1.0, PROFILE) for m in (0.001, 2.0))
    assert exact["quantize/a"]["int8"] == pytest.approx(-0.15, rel=0.01)
    assert noisy["quantize/a"]["int8"] == pytest.approx(-0.02)


def test_few_pairs_keep_the_protocol() -> None:
    scenario = Scenario(min_pairs=20, max_pairs=50, memory_runs=2, block_seconds=0.3)
    quick = few_pairs(scenario)
    assert (quick.min_pairs, quick.max_pairs, quick.memory_runs, quick.block_seconds) == (6, 6, 0, 0.3)
    assert few_pairs(Scenario(min_pairs=3, max_pairs=4)).max_pairs == 4


def finish(store: Store, recipe: Recipe, state: Any = "complete", **metrics: float) -> None:
    number = store.start_trial(recipe, "test")
    values = {key.replace("_at_", "@"): Value.exact(value) for key, value in metrics.items()}
    store.finish_trial(number, state, metrics=values)


@pytest.fixture
def store(tmp_path: Any) -> Any:
    with open_store(tmp_path / "s.db", "s") as opened:
        opened.begin("{}", "d")
        finish(opened, Recipe(), latency_ratio_at_here=1.0, latency_p50_at_here=0.01)
        yield opened


def prepared(*names: str) -> Any:
    devices = {name: SimpleNamespace(fingerprint=SimpleNamespace(key="f")) for name in names}
    return SimpleNamespace(space=SPACE, devices=devices, timed=names)


def test_the_guess_with_the_smaller_error_is_taken(store: Store) -> None:
    """Int8 saves 40 % as a whole; the swaps say so, the profile says 8 %."""
    swaps = [swap("ab", -0.3), swap("cd", -0.1)]
    records = [each.model_dump(mode="json") for each in swaps]
    store.set_meta("swaps/here", {"fingerprint": "f", "swaps": records})
    assert known(store, "here", "f") == swaps
    assert known(store, "here", "other") == known(store, "there", "f") == []
    assert better_guesses(store, prepared("here"), KEYS, {})[2]["quantize/a"]["int8"] == pytest.approx(-0.0015)
    finish(store, SPACE.uniform[0][1], latency_ratio_at_here=0.6, latency_p50_at_here=0.006)
    found = better_guesses(store, prepared("here"), KEYS, {1: PROFILE})
    assert found[1]["quantize/a"]["int8"] == pytest.approx(-0.15) and set(found) == {1, 2}
    exact = {f"quantize/{name}": {"none": 0.0, "int8": -0.1} for name in NAMES}
    assert better_guesses(store, prepared("here"), KEYS, {1: exact})[1] == exact, "the swaps are no better"


def test_the_most_promising_uniform_recipe_comes_first(store: Store) -> None:
    (_, int8), (_, w4) = SPACE.uniform
    finish(store, int8, "rejected", latency_ratio_at_here=0.5)
    finish(store, w4, latency_ratio_at_here=0.8)
    assert [label for label, _ in uniform(store, SPACE, "here")] == ["all w4", "all int8"]
    assert uniform(store, SPACE, "there") == []


def test_gains_start_where_nothing_is_chosen(store: Store) -> None:
    fixed = Space(SPACE.variables, SPACE.uniform, Recipe({"simplify": {"graph": "all"}}))
    assert starting_ratio(store, SPACE, "here") == 1.0
    assert starting_ratio(store, fixed, "here") is None
    finish(store, fixed.fixed, latency_ratio_at_here=0.9)
    assert starting_ratio(store, fixed, "here") == 0.9
