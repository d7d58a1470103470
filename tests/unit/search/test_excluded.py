"""Excluded layers stay as they are, whatever other layers are decided about; and what a check says of it all."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import onnx
import pytest

from autotune.compress.assembly import Assembler
from autotune.compress.dialects.ort_cpu import OrtCpu
from autotune.compress.ingest import load_model
from autotune.compress.zoo import build
from autotune.errors import ConfigError
from autotune.recipe import Recipe
from autotune.search.offers import Offer, offers
from autotune.search.space import Space, build_space
from autotune.techniques.equalise import Equalise
from autotune.techniques.factorize import Factorize
from autotune.techniques.protocol import Technique
from autotune.techniques.prune import Prune
from tests.unit.techniques.prune import graphs
from tests.unit.techniques.prune.checking import Anything


def surveyed(
    model: onnx.ModelProto, technique: Technique, exclude: Sequence[str] = ()
) -> tuple[Assembler, Space, Offer]:
    """What builds, what may be decided, and what a check says of the technique."""
    ingested = load_model(model)
    layers = ingested.inspection.layers
    made = Assembler(ingested.model, layers, OrtCpu(), {technique.name: technique})
    skipped = technique.survey(made.original())
    space = build_space(layers, {technique.name: technique}, Anything(), exclude=exclude)
    prepared: Any = SimpleNamespace(
        assembler=made, space=space, ingested=ingested, left_alone={technique.name: skipped}
    )
    (offer,) = offers(prepared)
    return made, space, offer


def alone(offer: Offer) -> dict[str, str]:
    return {name: each.reason for each in offer.left_alone for name in each.names}


CHANGED = [  # model, what is excluded, and a layer whose cut would change it
    pytest.param(graphs.feed_forward(False), "one.down", "one.up", id="neurons"),
    pytest.param(graphs.attention(), "v", "q", id="heads"),
    pytest.param(graphs.depthwise(), "deep", "expand", id="channels"),
]


@pytest.mark.parametrize(
    ("pattern", "near"),
    [("blok7.*", "did you mean 'block7.up'"), ("*zzz*", "known: block0.down, .*, and 180 more$")],
)
def test_a_pattern_that_matches_nothing_is_one_short_line(pattern: str, near: str) -> None:
    (one,) = load_model(graphs.feed_forward(False)).inspection.layers[:1]
    layers = [replace(one, name=f"block{at}.{which}") for at in range(100) for which in ("up", "down")]
    with pytest.raises(ConfigError, match=near) as caught:
        build_space(layers, {}, Anything(), exclude=["block1.up", pattern])
    assert caught.value.key == ("exclude",) and len(str(caught.value)) < 500


@pytest.mark.parametrize(("model", "excluded", "lead"), CHANGED)
def test_no_cut_changes_an_excluded_layer(model: onnx.ModelProto, excluded: str, lead: str) -> None:
    _, before, _ = surveyed(model, Prune(round_to=1, kinds=("channels", "neurons", "heads")))
    assert lead in {layer for variable in before.variables for layer in variable.layers}
    made, space, offer = surveyed(model, Prune(round_to=1), [excluded])
    whole = made.source
    for variable in space.variables:
        for choice in variable.choices[1:]:
            cut = made.structured(Recipe({"prune": variable.decisions(choice)}))
            assert cut.layers[excluded].shape == whole.layers[excluded].shape
            assert cut.digest(cut.layers[excluded].weight) == whole.digest(whole.layers[excluded].weight)
    for _, recipe in space.uniform:
        assert made.structured(recipe).layers[excluded].shape == whole.layers[excluded].shape
    said = alone(offer)
    assert (said[excluded], said[lead]) == ("excluded", f"would change the excluded {excluded}")
    assert lead not in {part.layer for part in offer.parts}


def test_what_is_not_searchable_may_be_named_too() -> None:
    """A tied table is no layer: to exclude it is no mistake, and nothing else is lost by it."""
    made = load_model(build("tied_embedding"))
    layers, parts = made.inspection.layers, [each.name for each in made.inspection.skipped]
    assert "table" in parts and "table" not in [layer.name for layer in layers]
    techniques: dict[str, Technique] = {"factorize": Factorize()}
    space = build_space(layers, techniques, Anything(), exclude=["table"], unsearchable=parts)
    assert space == build_space(layers, techniques, Anything())
    with pytest.raises(ConfigError, match="'tabel' matches no layer"):
        build_space(layers, techniques, Anything(), exclude=["tabel"], unsearchable=parts)


def test_other_choices_of_the_layer_are_left() -> None:
    net = graphs.Net()
    x = net.op("Relu", net.conv("x", 3, 16, "stem"))
    h = net.op("Relu", net.conv(x, 16, 12, "first", kernel=3))
    h = net.op("Relu", net.conv(h, 12, 12, "second", kernel=3))
    h = net.op("Add", x, net.conv(h, 12, 16, "third"))
    model = net.model(net.conv(h, 16, 4, "head"), *graphs.IMAGE)
    _, space, offer = surveyed(model, Prune(round_to=1, shares=(0.5,)))
    assert {(part.layer, part.kind) for part in offer.parts} > {("first", "channels"), ("first", "blocks")}
    _, space, offer = surveyed(model, Prune(round_to=1, shares=(0.5,)), ["third"])
    assert [(v.layers, v.choices) for v in space.variables] == [(("first",), ("none", "cut-50%"))]
    assert alone(offer)["first"] == "out would change the excluded third"
    assert [part.kind for part in offer.parts] == ["channels"]


def test_equalise_leaves_the_writer_alone() -> None:
    net = graphs.Net()
    x = net.op("Relu", net.conv("x", 3, 16, "writer"))
    model = net.model(net.conv(x, 16, 4, "reader"), *graphs.IMAGE)
    _, before, _ = surveyed(model, Equalise(kinds=("cross-layer",)))
    _, after, offer = surveyed(model, Equalise(kinds=("cross-layer",)), ["writer"])
    assert [v.layers for v in before.variables] == [("reader",)] and not after.variables
    assert alone(offer) == {"writer": "excluded", "reader": "would change the excluded writer"}


def test_a_layer_that_follows_several_names_them_all() -> None:
    """`second` reads what `first` makes and writes to the sum that `stem` leads."""
    _, _, offer = surveyed(graphs.residual(), Prune(round_to=1, kinds=("channels",)))
    leaders = {name: [part.layer for part in offer.parts if name in part.changes] for name in alone(offer)}
    several = {name: its for name, its in leaders.items() if len(its) > 1}
    assert several
    for name, its in several.items():
        assert alone(offer)[name] == f"it changes with {', '.join(its[:-1])} and {its[-1]}"


def test_a_check_says_what_is_cut_together() -> None:
    _, _, offer = surveyed(graphs.attention(), Prune(round_to=1, kinds=("heads",), shares=(0.5,)))
    (part,) = offer.parts
    assert (part.layer, part.kind, part.size, part.changes) == ("q", "heads", 6, ("k", "v", "out"))
    assert part.choices == ("cut-50%",)


def test_a_choice_that_vanishes_is_told_with_its_reason() -> None:
    _, _, offer = surveyed(graphs.feed_forward(False), Factorize(ranks=(0.25, 0.9), round_to=1))
    assert "rank-90%" not in offer.choices and "rank-25%" in offer.choices
    (lost,) = offer.lost
    assert (lost.choice, lost.layers) == ("rank-90%", offer.layers)
    assert lost.reason == "two factors of that rank are no smaller than the layer"
    _, _, offer = surveyed(graphs.feed_forward(False), Factorize(ranks=(0.25,), round_to=1))
    assert offer.lost == ()
