"""What a dialect is. Third parties implement this and register under `hw_autotune.dialects`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np
import onnx

from autotune.compress.plan import Plan
from autotune.layers import Layer
from autotune.techniques.rounding import NEAREST, Rounding


class Dialect(Protocol):
    """Writes numeric formats into a graph for one runtime family, and knows which kernels must run then.

    A dialect for cards may also have `runs(compute_capability: str, choice: str) -> bool`: whether cards of that
    compute capability ("8.9") have the format at all. What they have not is not even probed. One whose layers compute
    in 16 bit is a `sixteen.ComputesInSixteen`, too, so that recovery trains with its rounding.
    """

    name: str

    def offers(self, layer: Layer, choice: str, node: onnx.NodeProto) -> bool:
        """Whether `choice` can be written for this layer at all (shapes, attributes); the target may still refuse."""
        ...

    def pack(
        self, layer: Layer, choice: str, weight: np.ndarray, rounding: Rounding = NEAREST
    ) -> Sequence[onnx.TensorProto]:
        """The layer's weight under `choice` as initializers named `<layer.name>/<part>`, rounded as asked. Pure: cached
        by the bank."""
        ...

    def write(self, plan: Plan, decisions: Mapping[str, str]) -> None:
        """Edit the plan's graph so that every decision (layer name -> choice) is explicit in it."""
        ...

    def kernels(self, op: str, choice: str) -> frozenset[str]:
        """Names of the kernels that may run for a layer of type `op` under `choice` ("none" included).

        Where kernels have no stable names but tell their precision after a colon, "*:int8" means: at least one kernel
        of the layer reads int8; "*" means any kernel.
        """
        ...
