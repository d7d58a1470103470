"""Dialect `ort-cpu`: decisions as ONNX Runtime's CPU provider runs them with default options.

MatMul and Gemm are written as the fused contrib operators themselves, because with static shapes ONNX Runtime first
fuses MatMul + Add to Gemm and then has no integer kernel for what it finds. Convolutions are written as Q/DQ, which it
fuses to QLinearConv; see `ort_cpu_static` for what must be kept out of its way.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx

from autotune.compress.dialects import ort_cpu_outliers as outliers
from autotune.compress.dialects import ort_cpu_static as static
from autotune.compress.dialects import ort_cpu_weights as weights
from autotune.compress.dialects.bias import packed_shift, shift_bias
from autotune.compress.plan import Plan
from autotune.layers import Layer
from autotune.techniques.nodes import attribute
from autotune.techniques.quantize import parse_choice
from autotune.techniques.rounding import NEAREST, Rounding, round_weight

_FLOAT_KERNELS = {
    "MatMul": frozenset({"MatMul", "FusedMatMul", "Gemm", "FusedGemm", "TransposeMatMul"}),
    "Gemm": frozenset({"Gemm", "FusedGemm", "MatMul", "FusedMatMul"}),
    "Conv": frozenset({"Conv", "FusedConv", "NhwcFusedConv"}),
    "ConvTranspose": frozenset({"ConvTranspose"}),
    "Gather": frozenset({"Gather"}),
}
_NO_KERNEL = frozenset({"bfloat16", "fp8-static", "nvfp4"})  # this provider computes in none of them
_INTEGER_KERNELS = {"MatMul": "MatMulIntegerToFloat", "Gemm": "MatMulIntegerToFloat", "Conv": "QLinearConv"}
_PACKED_KERNELS = {"MatMul": "MatMulNBits", "Gemm": "MatMulNBits", "Gather": "GatherBlockQuantized"}


class OrtCpu:
    """See the module; implements `autotune.compress.dialects.protocol.Dialect`."""

    name = "ort-cpu"

    def offers(self, layer: Layer, choice: str, node: onnx.NodeProto) -> bool:
        """Whether `choice` can be written for this layer at all."""
        if choice in _NO_KERNEL:
            return False
        if choice == "float16":
            return True
        if choice.endswith("-load"):
            return len(layer.shape) >= 2
        if choice == "int8-static":
            return (layer.op == "Conv" and len(layer.shape) in (3, 4)) or _plain_product(layer, node)
        if choice == "int8-dynamic":
            return _plain_product(layer, node)
        if choice == outliers.CHOICE:
            return _plain_product(layer, node) and outliers.fits(layer)
        bits, block = parse_choice(choice)
        if layer.op == "Gather":
            # The kernel takes blocks of at least 16 and packed rows without padding.
            return len(layer.shape) == 2 and layer.shape[1] % (8 // bits) == 0 and layer.shape[1] >= block
        return _plain_product(layer, node)

    def kernels(self, op: str, choice: str) -> frozenset[str]:
        """Names of the kernels that may run for a layer of type `op` under `choice`."""
        if choice in ("none", "float16") or choice.endswith("-load"):
            return _FLOAT_KERNELS[op]
        if choice == "int8-static":
            return frozenset({_INTEGER_KERNELS[op]})
        if choice == "int8-dynamic":
            return frozenset({"DynamicQuantizeMatMul"})
        if choice == outliers.CHOICE:
            return frozenset({"DynamicQuantizeMatMul", "Gather"}) | _FLOAT_KERNELS["MatMul"]
        return frozenset({_PACKED_KERNELS[op]})

    def pack(
        self, layer: Layer, choice: str, weight: np.ndarray, rounding: Rounding = NEAREST
    ) -> Sequence[onnx.TensorProto]:
        """The layer's weight under `choice` as initializers named `<layer.name>/<part>`.

        Raises `TrialFailure` where the choice or the rounding needs moments that are missing or of no use.
        """
        if choice == "float16":
            return weights.pack_float16(layer, weight)
        if layer.op == "Gather" and not choice.endswith("-load"):
            return weights.pack_table(layer, weight, *parse_choice(choice))
        extra: Sequence[onnx.TensorProto] = ()
        if choice == outliers.CHOICE:
            extra, weight, rounding = outliers.separate(layer, weight, rounding)
        made = round_weight(layer, weight, *weights.grid_of(layer, choice), rounding)
        extra = [*extra, *packed_shift(layer, weight, made, rounding)]
        if choice.endswith("-load"):
            return [*weights.pack_expanded(layer, parse_choice(choice)[0], made), *extra]
        if choice.startswith("int8"):
            return [*weights.pack_channels(layer, made), *extra]
        return [*weights.pack_blocks(layer, parse_choice(choice)[0], made), *extra]

    def write(self, plan: Plan, decisions: Mapping[str, str]) -> None:
        """Edit the plan's graph so that every decision is explicit in it."""
        plan.use_contrib()
        convolutions: dict[str, Layer] = {}
        for name, choice in decisions.items():
            layer = plan.layer(name)
            plan.add_packed(layer, choice)
            shift_bias(plan, layer)
            if choice == "float16":
                weights.write_float16(plan, layer)
            elif choice.endswith("-load"):
                weights.write_expanded(plan, layer, choice)
            elif choice == outliers.CHOICE:
                outliers.write(plan, layer)
            elif choice == "int8-dynamic":
                static.write_dynamic_products(plan, layer)
            elif choice == "int8-static" and layer.op == "Conv":
                convolutions[name] = layer
            elif choice == "int8-static":
                static.write_static_products(plan, layer)
            elif layer.op == "Gather":
                weights.write_table(plan, layer, *parse_choice(choice))
            else:
                weights.write_blocks(plan, layer, *parse_choice(choice))
        if convolutions:
            static.write_convolutions(plan, convolutions)


def _plain_product(layer: Layer, node: onnx.NodeProto) -> bool:
    """A MatMul, or a Gemm that is nothing but X W + b: what the fused kernels can take over."""
    if layer.op == "MatMul":
        return len(layer.shape) == 2
    if layer.op != "Gemm" or len(layer.shape) != 2:
        return False
    plain = attribute(node, "transA", 0) == 0 and attribute(node, "alpha", 1.0) == 1.0
    return plain and (len(node.input) < 3 or attribute(node, "beta", 1.0) == 1.0)
