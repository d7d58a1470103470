"""Layers: the compressible units of a model, with stable names."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

LayerOp = Literal["MatMul", "Gemm", "Conv", "ConvTranspose", "Gather"]


@dataclass(frozen=True)
class Layer:
    """One compressible unit. Nodes that share a weight are one layer.

    `name` is the torch module's name where there is one, else derived from the weight or node name; unique, stable
    between loads of the same file. `nodes` are names of nodes in the normalised graph, which are unique there.
    `shape` is the weight's, as stored. `output_axis` is the axis of the weight that runs over output channels (Gather:
    over rows of the table). `parameters` counts the weight's elements.
    """

    name: str
    op: LayerOp
    nodes: tuple[str, ...]
    weight: str  # initializer name in the normalised graph
    shape: tuple[int, ...]
    output_axis: int
    parameters: int
    bias: str | None = None  # initializer that is added by the node itself (Conv, Gemm)
    group: int = 1  # of convolutions


@dataclass(frozen=True)
class Skipped:
    """Something that holds weights but is not searchable, and why."""

    name: str
    op: str
    reason: str
    parameters: int = 0


@dataclass(frozen=True)
class Inspection:
    """What can be searched in a model, what not and why. `layers` are in execution order."""

    layers: tuple[Layer, ...]
    skipped: tuple[Skipped, ...] = ()
    parameters: int = 0  # all parameters of the model
    notes: tuple[str, ...] = ()  # e.g. "opset 11 was converted to 21"

    def layer(self, name: str) -> Layer:
        """Raises `KeyError` if there is no such layer."""
        return next(layer for layer in self.layers if layer.name == name) if self.has(name) else _missing(name)

    def has(self, name: str) -> bool:
        return any(layer.name == name for layer in self.layers)


def _missing(name: str) -> Layer:
    raise KeyError(name)
