"""Weights that a model stores more than once: exporters write a parameter that modules share once for each use."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from autotune.keys import format_amount, parse_key
from autotune.layers import Layer

_LEAST = 4096  # bytes of a weight from which a copy is worth a line
_NAMED = 3  # copies that are told by name


def twins_note(model: ir.Model, layers: Sequence[Layer]) -> tuple[str, ...]:
    """One note where layers have the same weights, as they are or transposed, and each its own copy; with the bytes of
    all constants, and what they would be with one copy of each."""
    pairs = _twins(model, [layer for layer in layers if layer.parameters * 4 >= _LEAST])
    if not pairs:
        return ()
    values = model.graph.initializers.values()
    every = sum(value.const_value.nbytes for value in values if value.const_value is not None)
    saved = sum(4 * copy.parameters for _, copy in pairs)
    named = ", ".join(f"{copy.name} and {first.name}" for first, copy in pairs[:_NAMED])
    more = f" and {len(pairs) - _NAMED} more pairs" if len(pairs) > _NAMED else ""
    size = parse_key("size_bytes")
    return (
        f"the weights of {named}{more} are the same, and stored twice: the model has {format_amount(every, size)} of "
        f"constants, and {format_amount(every - saved, size)} with one copy of each. Each copy is compressed for "
        "itself, and sizes are compared with the model as it is, with both",
    )


def _twins(model: ir.Model, layers: Sequence[Layer]) -> list[tuple[Layer, Layer]]:
    """(first layer, one with a copy of its weight). Only those whose shape, first and last number agree are compared as
    a whole; weights of one number everywhere are nobody's copies."""
    seen: dict[tuple[tuple[int, ...], float, float], list[Layer]] = {}
    found: list[tuple[Layer, Layer]] = []
    for layer in layers:
        array = _array(model, layer)
        ends = float(array.reshape(-1)[0]), float(array.reshape(-1)[-1])
        same = seen.setdefault((tuple(sorted(array.shape)), *ends), [])
        if ends[0] == ends[1] and (array == array.reshape(-1)[0]).all():
            continue
        first = next((other for other in same if _equal(_array(model, other), array)), None)
        if first is not None:
            found.append((first, layer))
        else:
            same.append(layer)
    return found


def _equal(one: np.ndarray, other: np.ndarray) -> bool:
    return np.array_equal(one, other) or (one.ndim == 2 and np.array_equal(one, other.T))


def _array(model: ir.Model, layer: Layer) -> np.ndarray:
    tensor = model.graph.initializers[layer.weight].const_value
    assert tensor is not None
    return tensor.numpy()
