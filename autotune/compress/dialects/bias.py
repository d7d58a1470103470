"""Bias correction: what rounding took from the mean of a layer's outputs is given back by the layer's bias."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
from onnx import numpy_helper

from autotune.compress.dialects.ort_cpu_weights import tensors
from autotune.compress.plan import Plan, rewired
from autotune.layers import Layer
from autotune.techniques.rounding import Blocks, Rounding, output_shift

SHIFT = "shift"  # part of a packed weight, float32 [outputs]; read here, never by the graph


def packed_shift(layer: Layer, weight: np.ndarray, made: Blocks, rounding: Rounding) -> Sequence[onnx.TensorProto]:
    """The part `SHIFT` of a packed weight, where `rounding` asks for bias correction and knows what the layer reads.

    Raises `TrialFailure` for moments that are of no use.
    """
    if not rounding.bias_correction or rounding.moments is None:
        return ()
    return tensors(layer, {SHIFT: output_shift(layer, weight, made.restore(), rounding.moments)})


def shift_bias(plan: Plan, layer: Layer) -> None:
    """Add the layer's shift, if its packed weight has one, to the constant that is added to its outputs.

    That is the bias of a Conv or Gemm, made where there is none, or the constant of the Add that alone reads a MatMul.
    Where there is no such constant, nothing is done: see `autotune.techniques.quantize`.
    """
    tensor = plan.tensors.get(f"{layer.name}/{SHIFT}")
    if tensor is None:
        return
    shift = numpy_helper.to_array(tensor)
    if layer.op in ("Conv", "Gemm"):
        own = set(layer.nodes)
        plan.nodes = [_own_bias(plan, node, shift) if node.name in own else node for node in plan.nodes]
    elif layer.op == "MatMul":
        consumers, outputs = plan.consumers(), plan.output_names()
        followers = {}
        for node in plan.nodes:
            if node.name in layer.nodes and node.output[0] not in outputs:
                readers = consumers.get(node.output[0], [])
                if len(readers) == 1 and readers[0].op_type == "Add":
                    followers[readers[0].name] = node.output[0]
        plan.nodes = [
            _added(plan, node, followers[node.name], shift) if node.name in followers else node for node in plan.nodes
        ]


def _own_bias(plan: Plan, node: onnx.NodeProto, shift: np.ndarray) -> onnx.NodeProto:
    """A Conv or Gemm with its bias shifted. (A Gemm with factors is never a layer.)"""
    name = node.input[2] if len(node.input) > 2 else ""
    shifted = _shifted(plan, node, name, shift) if name else plan.add(f"{node.name}/shifted-bias", shift)
    if shifted is None:
        return node
    made = rewired(node, {})
    made.input[:] = [*node.input[:2], shifted]
    return made


def _added(plan: Plan, node: onnx.NodeProto, product: str, shift: np.ndarray) -> onnx.NodeProto:
    """An Add behind a MatMul with its constant shifted."""
    other = next((name for name in node.input if name != product), "")
    shifted = _shifted(plan, node, other, shift)
    return node if shifted is None else rewired(node, {other: shifted})


def _shifted(plan: Plan, node: onnx.NodeProto, name: str, shift: np.ndarray) -> str | None:
    """Name of the constant plus shift; None where it is none, or so large that a copy would cost more than it gives."""
    tensor = plan.tensors.get(name)
    if tensor is None or tensor.data_type != onnx.TensorProto.FLOAT:
        return None
    before = numpy_helper.to_array(tensor)
    if before.size > shift.size:
        return None
    return plan.add(f"{node.name}/shifted-bias", (before + shift).astype(np.float32))
