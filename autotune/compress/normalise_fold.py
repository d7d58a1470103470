"""Fold what is constant around weights: chains of Transpose, Reshape or weight norm before, BatchNormalization after.

Exporters put `Transpose(weight)` before MatMul; a quantiser needs the weight itself. Folding keeps sharing: a weight
that something else also uses stays one tensor (a tied embedding would double otherwise).
"""

from __future__ import annotations

import hashlib
import math
from collections import defaultdict
from collections.abc import Iterator

import numpy as np
import onnx
import onnx_ir as ir

WEIGHT_INPUT = {"MatMul": 1, "Gemm": 1, "Conv": 1, "ConvTranspose": 1, "Gather": 0}
ORIGIN = "autotune.origin"  # Value.meta: name of the initializer that a folded weight came from
LARGE = 256  # elements from which a constant counts as a weight
MAX_CHAIN = 8  # nodes between an initializer and its use; a hostile graph must cost neither stack nor time

_FOLDABLE = frozenset(
    {"Transpose", "Reshape", "Squeeze", "Unsqueeze", "Flatten", "Identity", "Concat",
     "Add", "Sub", "Mul", "Div", "Sqrt", "Pow", "ReduceL2", "ReduceSum"}
)  # fmt: skip
_BROADCASTING = frozenset({"Add", "Sub", "Mul", "Div", "Pow"})


def constant_base(value: ir.Value | None, depth: int = MAX_CHAIN) -> ir.Value | None:
    """The largest initializer that `value` is computed from by foldable operators; None if it is no such constant."""
    if value is None or depth == 0:
        return None
    if value.is_initializer() and value.const_value is not None:
        return value
    node = value.producer()
    if node is None or node.domain != "" or node.op_type not in _FOLDABLE or len(node.outputs) != 1:
        return None
    bases = []
    for given in node.inputs:
        if given is not None:
            base = constant_base(given, depth - 1)
            if base is None:
                return None
            bases.append(base)
    return max(bases, key=_size, default=None)


def _size(value: ir.Value) -> int:
    return 0 if value.const_value is None else value.const_value.size


def fold_weights(model: ir.Model) -> int:
    """Replace constant chains that feed a layer's weight by one initializer each; returns how many were folded."""
    chains: dict[ir.Value, list[ir.Value]] = defaultdict(list)
    for node in model.graph:
        index = WEIGHT_INPUT.get(node.op_type)
        if node.domain != "" or index is None or index >= len(node.inputs):
            continue
        value = node.inputs[index]
        if value is None or value.is_initializer() or value.is_graph_output():
            continue
        base = constant_base(value)
        if base is not None and _size(base) and _is_float(base) and value not in chains[base]:
            chains[base].append(value)
    return sum(_fold_base(model, base, values) for base, values in chains.items())


def _is_float(value: ir.Value) -> bool:
    return value.dtype is not None and value.dtype.is_floating_point()


def _fold_base(model: ir.Model, base: ir.Value, values: list[ir.Value]) -> int:
    """Fold the chains that start at `base`, unless that would keep `base` beside a changed copy of it."""
    used_elsewhere = base.is_graph_output() or not set(_leaves(base)) <= set(values)
    if used_elsewhere and _size(base) >= LARGE:
        return 0
    arrays = [array for value in values if (array := _evaluate(model, value, 2 * _size(base))) is not None]
    keys = [(array.dtype.str, array.shape, hashlib.sha256(array.tobytes()).digest()) for array in arrays]
    if len(arrays) != len(values) or (len(set(keys)) > 1 and _size(base) >= LARGE):
        return 0
    made: dict[tuple[str, tuple[int, ...], bytes], ir.Value] = {}
    for value, array, key in zip(values, arrays, keys, strict=True):
        if key not in made:
            made[key] = add_initializer(model.graph, f"{value.name}_folded", array)
            made[key].meta[ORIGIN] = base.name
        value.replace_all_uses_with(made[key])
    return len(values)


def _leaves(value: ir.Value, depth: int = MAX_CHAIN) -> Iterator[ir.Value]:
    """Where the foldable chains that start at `value` end: values with a use that cannot be folded."""
    for node, _ in value.uses():
        foldable = node.domain == "" and node.op_type in _FOLDABLE and constant_base(node.outputs[0]) is not None
        if foldable and depth and not value.is_graph_output():
            yield from _leaves(node.outputs[0], depth - 1)
        else:
            yield value


def _evaluate(model: ir.Model, value: ir.Value, limit: int) -> np.ndarray | None:
    """Compute a constant chain with the reference implementation of ONNX; None if a step fails or exceeds `limit`."""
    if value.is_initializer() and value.const_value is not None:
        return np.asarray(value.const_value.numpy())
    node = value.producer()
    assert node is not None  # constant_base found the chain
    given = [None if item is None else _evaluate(model, item, limit) for item in node.inputs]
    arrays = [array for array in given if array is not None]
    if len(arrays) != sum(item is not None for item in node.inputs):
        return None
    try:
        if node.op_type in _BROADCASTING and math.prod(np.broadcast_shapes(*[a.shape for a in arrays])) > limit:
            return None
        with np.errstate(all="ignore"):
            result = _run_node(model, node, arrays)
    except (ValueError, IndexError, TypeError, RuntimeError, MemoryError):
        return None  # onnxruntime will refuse the node where it stands
    return result if result.size <= limit else None


def _run_node(model: ir.Model, node: ir.Node, arrays: list[np.ndarray]) -> np.ndarray:
    from onnx.reference import ReferenceEvaluator  # slow to import, rarely needed

    names = [str(item.name) for item in node.inputs if item is not None]
    graph = onnx.helper.make_graph(
        [ir.serde.serialize_node(node)],
        "fold",
        [onnx.helper.make_value_info(name, onnx.TypeProto()) for name in dict.fromkeys(names)],
        [onnx.helper.make_value_info(str(node.outputs[0].name), onnx.TypeProto())],
    )
    opset = onnx.helper.make_opsetid("", model.opset_imports[""])
    evaluator = ReferenceEvaluator(onnx.helper.make_model(graph, opset_imports=[opset]))
    (result,) = evaluator.run(None, dict(zip(names, arrays, strict=True)))
    return np.asarray(result, order="C")


def add_initializer(graph: ir.Graph, name: str, array: np.ndarray) -> ir.Value:
    """Register `array` under `name`, with underscores appended until no initializer has that name."""
    while name in graph.initializers:
        name += "_"
    value = ir.Value(name=name, const_value=ir.tensor(array, name=name))
    value.type, value.shape = ir.TensorType(ir.DataType.from_numpy(array.dtype)), ir.Shape(array.shape)
    graph.register_initializer(value)
    return value


def fold_batchnorm(model: ir.Model) -> int:
    """Fold BatchNormalization (inference) into the Conv before it where only it reads the Conv; returns how many."""
    folded = 0
    for node in list(model.graph):
        if node.op_type == "BatchNormalization" and node.domain == "" and _fold_one(model.graph, node):
            folded += 1
    return folded


def _fold_one(graph: ir.Graph, norm: ir.Node) -> bool:
    conv = norm.inputs[0].producer() if norm.inputs and norm.inputs[0] is not None else None
    if conv is None or conv.op_type != "Conv" or conv.domain != "" or conv.graph is not graph or not _alone(conv, norm):
        return False
    weight = _array(conv.inputs[1])
    if weight is None or weight.ndim < 3:
        return False
    channels = (weight.shape[0],)
    bias = np.zeros(channels, np.float32) if len(conv.inputs) < 3 or conv.inputs[2] is None else _array(conv.inputs[2])
    arrays = [array for array in (*(_array(v) for v in norm.inputs[1:5]), bias) if array is not None]
    if len(arrays) != 5 or any(array.shape != channels for array in arrays):
        return False
    epsilon = norm.attributes["epsilon"].as_float() if "epsilon" in norm.attributes else 1e-5
    with np.errstate(all="ignore"):
        gamma, beta, mean, variance, old = (array.astype(np.float64) for array in arrays)
        scale = gamma / np.sqrt(variance + epsilon)
        shift = (beta + (old - mean) * scale).astype(np.float32)
        scaled = (weight * scale.reshape(-1, *[1] * (weight.ndim - 1))).astype(np.float32)
    if not (np.isfinite(scaled).all() and np.isfinite(shift).all()):
        return False
    _write(graph, norm, conv, scaled, shift)
    return True


def _alone(conv: ir.Node, norm: ir.Node) -> bool:
    """True when only `norm`, in inference mode, reads `conv`, and only `conv` reads its weight."""
    training = "training_mode" in norm.attributes and norm.attributes["training_mode"].as_int() != 0
    spatial = "spatial" not in norm.attributes or norm.attributes["spatial"].as_int() == 1
    extra = any(output.uses() or output.is_graph_output() for output in norm.outputs[1:])
    if training or extra or not spatial or len(conv.inputs) < 2:
        return False
    output, weight = conv.outputs[0], conv.inputs[1]
    if len(output.uses()) != 1 or output.is_graph_output():
        return False
    return weight is not None and len(weight.uses()) == 1 and not weight.is_graph_output()  # shared stays shared


def _write(graph: ir.Graph, norm: ir.Node, conv: ir.Node, weight: np.ndarray, bias: np.ndarray) -> None:
    old = conv.inputs[1]
    assert old is not None and old.name is not None
    old_name = old.name
    stem = old_name.removesuffix(".weight")
    conv.resize_inputs(3)
    new_bias = add_initializer(graph, f"{stem}.folded_bias", bias)
    conv.replace_input_with(2, new_bias)
    new_weight = add_initializer(graph, f"{old_name}.folded", weight)
    new_weight.meta[ORIGIN] = old.meta.get(ORIGIN, old_name)
    conv.replace_input_with(1, new_weight)
    # The Conv takes over the name of what the BatchNormalization gave, so that graph outputs keep their names.
    output, result = conv.outputs[0], norm.outputs[0]
    name, shape, kind = result.name, result.shape, result.type
    result.replace_all_uses_with(output, replace_graph_outputs=True)
    graph.remove(norm, safe=True)
    output.name, output.shape, output.type = name, shape, kind


def _array(value: ir.Value | None) -> np.ndarray | None:
    """The float32 array of an initializer, else None."""
    if value is None or not value.is_initializer() or value.const_value is None or value.dtype != ir.DataType.FLOAT:
        return None
    return np.asarray(value.const_value.numpy())
