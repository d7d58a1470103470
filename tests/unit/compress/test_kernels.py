"""What is said of a layer whose kernel holds other layers too."""

from __future__ import annotations

import onnx
import pytest
from onnx import TensorProto, helper

from autotune.compress.kernels import layer_outcomes
from autotune.layers import Layer
from autotune.trial import LayerOutcome
from hwprofiles.measurement import Kernel

INT8, FLOAT16 = frozenset({"*:int8"}), frozenset({"*:float16"})


def artifact() -> onnx.ModelProto:
    port = helper.make_tensor_value_info
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["h"], name="up"),
        helper.make_node("MatMul", ["h", "v"], ["y"], name="down"),
    ]
    ports = [[port(name, TensorProto.FLOAT, [2, 2])] for name in ("x", "y")]
    inits = [helper.make_tensor(name, TensorProto.FLOAT, [2, 2], [0.0] * 4) for name in "wv"]
    return helper.make_model(helper.make_graph(nodes, "g", *ports, inits))


def layer(name: str) -> Layer:
    return Layer(name=name, op="MatMul", shape=(2, 2), output_axis=1, nodes=(name,), weight=name, parameters=4)


def outcomes(down: frozenset[str], *kernels: tuple[str, str]) -> list[LayerOutcome]:
    """Of the layers "up", asked for in int8, and "down"."""
    ran = [Kernel(node=node, op=op, provider="TensorRT", seconds=1e-6) for node, op in kernels]
    asked = {"up": "int8-static", "down": "any"}
    told = layer_outcomes(artifact(), [layer("up"), layer("down")], asked, {"up": INT8, "down": down}, ran)
    return list(told)


def test_one_kernel_for_two_requests_claims_neither() -> None:
    for told in outcomes(FLOAT16, ("up + down", "MatMul:int8+float16")):
        assert told.honoured is None and told.ran == "in a fused region (int8, float16 inside)"
        assert "does not tell which got which type" in told.note and told.seconds == 1e-6


def test_what_is_not_inside_was_not_honoured() -> None:
    up, down = outcomes(FLOAT16, ("up + down", "MatMul:float16+float32"))
    assert up.honoured is False and up.note == "expected *:int8"
    assert down.honoured is None


@pytest.mark.parametrize(
    ("down", "op", "honoured"),
    [
        (INT8, "MatMul:int8+float32", [True, True]),  # both were asked for the same, and its scales are float32
        (FLOAT16, "MatMul:float16", [False, True]),  # one type inside leaves nothing open
        (frozenset({"*"}), "MatMul:int8+float16", [True, True]),  # of one of them nothing was asked
    ],
)
def test_where_there_is_no_doubt_it_is_said(down: frozenset[str], op: str, honoured: list[bool]) -> None:
    assert [told.honoured for told in outcomes(down, ("up + down", op))] == honoured


def test_of_a_table_nothing_is_expected_wherever_it_runs() -> None:
    """Three requests in one region: where nothing was asked for, nothing is missed."""
    made = artifact()
    made.graph.node.append(helper.make_node("Gather", ["t", "y"], ["z"], name="table"))
    layers = [layer("up"), layer("down"), layer("table")]
    asked = {"up": "int8-static", "down": "float16", "table": "none"}
    expected = {"up": INT8, "down": FLOAT16, "table": frozenset({"*"})}
    region = Kernel(node="up + down + table", op="MatMul:int8+float16", provider="TensorRT", seconds=1e-6)
    told = {one.layer: one.honoured for one in layer_outcomes(made, layers, asked, expected, [region])}
    assert told == {"up": None, "down": None, "table": True}


def test_a_kernel_of_its_own_settles_it() -> None:
    up, down = outcomes(FLOAT16, ("up + down", "MatMul:int8+float16"), ("up", "MatMul:int8"))
    assert up.honoured is True and "in a fused region" in up.ran and up.seconds == 2e-6
    assert down.honoured is None
