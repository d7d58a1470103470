"""All models of the zoo by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import onnx

from autotune.compress.zoo import convolutional, transformers
from autotune.errors import UsageError, did_you_mean

OPSETS = tuple(range(11, 21))

ZOO: Mapping[str, Callable[[int], onnx.ModelProto]] = {
    make.__name__: make for make in (*convolutional.MODELS, *transformers.MODELS)
}
FIRST_OPSETS = {"fused_norm": 17}  # where that is not the first of `OPSETS`


def build(name: str, opset: int = 17) -> onnx.ModelProto:
    """A model of the zoo at an opset. Raises `UsageError` for an unknown name, or where its operators do not exist."""
    if name not in ZOO:
        raise UsageError(f"the zoo has no model {name!r}; " + did_you_mean(name, ZOO))
    first = FIRST_OPSETS.get(name, OPSETS[0])
    if not first <= opset <= OPSETS[-1]:
        raise UsageError(f"the zoo's model {name!r} exists at opsets {first} to {OPSETS[-1]}, not at {opset}")
    return ZOO[name](opset)
