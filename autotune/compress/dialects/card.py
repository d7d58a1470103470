"""What the dialects of cards share: layers compute in 16 bit, with casts where that begins and ends.

A format is float16, bfloat16, or something smaller that is expanded to float16 in front of the layer or in its kernel.
A dialect says which formats it has, how they are stored and which nodes stand for a layer; the rest is done here, and
`card_types` gives what lies between layers its type.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence
from functools import partial
from typing import ClassVar

import numpy as np
import onnx

from autotune.compress.dialects import ort_cpu_weights as weights
from autotune.compress.dialects.bias import packed_shift, shift_bias
from autotune.compress.dialects.card_types import Emit, Read, Real, Typed, narrowed
from autotune.compress.dialects.sixteen import Half, Sixteen, Static
from autotune.compress.plan import Plan
from autotune.layers import Layer
from autotune.techniques.rounding import NEAREST, Blocks, Grid, Rounding, round_weight

SIXTEEN: dict[str, Half] = {"float16": "float16", "bfloat16": "bfloat16"}  # choice -> the type it is

# Lowest compute capability that has the format: NVIDIA's TensorRT-RTX documentation, "Working with Quantized Types",
# for fp8 and fp4; its Transformer Engine support matrix for bfloat16; for int4 what the builder of TensorRT-RTX 1.7.1
# refuses, and it agrees about the others.
_FIRST_CAPABILITY = {
    "bfloat16": (8, 0),
    "w4-b128": (8, 0),
    "w4-b32": (8, 0),
    "fp8-static": (8, 9),
    "nvfp4": (10, 0),
}


def runs(compute_capability: str, choice: str) -> bool:
    """Whether a card of that compute capability ("8.9") has the format at all. The builder has the last word."""
    major, _, minor = compute_capability.partition(".")
    return (int(major), int(minor or 0)) >= _FIRST_CAPABILITY.get(choice, (0, 0))


def weight_input(node: onnx.NodeProto) -> int:
    """Which input of a layer's node is its weight; of a product or convolution the other one is its activation."""
    return 0 if node.op_type == "Gather" else 1


class CardDialect(ABC):
    """Most of a `protocol.Dialect` and all of a `sixteen.ComputesInSixteen`; a subclass fills in its formats."""

    name: str
    followers: ClassVar[Mapping[Real, frozenset[str]]]  # 16-bit type -> operators between layers that follow into it

    # -- what a dialect says

    @abstractmethod
    def offers(self, layer: Layer, choice: str, node: onnx.NodeProto) -> bool:
        """Whether `choice` can be written for this layer at all."""

    @abstractmethod
    def kernels(self, op: str, choice: str) -> frozenset[str]:
        """What may run for a layer of type `op` under `choice`; see `protocol.Dialect.kernels`."""

    @abstractmethod
    def declare(self, plan: Plan, choices: Collection[str]) -> None:
        """Declare the operator sets that the choices need. Raises `TrialFailure` where the model cannot have them."""

    @abstractmethod
    def grid(self, layer: Layer, choice: str, weight: np.ndarray) -> tuple[Grid, int]:
        """The grid that a choice below 16 bit rounds to, and the length of its blocks."""

    @abstractmethod
    def parts(self, layer: Layer, choice: str, made: Blocks) -> Sequence[onnx.TensorProto]:
        """A weight that was rounded to `grid`, as initializers named `<layer.name>/<part>`."""

    @abstractmethod
    def emit(self, typed: Typed, node: onnx.NodeProto, *, layer: Layer, choice: str) -> None:
        """Write a node of a layer whose choice is below 16 bit."""

    def expand(self, plan: Plan, layer: Layer, choice: str) -> None:  # noqa: B027 most choices need nothing
        """Add the nodes that make a float32 weight of what is stored, where the choice wants that."""

    def replaced(self, plan: Plan, decisions: Mapping[str, str]) -> Mapping[tuple[str, str], Read]:
        """(node between layers, tensor) -> what gives the name to be read in its place; see `Typed.replaced`."""
        return {}

    def activation(self, choice: str) -> Static | None:
        """What the input of a layer is rounded to in front of it, if its choice does that."""
        return None

    # -- what follows

    def runs(self, compute_capability: str, choice: str) -> bool:
        """Whether a card of that compute capability ("8.9") has the format at all."""
        return runs(compute_capability, choice)

    def pack(
        self, layer: Layer, choice: str, weight: np.ndarray, rounding: Rounding = NEAREST
    ) -> Sequence[onnx.TensorProto]:
        """The layer's weight under `choice` as initializers named `<layer.name>/<part>`.

        Raises `TrialFailure` where the rounding needs moments that are of no use.
        """
        if choice in SIXTEEN:
            return weights.tensors(layer, {choice: narrowed(weight, SIXTEEN[choice])})
        made = round_weight(layer, weight, *self.grid(layer, choice, weight), rounding)
        return [*self.parts(layer, choice, made), *packed_shift(layer, weight, made, rounding)]

    def write(self, plan: Plan, decisions: Mapping[str, str]) -> None:
        """Edit the plan's graph so that every decision is explicit in it."""
        self.declare(plan, set(decisions.values()))
        emit: dict[str, Emit] = {node: _emit_float for each in plan.layers.values() for node in each.nodes}
        for name, choice in decisions.items():
            layer = plan.layer(name)
            plan.add_packed(layer, choice)
            shift_bias(plan, layer)
            self.expand(plan, layer, choice)
            writer = _emit_sixteen if choice in SIXTEEN else self.emit
            emit.update(dict.fromkeys(layer.nodes, partial(writer, layer=layer, choice=choice)))
        Typed(plan, emit, self.followers, replaced=self.replaced(plan, decisions)).run()

    def sixteen(self, layer: Layer, choice: str) -> Sixteen:
        """How a layer computes under a choice. Raises `TrialFailure` for one that cannot be trained with, `UsageError`
        for no format."""
        if choice in SIXTEEN:
            return Sixteen(SIXTEEN[choice])
        return Sixteen("float16", *self.grid(layer, choice, np.zeros(0, np.float32)), self.activation(choice))

    def quantised_sums(
        self,
        nodes: Sequence[onnx.NodeProto],
        outputs: Collection[str],
        activations: Collection[str],
        layers: Mapping[str, Layer],
        decisions: Mapping[str, str],
    ) -> Mapping[tuple[str, str], tuple[str, Layer]]:
        """None, unless a dialect says otherwise; see `sixteen.ComputesInSixteen`."""
        return {}


def _emit_float(typed: Typed, node: onnx.NodeProto) -> None:
    typed.write(node, "float32")


def _emit_sixteen(typed: Typed, node: onnx.NodeProto, *, layer: Layer, choice: str) -> None:
    typed.write(node, SIXTEEN[choice], {weight_input(node): f"{layer.name}/{choice}"})
