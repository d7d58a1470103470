"""Assemblers of one model in several dialects: what does not depend on the dialect is found out once."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import onnx
import pytest

from autotune.compress.assembly import Assembler
from autotune.compress.calibration import Range
from autotune.compress.capabilities import Offered, Probed
from autotune.compress.dialects.ort_cpu import OrtCpu
from autotune.compress.ingest import load_model
from autotune.recipe import Recipe
from autotune.techniques.factorize import Factorize
from autotune.techniques.protocol import Technique
from autotune.techniques.quantize import Quantize
from tests.end_to_end.other_dialect import OtherCpu
from tests.unit import zoo


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Assembler, Assembler]:
    ingested = load_model(zoo.mlp())
    techniques: dict[str, Technique] = {"quantize": Quantize(), "factorize": Factorize(method="plain")}
    first = Assembler(ingested.model, ingested.inspection.layers, OrtCpu(), techniques, bank_folder=tmp_path)
    return first, first.sibling(OtherCpu(), bank_folder=tmp_path)


def layers(made: Assembler) -> list[str]:
    return list(made.source.layers)


def test_the_bytes_are_those_of_a_study_of_one_dialect(pair: tuple[Assembler, Assembler]) -> None:
    ingested = load_model(zoo.mlp())
    alone = Assembler(ingested.model, ingested.inspection.layers, OrtCpu(), {"quantize": Quantize()})
    recipe = Recipe({"quantize": {layers(alone)[0]: "w8-load"}})
    first, other = pair
    assert first.assemble(recipe) == alone.assemble(recipe)
    assert first.assemble(Recipe()) == other.assemble(Recipe()) == alone.assemble(Recipe())
    assert first.assemble(recipe) != other.assemble(recipe)


def test_a_structure_is_carried_out_once_for_both(
    pair: tuple[Assembler, Assembler], monkeypatch: pytest.MonkeyPatch
) -> None:
    first, other = pair
    offered = {name: Factorize().choices(layer, Everything()) for name, layer in first.source.layers.items()}
    name, choice = next((name, choices[0]) for name, choices in offered.items() if choices)
    count, apply = [0], Factorize.apply

    def counted(self: Factorize, plan: object, decisions: Mapping[str, str]) -> None:
        count[0] += 1
        apply(self, plan, decisions)  # type: ignore[arg-type]

    monkeypatch.setattr(Factorize, "apply", counted)
    recipe = Recipe({"factorize": {name: choice}})
    one, two = (onnx.load_from_string(made.assemble(recipe)) for made in pair)
    assert count == [1] and len(one.graph.node) == len(two.graph.node)
    assert first.structured(recipe) is other.structured(recipe)


def test_ranges_and_what_finds_them_are_shared(pair: tuple[Assembler, Assembler]) -> None:
    first, other = pair
    asked = []

    def calibrate(structure: Recipe) -> Mapping[str, Range]:
        asked.append(structure)
        return {name: Range(-4.0, 4.0) for name in first.calibration_tensors(structure)}

    first.calibrate_with = calibrate
    recipe = Recipe({"quantize": {layers(first)[0]: "int8-static"}})
    for made in pair:
        onnx.checker.check_model(onnx.load_from_string(made.assemble(recipe)))
    assert asked == [Recipe()] and other.ranges is first.ranges


def test_a_choice_needs_every_dialect_and_every_target(pair: tuple[Assembler, Assembler]) -> None:
    first, _ = pair
    layer = next(iter(first.source.layers.values()))
    everything = Probed(frozenset((layer.op, choice) for choice in ("w8-load", "w8-b32")), {})
    some = Probed(frozenset(), {f"{layer.op} w8-load": "not here"})
    assert Offered([everything], pair[:1]).supports(layer, "w8-b32")
    both = Offered([everything, everything], pair)
    assert both.supports(layer, "w8-load") and not both.supports(layer, "w8-b32")
    assert not Offered([everything, some], pair).supports(layer, "w8-load")


class Everything:
    """Capabilities of a target that runs all."""

    def supports(self, layer: object, choice: str) -> bool:
        return True
