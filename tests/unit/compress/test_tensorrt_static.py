"""Dialect `tensorrt`: where quantisers of static formats stand, and where none does."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest
from onnx import helper

from autotune.compress.zoo import build
from autotune.compress.zoo.graph import Graph
from autotune.errors import TrialFailure
from tests.unit.compress.card_models import Made, constants, producer, product, readers


@pytest.mark.parametrize(("choice", "kind"), [("int8-static", np.int8), ("fp8-static", ml_dtypes.float8_e4m3fn)])
def test_quantisers_are_symmetric_and_leave_biases_alone(choice: str, kind: type[np.generic]) -> None:
    artifact = Made(build("residual")).uniform(choice)
    held = constants(artifact)
    for node in artifact.graph.node:
        if node.op_type in ("QuantizeLinear", "DequantizeLinear") and len(node.input) > 2:
            zero = held[node.input[2]]
            assert zero.dtype == kind and zero.shape == () and float(zero) == 0
        if node.op_type == "Conv":
            assert held[node.input[2]].dtype == np.float16, "the bias is no integer"
            assert producer(artifact, node.input[0]).op_type == "DequantizeLinear"
            weight = producer(artifact, node.input[1])
            assert held[weight.input[1]].shape == (held[weight.input[0]].shape[0],), "one scale per channel"
            assert helper.get_attribute_value(weight.attribute[0]) == 0


def test_nothing_stands_between_a_convolution_and_its_activation() -> None:
    artifact = Made(build("residual")).uniform("int8-static")
    for node in artifact.graph.node:
        if node.op_type == "Conv":
            (reader,) = readers(artifact, node.output[0])
            assert reader.op_type in ("Relu", "Add"), reader.op_type


def test_the_other_branch_of_a_residual_sum_is_quantised_where_int8_reads_the_sum() -> None:
    made = Made(build("residual"))
    artifact = made.uniform("int8-static")
    first, second = (node for node in artifact.graph.node if node.op_type == "Add")
    kinds = sorted(producer(artifact, name).op_type for name in first.input)
    assert kinds == ["Conv", "DequantizeLinear"], "the identity is int8, the convolution's own output is not touched"
    skip = next(name for name in first.input if producer(artifact, name).op_type == "DequantizeLinear")
    assert {node.op_type for node in readers(artifact, skip)} == {"Add", "Conv"}, "one Q/DQ serves both"
    assert [producer(artifact, name).op_type for name in second.input] == ["Conv", "Conv"], "nobody reads it as int8"
    # Without an int8 reader of the first sum its skip stays float, too.
    others = {name: "int8-static" for name in made.layers if name not in ("two.first", "two.short")}
    plain = made.artifact(others)
    sums = [node for node in plain.graph.node if node.op_type == "Add"]
    assert "DequantizeLinear" not in {producer(plain, name).op_type for name in sums[0].input}


def test_of_two_convolutions_the_later_one_takes_the_sum_in() -> None:
    g = Graph(17, x=("batch", 8, 6, 6))
    left, right = g.conv("x", "early", 8, 8, 1, 1), g.conv("x", "late", 8, 8, 1, 1)
    artifact = Made(g.model(g.conv(g.add("Relu", g.add("Add", right, left)), "last", 8, 8, 1, 1))).uniform(
        "int8-static"
    )
    (total,) = (node for node in artifact.graph.node if node.op_type == "Add")
    kinds = [producer(artifact, name) for name in total.input]
    assert [node.op_type for node in kinds] == ["Conv", "DequantizeLinear"] and kinds[0].name == "late"


def test_an_activation_beyond_float16_is_refused_with_the_reason() -> None:
    with pytest.raises(TrialFailure, match="reaches 1e\\+05, and int8-static is computed from float16"):
        Made(product(), peak=1e5).uniform("int8-static")
