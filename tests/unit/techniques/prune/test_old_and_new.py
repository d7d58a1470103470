"""Operators in the forms of old opsets, which stay where a model cannot be converted, and of the newest."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from autotune.compress.assembly import Assembler
from autotune.compress.dialects.ort_cpu import OrtCpu
from autotune.compress.inspect import inspect_graph
from autotune.techniques.prune import Prune
from tests.unit.techniques.prune import graphs
from tests.unit.techniques.prune.checking import Case, check


def _raw(model: onnx.ModelProto) -> Case:
    """The model as it is, not brought to the working opset."""
    model = onnx.shape_inference.infer_shapes(model)
    inspection = inspect_graph(ir.serde.deserialize_model(model))
    prune = Prune(round_to=1)
    made = Assembler(model, inspection.layers, OrtCpu(), {"prune": prune})
    return Case(made, prune, {entry.name: entry for entry in prune.survey(made.original())})


def _old(kind: str) -> onnx.ModelProto:
    net = graphs.Net(opset=11)
    x = net.op("Relu", net.conv("x", 3, 16, "first"))
    if kind == "sum over channels":
        x = net.op("Mul", x, net.op("ReduceSum", x, axes=[1], keepdims=1))
    elif kind == "sum over places":
        x = net.op("Mul", x, net.op("Unsqueeze", net.op("ReduceSum", x, axes=[2, 3], keepdims=0), axes=[2, 3]))
    elif kind == "squeeze":
        x = net.op("Squeeze", net.op("Unsqueeze", x, axes=[0]), axes=[0])
    elif kind == "softmax over places":
        x = net.op("Softmax", x, axis=2)
    elif kind == "softmax over all":
        x = net.op("Softmax", x, axis=1)
    elif kind == "split":
        left, right = net.several("Split", [x], 2, axis=1, split=[8, 8])
        x = net.op("Concat", right, left, axis=1)
    x = net.conv(x, 16, 4, "second")
    return net.model(x, *graphs.IMAGE)


@pytest.mark.parametrize("kind", ["sum over channels", "sum over places", "squeeze", "softmax over places"])
def test_old_forms_are_followed(kind: str) -> None:
    case = _raw(_old(kind))
    assert set(case.units) == {"first"}
    check(case, {"first": "cut-50%"}, exact=kind != "sum over channels")  # there the sum is a reader too


@pytest.mark.parametrize("kind", ["softmax over all", "split"])
def test_old_forms_that_stop_a_cut(kind: str) -> None:
    case = _raw(_old(kind))
    assert case.units == {}
    assert "first" in case.skipped


def test_operators_whose_shapes_onnx_does_not_infer() -> None:
    net = graphs.Net(opset=21)
    x = net.conv("x", 3, 16, "first")
    x = net.op("GroupNormalization", x, net.random(16), net.random(16), num_groups=4, name="norm")
    model = net.model(net.conv(x, 16, 4, "last"), *graphs.IMAGE)
    model.ir_version = 10
    case = Case.of(model)
    assert case.units == {}
    assert "'norm" in case.skipped["first"].reason


def test_split_into_equal_parts_by_number() -> None:
    """A Split that names no sizes gets them, because the parts may differ now."""
    net = graphs.Net(opset=18)
    x = net.conv("x", 3, 24, "first")
    left, right = net.several("Split", [x], 2, axis=1, num_outputs=2)
    out = net.op("Add", net.conv(left, 12, 4, "left"), net.conv(right, 12, 4, "right"))
    case = Case.of(net.model(out, *graphs.IMAGE), round_to=1)
    small = onnx.load_from_string(check(case, {"first": "cut-75%"}))
    shapes = {tensor.name: tuple(tensor.dims) for tensor in small.graph.initializer}
    assert shapes["left.weight"][1] + shapes["right.weight"][1] == 6


def test_no_part_becomes_empty() -> None:
    """All that matters is in the one part, and the other keeps its best channel."""
    net = graphs.Net(opset=18)
    x = net.conv("x", 3, 16, "first")
    left, right = net.several("Split", [x, net.const([4, 12])], 2, axis=1)
    net.conv(left, 4, 4, "left")
    net.constants["left.weight"] = net.constants["left.weight"] * np.float32(1e-4)
    out = net.op("Add", net.nodes[-1].output[0], net.conv(right, 12, 4, "right"))
    case = Case.of(net.model(out, *graphs.IMAGE), round_to=1)
    small = onnx.load_from_string(check(case, {"first": "cut-50%"}))
    shapes = {tensor.name: tuple(tensor.dims) for tensor in small.graph.initializer}
    assert (shapes["left.weight"][1], shapes["right.weight"][1]) == (1, 7)


def test_shapes_that_are_read_and_moved_only() -> None:
    """A size read at run time that only names the target of a Reshape may change."""
    net = graphs.Net()
    x = net.conv("x", 3, 16, "first")
    shape = net.op("Cast", net.op("Shape", x), to=onnx.TensorProto.INT32)
    flat = net.op("Reshape", x, net.const([0, 16, 36]))
    x = net.op("Reshape", net.op("Relu", flat), net.op("Cast", shape, to=onnx.TensorProto.INT64))
    case = Case.of(net.model(net.conv(x, 16, 4, "last"), *graphs.IMAGE), round_to=1)
    assert set(case.units) == {"first"}
    check(case, {"first": "cut-50%"})
