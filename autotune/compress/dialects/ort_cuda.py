"""Dialect `ort-cuda`: decisions as ONNX Runtime's CUDA provider runs them.

It has kernels for float16 (and, for products and tables, bfloat16), so these are computed in that type as in dialect
`tensorrt`; what lies between bfloat16 layers stays float32, because too few of this provider's other kernels have the
type. Packed weights of products are read by MatMulNBits, with float16 activations. A `-load` choice is expanded when
the session opens and computed in float16. The provider has no fused integer kernels for Q/DQ, so int8-static is not
offered: it would run as float, with conversions around it.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import ClassVar

import numpy as np
import onnx

from autotune.compress.dialects import ort_cpu_weights as weights
from autotune.compress.dialects.card import CardDialect
from autotune.compress.dialects.card_types import SAFE, Real, Typed, named
from autotune.compress.plan import Plan, make_contrib, make_node
from autotune.layers import Layer
from autotune.techniques.quantize import parse_choice
from autotune.techniques.rounding import Blocks, Grid, HalfSteps

_PACKED = ("w8-b128", "w8-b32", "w4-b128", "w4-b32")
_PRODUCTS = ("MatMul", "Gemm")
_FLOAT_KERNELS = {
    "MatMul": frozenset({"MatMul", "FusedMatMul", "TransposeMatMul", "Gemm"}),
    "Gemm": frozenset({"Gemm", "FusedGemm", "MatMul", "FusedMatMul"}),
    "Conv": frozenset({"Conv", "FusedConv", "NhwcConv", "NhwcFusedConv"}),
    "ConvTranspose": frozenset({"ConvTranspose"}),
    "Gather": frozenset({"Gather"}),
}


class OrtCuda(CardDialect):
    """See the module; implements `autotune.compress.dialects.protocol.Dialect`."""

    name = "ort-cuda"
    followers: ClassVar[Mapping[Real, frozenset[str]]] = {"float16": SAFE, "bfloat16": frozenset()}

    def offers(self, layer: Layer, choice: str, node: onnx.NodeProto) -> bool:
        """Whether `choice` can be written for this layer at all."""
        if choice == "float16":
            return True
        if choice == "bfloat16":
            return layer.op not in ("Conv", "ConvTranspose")
        if choice.endswith("-load"):
            return len(layer.shape) >= 2
        return choice in _PACKED and layer.op in _PRODUCTS and len(layer.shape) == 2

    def kernels(self, op: str, choice: str) -> frozenset[str]:
        """Names of the kernels that may run for a layer of type `op` under `choice`."""
        return frozenset({"MatMulNBits"}) if choice in _PACKED else _FLOAT_KERNELS[op]

    def runs(self, compute_capability: str, choice: str) -> bool:
        """Whether a card of that compute capability ("8.9") has the format at all."""
        return super().runs(compute_capability, choice) or choice != "bfloat16"

    def declare(self, plan: Plan, choices: Collection[str]) -> None:
        """ONNX Runtime's own operators."""
        plan.use_contrib()

    def grid(self, layer: Layer, choice: str, weight: np.ndarray) -> tuple[Grid, int]:
        """The grid that `choice` rounds to and the length of its blocks. MatMulNBits wants its scales in the
        activation's type."""
        if choice in _PACKED:
            bits, block = parse_choice(choice)
            return HalfSteps(bits), block
        return weights.grid_of(layer, choice)

    def parts(self, layer: Layer, choice: str, made: Blocks) -> Sequence[onnx.TensorProto]:
        """A rounded weight as MatMulNBits reads it, or to be expanded."""
        bits = parse_choice(choice)[0]
        if choice.endswith("-load"):
            return weights.pack_expanded(layer, bits, made)
        levels, scale = weights.pack_blocks(layer, bits, made)
        return [levels, onnx.numpy_helper.from_array(made.scales.astype(np.float16), scale.name)]

    def expand(self, plan: Plan, layer: Layer, choice: str) -> None:
        """The weight of a `-load` choice, folded when the session opens."""
        if choice.endswith("-load"):
            weights.write_expanded(plan, layer, choice)

    def emit(self, typed: Typed, node: onnx.NodeProto, *, layer: Layer, choice: str) -> None:
        """A node of a layer with packed weights, or with weights that are expanded."""
        if choice in _PACKED:
            _emit_packed(typed, node, layer, choice)
        else:
            typed.write(node, "float16")


def _emit_packed(typed: Typed, node: onnx.NodeProto, layer: Layer, choice: str) -> None:
    """MatMul or Gemm becomes MatMulNBits (and Add for a Gemm's bias)."""
    bits, block = parse_choice(choice)
    size = {"K": layer.shape[1 - layer.output_axis], "N": layer.shape[layer.output_axis]}
    bias = node.input[2] if len(node.input) > 2 else ""
    source, output = typed.read(node.input[0], "float16"), node.output[0]
    typed.home[output] = "float16"
    final = named(output, "float16")
    target = f"{node.name}/product" if bias else final
    inputs = [source, f"{layer.name}/packed", f"{layer.name}/scale"]
    typed.plan.nodes.append(
        make_contrib("MatMulNBits", inputs, [target], node.name, bits=bits, block_size=block, **size)
    )
    if bias:
        added = [target, typed.read(bias, "float16")]
        typed.plan.nodes.append(make_node("Add", added, [final], f"{node.name}/bias"))
