"""Products with outlier inputs kept in float32 (LLM.int8, Dettmers et al., arXiv 2208.07339), for dialect `ort-cpu`.

The few inputs with the largest mean square stretch the activation's range and take the levels of all others. They are
read out and multiplied in float32; the others, with those at 0, are quantised at run time; the two results are added.
LLM.int8 looks for outliers in every batch, here they are found once, in the calibration data.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import onnx

from autotune.compress.dialects import ort_cpu_static as static
from autotune.compress.dialects import ort_cpu_weights as weights
from autotune.compress.plan import Plan, make_contrib, make_node
from autotune.errors import TrialFailure
from autotune.layers import Layer
from autotune.techniques.moments import Moments
from autotune.techniques.rounding import Rounding
from hwprofiles.errors import Failure

CHOICE = "int8-dynamic-o1%"
_SHARE = 0.01
_MULTIPLE = 8  # what a vector unit takes at once


def count(inputs: int) -> int:
    """How many of a layer's inputs stay float32."""
    return -(-int(np.ceil(inputs * _SHARE)) // _MULTIPLE) * _MULTIPLE


def fits(layer: Layer) -> bool:
    """Whether the layer is so wide that its outliers are a minority."""
    inputs = layer.shape[1 - layer.output_axis]
    return 2 * count(inputs) <= inputs


def chosen(moments: Moments) -> np.ndarray:
    """int64: the inputs that stay float32, in order."""
    squares = moments.squares[0]
    return np.sort(np.argsort(-squares, kind="stable")[: count(len(squares))]).astype(np.int64)


def separate(
    layer: Layer, weight: np.ndarray, rounding: Rounding
) -> tuple[Sequence[onnx.TensorProto], np.ndarray, Rounding]:
    """(tensors of the float32 part, weight of the rest, how that is to be rounded): rows of outliers are 0 there.

    Raises `TrialFailure` where nothing is known about the layer's inputs.
    """
    if rounding.moments is None:
        message = (
            f"layer {layer.name!r}: {CHOICE} needs to know which inputs are large, and what this layer reads is not "
            "known; leave it out of this choice"
        )
        raise TrialFailure(Failure(kind="unsupported", stage="build", message=message))
    few = chosen(rounding.moments)
    kept = np.ones(rounding.moments.squares.shape[1], np.float32)
    kept[few] = 0
    matrix = weights.inner_outer(layer, weight)
    parts = {"outlier-inputs": few, "outliers": matrix[few], "kept": kept}
    rest = weight * (kept[:, None] if layer.output_axis == 1 else kept)
    return weights.tensors(layer, parts), rest, replace(rounding, moments=rounding.moments.scale(kept))


def write(plan: Plan, layer: Layer) -> None:
    """MatMul or Gemm becomes DynamicQuantizeMatMul of the masked input plus a small MatMul of the outliers."""
    p = layer.name
    for node, bias, output in static.take_products(plan, layer):
        source, n = node.input[0], node.name
        inputs = [f"{n}/masked", f"{p}/weight", f"{p}/scale", *(["", bias] if bias else [])]
        plan.nodes += [
            make_node("Mul", [source, f"{p}/kept"], [f"{n}/masked"], f"{n}/mask"),
            make_contrib("DynamicQuantizeMatMul", inputs, [f"{n}/rest"], n),
            make_node("Gather", [source, f"{p}/outlier-inputs"], [f"{n}/few"], f"{n}/outlier-inputs", axis=-1),
            make_node("MatMul", [f"{n}/few", f"{p}/outliers"], [f"{n}/product-of-few"], f"{n}/outliers"),
            make_node("Add", [f"{n}/rest", f"{n}/product-of-few"], [output], f"{n}/sum"),
        ]
