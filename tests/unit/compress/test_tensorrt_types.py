"""Dialect `tensorrt`: the type of every layer and of what lies between, and where casts stand."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from autotune.compress.dialects.tensorrt import TensorRt
from autotune.compress.zoo import build
from autotune.compress.zoo.graph import Graph
from autotune.errors import TrialFailure
from autotune.recipe import Recipe
from tests.unit.compress.card_models import Made, chain, constants, producer, product, readers, run


def test_none_is_the_model_itself() -> None:
    made = Made(build("residual"))
    assert made.assembler.assemble(Recipe()) == made.assembler.original().to_bytes()
    assert made.assembler.assemble(Recipe({"quantize": {}})) == made.assembler.assemble(Recipe())


@pytest.mark.parametrize("choice", ["float16", "bfloat16"])
@pytest.mark.parametrize("model", ["residual", "grouped", "hard_swish", "embedding", "shared_weight"])
def test_casts_stand_at_the_borders_only(model: str, choice: str) -> None:
    artifact = Made(build(model)).uniform(choice)
    inputs = {value.name for value in artifact.graph.input}
    outputs = {value.name for value in artifact.graph.output}
    casts = [node for node in artifact.graph.node if node.op_type == "Cast"]
    assert casts and all(set(node.input) <= inputs or set(node.output) <= outputs for node in casts)
    assert {tensor.data_type for tensor in artifact.graph.initializer} <= {
        TensorProto.INT64,
        TensorProto.FLOAT16 if choice == "float16" else TensorProto.BFLOAT16,
    }


@pytest.mark.parametrize(
    ("decisions", "types"),
    [
        ({"a": "float16", "b": "float16"}, [10, 1]),
        ({"a": "float16", "b": "bfloat16"}, [10, 16, 1]),
        ({"b": "float16"}, [10, 1]),
        ({"a": "float16", "c": "float16"}, [10, 1, 10, 1]),
        ({"a": "w8-load", "b": "float16"}, [10, 1]),
        ({"a": "bfloat16", "b": "int8-static"}, [16, 10, 1]),
    ],
)
def test_one_cast_where_neighbours_differ(decisions: dict[str, str], types: list[int]) -> None:
    artifact = Made(chain("a", "b", "c")).artifact(decisions)
    casts = [node for node in artifact.graph.node if node.op_type == "Cast"]
    assert [helper.get_attribute_value(node.attribute[0]) for node in casts] == types


def test_float32_layers_stay_what_they_were() -> None:
    made = Made(chain("a", "b", "c"))
    artifact = made.artifact({"b": "int8-static"})
    x = np.random.default_rng(1).standard_normal((3, 32)).astype(np.float32)
    weights = constants(made.ingested.model)
    left = np.maximum(x @ weights["a.weight"] + weights["a.bias"], 0)
    assert constants(artifact)["a.weight"].dtype == np.float32
    probe_model = onnx.ModelProto()
    probe_model.CopyFrom(artifact)
    del probe_model.graph.output[:]
    source = producer(artifact, next(n.input[0] for n in artifact.graph.node if n.op_type == "Cast"))
    probe_model.graph.output.append(onnx.ValueInfoProto(name=source.output[0]))
    np.testing.assert_allclose(run(probe_model, {"x": x}), left, rtol=1e-5, atol=1e-6)


def test_sums_powers_and_what_float16_cannot_hold_stay_float32() -> None:
    g = Graph(17, x=("batch", "seq", 32))
    scores = g.linear("x", "scores", 32, 32)
    masked = g.add("Add", scores, g.constant("mask", np.where(np.eye(32), 0, -3.4e38).astype(np.float32)))
    tiny = g.add("Add", g.linear("x", "other", 32, 32), g.scalar("tiny", 1e-12))
    far = g.add("Mul", "x", g.scalar("far", -1e9))  # what exporters make of a mask that is an input
    moved = g.add("Add", g.linear("x", "third", 32, 32), far)
    total = g.add("Add", g.add("Add", masked, tiny), g.add("Pow", moved, g.scalar("two", 2)))
    artifact = Made(g.model(total)).uniform("float16")
    held = constants(artifact)
    assert {"mask", "tiny", "far"} <= {n for n, a in held.items() if a.dtype == np.float32}
    for name in ("mask", "tiny", "far"):
        assert all(":" not in i for i in readers(artifact, name)[0].input)
    for node in artifact.graph.node:
        if node.op_type == "Pow":
            assert all(":" not in name for name in node.input)


def test_a_model_that_stays_at_an_old_opset_is_refused_with_the_reason() -> None:
    made = Made(product())
    plan = made.assembler.original()
    plan.opsets[""] = 12
    with pytest.raises(TrialFailure, match="needs opset 21 and the model stays at 12"):
        TensorRt().write(plan, {"fc": "w8-load"})
