"""What a compression technique is. Third parties implement this and register under `hw_autotune.techniques`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

import onnx

from autotune.layers import Layer


@runtime_checkable
class Capabilities(Protocol):
    """What the study's targets can really run, found by probing them."""

    def supports(self, layer: Layer, choice: str) -> bool:
        """True when every target runs `choice` on this layer with the kernels it stands for."""
        ...


@dataclass(frozen=True)
class Calibration:
    """What a technique wants to know about activations: `samples` inputs, read off by `method` (minmax, percentile,
    entropy)."""

    method: Literal["minmax", "percentile", "entropy"] = "minmax"
    percentile: float = 99.99
    samples: int = 64


class Plan(Protocol):
    """An artifact under construction: the graph and what is known about its layers (`autotune.compress.plan.Plan`)."""

    def layer(self, name: str) -> Layer:
        """Raises `KeyError` for an unknown name."""
        ...

    nodes: list[onnx.NodeProto]
    tensors: dict[str, onnx.TensorProto]  # constants by name

    def consumers(self) -> dict[str, list[onnx.NodeProto]]:
        """Tensor -> nodes that read it, in order."""
        ...

    def output_names(self) -> set[str]:
        """The graph's outputs."""
        ...

    def write_precision(self, decisions: Mapping[str, str]) -> None:
        """Have the dialect write numeric formats (layer name -> choice) into the graph."""
        ...


@runtime_checkable
class Technique(Protocol):
    """One way of compressing, made from its table in the study file: `Technique(**options)`.

    `stage` fixes the order once and for all: "structure" (simplify, prune, factorize, sparsify) before "precision"
    (quantize), so no technique needs to know another. A technique of scope "graph" decides once for the whole model:
    its uniform recipe is part of every recipe that is proposed.
    """

    name: str
    stage: Literal["structure", "precision"]
    scope: Literal["layer", "graph"]
    calibration: Calibration | None

    def choices(self, layer: Layer, capabilities: Capabilities) -> Sequence[str]:
        """Choices for one layer, without "none", which is always there. Empty: the technique has nothing to offer."""
        ...

    def uniform(self, offered: Mapping[str, Sequence[str]]) -> list[tuple[str, dict[str, str]]]:
        """The recipes (label, layer -> choice) that anybody would try first: the same decision everywhere."""
        ...

    def apply(self, plan: Plan, decisions: Mapping[str, str]) -> None:
        """Carry out `decisions` (layer name -> choice) on the plan."""
        ...
