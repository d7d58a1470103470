"""A recipe is one point: equal recipes have one digest, however they were written."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autotune.errors import DataError
from autotune.recipe import NONE, Recipe

NAMES = st.text(st.characters(exclude_categories=("Cs",)), min_size=1, max_size=8)
DECISIONS = st.dictionaries(NAMES, st.dictionaries(NAMES, NAMES | st.just(NONE), max_size=4), max_size=3)


@given(DECISIONS)
def test_order_and_none_do_not_matter(decisions: dict[str, dict[str, str]]) -> None:
    recipe = Recipe(decisions)
    turned = Recipe({t: dict(reversed(layers.items())) for t, layers in reversed(decisions.items())})
    padded = Recipe({t: {**layers, "an extra layer": NONE} for t, layers in decisions.items()})
    assert recipe == turned == padded
    assert recipe.digest == turned.digest == padded.digest
    assert hash(recipe) == hash(turned)


@given(DECISIONS)
def test_json_goes_there_and_back(decisions: dict[str, dict[str, str]]) -> None:
    recipe = Recipe(decisions)
    assert Recipe.from_json(recipe.to_json()) == recipe


def test_the_empty_recipe_is_the_baseline() -> None:
    assert Recipe() == Recipe({"quantize": {}}) == Recipe({"quantize": {"conv": NONE}})
    assert not Recipe()
    assert Recipe().to_json() == "{}"


def test_different_choices_differ() -> None:
    assert Recipe({"quantize": {"a": "int8"}}) != Recipe({"quantize": {"a": "int4"}})
    assert Recipe({"quantize": {"a": "int8"}}).digest != Recipe({"quantize": {"b": "int8"}}).digest


def test_what_a_technique_does_not_say_is_empty() -> None:
    recipe = Recipe({"quantize": {"a": "int8"}})
    assert dict(recipe["prune"]) == {}
    assert list(recipe) == ["quantize"]
    assert recipe.to_dict() == {"quantize": {"a": "int8"}}


def test_a_recipe_does_not_change_with_what_it_was_made_from() -> None:
    source = {"quantize": {"a": "int8"}}
    recipe = Recipe(source)
    digest = recipe.digest
    source["quantize"]["a"] = "int4"
    recipe.to_dict()["quantize"]["a"] = "int4"
    assert recipe["quantize"]["a"] == "int8"
    assert recipe.digest == digest


@pytest.mark.parametrize("text", ["", "{", "[]", "3", '{"quantize": 3}', '{"quantize": {"a": 4}}', "null"])
def test_what_is_no_recipe_is_refused(text: str) -> None:
    with pytest.raises(DataError, match="recipe"):
        Recipe.from_json(text)


def test_a_decision_cannot_be_changed_through_the_view() -> None:
    recipe = Recipe({"quantize": {"a": "int8"}})
    with pytest.raises(TypeError):
        recipe["quantize"]["a"] = "int4"
    assert recipe["quantize"]["a"] == "int8"
