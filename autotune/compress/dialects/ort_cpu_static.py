"""Integer computation of dialect `ort-cpu`: products as fused contrib operators, convolutions as Q/DQ.

What must be kept out of ONNX Runtime's way (1.31, `WeightBiasQuantization`): a *float* convolution or Gemm between a
DequantizeLinear with a per-tensor scale and a QuantizeLinear is silently quantised too, weights and all, per tensor.
It leaves such a layer alone when the scale in front of it is a vector. So float layers read a quantised activation
through a DequantizeLinear per channel in which all scales are equal: the same numbers, and the recipe stays true.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx
from onnx import numpy_helper

from autotune.compress.plan import Plan, make_contrib, make_node, rewired
from autotune.layers import Layer

_FUSED_ACTIVATIONS = ("Relu", "Clip")
_AT_RISK = ("Conv", "ConvTranspose", "Gemm")
# Through these ONNX Runtime moves a per-tensor DequantizeLinear forward, up to the layer behind them.
_TRANSPARENT = (
    "Reshape",
    "Transpose",
    "MaxPool",
    "Squeeze",
    "Unsqueeze",
    "Flatten",
    "Slice",
    "Identity",
    "Dropout",
)


# -- MatMul and Gemm


def write_dynamic_products(plan: Plan, layer: Layer) -> None:
    """MatMul or Gemm (and the Add of a bias behind it) becomes DynamicQuantizeMatMul."""
    for node, bias, output in take_products(plan, layer):
        inputs = [node.input[0], f"{layer.name}/weight", f"{layer.name}/scale"]
        inputs += ["", bias] if bias else []
        plan.nodes.append(make_contrib("DynamicQuantizeMatMul", inputs, [output], node.name))


def write_static_products(plan: Plan, layer: Layer) -> None:
    """MatMul or Gemm (and the Add of a bias behind it) becomes QuantizeLinear + MatMulIntegerToFloat."""
    for node, bias, output in take_products(plan, layer):
        source = node.input[0]
        scale, zero, levels = quantise_once(plan, source, layer)
        inputs = [levels, f"{layer.name}/weight", scale, f"{layer.name}/scale", zero]
        inputs += ["", bias] if bias else []
        plan.nodes.append(make_contrib("MatMulIntegerToFloat", inputs, [output], node.name))


def quantise_once(plan: Plan, tensor: str, layer: Layer) -> tuple[str, str, str]:
    """Names of (scale, zero point, uint8 levels) of an activation; emits its QuantizeLinear the first time."""
    levels = f"{tensor}:levels"
    scale, zero = _scale_of(plan, tensor, layer)
    if levels not in plan.made:
        plan.made.add(levels)
        plan.nodes.append(make_node("QuantizeLinear", [tensor, scale, zero], [levels], f"{tensor}:quantize"))
    return scale, zero, levels


def _scale_of(plan: Plan, tensor: str, layer: Layer) -> tuple[str, str]:
    scale, zero = plan.range_of(tensor, layer).uint8()
    return plan.add(f"{tensor}:scale", np.array(scale)), plan.add(f"{tensor}:zero", np.array(zero))


def take_products(plan: Plan, layer: Layer) -> list[tuple[onnx.NodeProto, str, str]]:
    """Remove the layer's products, with the bias Add that follows: (node, bias or "", output name) each."""
    own = set(layer.nodes)
    consumers, outputs = plan.consumers(), plan.output_names()
    taken: list[tuple[onnx.NodeProto, str, str]] = []
    gone: set[str] = set()
    for node in plan.nodes:
        if node.name not in own:
            continue
        gone.add(node.name)
        width = layer.shape[layer.output_axis]
        bias = node.input[2] if node.op_type == "Gemm" and len(node.input) > 2 else ""
        if bias and not _is_row(plan, bias, width):
            target = f"{node.name}/product"
            plan.nodes = [
                *plan.nodes,
                make_node("Add", [target, bias], [node.output[0]], f"{node.name}/bias"),
            ]
            taken.append((node, "", target))
            continue
        output = node.output[0]
        follower = consumers.get(output, [])
        if not bias and output not in outputs and len(follower) == 1 and follower[0].op_type == "Add":
            other = next((name for name in follower[0].input if name != output), "")
            if _is_row(plan, other, width):
                bias, output = other, follower[0].output[0]
                gone.add(follower[0].name)
        taken.append((node, bias, output))
    plan.nodes = [node for node in plan.nodes if node.name not in gone]
    return taken


def _is_row(plan: Plan, name: str, width: int) -> bool:
    """A constant float vector of `width`: what the fused kernels take as bias."""
    tensor = plan.tensors.get(name)
    return tensor is not None and tensor.data_type == onnx.TensorProto.FLOAT and list(tensor.dims) == [width]


# -- convolutions


def write_convolutions(plan: Plan, chosen: Mapping[str, Layer]) -> None:
    """Put Q/DQ around the chosen convolutions, so that they and nothing else run as QLinearConv."""
    owner = {node: layer for layer in chosen.values() for node in layer.nodes}
    consumers, outputs = plan.consumers(), plan.output_names()
    kept = _kept_activations(plan.nodes, owner, consumers, outputs)
    before = list(plan.nodes)
    plan.nodes = []
    for node in before:
        if node.op_type == "QuantizeLinear" and node.input[0] in kept:
            continue  # written for a product already; the activation's producer makes its levels now
        if node.name in owner:
            node = _convolution(plan, node, owner[node.name])
        else:
            risky = {t for t in node.input if t in kept and _meets_float_layer(node, consumers, owner, t)}
            for tensor in sorted(risky):
                _dequantise_per_channel(plan, tensor, *kept[tensor])
            node = rewired(node, {t: f"{t}:per-channel" for t in risky}) if risky else node
        made = {t: f"{t}:raw" for t in node.output if t in kept}
        plan.nodes.append(rewired(node, {}, made) if made else node)
        for tensor in made:
            _quantise_at_producer(plan, tensor, kept[tensor][1])
    read = {name for node in plan.nodes for name in node.input} | outputs
    for tensor in kept:
        if tensor in read:
            inputs = [f"{tensor}:levels", f"{tensor}:scale", f"{tensor}:zero"]
            plan.nodes.append(make_node("DequantizeLinear", inputs, [tensor], f"{tensor}:dequantize"))


def _kept_activations(
    nodes: list[onnx.NodeProto],
    owner: Mapping[str, Layer],
    consumers: Mapping[str, list[onnx.NodeProto]],
    outputs: set[str],
) -> dict[str, tuple[int, Layer]]:
    """Activations that exist as uint8 only: outputs of the chosen convolutions, behind a Relu or Clip that only reads
    them (the kernel does those by its output range). Tensor -> (channels, layer)."""
    kept: dict[str, tuple[int, Layer]] = {}
    for node in nodes:
        if node.name not in owner:
            continue
        tensor = node.output[0]
        readers = consumers.get(tensor, [])
        if tensor not in outputs and len(readers) == 1 and readers[0].op_type in _FUSED_ACTIVATIONS:
            tensor = readers[0].output[0]
        kept[tensor] = (owner[node.name].shape[0], owner[node.name])
    return kept


def _quantise_at_producer(plan: Plan, tensor: str, layer: Layer) -> None:
    scale, zero = _scale_of(plan, tensor, layer)
    levels = f"{tensor}:levels"
    plan.made.add(levels)
    plan.nodes.append(make_node("QuantizeLinear", [f"{tensor}:raw", scale, zero], [levels], f"{tensor}:quantize"))


def _dequantise_per_channel(plan: Plan, tensor: str, channels: int, layer: Layer) -> None:
    target = f"{tensor}:per-channel"
    if target in plan.made:
        return
    plan.made.add(target)
    scale, zero = plan.range_of(tensor, layer).uint8()
    scales = plan.add(f"{tensor}:scales", np.full(channels, scale))
    zeros = plan.add(f"{tensor}:zeros", np.full(channels, zero))
    name = f"{tensor}:dequantize-per-channel"
    plan.nodes.append(make_node("DequantizeLinear", [f"{tensor}:levels", scales, zeros], [target], name, axis=1))


def _convolution(plan: Plan, node: onnx.NodeProto, layer: Layer) -> onnx.NodeProto:
    """The convolution reading dequantised input, weight and bias, whose nodes are emitted."""
    source, p = node.input[0], node.name
    scale, zero, levels = quantise_once(plan, source, layer)
    reads = {source: f"{p}/input", layer.weight: f"{p}/weight-real"}
    _dequantise(plan, [levels, scale, zero], reads[source])
    _dequantise(plan, [f"{layer.name}/weight", f"{layer.name}/scale"], reads[layer.weight], axis=0)
    if len(node.input) > 2 and node.input[2]:
        bias = node.input[2]
        step = numpy_helper.to_array(plan.tensors[f"{layer.name}/scale"]) * numpy_helper.to_array(plan.tensors[scale])
        step = np.maximum(step.astype(np.float32), np.finfo(np.float32).tiny)
        values = numpy_helper.to_array(plan.tensors[bias]).astype(np.float64) / step
        limit = np.iinfo(np.int32).max
        steps = plan.add(f"{p}/bias-scale", step)
        rounded = plan.add(f"{p}/bias-levels", np.clip(np.rint(values), -limit, limit).astype(np.int32))
        reads[bias] = f"{p}/bias-real"
        _dequantise(plan, [rounded, steps], reads[bias], axis=0)
    return rewired(node, reads)


def _dequantise(plan: Plan, inputs: list[str], target: str, **attributes: int) -> None:
    plan.nodes.append(make_node("DequantizeLinear", inputs, [target], f"{target}/dequantize", **attributes))


def _meets_float_layer(
    node: onnx.NodeProto,
    consumers: Mapping[str, list[onnx.NodeProto]],
    owner: Mapping[str, Layer],
    tensor: str,
) -> bool:
    """Whether a float convolution or Gemm reads `tensor` here, directly or through reshaping nodes."""
    if node.op_type in _AT_RISK and node.name not in owner:
        return node.input[0] == tensor
    if node.op_type not in _TRANSPARENT:
        return False
    result = node.output[0]
    return any(_meets_float_layer(reader, consumers, owner, result) for reader in consumers.get(result, []))
