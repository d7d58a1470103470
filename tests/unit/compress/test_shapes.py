"""Inferred shapes against the shapes that the runtime's outputs really have."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper

from autotune.compress.ingest import load_model
from autotune.compress.plan import Source
from autotune.compress.shapes import infer_shapes
from autotune.compress.zoo import ZOO, build, feeds

SIZES = {"batch": 3, "seq": 5, "height": 12, "width": 14, "time": 18}
OTHERS = {"batch": 2, "seq": 7, "height": 20, "width": 22, "time": 24}


def source_of(model: onnx.ModelProto) -> Source:
    ingested = load_model(model)
    return Source.of(ingested.model, ingested.inspection.layers)


def inferred(source: Source) -> dict[str, tuple[int | None, ...]]:
    return infer_shapes(source.nodes, source.tensors, source.inputs, source.outputs, source.opsets)


def real(model: onnx.ModelProto, sizes: Mapping[str, int]) -> Mapping[str, tuple[int, ...]]:
    """Tensor -> its shape in a run."""
    there = {value.name for value in model.graph.output}
    probe = onnx.ModelProto()
    probe.CopyFrom(model)
    names = [name for node in model.graph.node for name in node.output]
    probe.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names if name not in there)
    session = onnxruntime.InferenceSession(probe.SerializeToString(), providers=["CPUExecutionProvider"])
    found = [output.name for output in session.get_outputs()]
    values = session.run(found, feeds(model, sizes=sizes))
    return {name: np.shape(value) for name, value in zip(found, values, strict=True)}


@pytest.mark.parametrize("name", list(ZOO))
def test_shapes_are_those_of_runs(name: str) -> None:
    """What is told is so; an axis that has one size in runs of two sizes is known."""
    model = load_model(build(name)).model
    shapes, one, other = inferred(source_of(build(name))), real(model, SIZES), real(model, OTHERS)
    for tensor in one:
        found = list(zip(shapes[tensor], one[tensor], other[tensor], strict=True))
        assert all(told == here if here == there else told is None for told, here, there in found), (tensor, found)


def test_constants_and_inputs_are_in_the_answer() -> None:
    source = source_of(build("flatten"))
    shapes = inferred(source)
    assert shapes["x"] == (None, 3, 8, 8)
    for layer in source.layers.values():
        assert shapes[layer.weight] == layer.shape


def test_shapes_follow_an_edit_and_not_what_the_model_declares() -> None:
    source = source_of(build("flatten"))
    head = source.layers["head"]
    changed = dict(source.tensors)
    for name, shape in ((head.weight, (3, 32)), (str(head.bias), (3,))):
        changed[name] = helper.make_tensor(
            name, TensorProto.FLOAT, shape, np.zeros(shape, np.float32).tobytes(), raw=True
        )
    shapes = infer_shapes(source.nodes, changed, source.inputs, source.outputs, source.opsets)
    assert shapes[source.outputs[0].name] == (None, 3)
    assert source.outputs[0].type.tensor_type.shape.dim[1].dim_value == 8


def test_large_constants_are_not_copied(monkeypatch: pytest.MonkeyPatch) -> None:
    """A shape that is read from a constant is followed; a weight is given by its shape alone."""
    source = source_of(build("encoder"))
    given: list[int] = []
    original = onnx.shape_inference.infer_shapes

    def spy(model: onnx.ModelProto, **options: bool) -> onnx.ModelProto:
        given.append(model.ByteSize())
        return original(model, **options)

    monkeypatch.setattr(onnx.shape_inference, "infer_shapes", spy)
    inferred(source)
    everything = sum(len(tensor.raw_data) for tensor in source.tensors.values())
    large = sum(len(tensor.raw_data) for tensor in source.tensors.values() if tensor.ByteSize() > 4096)
    assert given and given[0] < everything - large + 20_000


def test_a_tensor_of_unknown_rank_is_missing() -> None:
    nodes = [
        helper.make_node("Mystery", ["x"], ["m"], domain="acme", name="mystery"),
        helper.make_node("Relu", ["m"], ["y"], name="relu"),
    ]
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 4])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    shapes = infer_shapes(nodes, {}, [x], [y], {"": 21, "acme": 1})
    assert shapes == {"x": (None, 4)}
