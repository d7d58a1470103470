"""Dialect `tensorrt`: decisions for TensorRT 11 and TensorRT-RTX, whose networks are strongly typed.

What the graph says is what runs: there are no precision flags any more, so every layer's type stands in the ONNX file,
as casts and Q/DQ. See `tensorrt_types` for what happens between layers and `tensorrt_formats` for the formats.

| choice | weights in the file | what runs |
|---|---|---|
| float16, bfloat16 | 16 bit | computed in that type, sums in float32 |
| int8-static | int8 per channel | int8 product, symmetric activation scale from calibration |
| fp8-static | E4M3 per channel | fp8 product, likewise |
| w8-load | int8 per channel | float16 product, weights expanded in the kernel |
| w4-b128, w4-b32 | int4 in blocks | float16 product, weights expanded in the kernel |
| nvfp4 | E2M1 in blocks of 16 | fp4 product, block scales of the activation found at run time |

"none" is float32. TF32 is no choice of a layer: where a builder allows it, it does so for all float32 layers of an
engine, so it is an option of the target. Zeros of `sparsify` in the pattern 2:4 stand in the weights as they are; the
builder's SPARSE_WEIGHTS flag permits kernels that use them.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from functools import partial

import numpy as np
import onnx

from autotune.compress.dialects import ort_cpu_weights as weights
from autotune.compress.dialects import tensorrt_formats as formats
from autotune.compress.dialects.bias import SHIFT, shift_bias
from autotune.compress.dialects.sixteen import Half, Sixteen
from autotune.compress.dialects.tensorrt_types import SAFE, Emit, Typed, narrowed
from autotune.compress.plan import Plan
from autotune.layers import Layer
from autotune.techniques.quantize import parse_choice
from autotune.techniques.rounding import NEAREST, Rounding, output_shift

_SIXTEEN: dict[str, Half] = {"float16": "float16", "bfloat16": "bfloat16"}
_BLOCKS = ("w4-b128", "w4-b32")
_PRODUCTS = ("MatMul", "Gemm")
# TensorRT-RTX 1.7.1 fails to build the first and computes the second in float16.
_NOT_TRANSPOSED = ("bfloat16", "fp8-static")
_WEIGHT_INPUT = {"Gather": 0}  # 1 for all others
_PRECISION = {
    "none": ("float32",),
    "float16": ("float16",),
    "bfloat16": ("bfloat16",),
    "int8-static": ("int8",),
    "fp8-static": ("fp8",),
    formats.NVFP4: ("fp4",),
    # The kernel reads the small weights itself, or another one expands them just before it.
    "w8-load": ("int8", "float16"),
    "w4-b128": ("int4", "float16"),
    "w4-b32": ("int4", "float16"),
}

# Lowest compute capability that has the format: NVIDIA's TensorRT-RTX documentation, "Working with Quantized Types",
# for fp8 and fp4; its Transformer Engine support matrix for bfloat16; for int4 what the builder of TensorRT-RTX 1.7.1
# refuses, and it agrees about the others.
_FIRST_CAPABILITY = {
    "bfloat16": (8, 0),
    "w4-b128": (8, 0),
    "w4-b32": (8, 0),
    "fp8-static": (8, 9),
    formats.NVFP4: (10, 0),
}


def runs(compute_capability: str, choice: str) -> bool:
    """Whether a card of that compute capability ("8.9") has the format at all. The builder has the last word."""
    major, _, minor = compute_capability.partition(".")
    return (int(major), int(minor or 0)) >= _FIRST_CAPABILITY.get(choice, (0, 0))


class TensorRt:
    """See the module; implements `autotune.compress.dialects.protocol.Dialect`."""

    name = "tensorrt"

    def offers(self, layer: Layer, choice: str, node: onnx.NodeProto) -> bool:
        """Whether `choice` can be written for this layer at all."""
        if layer.op == "ConvTranspose" and choice in _NOT_TRANSPOSED:
            return False
        if choice in _SIXTEEN:
            return True
        if layer.op == "ConvTranspose" and layer.group != 1:
            return False  # a scale per output channel of one group says nothing about the other groups
        if choice == "w8-load":
            return len(layer.shape) >= 2
        if choice in formats.STATIC:
            return layer.op != "Gather" and len(layer.shape) >= 2
        if len(layer.shape) != 2:
            return False
        inner, outer = layer.shape[1 - layer.output_axis], layer.shape[layer.output_axis]
        if choice == formats.NVFP4:
            return layer.op in _PRODUCTS and inner % formats.NVFP4_BLOCK == 0 and outer % formats.NVFP4_BLOCK == 0
        return choice in _BLOCKS and inner % parse_choice(choice)[1] == 0 and layer.shape[1] % 2 == 0

    def kernels(self, op: str, choice: str) -> frozenset[str]:
        """The precision that a layer must have got; a table has none to check, for it is only looked up."""
        if op == "Gather":
            return frozenset({"*"})
        return frozenset(f"*:{kind}" for kind in _PRECISION[choice])

    def runs(self, compute_capability: str, choice: str) -> bool:
        """See the function of that name."""
        return runs(compute_capability, choice)

    def pack(
        self, layer: Layer, choice: str, weight: np.ndarray, rounding: Rounding = NEAREST
    ) -> Sequence[onnx.TensorProto]:
        """The layer's weight under `choice` as initializers named `<layer.name>/<part>`.

        Raises `TrialFailure` where the rounding needs moments that are of no use.
        """
        if choice in _SIXTEEN:
            return weights.tensors(layer, {choice: narrowed(weight, _SIXTEEN[choice])})
        made = formats.rounded(layer, choice, weight, rounding)
        packed = formats.pack(layer, made)
        if rounding.bias_correction and rounding.moments is not None:
            shift = output_shift(layer, weight, made.restore(), rounding.moments)
            return [*packed, *weights.tensors(layer, {SHIFT: shift})]
        return packed

    def write(self, plan: Plan, decisions: Mapping[str, str]) -> None:
        """Edit the plan's graph so that every decision is explicit in it."""
        formats.declare(plan, set(decisions.values()))
        emit: dict[str, Emit] = {}
        for name, choice in decisions.items():
            layer = plan.layer(name)
            plan.add_packed(layer, choice)
            shift_bias(plan, layer)
            emit.update(dict.fromkeys(layer.nodes, partial(_emit, layer=layer, choice=choice)))
        for layer in plan.layers.values():
            for node in layer.nodes:
                emit.setdefault(node, _emit_float)
        typed = Typed(plan, emit, {"float16": SAFE, "bfloat16": SAFE})
        for (node, tensor), (choice, layer) in self._sums(plan, decisions).items():
            typed.replaced[node, tensor] = partial(formats.real_input, tensor=tensor, choice=choice, layer=layer)
        typed.run()

    def _sums(self, plan: Plan, decisions: Mapping[str, str]) -> Mapping[tuple[str, str], tuple[str, Layer]]:
        activations = plan.ranges.keys() - plan.tensors.keys()
        return self.quantised_sums(plan.nodes, plan.output_names(), activations, plan.layers, decisions)

    def sixteen(self, layer: Layer, choice: str) -> Sixteen:
        """How a layer computes under a choice. Raises `TrialFailure` for one that cannot be trained with."""
        return Sixteen(_SIXTEEN[choice]) if choice in _SIXTEEN else formats.sixteen(layer, choice)

    def quantised_sums(
        self,
        nodes: Sequence[onnx.NodeProto],
        outputs: Collection[str],
        activations: Collection[str],
        layers: Mapping[str, Layer],
        decisions: Mapping[str, str],
    ) -> Mapping[tuple[str, str], tuple[str, Layer]]:
        """Inputs of sums that are brought to a static format as well; see `sixteen.ComputesInSixteen`."""
        return formats.quantised_skips(nodes, outputs, activations, layers, decisions)


def _emit_float(typed: Typed, node: onnx.NodeProto) -> None:
    typed.write(node, "float32")


def _emit(typed: Typed, node: onnx.NodeProto, *, layer: Layer, choice: str) -> None:
    """A node of a layer with a choice."""
    at = _WEIGHT_INPUT.get(node.op_type, 1)
    if choice in _SIXTEEN:
        typed.write(node, _SIXTEEN[choice], {at: f"{layer.name}/{choice}"})
        return
    ready = {at: formats.real_weight(typed, layer, choice)}
    if choice in (*formats.STATIC, formats.NVFP4):
        ready[1 - at] = formats.real_input(typed, node.input[1 - at], choice, layer)
    typed.write(node, "float16", ready)
