"""Technique `simplify`: exact rewrites that a runtime does not do by itself. No accuracy is traded.

Per recipe all of it or nothing (one decision, `graph: exact`), so a front shows what it alone buys:

* constant Mul, Div, Add and Sub behind a convolution go into its weights and bias;
* constant scales, and where nothing is padded constant shifts, in front of a convolution go into the convolution;
* `x * Clip(x + 3, 0, 6) / 6`, as exporters write hard-swish, becomes `x * HardSigmoid(x)`: two kernels, not four.

The results differ from the original by float32 rounding only; weights are multiplied in float64.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Literal

import numpy as np
import onnx
from onnx import helper, numpy_helper

from autotune.layers import Layer, Skipped
from autotune.techniques.moments import Moments
from autotune.techniques.protocol import Calibration, Capabilities, Plan, Stage

GRAPH = "graph"
EXACT = "exact"
_LINEAR = ("Mul", "Div", "Add", "Sub")


class Simplify:
    """See the module."""

    name = "simplify"
    stage: Stage = "rewrite"
    scope: Literal["layer", "graph"] = "graph"
    calibration: Calibration | None = None
    needs_moments = False

    def survey(self, plan: Plan) -> Sequence[Skipped]:
        """Nothing that inspection has not told."""
        return ()

    def choices(self, layer: Layer, capabilities: Capabilities) -> Sequence[str]:
        """Nothing per layer: the decision is one for the whole graph."""
        return ()

    def uniform(self, offered: Mapping[str, Sequence[str]]) -> list[tuple[str, dict[str, str]]]:
        """All rewrites."""
        return [(EXACT, {GRAPH: EXACT})]

    def apply(self, plan: Plan, decisions: Mapping[str, str]) -> None:
        """Rewrite until nothing changes any more."""
        if decisions.get(GRAPH) != EXACT:
            return
        while _fold_behind(plan) or _fold_hard_swish(plan) or _fold_in_front(plan):
            pass


# -- affine nodes behind a convolution


def _fold_behind(plan: Plan) -> bool:
    """Fold one constant node that alone reads a convolution's output into the convolution."""
    consumers, outputs = plan.consumers(), plan.output_names()
    for node in plan.nodes:
        if not _foldable(plan, node, consumers):
            continue
        readers = consumers.get(node.output[0], [])
        if len(readers) != 1 or node.output[0] in outputs or readers[0].op_type not in _LINEAR:
            continue
        channels = int(plan.tensors[node.input[1]].dims[0])
        found = _affine(plan, readers[0], node.output[0], channels)
        if found is None:
            continue
        scale, shift = found
        weight = _array(plan, node.input[1])
        shape = [-1] + [1] * (weight.ndim - 1)
        bias = _bias(plan, node, channels)
        _rewrite(plan, node, weight * scale.reshape(shape), bias * scale + shift, output=readers[0].output[0])
        _replace(plan, readers[0])
        return True
    return False


# -- affine nodes in front of a convolution


def _fold_in_front(plan: Plan) -> bool:
    """Fold one constant node whose only reader is a convolution into it; a shift only where nothing is padded.

    s x + b in front of a padded convolution becomes x + b / s with s in the weights: one node fewer.
    """
    consumers, outputs = plan.consumers(), plan.output_names()
    producers = {name: node for node in plan.nodes for name in node.output}
    for node in plan.nodes:
        before = producers.get(node.input[0]) if node.input else None
        if not _foldable(plan, node, consumers) or before is None or before.op_type not in _LINEAR:
            continue
        tensor = node.input[0]
        if len(consumers.get(tensor, [])) != 1 or tensor in outputs:
            continue
        source = next((name for name in before.input if name not in plan.tensors), "")
        group = _group(node)
        channels = int(plan.tensors[node.input[1]].dims[1]) * group
        found = _affine(plan, before, source, channels) if source else None
        if found is None:
            continue
        scale, shift = found
        if np.any(shift != 0) and not _is_unpadded(node):
            if _swap_scale_and_shift(plan, before, source, shift, consumers, producers, channels):
                return True
            continue
        weight = _array(plan, node.input[1])
        outputs_per_group = weight.shape[0] // group
        by_group = np.repeat(scale.reshape(group, -1), outputs_per_group, axis=0)
        moved = np.repeat(shift.reshape(group, -1), outputs_per_group, axis=0)
        kernel = weight.reshape(weight.shape[0], weight.shape[1], -1).sum(axis=2)
        bias = _bias(plan, node, weight.shape[0]) + (kernel * moved).sum(axis=1)
        scaled = weight * by_group.reshape(*by_group.shape, *[1] * (weight.ndim - 2))
        _rewrite(plan, node, scaled, bias, source=source)
        _replace(plan, before)
        _move_moments(plan, node, scale.reshape(group, -1), shift.reshape(group, -1))
        return True
    return False


def _move_moments(plan: Plan, node: onnx.NodeProto, scale: np.ndarray, shift: np.ndarray) -> None:
    """What the convolution reads now is (x - shift) / scale, float64 [groups, channels] each."""
    for layer in (each for each in plan.layers.values() if node.name in each.nodes):
        before = plan.moments(layer.name)
        if before is None:
            continue
        if np.any(scale == 0):
            plan.set_moments(layer.name, None)  # what the scale has hidden was never seen
            continue
        kernel = before.mean.shape[1] // scale.shape[1]
        by, moved = (np.repeat(each, kernel, axis=1) for each in (scale, shift))
        mean = before.mean.astype(np.float64)
        cross = moved[:, :, None] * mean[:, None, :]
        gram = before.gram - cross - cross.transpose(0, 2, 1) + moved[:, :, None] * moved[:, None, :]
        there = Moments(gram.astype(np.float32), (mean - moved).astype(np.float32), before.rows)
        plan.set_moments(layer.name, there.scale(1 / by))


def _swap_scale_and_shift(
    plan: Plan,
    add: onnx.NodeProto,
    source: str,
    shift: np.ndarray,
    consumers: Mapping[str, list[onnx.NodeProto]],
    producers: Mapping[str, onnx.NodeProto],
    channels: int,
) -> bool:
    """s x, then + b, becomes x + b / s, then s: the scale now stands next to the convolution and can be folded."""
    multiply = producers.get(source)
    if multiply is None or multiply.op_type not in ("Mul", "Div") or len(consumers.get(source, [])) != 1:
        return False
    inner = next((name for name in multiply.input if name not in plan.tensors), "")
    found = _affine(plan, multiply, inner, channels) if inner else None
    if found is None or np.any(np.abs(found[0]) < 1e-6):
        return False
    scale = found[0]
    rank = max(len(plan.tensors[name].dims) for n in (multiply, add) for name in n.input if name in plan.tensors)
    per_channel = np.ptp(scale) > 0 or np.ptp(shift) > 0
    if per_channel and rank < 2:
        return False
    shape = [1, -1, *[1] * (rank - 2)] if per_channel else [1]
    values = {"shift": shift / scale, "scale": scale}
    names = {part: f"{add.name}:{part}" for part in values}
    for part, value in values.items():
        whole = value if per_channel else value[:1]
        plan.tensors[names[part]] = numpy_helper.from_array(whole.astype(np.float32).reshape(shape), names[part])
    shifted = f"{source}:shifted"
    _replace(plan, multiply, helper.make_node("Add", [inner, names["shift"]], [shifted], name=multiply.name))
    _replace(plan, add, helper.make_node("Mul", [shifted, names["scale"]], [add.output[0]], name=add.name))
    return True


# -- hard-swish


def _fold_hard_swish(plan: Plan) -> bool:
    """x * Clip(x + 3, 0, 6) / 6 -> x * HardSigmoid(x; 1/6, 1/2)."""
    consumers, outputs = plan.consumers(), plan.output_names()
    producers = {name: node for node in plan.nodes for name in node.output}
    for clip in plan.nodes:
        if clip.op_type != "Clip" or [_scalar(plan, n) for n in clip.input[1:3]] != [0.0, 6.0]:
            continue
        add = producers.get(clip.input[0])
        if add is None or add.op_type != "Add" or len(consumers.get(add.output[0], [])) != 1:
            continue
        x = next((name for name in add.input if name not in plan.tensors), "")
        if not x or 3.0 not in [_scalar(plan, name) for name in add.input]:
            continue
        chain = _times_x_over_six(plan, clip, x, consumers)
        if chain is None or any(node.output[0] in outputs for node in (add, clip, chain[0])):
            continue
        gate = f"{clip.output[0]}:gate"
        for node in (add, clip, chain[0]):
            _replace(plan, node)
        _replace(
            plan,
            chain[1],
            helper.make_node("HardSigmoid", [x], [gate], name=f"{clip.name}:gate", alpha=1 / 6, beta=0.5),
            helper.make_node("Mul", [x, gate], [chain[1].output[0]], name=chain[1].name),
        )
        return True
    return False


def _times_x_over_six(
    plan: Plan, clip: onnx.NodeProto, x: str, consumers: Mapping[str, list[onnx.NodeProto]]
) -> tuple[onnx.NodeProto, onnx.NodeProto] | None:
    """The two nodes behind the Clip that multiply by x and divide by 6, in either order."""
    first = _only(consumers.get(clip.output[0], []))
    second = _only(consumers.get(first.output[0], [])) if first is not None else None
    if first is None or second is None:
        return None
    times = [n for n in (first, second) if n.op_type == "Mul" and x in n.input]
    sixth = [n for n in (first, second) if n not in times and _divides_by_six(plan, n)]
    return (first, second) if len(times) == 1 and len(sixth) == 1 else None


def _divides_by_six(plan: Plan, node: onnx.NodeProto) -> bool:
    if node.op_type == "Div":
        return _scalar(plan, node.input[1]) == 6.0
    values = [v for name in node.input if (v := _scalar(plan, name)) is not None]
    return node.op_type == "Mul" and len(values) == 1 and abs(values[0] * 6 - 1) < 1e-6


# -- reading and writing


def _foldable(plan: Plan, node: onnx.NodeProto, consumers: Mapping[str, list[onnx.NodeProto]]) -> bool:
    """A convolution whose float32 weight nobody else reads."""
    if node.op_type != "Conv" or node.domain or node.input[1] not in plan.tensors:
        return False
    if plan.tensors[node.input[1]].data_type != onnx.TensorProto.FLOAT:
        return False
    if len(node.input) > 2 and node.input[2] and node.input[2] not in plan.tensors:
        return False
    return len(consumers.get(node.input[1], [])) == 1


def _affine(plan: Plan, node: onnx.NodeProto, tensor: str, channels: int) -> tuple[np.ndarray, np.ndarray] | None:
    """The node as scale * tensor + shift, float64 [channels] each; None if it is not constant per channel."""
    other = [name for name in node.input if name != tensor]
    if node.op_type not in _LINEAR or len(other) != 1 or other[0] not in plan.tensors:
        return None
    constant = _array(plan, other[0])
    one, nothing = np.ones(channels), np.zeros(channels)
    if constant.size == 1:
        value = np.full(channels, constant.reshape(()))
    elif constant.ndim in (3, 4) and constant.shape[-constant.ndim + (constant.ndim == 4) :][0] == channels:
        value = constant.reshape(-1)
        if value.size != channels:
            return None
    else:
        return None
    reversed_order = node.input[0] != tensor
    if node.op_type == "Mul":
        return value, nothing
    if node.op_type == "Add":
        return one, value
    if node.op_type == "Sub":
        return (-one, value) if reversed_order else (one, -value)
    return None if reversed_order or np.any(value == 0) else (1 / value, nothing)


def _rewrite(
    plan: Plan,
    node: onnx.NodeProto,
    weight: np.ndarray,
    bias: np.ndarray,
    *,
    source: str | None = None,
    output: str | None = None,
) -> None:
    """Give a convolution new weights and bias (kept under the weight's name), and other neighbours."""
    name = f"{node.name}:bias"
    plan.tensors[node.input[1]] = numpy_helper.from_array(weight.astype(np.float32), node.input[1])
    plan.tensors[name] = numpy_helper.from_array(bias.astype(np.float32), name)
    changed = onnx.NodeProto()
    changed.CopyFrom(node)
    changed.input[:] = [source or node.input[0], node.input[1], name]
    changed.output[:] = [output or node.output[0]]
    _replace(plan, node, changed)
    for layer in [each for each in plan.layers.values() if node.name in each.nodes]:
        plan.layers[layer.name] = replace(layer, bias=name)


def _replace(plan: Plan, old: onnx.NodeProto, *new: onnx.NodeProto) -> None:
    """Put `new` in the place of `old`. By identity: comparing messages field by field would cost seconds."""
    at = next(i for i, node in enumerate(plan.nodes) if node is old)
    plan.nodes[at : at + 1] = new


def _bias(plan: Plan, node: onnx.NodeProto, channels: int) -> np.ndarray:
    given = node.input[2] if len(node.input) > 2 else ""
    return _array(plan, given) if given else np.zeros(channels)


def _array(plan: Plan, name: str) -> np.ndarray:
    """A constant in float64."""
    return numpy_helper.to_array(plan.tensors[name]).astype(np.float64)


def _scalar(plan: Plan, name: str) -> float | None:
    tensor = plan.tensors.get(name)
    if tensor is None or int(np.prod(tensor.dims)) != 1 or tensor.data_type != onnx.TensorProto.FLOAT:
        return None
    return float(numpy_helper.to_array(tensor).reshape(()))


def _group(node: onnx.NodeProto) -> int:
    return next((int(a.i) for a in node.attribute if a.name == "group"), 1)


def _is_unpadded(node: onnx.NodeProto) -> bool:
    for given in node.attribute:
        if given.name == "auto_pad" and given.s not in (b"NOTSET", b"VALID"):
            return False
        if given.name == "pads" and any(given.ints):
            return False
    return True


def _only(nodes: Sequence[onnx.NodeProto]) -> onnx.NodeProto | None:
    return nodes[0] if len(nodes) == 1 else None
