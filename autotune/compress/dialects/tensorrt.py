"""Dialect `tensorrt`: decisions for TensorRT 11 and TensorRT-RTX, whose networks are strongly typed.

What the graph says is what runs: there are no precision flags any more, so every layer's type stands in the ONNX file,
as casts and Q/DQ. See `card_types` for what happens between layers and `tensorrt_formats` for the formats.

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
from dataclasses import replace
from functools import partial
from typing import ClassVar

import numpy as np
import onnx

from autotune.compress.dialects import tensorrt_formats as formats
from autotune.compress.dialects.card import SIXTEEN, CardDialect, weight_input
from autotune.compress.dialects.card_types import SAFE, Read, Real, Typed
from autotune.compress.dialects.sixteen import Sixteen, Static
from autotune.compress.plan import Plan
from autotune.layers import Layer
from autotune.techniques.quantize import parse_choice
from autotune.techniques.rounding import Blocks, Grid
from autotune.techniques.rounding.minifloats import Nvfp4

_BLOCKS = ("w4-b128", "w4-b32")
_PRODUCTS = ("MatMul", "Gemm")
# TensorRT-RTX 1.7.1 fails to build the first and computes the second in float16.
_NOT_TRANSPOSED = ("bfloat16", "fp8-static")
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


class TensorRt(CardDialect):
    """See the module; implements `autotune.compress.dialects.protocol.Dialect`."""

    name = "tensorrt"
    followers: ClassVar[Mapping[Real, frozenset[str]]] = {"float16": SAFE, "bfloat16": SAFE}

    def offers(self, layer: Layer, choice: str, node: onnx.NodeProto) -> bool:
        """Whether `choice` can be written for this layer at all."""
        if layer.op == "ConvTranspose" and choice in _NOT_TRANSPOSED:
            return False
        if choice in SIXTEEN:
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

    def declare(self, plan: Plan, choices: Collection[str]) -> None:
        """The operator set that the formats need. Raises `TrialFailure` for a model that cannot be brought to it."""
        formats.declare(plan, choices)

    def grid(self, layer: Layer, choice: str, weight: np.ndarray) -> tuple[Grid, int]:
        """The grid that `choice` rounds to and the length of its blocks."""
        return formats.grid_of(layer, choice, weight)

    def parts(self, layer: Layer, choice: str, made: Blocks) -> Sequence[onnx.TensorProto]:
        """A rounded weight as its DequantizeLinear reads it."""
        return formats.pack(layer, made)

    def emit(self, typed: Typed, node: onnx.NodeProto, *, layer: Layer, choice: str) -> None:
        """A node of a layer, computed in float16 from what its Q/DQ nodes give."""
        at = weight_input(node)
        ready = {at: formats.real_weight(typed, layer, choice)}
        if choice in (*formats.STATIC, formats.NVFP4):
            ready[1 - at] = formats.real_input(typed, node.input[1 - at], choice, layer)
        typed.write(node, "float16", ready)

    def replaced(self, plan: Plan, decisions: Mapping[str, str]) -> Mapping[tuple[str, str], Read]:
        """Sums read some of their inputs in a static format."""
        ranges = plan.ranges.keys() - plan.tensors.keys()
        sums = self.quantised_sums(plan.nodes, plan.output_names(), ranges, plan.layers, decisions)
        return {
            (node, tensor): partial(formats.real_input, tensor=tensor, choice=choice, layer=layer)
            for (node, tensor), (choice, layer) in sums.items()
        }

    def activation(self, choice: str) -> Static | None:
        """The static format of a layer's input."""
        return formats.static(choice) if choice in (*formats.STATIC, formats.NVFP4) else None

    def sixteen(self, layer: Layer, choice: str) -> Sixteen:
        """How a layer computes under a choice. Raises `UsageError` for no format."""
        made = super().sixteen(layer, choice)
        return replace(made, grid=None, fits=Nvfp4.of) if choice == formats.NVFP4 else made

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
