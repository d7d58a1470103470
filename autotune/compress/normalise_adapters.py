"""Adapters: what one operator needs to mean the same after one opset step.

An adapter looks at a node without touching it and returns the edit, or raises `NoAdapter`; so a step is carried out for
all nodes or for none. `(op, v)` in `ADAPTERS` is the step from opset v-1 to v.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import onnx_ir as ir

from autotune.compress.ingest_checks import show

Edit = Callable[[], None]
Adapter = Callable[[ir.Node], "Edit | None"]
_UPSAMPLE = "autotune.upsample"  # marks a Resize that was an Upsample; in-memory only


class NoAdapter(Exception):
    """A node cannot be brought to the next opset with certainty."""


def _no(node: ir.Node, why: str) -> NoAdapter:
    return NoAdapter(f"{node.op_type} node {show(node.name or node.outputs[0].name or '')} {why}")


def _ints(node: ir.Node, name: str) -> list[int] | None:
    """An INTS attribute; None when it is absent or empty, which ONNX treats alike."""
    attribute = node.attributes.get(name)
    if attribute is None:
        return None
    if attribute.is_ref() or attribute.type != ir.AttributeType.INTS:
        raise _no(node, f"has an attribute {name} that is no list of integers")
    return list(attribute.as_ints()) or None


def _drop(node: ir.Node, *names: str) -> None:
    for name in names:
        node.attributes.pop(name, None)


def _add_input(node: ir.Node, index: int, array: np.ndarray, name: str) -> None:
    """Put a new constant at input `index` of `node`, named after the node's first output."""
    graph = node.graph
    assert isinstance(graph, ir.Graph)  # functions are inlined before
    base = f"{node.outputs[0].name}_{name}"
    taken = graph.initializers
    while base in taken:
        base += "_"
    value = ir.Value(name=base, const_value=ir.tensor(array, name=base))
    value.type, value.shape = ir.TensorType(ir.DataType.from_numpy(array.dtype)), ir.Shape(array.shape)
    graph.register_initializer(value)
    if index >= len(node.inputs):
        node.resize_inputs(index + 1)
    node.replace_input_with(index, value)


def _int64(values: Sequence[int]) -> np.ndarray:
    return np.array(values, dtype=np.int64)


def _attribute_to_input(attribute: str, index: int, *, required: bool = False) -> Adapter:
    def adapter(node: ir.Node) -> Edit | None:
        values = _ints(node, attribute)
        if values is None and required:
            raise _no(node, f"lacks {attribute}")

        def edit() -> None:
            _drop(node, attribute)
            if values is not None:
                _add_input(node, index, _int64(values), attribute)

        return edit

    return adapter


def _softmax_13(node: ir.Node) -> Edit:
    """Before 13 the input was flattened to 2-D at `axis` (default 1); since 13 the axis (default -1) stands alone."""
    value, output = node.inputs[0], node.outputs[0]
    if value is None:
        raise _no(node, "has no input")
    axis = node.attributes["axis"].as_int() if "axis" in node.attributes else 1

    def simple() -> None:
        node.attributes["axis"] = ir.AttrInt64("axis", -1)

    def flattened() -> None:
        simple()
        shape = ir.node("Shape", [value], name=f"{output.name}_shape")
        flat = ir.node("Flatten", [value], {"axis": axis}, name=f"{output.name}_flat")
        inner = ir.Value(name=f"{output.name}_2d", type=output.type)
        shape.outputs[0].name, flat.outputs[0].name = f"{output.name}_shape", f"{output.name}_flat"
        core = ir.Node(
            "",
            node.op_type,
            [flat.outputs[0]],
            node.attributes.values(),
            outputs=[inner],
            name=f"{output.name}_core",
        )
        graph = node.graph
        assert graph is not None
        graph.insert_before(node, [shape, flat, core])
        # The old node becomes the Reshape, so that its output keeps name, users and place among the graph's outputs.
        node.op_type = "Reshape"
        node.attributes.clear()
        node.resize_inputs(2)
        node.replace_input_with(0, inner)
        node.replace_input_with(1, shape.outputs[0])

    def edit() -> None:
        rank = None if value.shape is None else len(value.shape)
        last = axis == -1 or (rank is not None and axis % max(rank, 1) == rank - 1)
        simple() if last else flattened()

    return edit


def _clip_11(node: ir.Node) -> Edit:
    limits = [node.attributes[name].as_float() if name in node.attributes else None for name in ("min", "max")]
    dtype = _input_type(node, 0) if any(limit is not None for limit in limits) else None

    def edit() -> None:
        _drop(node, "min", "max")
        for index, (name, limit) in enumerate(zip(("min", "max"), limits, strict=True), start=1):
            if limit is not None and dtype is not None:
                _add_input(node, index, np.array(limit, dtype=dtype), name)

    return edit


def _input_type(node: ir.Node, index: int) -> np.dtype:
    value = node.inputs[index]
    if value is None or value.dtype is None or not value.dtype.is_floating_point():
        raise _no(node, "has an input of unknown type")
    return np.dtype(value.dtype.numpy())


def _pad_11(node: ir.Node) -> Edit:
    pads = _ints(node, "pads")
    if pads is None:
        raise _no(node, "lacks pads")
    fill = node.attributes["value"].as_float() if "value" in node.attributes else 0.0
    dtype = _input_type(node, 0) if fill else None

    def edit() -> None:
        _drop(node, "pads", "value")
        _add_input(node, 1, _int64(pads), "pads")
        if dtype is not None:
            _add_input(node, 2, np.array(fill, dtype=dtype), "value")

    return edit


def _slice_10(node: ir.Node) -> Edit:
    starts, ends, axes = (_ints(node, name) for name in ("starts", "ends", "axes"))
    if starts is None or ends is None:
        raise _no(node, "lacks starts or ends")

    def edit() -> None:
        _drop(node, "starts", "ends", "axes")
        for index, (name, values) in enumerate((("starts", starts), ("ends", ends), ("axes", axes)), start=1):
            if values is not None:
                _add_input(node, index, _int64(values), name)

    return edit


def _topk_10(node: ir.Node) -> Edit:
    if "k" not in node.attributes:
        raise _no(node, "lacks k")
    count = node.attributes["k"].as_int()

    def edit() -> None:
        _drop(node, "k")
        _add_input(node, 1, _int64([count]), "k")

    return edit


def _split_18(node: ir.Node) -> Edit | None:
    if len(node.inputs) > 1 and node.inputs[1] is not None:
        return None

    def edit() -> None:
        node.attributes["num_outputs"] = ir.AttrInt64("num_outputs", len(node.outputs))

    return edit


def _upsample_9(node: ir.Node) -> Edit:
    if "scales" not in node.attributes:
        raise _no(node, "lacks scales")
    scales = np.array(node.attributes["scales"].as_floats(), dtype=np.float32)

    def edit() -> None:
        _drop(node, "scales")
        _add_input(node, 1, scales, "scales")

    return edit


def _upsample_10(node: ir.Node) -> Edit:
    def edit() -> None:
        node.op_type = "Resize"
        node.meta[_UPSAMPLE] = True

    return edit


def _resize_11(node: ir.Node) -> Edit:
    """Resize-10 is asymmetric; nearest rounds down when it enlarges (as Upsample always does), up when it shrinks."""
    mode = node.attributes["mode"].as_string() if "mode" in node.attributes else "nearest"
    rounding = _nearest_rounding(node) if mode == "nearest" else None
    scales = node.inputs[1]

    def edit() -> None:
        node.attributes["coordinate_transformation_mode"] = ir.AttrString(
            "coordinate_transformation_mode", "asymmetric"
        )
        if rounding is not None:
            node.attributes["nearest_mode"] = ir.AttrString("nearest_mode", rounding)
        node.resize_inputs(3)
        node.replace_input_with(2, scales)
        _add_input(node, 1, np.zeros(0, dtype=np.float32), "roi")  # required until opset 13

    return edit


def _nearest_rounding(node: ir.Node) -> str:
    scales = node.inputs[1]
    if node.meta.get(_UPSAMPLE):
        return "floor"
    if scales is None or scales.const_value is None:
        raise _no(node, "has scales that are computed, and opset 10 rounds by their size")
    values = scales.const_value.numpy()
    if (values >= 1).all():
        return "floor"
    if (values <= 1).all():
        return "ceil"
    raise _no(node, "enlarges one axis and shrinks another")


def _batchnorm_9(node: ir.Node) -> Edit:
    if "spatial" in node.attributes and node.attributes["spatial"].as_int() != 1:
        raise _no(node, "normalises per position (spatial=0)")
    return lambda: _drop(node, "spatial")


def _batchnorm_14(node: ir.Node) -> Edit:
    if any(output.uses() or output.is_graph_output() for output in node.outputs[1:]):
        raise _no(node, "is in training mode")
    return lambda: node.resize_outputs(1)


def _dropout_10(node: ir.Node) -> Edit | None:
    if len(node.outputs) > 1 and (node.outputs[1].uses() or node.outputs[1].is_graph_output()):
        raise _no(node, "has its mask used")
    return None


def _gridsample_20(node: ir.Node) -> Edit:
    mode = node.attributes["mode"].as_string() if "mode" in node.attributes else "bilinear"
    renamed = {"bilinear": "linear", "bicubic": "cubic"}.get(mode, mode)

    def edit() -> None:
        node.attributes["mode"] = ir.AttrString("mode", renamed)

    return edit


def _roialign_16(node: ir.Node) -> Edit:
    def edit() -> None:
        name = "coordinate_transformation_mode"
        node.attributes[name] = ir.AttrString(name, "output_half_pixel")

    return edit


def _dft_20(node: ir.Node) -> Edit:
    axis = node.attributes["axis"].as_int() if "axis" in node.attributes else 1

    def edit() -> None:
        _drop(node, "axis")
        _add_input(node, 2, np.array(axis, dtype=np.int64), "axis")

    return edit


def _rename(op: str) -> Adapter:
    def adapter(node: ir.Node) -> Edit:
        def edit() -> None:
            node.op_type = op

        return edit

    return adapter


def _refuse(why: str) -> Adapter:
    def adapter(node: ir.Node) -> Edit:
        raise _no(node, why)

    return adapter


_REDUCTIONS = ("L1", "L2", "LogSum", "LogSumExp", "Max", "Mean", "Min", "Prod", "SumSquare")

# Their edits run after all steps, when ranks are known best.
RANK_MATTERS = frozenset({"Softmax", "LogSoftmax", "Hardmax"})

ADAPTERS: dict[tuple[str, int], Adapter] = {
    ("Upsample", 9): _upsample_9,
    ("BatchNormalization", 9): _batchnorm_9,
    ("Scan", 9): _refuse("has a batch axis, which Scan lost in opset 9"),
    ("Dropout", 10): _dropout_10,
    ("Slice", 10): _slice_10,
    ("TopK", 10): _topk_10,
    ("Upsample", 10): _upsample_10,
    ("Clip", 11): _clip_11,
    ("Pad", 11): _pad_11,
    ("Resize", 11): _resize_11,
    ("Scatter", 11): _rename("ScatterElements"),
    ("Dropout", 12): lambda node: lambda: _drop(node, "ratio"),  # inference: the ratio has no effect
    ("Split", 13): _attribute_to_input("split", 1),
    ("Squeeze", 13): _attribute_to_input("axes", 1),
    ("Unsqueeze", 13): _attribute_to_input("axes", 1, required=True),
    ("ReduceSum", 13): _attribute_to_input("axes", 1),
    ("Softmax", 13): _softmax_13,
    ("LogSoftmax", 13): _softmax_13,
    ("Hardmax", 13): _softmax_13,
    ("BatchNormalization", 14): _batchnorm_14,
    ("RoiAlign", 16): _roialign_16,
    ("Split", 18): _split_18,
    **{(f"Reduce{name}", 18): _attribute_to_input("axes", 1) for name in _REDUCTIONS},
    ("DFT", 20): _dft_20,
    ("GridSample", 20): _gridsample_20,
    ("GroupNormalization", 21): _refuse("has one scale per group, which opset 21 changed to one per channel"),
}
