"""Find the Layers of a normalised model, and everything that holds weights but cannot be searched, with the reason."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import cast

import numpy as np
import onnx_ir as ir

from autotune.compress.ingest_checks import show
from autotune.compress.inspect_names import layer_name, node_name, unique
from autotune.compress.normalise_fold import LARGE, WEIGHT_INPUT, constant_base
from autotune.errors import DataError
from autotune.layers import Inspection, Layer, LayerOp, Skipped

_OTHER_PARAMETERS = 1024  # a constant of another operator is worth a line from this size on
_SMALL_INTEGERS = frozenset(
    {ir.DataType.INT8, ir.DataType.UINT8, ir.DataType.INT4, ir.DataType.UINT4, ir.DataType.INT2, ir.DataType.UINT2}
)  # what quantised weights are stored as
_RECURRENT = frozenset({"LSTM", "GRU", "RNN"})
_QUANTISED = frozenset(
    {"QLinearConv", "QLinearMatMul", "ConvInteger", "MatMulInteger", "MatMulNBits", "MatMulBnb4",
     "GatherBlockQuantized", "DynamicQuantizeMatMul", "MatMulIntegerToFloat", "QGemm", "QAttention",
     "DynamicQuantizeLSTM", "MatMulFpQ4", "QEmbedLayerNormalization", "QMoE", "QLinearConvTranspose",
     "MatMulInteger16"}
)  # fmt: skip


@dataclass(frozen=True)
class _Use:
    """One node that uses a weight as a layer does."""

    node: ir.Node
    op: str
    output_axis: int
    bias: str | None
    group: int

    @property
    def role(self) -> tuple[str, int, int]:
        """Nodes with one weight must agree on this to be one layer."""
        return self.op, self.output_axis, self.group


@dataclass
class _Findings:
    """What the walk over the graph collects."""

    weights: dict[ir.Value, list[_Use]] = field(default_factory=dict)  # in execution order
    skipped: list[tuple[str, str, str, int]] = field(default_factory=list)  # name, op, reason, parameters

    def skip(self, node: ir.Node, reason: str, parameters: int | None = None) -> None:
        count = _constants(node) if parameters is None else parameters
        self.skipped.append((node_name(node), node.op_type, reason, count))


def inspect_graph(model: ir.Model, notes: tuple[str, ...] = ()) -> Inspection:
    """Layers in execution order, and what was skipped. `model` must be normalised."""
    found = _Findings()
    for node in model.graph:
        _visit(node, found)
    taken: set[str] = set()
    layers: list[Layer] = []
    for weight, uses in found.weights.items():
        reason = _unusable(weight, uses)
        if reason is not None:
            found.skipped.append((layer_name(uses[0].node, weight), uses[0].op, reason, _size(weight)))
            continue
        layers.append(_layer(unique(layer_name(uses[0].node, weight), taken), weight, uses))
    skipped = tuple(
        Skipped(name=unique(name, taken), op=op, reason=reason, parameters=count)
        for name, op, reason, count in found.skipped
    )
    return Inspection(tuple(layers), skipped, _parameters(model), notes + _foreign_note(model))


def require_layers(inspection: Inspection) -> None:
    """Raises `DataError`, which says why, when nothing in the model can be compressed."""
    if inspection.layers:
        return
    reasons: dict[str, int] = {}
    for skipped in inspection.skipped:
        key = f"{skipped.op}: {skipped.reason}"
        reasons[key] = reasons.get(key, 0) + 1
    if not reasons:
        why = "it has no MatMul, Gemm, Conv, ConvTranspose or embedding with a constant weight"
    else:
        most = sorted(reasons.items(), key=lambda item: -item[1])
        why = "; ".join(f"{count} x {text}" for text, count in most[:3])
        why += f"; and {len(most) - 3} more reasons" if len(most) > 3 else ""
    raise DataError(f"nothing in the model can be compressed ({why}); give the float32 model it was made from, if any")


def _layer(name: str, weight: ir.Value, uses: list[_Use]) -> Layer:
    first = uses[0]
    shape = tuple(int(dim) for dim in weight.const_value.shape.numpy()) if weight.const_value is not None else ()
    biases = {use.bias for use in uses}
    return Layer(
        name=name,
        op=cast(LayerOp, first.op),
        nodes=tuple(str(use.node.name) for use in uses),
        weight=str(weight.name),
        shape=shape,
        output_axis=first.output_axis,
        parameters=_size(weight),
        bias=first.bias if len(biases) == 1 else None,
        group=first.group,
    )


def _unusable(weight: ir.Value, uses: list[_Use]) -> str | None:
    """Why a weight cannot be a layer, None when it can."""
    if weight.is_graph_output():
        return "its weight is also an output of the model"
    if len({use.role for use in uses}) > 1:
        return f"tied: {' and '.join(sorted({use.op for use in uses}))} share its weight in different roles"
    own = {use.node for use in uses}
    others = sorted({node.op_type for node, _ in weight.uses() if node not in own})
    if others:
        return f"tied: its weight is also used by {', '.join(others)}"
    if any(len([1 for n, _ in weight.uses() if n is use.node]) > 1 for use in uses):
        return "its weight is used twice by one node"
    array = None if weight.const_value is None else weight.const_value.numpy()
    if array is None or array.size == 0:
        return "its weight is empty"
    if not np.isfinite(array).all():
        return "its weight holds NaN or infinity"
    return None


def _visit(node: ir.Node, found: _Findings) -> None:
    if node.op_type in _QUANTISED:
        found.skip(node, "already quantised")
    elif node.domain != "":
        if _constants(node):
            found.skip(node, f"operators of the domain {show(node.domain)} pass through untouched")
    elif node.op_type in _RECURRENT:
        found.skip(node, "recurrent operators pass through untouched")
    elif any(
        attribute.type in (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS) for attribute in node.attributes.values()
    ):
        _visit_bodies(node, found)
    elif node.op_type in WEIGHT_INPUT:
        _CLASSIFY[node.op_type](node, found)
    elif node.op_type not in ("DequantizeLinear", "QuantizeLinear"):
        count = _constants(node)
        if count >= _OTHER_PARAMETERS:
            found.skip(node, f"no technique compresses the constants of {node.op_type}", count)


def _visit_bodies(node: ir.Node, found: _Findings) -> None:
    """Whatever would be a layer inside If, Loop or Scan is told, but not searched: it runs 0 to n times per call."""
    inner = _Findings()
    for attribute in node.attributes.values():
        if attribute.type == ir.AttributeType.GRAPH:
            bodies = [attribute.as_graph()]
        elif attribute.type == ir.AttributeType.GRAPHS:
            bodies = list(attribute.as_graphs())
        else:
            continue
        for body in bodies:
            for child in body:
                _visit(child, inner)
    for weight, uses in inner.weights.items():
        reason = f"inside the body of {node.op_type} node {show(str(node.name))}"
        found.skipped.append((layer_name(uses[0].node, weight), uses[0].op, reason, _size(weight)))
    found.skipped.extend(inner.skipped)


def _matmul(node: ir.Node, found: _Findings) -> None:
    left, right = [*node.inputs, None, None][:2]
    if _is_constant(left) and not _is_constant(right):
        if _rank(left) >= 2:
            found.skip(node, "its weight is on the left side")
        return
    if not _weight_found(node, right, found):
        return
    assert right is not None
    if _rank(right) == 2:
        _add(found, right, _Use(node, "MatMul", 1, None, 1))
    else:
        found.skip(node, f"its weight has {_rank(right)} axes, and only matrices are searched")


def _gemm(node: ir.Node, found: _Findings) -> None:
    weight = node.inputs[1] if len(node.inputs) > 1 else None
    if _is_constant(node.inputs[0]) and not _is_constant(weight):
        found.skip(node, "its weight is on the left side")
        return
    if not _weight_found(node, weight, found):
        return
    assert weight is not None
    scaled = any(name in node.attributes and node.attributes[name].as_float() != 1.0 for name in ("alpha", "beta"))
    if scaled or _int(node, "transA", 0):
        found.skip(node, "a Gemm with alpha, beta or transA is not searched")
        return
    _add(found, weight, _Use(node, "Gemm", 0 if _int(node, "transB", 0) else 1, _bias(node), 1))


def _conv(node: ir.Node, found: _Findings) -> None:
    weight = node.inputs[1] if len(node.inputs) > 1 else None
    if _weight_found(node, weight, found):
        assert weight is not None
        axis = 0 if node.op_type == "Conv" else 1
        _add(found, weight, _Use(node, node.op_type, axis, _bias(node), _int(node, "group", 1)))


def _gather(node: ir.Node, found: _Findings) -> None:
    table = node.inputs[0] if node.inputs else None
    if table is None or not _is_float(table):
        return  # shape arithmetic, not an embedding
    if not _is_constant(table) and constant_base(table) is None and not _dequantised(table):
        return  # picks from activations
    if not _weight_found(node, table, found):
        return
    if _rank(table) != 2 or _int(node, "axis", 0) != 0:
        found.skip(node, "only tables with two axes that are read by row are searched", _size(table))
    elif _size(table) < LARGE:
        found.skip(node, f"its table has fewer than {LARGE} elements", _size(table))
    else:
        _add(found, table, _Use(node, "Gather", 0, None, 1))


_CLASSIFY: dict[str, Callable[[ir.Node, _Findings], None]] = {
    "MatMul": _matmul,
    "Gemm": _gemm,
    "Conv": _conv,
    "ConvTranspose": _conv,
    "Gather": _gather,
}


def _weight_found(node: ir.Node, weight: ir.Value | None, found: _Findings) -> bool:
    """True when `weight` is a constant float32 tensor; else the reason is noted where the node holds a weight."""
    if weight is None:
        return False
    if _is_constant(weight):
        if weight.dtype == ir.DataType.FLOAT:
            return True
        if weight.dtype is not None and _holds_weights(weight):
            found.skip(
                node,
                f"its weight is {weight.dtype.name.lower()}, and only float32 is searched",
                _size(weight),
            )
        return False
    reason, parameters = _why_not_constant(node, weight)
    if reason:
        found.skip(node, reason, parameters)
    return False


def _why_not_constant(node: ir.Node, weight: ir.Value) -> tuple[str, int]:
    source = weight.producer()
    base = constant_base(weight)
    if base is not None and _size(base) >= LARGE:
        tied = f"tied: its weight {show(str(base.name))} is also used elsewhere in another form"
        several = len(base.uses()) > 1
        return tied if several else "its weight is computed in the graph from constants", _size(base)
    if _dequantised(weight):
        return "already quantised", _constants_behind(weight)
    if source is not None and source.op_type == "Cast" and _is_constant(source.inputs[0]):
        stored = source.inputs[0]
        kind = "another type" if stored is None or stored.dtype is None else stored.dtype.name.lower()
        return f"its weight is stored as {kind} and cast in the graph", _size(stored)
    is_matrix = node.op_type != "MatMul" or _rank(weight) == 2
    if weight.is_graph_input() and is_matrix:
        return "its weight is an input of the model", 0
    if node.op_type in ("Conv", "ConvTranspose"):
        return "its weight is computed at run time", 0
    return "", 0  # a product of two activations, as in attention


def _dequantised(value: ir.Value) -> bool:
    """True behind DequantizeLinear of a constant, also with Transpose or Reshape between."""
    for _ in range(4):
        source = value.producer()
        if source is None or not source.inputs or source.inputs[0] is None:
            return False
        if source.op_type == "DequantizeLinear":
            return _is_constant(source.inputs[0])
        if source.op_type not in ("Transpose", "Reshape", "Cast", "Identity"):
            return False
        value = source.inputs[0]
    return False


def _constants_behind(value: ir.Value) -> int:
    source = value.producer()
    while source is not None and source.inputs and source.inputs[0] is not None:
        if _is_constant(source.inputs[0]):
            return _size(source.inputs[0])
        source = source.inputs[0].producer()
    return 0


def _add(found: _Findings, weight: ir.Value, use: _Use) -> None:
    found.weights.setdefault(weight, []).append(use)


def _bias(node: ir.Node) -> str | None:
    bias = node.inputs[2] if len(node.inputs) > 2 else None
    return str(bias.name) if bias is not None and _is_constant(bias) else None


def _int(node: ir.Node, name: str, default: int) -> int:
    return node.attributes[name].as_int() if name in node.attributes else default


def _is_constant(value: ir.Value | None) -> bool:
    return value is not None and value.is_initializer() and value.const_value is not None


def _is_float(value: ir.Value) -> bool:
    return value.dtype is not None and value.dtype.is_floating_point()


def _rank(value: ir.Value | None) -> int:
    return -1 if value is None or value.shape is None else len(value.shape)


def _size(value: ir.Value | None) -> int:
    return 0 if value is None or value.const_value is None else int(value.const_value.size)


def _constants(node: ir.Node) -> int:
    """Elements of the float or quantised constants that a node reads directly."""
    return sum(_size(value) for value in set(node.inputs) if value is not None and _holds_weights(value))


def _holds_weights(value: ir.Value) -> bool:
    return _is_constant(value) and (_is_float(value) or value.dtype in _SMALL_INTEGERS)


def _parameters(model: ir.Model) -> int:
    """Elements of all float and small integer constants, subgraphs included."""
    graphs = [model.graph, *model.graph.subgraphs()]
    return sum(_size(v) for graph in graphs for v in graph.initializers.values() if _holds_weights(v))


def _foreign_note(model: ir.Model) -> tuple[str, ...]:
    counts: dict[str, int] = {}
    for node in model.graph.all_nodes():
        if node.domain != "":
            counts[node.domain] = counts.get(node.domain, 0) + 1
    return tuple(
        f"{count} nodes of the domain {show(domain)} pass through untouched" for domain, count in sorted(counts.items())
    )
