"""Plans and assemblers under structural decisions: what a split, an edit and the order of stages mean."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import helper

from autotune.compress.assembly import Assembler
from autotune.compress.dialects.ort_cpu import OrtCpu
from autotune.compress.ingest import load_model
from autotune.compress.plan import Plan
from autotune.compress.zoo import build, feeds
from autotune.errors import TrialFailure
from autotune.layers import Layer, Skipped
from autotune.recipe import Recipe
from autotune.techniques import protocol
from autotune.techniques.moments import Moments
from autotune.techniques.protocol import STAGES, Calibration, Capabilities, Stage
from autotune.techniques.quantize import Quantize


class Fake:
    """A technique that does what a subclass says for every decision, and notes that it was called."""

    scope: Literal["layer", "graph"] = "layer"
    calibration: Calibration | None = None
    needs_moments = False

    def __init__(self, name: str, stage: Stage, log: list[str] | None = None) -> None:
        self.name, self.stage, self.log = name, stage, [] if log is None else log

    def survey(self, plan: protocol.Plan) -> Sequence[Skipped]:
        return ()

    def choices(self, layer: Layer, capabilities: Capabilities) -> Sequence[str]:
        return ("yes",)

    def uniform(self, offered: Mapping[str, Sequence[str]]) -> list[tuple[str, dict[str, str]]]:
        return []

    def apply(self, plan: protocol.Plan, decisions: Mapping[str, str]) -> None:
        self.log.append(self.name)
        for name in decisions:
            for part in plan.parts.get(name, (name,)):
                self.edit(plan, plan.layer(part))

    def edit(self, plan: protocol.Plan, layer: Layer) -> None: ...


class Double(Fake):
    def edit(self, plan: protocol.Plan, layer: Layer) -> None:
        plan.set_tensor(layer.weight, 2 * plan.weight(layer))


class Half(Fake):
    """A product becomes two halves of its outputs, concatenated."""

    def edit(self, plan: protocol.Plan, layer: Layer) -> None:
        weight = plan.weight(layer)
        (node,) = (each for each in plan.nodes if each.name in layer.nodes)
        made, parts = [], []
        for which, half in zip("ab", np.split(weight, 2, axis=1), strict=True):
            name = f"{layer.name}.{which}"
            plan.set_tensor(f"{name}/half", half)
            made.append(helper.make_node("MatMul", [node.input[0], f"{name}/half"], [f"{name}.out"], name=name))
            parts.append(
                replace(layer, name=name, nodes=(name,), weight=f"{name}/half", shape=half.shape, parameters=half.size)
            )
        ends = [each.output[0] for each in made]
        joined = helper.make_node("Concat", ends, list(node.output), name=f"{layer.name}.join", axis=-1)
        at = plan.nodes.index(node)
        plan.nodes[at : at + 1] = [*made, joined]
        plan.split(layer.name, parts)


class Remove(Fake):
    """A product of as many outputs as inputs is left out."""

    def edit(self, plan: protocol.Plan, layer: Layer) -> None:
        (node,) = (each for each in plan.nodes if each.name in layer.nodes)
        at = plan.nodes.index(node)
        plan.nodes[at] = helper.make_node("Identity", [node.input[0]], list(node.output), name=node.name)
        plan.split(layer.name, [])


def assembler_of(*techniques: Fake, model: str = "gated_ffn", bank: Path | None = None) -> Assembler:
    ingested = load_model(build(model))
    known = {technique.name: technique for technique in techniques} | {"quantize": Quantize()}
    return Assembler(ingested.model, ingested.inspection.layers, OrtCpu(), known, bank_folder=bank)


def run(artifact: bytes) -> np.ndarray:
    onnx.checker.check_model(artifact, full_check=True)
    session = onnxruntime.InferenceSession(artifact, providers=["CPUExecutionProvider"])
    (output,) = session.run(None, feeds(build("gated_ffn"), sizes={"seq": 5}))
    return np.asarray(output)


def plan_of(assembler: Assembler) -> Plan:
    return assembler.original()


# -- split


def test_a_split_layer_is_replaced_by_its_parts() -> None:
    plan = plan_of(assembler_of())
    whole = plan.layer("up")
    one, two, three = (replace(whole, name=name) for name in ("one", "two", "three"))
    plan.split("up", [one, two])
    assert plan.parts == {"up": ("one", "two")} and "up" not in plan.layers
    plan.split("two", [three])  # a part of a part is a part of the whole, in its place
    assert plan.parts == {"up": ("one", "three")}
    plan.split("one", [])
    assert plan.parts == {"up": ("three",)} and set(plan.layers) == {"gate", "down", "three"}
    plan.split("three", [])
    assert plan.parts == {"up": ()}
    with pytest.raises(KeyError):
        plan.split("up", [])


def test_a_format_holds_for_every_part() -> None:
    made = assembler_of(Half("half", "factorize"))
    structure = {"half": {"up": "yes"}}
    original, halved = run(made.assemble(Recipe())), run(made.assemble(Recipe(structure)))
    np.testing.assert_allclose(halved, original, rtol=1e-5, atol=1e-5)
    recipe = Recipe({**structure, "quantize": {"up": "w4-b32"}})
    artifact = made.assemble(recipe)
    kinds = {node.name: node.op_type for node in onnx.load_from_string(artifact).graph.node}
    assert kinds["up.a"] == kinds["up.b"] == "MatMulNBits" and kinds["gate"] == "MatMul"
    assert 1e-4 < np.abs(run(artifact) - original).mean() < 0.1
    found = {layer.name: layer.nodes for layer in made.layers(recipe)}
    assert found == {"gate": ("gate",), "up": ("up.a", "up.b"), "down": ("down",)}
    assert list(found) == [layer.name for layer in made.layers(Recipe())]
    assert made.expected_kernels(recipe)["up"] == frozenset({"MatMulNBits"})
    assert "MatMul" in made.expected_kernels(recipe)["gate"]


def test_a_layer_that_is_gone_expects_nothing_and_takes_no_format() -> None:
    ingested = load_model(build("attention"))
    known = {"remove": Remove("remove", "prune"), "quantize": Quantize()}
    made = Assembler(ingested.model, ingested.inspection.layers, OrtCpu(), known)
    recipe = Recipe({"remove": {"attn.v": "yes"}, "quantize": {"attn.v": "w8-load", "attn.q": "w8-load"}})
    artifact = made.assemble(recipe)
    names = {tensor.name for tensor in onnx.load_from_string(artifact).graph.initializer}
    assert "attn.q/levels" in names and "attn.v/levels" not in names and "attn.v.weight" not in names
    assert [layer.name for layer in made.layers(recipe)] == ["attn.q", "attn.k", "attn.out"]
    assert made.expected_kernels(recipe)["attn.v"] == frozenset()


def test_a_format_that_no_longer_fits_fails_with_the_shape() -> None:
    class Odd(Fake):
        def edit(self, plan: protocol.Plan, layer: Layer) -> None:
            weight = plan.weight(layer)[:, :27]  # rows of odd length cannot be packed
            plan.set_tensor(layer.weight, weight)
            plan.layers[layer.name] = replace(layer, shape=weight.shape, parameters=weight.size)

    made = assembler_of(Odd("odd", "prune"), model="embedding")
    with pytest.raises(TrialFailure, match="'table' is Gather 48 x 27 now and cannot be written as w4-b32"):
        made.assemble(Recipe({"odd": {"table": "yes"}, "quantize": {"table": "w4-b32"}}))


# -- editing


def test_edits_do_not_reach_the_source() -> None:
    made = assembler_of(Double("double", "scale"))
    before = made.assemble(Recipe())
    layer = made.source.layers["up"]
    digest = made.source.digest(layer.weight)
    doubled = made.structured(Recipe({"double": {"up": "yes"}}))
    assert made.assemble(Recipe()) == before
    assert made.source.digest(layer.weight) == digest != doubled.digest(layer.weight)
    gate = made.source.layers["gate"].weight
    assert made.source.digest(gate) == doubled.digest(gate)


def test_weight_digest_is_of_the_weight_as_it_is_now() -> None:
    plan = plan_of(assembler_of())
    layer = plan.layer("up")
    first, weight = plan.weight_digest(layer), plan.weight(layer)
    plan.set_tensor(layer.weight, 2 * weight)
    assert plan.weight_digest(layer) != first
    plan.set_tensor(layer.weight, np.asfortranarray(weight))
    assert plan.weight_digest(layer) == first  # by content, however it came about
    np.testing.assert_array_equal(plan.weight(layer), weight)


def test_constants_keep_their_rank() -> None:
    plan = plan_of(assembler_of())
    plan.set_tensor("none", np.array(2.0, np.float32))
    plan.add("one", np.array([2.0], np.float32))
    plan.add("zero", np.array(2.0, np.float32))
    ranks = [len(plan.tensors[name].dims) for name in ("none", "one", "zero")]
    assert ranks == [0, 1, 0]
    kept = plan.banked(("scalar",), lambda: {"x": np.array(1.5)})
    assert kept["x"].shape == ()


def test_banked_is_made_once_per_key_and_kept_on_disk(tmp_path: Path) -> None:
    calls: list[str] = []

    def make(value: float) -> dict[str, np.ndarray]:
        calls.append(f"{value}")
        return {"a": np.full((2, 3), value, np.float32), "b": np.array([value], np.float64)}

    for _ in range(2):  # another assembler reads what the first has kept
        plan = plan_of(assembler_of(bank=tmp_path))
        for _ in range(2):
            found = plan.banked(("svd", 1, "layer"), lambda: make(1.0))
            np.testing.assert_array_equal(found["a"], np.full((2, 3), 1.0, np.float32))
            assert found["b"].dtype == np.float64
        assert float(plan.banked(("svd", 2, "layer"), lambda: make(2.0))["b"][0]) == 2.0
    assert calls == ["1.0", "2.0"]


def test_moments_follow_edits_and_survive_into_the_structure() -> None:
    class Widen(Fake):
        def edit(self, plan: protocol.Plan, layer: Layer) -> None:
            seen = plan.moments(layer.name)
            assert seen is not None
            plan.set_moments(layer.name, seen.scale(np.array([2.0])))
            plan.set_moments("down", None)

    made = assembler_of(Widen("widen", "scale"))
    moments = Moments(np.eye(32, dtype=np.float32)[None], np.ones((1, 32), np.float32), 7)
    made.tell_moments({"up": moments, "down": moments})
    source = made.structured(Recipe({"widen": {"up": "yes"}}))
    assert set(source.moments) == {"up"} and source.moments["up"].rows == 7
    np.testing.assert_array_equal(source.moments["up"].gram, 4 * moments.gram)
    assert set(made.original()._moments) == {"up", "down"}


@pytest.mark.parametrize("model", ["encoder", "residual", "tied_embedding"])
def test_bytes_are_those_of_the_whole_message(model: str) -> None:
    """Written tensor by tensor; the same bytes as protobuf writes."""
    made = assembler_of(Double("double", "scale"), model=model)
    layers = list(made.source.layers)
    for recipe in (Recipe(), Recipe({"double": {layers[0]: "yes"}, "quantize": {layers[1]: "w4-b32-load"}})):
        artifact = made.assemble(recipe)
        assert onnx.load_from_string(artifact).SerializeToString(deterministic=True) == artifact


# -- order and cache


def test_stages_are_carried_out_in_their_order() -> None:
    log: list[str] = []
    stages = [stage for stage in STAGES if stage != "precision"]
    fakes = [Fake(f"{chr(ord('z') - index)}", stage, log) for index, stage in enumerate(stages)]
    made = assembler_of(*reversed(fakes))
    made.structured(Recipe({fake.name: {"up": "yes"} for fake in fakes}))
    assert log == [fake.name for fake in fakes]


def test_a_structure_is_carried_out_once_until_others_crowd_it_out() -> None:
    log: list[str] = []
    made = assembler_of(Double("double", "scale", log), Double("again", "scale", log))
    recipe = Recipe({"double": {"up": "yes"}})
    first = made.structured(recipe)
    assert made.structured(recipe) is first and log == ["double"]
    made.assemble(Recipe({"double": {"up": "yes"}, "quantize": {"gate": "w8-load"}}))
    assert log == ["double"]  # formats do not change the structure
    names = list(made.source.layers)
    subsets = [dict.fromkeys(names[a:b], "yes") for a in range(3) for b in range(a + 1, 4)]
    for decisions in subsets:
        made.structured(Recipe({"again": decisions}))
        made.structured(recipe)  # used again and again, so it stays
    assert log.count("double") == 1
    for decisions in subsets:
        made.structured(Recipe({"again": decisions}))
        made.structured(Recipe({"again": decisions, "double": decisions}))
    made.structured(recipe)
    assert log.count("double") == 1 + len(subsets) + 1
    made.tell_moments({})
    assert made.structured(recipe) is not first


def test_a_structure_that_fails_is_not_kept() -> None:
    class Refuse(Fake):
        def edit(self, plan: protocol.Plan, layer: Layer) -> None:
            plan.set_tensor(layer.weight, 0 * plan.weight(layer))
            raise KeyError(layer.name)

    log: list[str] = []
    made = assembler_of(Refuse("refuse", "prune", log))
    before = made.assemble(Recipe())
    for _ in range(2):
        with pytest.raises(KeyError):
            made.assemble(Recipe({"refuse": {"up": "yes"}}))
    assert len(log) == 2 and made.assemble(Recipe()) == before


def test_what_is_unknown_is_named() -> None:
    made = assembler_of(Double("double", "scale"))
    with pytest.raises(KeyError, match="mystery"):
        made.structured(Recipe({"mystery": {"up": "yes"}}))
    with pytest.raises(KeyError, match="nowhere"):
        made.structured(Recipe({"double": {"nowhere": "yes"}}))


def test_shapes_are_of_the_graph_as_it_is_now() -> None:
    plan = plan_of(assembler_of())
    layer = plan.layer("up")
    (node,) = (each for each in plan.nodes if each.name == layer.nodes[0])
    assert plan.shapes()[node.output[0]] == (None, None, 64)
    plan.set_tensor(layer.weight, plan.weight(layer)[:, :1])  # one column is broadcast by the product behind it
    assert plan.shapes()[node.output[0]] == (None, None, 1)
