"""Dialect `tensorrt`, formats below 16 bit: how a weight is packed, and the Q/DQ nodes that TensorRT fuses.

All of them are computed from and to float16: scales are float16, so DequantizeLinear gives float16. A quantised layer's
input is quantised in front of it and its bias never; there is nothing between a layer and what follows it, so that
TensorRT can take the activation and the next layer's QuantizeLinear into its kernel.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from functools import partial

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from autotune.compress.calibration import Range
from autotune.compress.dialects import ort_cpu_weights as weights
from autotune.compress.dialects.card_types import ELEMENT, HALF_MAX, Typed
from autotune.compress.dialects.sixteen import Static
from autotune.compress.plan import Plan, make_node, reads
from autotune.errors import TrialFailure
from autotune.layers import Layer
from autotune.techniques.matrices import from_matrix
from autotune.techniques.quantize import parse_choice
from autotune.techniques.rounding import Blocks, Grid, HalfSteps, half_scales, pack_bits
from autotune.techniques.rounding.minifloats import E2M1, E2M1_MAX, E4M3, E4M3_MAX, Minifloat, Nvfp4
from hwprofiles.errors import Failure

TRT_DOMAIN = "trt"  # of the operators that TensorRT's parser adds to ONNX
STATIC = ("int8-static", "fp8-static")  # activation scales from calibration
NVFP4 = "nvfp4"
NVFP4_BLOCK = 16
# The first ONNX operator sets with float16 scales and blocks, with bfloat16 convolutions, with FLOAT4E2M1; opsets 22
# and 23 only add types and operators.
_FIRST_OPSET = {"float16": 13, "bfloat16": 22, NVFP4: 23}
_QDQ_OPSET = 21
_FP4_IR = 11
_INT8_MAX = 127.0


# -- weights


def declare(plan: Plan, choices: Collection[str]) -> None:
    """Declare the operator set that the formats need.

    Raises `TrialFailure` for a model that could not be brought to opset 21: what its nodes would mean there is unknown.
    """
    needed = max((_FIRST_OPSET.get(choice, _QDQ_OPSET) for choice in choices), default=0)
    there = plan.opsets.get("", 0)
    if needed > there and there < _QDQ_OPSET:
        message = (
            f"{', '.join(sorted(choices))} needs opset {_QDQ_OPSET} and the model stays at {there}; export it anew at "
            f"opset {_QDQ_OPSET}"
        )
        raise TrialFailure(Failure(kind="unsupported", stage="build", message=message))
    plan.opsets[""] = max(there, needed)
    if NVFP4 in choices:
        plan.ir_version = max(plan.ir_version, _FP4_IR)


def grid_of(layer: Layer, choice: str, weight: np.ndarray) -> tuple[Grid, int]:
    """The grid that `choice` rounds to and the length of its blocks; one scale per output is one block."""
    row = layer.parameters // layer.shape[layer.output_axis]
    if choice in ("int8-static", "w8-load"):
        return HalfSteps(8, full=False), row
    if choice == "fp8-static":
        return Minifloat(), row
    if choice == NVFP4:
        return Nvfp4.of(weight), NVFP4_BLOCK
    return HalfSteps(parse_choice(choice)[0]), parse_choice(choice)[1]


def pack(layer: Layer, made: Blocks) -> Sequence[onnx.TensorProto]:
    """`<layer>/levels` in the order of the weight as it is stored, `<layer>/scale` and, of NVFP4, `<layer>/whole`."""
    rows = made.levels.reshape(len(made.levels), -1)[:, : made.length]
    levels = from_matrix(layer, rows, layer.shape).astype(np.int8)
    p, grid = layer.name, made.grid
    in_blocks = isinstance(grid, Nvfp4) or (isinstance(grid, HalfSteps) and grid.full)
    scales = _as_stored(layer, made.scales) if in_blocks else made.scales[:, 0]
    if isinstance(grid, Nvfp4):
        codes = pack_bits(Minifloat(E2M1).codes(levels).reshape(-1), 4)
        eighths = (scales / np.float32(grid.whole)).astype(E4M3)
        return [
            helper.make_tensor(f"{p}/levels", TensorProto.FLOAT4E2M1, layer.shape, codes.tobytes(), raw=True),
            helper.make_tensor(f"{p}/scale", TensorProto.FLOAT8E4M3FN, eighths.shape, eighths.tobytes(), raw=True),
            numpy_helper.from_array(np.array(grid.whole, np.float32), f"{p}/whole"),
        ]
    halves = weights.tensors(layer, {"scale": scales.astype(np.float16)})
    if isinstance(grid, Minifloat):
        codes = grid.codes(levels)
        eight = helper.make_tensor(f"{p}/levels", TensorProto.FLOAT8E4M3FN, layer.shape, codes.tobytes(), raw=True)
        return [eight, *halves]
    if isinstance(grid, HalfSteps) and grid.bits == 4:
        nibbles = pack_bits((levels.reshape(-1) & 0xF).astype(np.uint8), 4)
        return [helper.make_tensor(f"{p}/levels", TensorProto.INT4, layer.shape, nibbles.tobytes(), raw=True), *halves]
    return [*weights.tensors(layer, {"levels": levels}), *halves]


def _as_stored(layer: Layer, scales: np.ndarray) -> np.ndarray:
    """Scales [outputs, blocks] with the output axis where the weight has it."""
    turned: np.ndarray = np.ascontiguousarray(scales if layer.output_axis == 0 else scales.T)
    return turned


def real_weight(typed: Typed, layer: Layer, choice: str) -> str:
    """Name of the layer's weight as float16, behind its DequantizeLinear, which is added once."""
    p, plan = layer.name, typed.plan
    target = f"{p}/real"
    if target in plan.made:
        return target
    plan.made.add(target)
    if choice == NVFP4:
        _add(plan, "DequantizeLinear", [f"{p}/scale", f"{p}/whole"], f"{p}/scale-real")
        blocks = {"axis": 1 - layer.output_axis, "block_size": NVFP4_BLOCK}
        _add(plan, "DequantizeLinear", [f"{p}/levels", f"{p}/scale-real"], f"{p}/real-float32", **blocks)
        _add(plan, "Cast", [f"{p}/real-float32"], target, to=ELEMENT["float16"])
        return target
    block = 0 if choice in STATIC else parse_choice(choice)[1]
    how = {"axis": 1 - layer.output_axis, "block_size": block} if block else {"axis": layer.output_axis}
    _add(plan, "DequantizeLinear", [f"{p}/levels", f"{p}/scale"], target, **how)
    return target


# -- activations


def real_input(typed: Typed, tensor: str, choice: str, layer: Layer) -> str:
    """Name of an activation as float16 after it was brought to the choice's format; the nodes are added once.

    Raises `TrialFailure` where calibration saw no range of it, or one that float16 does not have.
    """
    plan = typed.plan
    target = f"{tensor}:{choice}"
    if target in plan.made:
        return target
    plan.made.add(target)
    found, source = plan.range_of(tensor, layer), typed.read(tensor, "float16")
    largest = max(-found.low, found.high)
    if largest > HALF_MAX:
        message = (
            f"layer {layer.name!r}: activation {tensor!r} reaches {largest:.3g}, and {choice} is computed from "
            f"float16, which ends at {HALF_MAX:.0f}; leave this layer out of {choice}"
        )
        raise TrialFailure(Failure(kind="unsupported", stage="build", message=message))
    if choice == NVFP4:
        return _dynamic_fp4(plan, tensor, source, target, found)
    scale = plan.add(f"{tensor}:{choice}-scale", np.array(activation_scale(found, choice), np.float16))
    zero = _zero(plan, choice)
    levels = f"{tensor}:{choice}-levels"
    _add(plan, "QuantizeLinear", [source, scale, zero], levels)
    _add(plan, "DequantizeLinear", [levels, scale, zero], target)
    return target


def activation_scale(found: Range, choice: str) -> float:
    """Symmetric scale of a static format, exact in float16."""
    highest = _INT8_MAX if choice == "int8-static" else E4M3_MAX
    return float(half_scales(np.array(max(-found.low, found.high) / highest)))


def whole_scale(found: Range) -> float:
    """NVFP4's scale of a whole activation: its blocks' scales are E4M3 numbers times this."""
    return max(max(-found.low, found.high) / (E4M3_MAX * E2M1_MAX), float(np.finfo(np.float32).tiny))


def _dynamic_fp4(plan: Plan, tensor: str, source: str, target: str, found: Range) -> str:
    """Block scales are found at run time, by the operator that TensorRT's parser has for it."""
    plan.opsets.setdefault(TRT_DOMAIN, 1)
    whole = plan.add(f"{tensor}:nvfp4-whole", np.array(whole_scale(found), np.float32))
    levels, scales = f"{target}-levels", f"{target}-scales"
    made = helper.make_node(
        "TRT_FP4DynamicQuantize",
        [source, whole],
        [levels, scales],
        name=f"{target}/quantize",
        domain=TRT_DOMAIN,
        axis=-1,
        block_size=NVFP4_BLOCK,
        scale_type=int(TensorProto.FLOAT8E4M3FN),
    )
    plan.nodes.append(made)
    _add(plan, "DequantizeLinear", [scales, whole], f"{scales}-real")
    _add(plan, "DequantizeLinear", [levels, f"{scales}-real"], f"{target}-float32", axis=-1, block_size=NVFP4_BLOCK)
    _add(plan, "Cast", [f"{target}-float32"], target, to=ELEMENT["float16"])
    return target


def _zero(plan: Plan, choice: str) -> str:
    """The zero point 0, whose type says what QuantizeLinear makes."""
    if choice == "int8-static":
        return plan.add("zero-point/int8", np.array(0, np.int8))
    return plan.add("zero-point/fp8", np.array(0, E4M3))


def _add(plan: Plan, op: str, inputs: Sequence[str], target: str, **attributes: int) -> None:
    plan.nodes.append(make_node(op, inputs, [target], f"{target}/{op}", **attributes))


# -- training


def static(choice: str) -> Static:
    """What the input of a layer is rounded to under a choice with a calibrated range."""
    if choice == NVFP4:
        return Static("e2m1-blocks", whole_scale)
    return Static("int8" if choice == "int8-static" else "e4m3", partial(activation_scale, choice=choice))


# -- residual sums


def quantised_skips(
    nodes: Sequence[onnx.NodeProto],
    outputs: Collection[str],
    activations: Collection[str],
    layers: Mapping[str, Layer],
    decisions: Mapping[str, str],
) -> dict[tuple[str, str], tuple[str, Layer]]:
    """Sums whose other input must be int8, too: (Add, tensor) -> (choice, layer whose kernel takes the sum in).

    A convolution takes the Add behind it (and a Relu or Clip) into its kernel; the kernel gives int8 only if what is
    added is int8 (NVIDIA, TensorRT documentation, "Working with Quantized Types": Q/DQ placement recommendations). So
    where the sum is read by an int8 convolution, the branch that is not the convolution's own output is quantised; of
    two convolutions, the one that runs first. `activations` are those with a range.
    """
    owner = {node: layers[name] for name in decisions for node in layers[name].nodes}
    integer = {node for node, layer in owner.items() if decisions[layer.name] == "int8-static" and layer.op == "Conv"}
    consumers: dict[str, list[onnx.NodeProto]] = {}
    for node in nodes:
        for name in reads(node):
            consumers.setdefault(name, []).append(node)
    place = {node.output[0]: index for index, node in enumerate(nodes) if node.output}
    made_by = {node.output[0]: node.name for node in nodes if node.output and node.name in integer}
    found: dict[tuple[str, str], tuple[str, Layer]] = {}
    for node in nodes:
        if node.op_type != "Add" or len(set(node.input)) != 2:
            continue
        own = [t for t in node.input if t in made_by and t not in outputs and len(consumers.get(t, [])) == 1]
        result = node.output[0]
        readers = consumers.get(result, [])
        if len(readers) == 1 and readers[0].op_type in ("Relu", "Clip") and result not in outputs:
            readers = consumers.get(readers[0].output[0], [])
        if not own or not any(reader.name in integer for reader in readers):
            continue
        last = max(own, key=place.__getitem__)
        skip = next(t for t in node.input if t != last)
        if skip in activations:
            found[node.name, skip] = ("int8-static", owner[made_by[last]])
    return found
