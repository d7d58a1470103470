"""Decisions about structure by block."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from autotune.layers import Layer
from autotune.recipe import Recipe
from autotune.search.blocks import blocks
from autotune.search.space import Space, build_space
from autotune.techniques.protocol import Stage

ENCODER = ["embeddings.word", *(f"encoder.layer.{i}.{part}" for i in range(12) for part in ("query", "key", "out"))]


def test_repeated_modules_are_blocks() -> None:
    found = blocks(ENCODER[:13], 8)
    assert found["encoder.layer.3.query"] == found["encoder.layer.3.out"] == "encoder.layer.3"
    assert found["embeddings.word"] == "embeddings.word"


def test_too_many_blocks_are_taken_together_in_order() -> None:
    found = blocks(ENCODER, 8)
    assert len(set(found.values())) <= 8
    assert found["encoder.layer.1.query"] == found["encoder.layer.2.out"]
    numbers = [list(dict.fromkeys(found.values())).index(found[name]) for name in ENCODER]
    assert numbers == sorted(numbers)


def test_names_that_say_nothing_give_runs() -> None:
    names = [f"conv{i}" for i in range(20)]
    found = blocks(names, 4)
    assert [list(found.values()).count(block) for block in dict.fromkeys(found.values())] == [5, 5, 5, 5]


def test_modules_without_numbers_stay_together() -> None:
    found = blocks(["stem", "r.a", "r.dw", "r.b", "s.a", "s.b", "fc"], 8)
    assert found == {"stem": "stem", "r.a": "r", "r.dw": "r", "r.b": "r", "s.a": "s", "s.b": "s", "fc": "fc"}


@pytest.mark.parametrize("count", [1, 2, 7])
def test_few_layers_are_blocks_of_their_own(count: int) -> None:
    names = [f"conv{i}" for i in range(count)]
    assert blocks(names, 8) == {name: name for name in names}


class Thin:
    """A structural technique that offers less for small layers; stands for any."""

    name, scope, calibration, needs_moments = "thin", "layer", None, False
    stage: Stage = "prune"

    def survey(self, plan: Any) -> Sequence[Any]:
        return ()

    def choices(self, layer: Layer, capabilities: Any) -> Sequence[str]:
        return ("cut-25%", "cut-50%") if layer.parameters > 10 else ("cut-25%",)

    def uniform(self, offered: Mapping[str, Sequence[str]]) -> list[tuple[str, dict[str, str]]]:
        return [("cut-25%", dict.fromkeys(offered, "cut-25%"))]

    def apply(self, plan: Any, decisions: Mapping[str, str]) -> None:
        raise AssertionError("not carried out here")


class Small(Thin):
    """Formats: the precision stage, each layer by itself."""

    name = "small"
    stage: Stage = "precision"

    def choices(self, layer: Layer, capabilities: Any) -> Sequence[str]:
        return ("int8",)

    def uniform(self, offered: Mapping[str, Sequence[str]]) -> list[tuple[str, dict[str, str]]]:
        return [("int8", dict.fromkeys(offered, "int8"))]


def space() -> Space:
    layers = [
        Layer(f"layer.{i}.{part}", "MatMul", (), f"{i}{part}", (4, 4), 1, 16 if part == "in" else 8)
        for i in range(3)
        for part in ("in", "out")
    ]
    return build_space(layers, {"small": Small(), "thin": Thin()}, None, most_blocks=8)  # type: ignore[dict-item,arg-type]


def test_structure_is_decided_by_block_and_formats_by_layer() -> None:
    names = [variable.name for variable in space().variables]
    assert names[:3] == ["thin/layer.0", "thin/layer.1", "thin/layer.2"], "structure comes first"
    assert len(names) == 3 + 6


def test_a_layer_without_the_choice_stays_as_it_is() -> None:
    made = space()
    params = {v.name: "none" for v in made.variables} | {"thin/layer.1": "cut-50%", "small/layer.0.in": "int8"}
    recipe = made.recipe(params)
    assert recipe == Recipe({"thin": {"layer.1.in": "cut-50%"}, "small": {"layer.0.in": "int8"}})
    assert made.params(recipe) == params, "and a recipe is found in the space again"


def test_a_block_that_is_split_lies_outside_of_the_space() -> None:
    assert space().params(Recipe({"thin": {"layer.1.in": "cut-25%"}})) is None


def test_uniform_recipes_begin_with_formats_and_combine_both() -> None:
    labels = [label for label, _ in space().uniform]
    assert labels == ["int8", "cut-25%", "cut-25% and int8"]
    combined = dict(space().uniform)["cut-25% and int8"]
    assert set(combined) == {"small", "thin"}


def test_structure_alone_is_a_space_too() -> None:
    layers = [Layer("a", "MatMul", (), "a", (4, 4), 1, 16)]
    made = build_space(layers, {"thin": Thin()}, None, most_blocks=8)  # type: ignore[dict-item,arg-type]
    assert [label for label, _ in made.uniform] == ["cut-25%"]
