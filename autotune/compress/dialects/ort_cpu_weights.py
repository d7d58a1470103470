"""Weights of dialect `ort-cpu`: expanded when the model is loaded, or packed for kernels that read them as they are.

Expansion uses Cast, Mul and friends on constants and never DequantizeLinear: ONNX Runtime folds the former when a
session opens, so nothing of it runs per inference and the float graph keeps all its fusions, while it leaves
DequantizeLinear in place, to be run every time.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from autotune.compress.plan import Plan, make_contrib, make_node, rewired
from autotune.layers import Layer
from autotune.techniques.matrices import from_matrix
from autotune.techniques.nodes import attribute
from autotune.techniques.quantize import parse_choice
from autotune.techniques.rounding import CHANNEL, NF4, Blocks, Codebook, Grid, Steps, in_blocks, pack_bits

_Step = tuple[str, list[str], dict[str, Any]]  # operator, further inputs, attributes

# MatMulNBits computes with int8 activations at level 4; at the default 0 it is several times slower.
ACCURACY_LEVEL = 4


def tensors(layer: Layer, parts: Mapping[str, np.ndarray]) -> list[onnx.TensorProto]:
    """Arrays as initializers named `<layer.name>/<part>`."""
    return [numpy_helper.from_array(np.ascontiguousarray(a), f"{layer.name}/{part}") for part, a in parts.items()]


def inner_outer(layer: Layer, weight: np.ndarray) -> np.ndarray:
    """The weight of a product as [inner, outer], whichever way it is stored."""
    return weight if layer.output_axis == 1 else weight.T


def grid_of(layer: Layer, choice: str) -> tuple[Grid, int]:
    """The grid that `choice` rounds to and the length of its blocks."""
    row = layer.parameters // layer.shape[layer.output_axis]
    if choice.startswith("int8"):
        return CHANNEL, row
    bits, block = parse_choice(choice)
    if not choice.endswith("-load"):
        return Steps(bits), block
    if block == 0:
        return CHANNEL, row
    return NF4 if choice.startswith("nf4") else Steps(bits), min(block, _even(row))


# -- expanded when the model is loaded


def pack_float16(layer: Layer, weight: np.ndarray) -> list[onnx.TensorProto]:
    """Half precision, clipped to its range so that no weight becomes infinite."""
    limit = np.finfo(np.float16).max
    return tensors(layer, {"half": np.clip(weight, -limit, limit).astype(np.float16)})


def write_float16(plan: Plan, layer: Layer) -> None:
    """Weight = Cast(half)."""
    expanded = f"{layer.name}/expanded"
    plan.nodes.append(
        make_node("Cast", [f"{layer.name}/half"], [expanded], f"{layer.name}/expand", to=TensorProto.FLOAT)
    )
    _use(plan, layer, expanded)


def pack_expanded(layer: Layer, bits: int, made: Blocks) -> list[onnx.TensorProto]:
    """8 bit per channel, or 4 and 2 bit in blocks along everything but the output axis. Levels of a codebook are
    stored as indices."""
    if bits == 8:
        shape = [1] * len(layer.shape)
        shape[layer.output_axis] = -1
        return tensors(layer, {"levels": stored_levels(layer, made), "scale": made.scales.reshape(shape)})
    scales = made.scales[..., None]
    if bits == 4:
        flat = made.levels.reshape(-1)
        packed = helper.make_tensor(
            f"{layer.name}/levels",
            TensorProto.UINT4 if isinstance(made.grid, Codebook) else TensorProto.INT4,
            made.levels.shape,
            pack_bits((flat & 0xF).astype(np.uint8), 4).tobytes(),
            raw=True,
        )
        return [packed, *tensors(layer, {"scale": scales})]
    codes = pack_bits((made.levels + 2).astype(np.uint8), 2)
    return tensors(layer, {"levels": codes[..., None], "scale": scales})


def stored_levels(layer: Layer, made: Blocks) -> np.ndarray:
    """int8 levels of one block per channel, in the order of the weight as it is stored."""
    return from_matrix(layer, made.levels[:, 0, :], layer.shape).astype(np.int8)


def write_expanded(plan: Plan, layer: Layer, choice: str) -> None:
    """Weight = levels * scale, brought back to its shape, all of it folded when the session opens."""
    p = layer.name
    bits, block = parse_choice(choice)
    if bits == 8:
        _chain(plan, layer, [("Cast", [], {"to": TensorProto.FLOAT}), ("Mul", [f"{p}/scale"], {})])
        return
    outputs = layer.shape[layer.output_axis]
    length = layer.parameters // outputs
    size = min(block, _even(length))
    blocks = -(-length // size)
    steps: list[_Step] = []
    if bits == 2:
        shape = plan.add(f"{p}/blocked", np.array([outputs, blocks, size], np.int64))
        steps += [
            (
                "BitShift",
                [plan.add("two-bit/shifts", np.array([0, 2, 4, 6], np.uint8))],
                {"direction": "RIGHT"},
            ),
            ("BitwiseAnd", [plan.add("two-bit/mask", np.array(3, np.uint8))], {}),
            ("Cast", [], {"to": TensorProto.FLOAT}),
            ("Sub", [plan.add("two-bit/zero", np.array(2, np.float32))], {}),
            ("Reshape", [shape], {}),
        ]
    elif choice.startswith("nf4"):
        codebook = plan.add("nf4/codebook", np.array(NF4.values, np.float32))
        steps += [("Cast", [], {"to": TensorProto.INT32}), ("Gather", [codebook], {"axis": 0})]
    else:
        steps.append(("Cast", [], {"to": TensorProto.FLOAT}))
    steps.append(("Mul", [f"{p}/scale"], {}))
    steps.append(("Reshape", [plan.add(f"{p}/rows", np.array([outputs, blocks * size], np.int64))], {}))
    if blocks * size != length:
        bounds = [plan.add(f"slice/{name}", np.array([v], np.int64)) for name, v in (("0", 0), (str(length), length))]
        steps.append(("Slice", [*bounds, plan.add("slice/axis1", np.array([1], np.int64))], {}))
    moved = [outputs, *(n for i, n in enumerate(layer.shape) if i != layer.output_axis)]
    steps.append(("Reshape", [plan.add(f"{p}/shape", np.array(moved, np.int64))], {}))
    if layer.output_axis != 0:
        back = list(range(1, len(moved)))
        back.insert(layer.output_axis, 0)
        steps.append(("Transpose", [], {"perm": back}))
    _chain(plan, layer, steps)


def _chain(plan: Plan, layer: Layer, steps: Sequence[_Step]) -> None:
    current = f"{layer.name}/levels"
    for index, (op, extra, attributes) in enumerate(steps):
        target = f"{layer.name}/expanded{'' if index == len(steps) - 1 else index}"
        inputs = [*extra, current] if op == "Gather" else [current, *extra]  # looked up in a codebook
        plan.nodes.append(make_node(op, inputs, [target], f"{layer.name}/expand{index}", **attributes))
        current = target
    _use(plan, layer, current)


def _use(plan: Plan, layer: Layer, tensor: str) -> None:
    """Let the layer's nodes read `tensor` in place of the original weight."""
    own = set(layer.nodes)
    plan.nodes = [rewired(n, {layer.weight: tensor}) if n.name in own else n for n in plan.nodes]


def _even(length: int) -> int:
    """Rows shorter than a block are one block; its size must fill whole bytes at 2 bits."""
    return -(-length // 4) * 4


# -- packed, read by the kernel


def pack_channels(layer: Layer, made: Blocks) -> list[onnx.TensorProto]:
    """For integer kernels: int8 [inner, outer] of a product or [outputs, ...] of a convolution, scales [outputs]."""
    levels = stored_levels(layer, made)
    weight = levels if layer.op == "Conv" else inner_outer(layer, levels)
    return tensors(layer, {"weight": weight, "scale": made.scales[:, 0]})


def pack_blocks(layer: Layer, bits: int, made: Blocks) -> list[onnx.TensorProto]:
    """For MatMulNBits: uint8 [outer, blocks, block * bits / 8] and scales [outer, blocks]; zero point 2**(bits-1)."""
    codes = (made.levels.astype(np.int16) + (1 << (bits - 1))).astype(np.uint8)
    return tensors(layer, {"packed": pack_bits(codes, bits), "scale": made.scales})


def write_blocks(plan: Plan, layer: Layer, bits: int, block: int) -> None:
    """MatMul or Gemm becomes MatMulNBits (and Add for a Gemm's bias)."""
    own = set(layer.nodes)
    result: list[onnx.NodeProto] = []
    for node in plan.nodes:
        if node.name not in own:
            result.append(node)
            continue
        inner = layer.shape[1 - layer.output_axis]
        options = {
            "K": inner,
            "N": layer.shape[layer.output_axis],
            "bits": bits,
            "block_size": block,
            "accuracy_level": ACCURACY_LEVEL,
        }
        bias = node.input[2] if node.op_type == "Gemm" and len(node.input) > 2 and node.input[2] else None
        target = f"{node.name}/product" if bias else node.output[0]
        inputs = [node.input[0], f"{layer.name}/packed", f"{layer.name}/scale"]
        result.append(make_contrib("MatMulNBits", inputs, [target], node.name, **options))
        if bias:
            result.append(make_node("Add", [target, bias], [node.output[0]], f"{node.name}/bias"))
    plan.nodes = result


def pack_table(layer: Layer, table: np.ndarray, bits: int, block: int) -> list[onnx.TensorProto]:
    """For GatherBlockQuantized: codes [rows, columns * bits / 8] and scales [rows, blocks]; zero point 2**(bits-1)."""
    quantised = in_blocks(table, bits, block)
    codes = (quantised.levels.astype(np.int16) + (1 << (bits - 1))).astype(np.uint8)
    rows = codes.reshape(table.shape[0], -1)[:, : table.shape[1]]
    return tensors(layer, {"packed": pack_bits(rows, bits), "scale": quantised.scales})


def write_table(plan: Plan, layer: Layer, bits: int, block: int) -> None:
    """Gather of rows becomes GatherBlockQuantized."""
    own = set(layer.nodes)
    options = {"bits": bits, "block_size": block, "gather_axis": 0, "quantize_axis": 1}
    plan.nodes = [
        make_contrib(
            "GatherBlockQuantized",
            [f"{layer.name}/packed", node.input[1], f"{layer.name}/scale"],
            [node.output[0]],
            node.name,
            **options,
        )
        if node.name in own
        else node
        for node in plan.nodes
    ]


def gather_axis(node: onnx.NodeProto) -> int:
    """Axis that a Gather runs over."""
    return int(attribute(node, "axis", 0))
