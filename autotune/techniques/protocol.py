"""What a compression technique is. Third parties implement this and register under `hw_autotune.techniques`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, MutableMapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, get_args, runtime_checkable

import numpy as np
import onnx

from autotune.layers import Layer, Skipped
from autotune.techniques.moments import Moments
from autotune.techniques.rounding import NEAREST, Rounding

Stage = Literal["torch", "rewrite", "prune", "scale", "factorize", "sparsify", "recover", "precision"]
STAGES: tuple[Stage, ...] = get_args(Stage)  # the order in which a recipe is carried out
# What remains is another model, worth training.
STRUCTURAL: tuple[Stage, ...] = ("torch", "prune", "factorize", "sparsify")
RESIZING: tuple[Stage, ...] = ("torch", "prune", "factorize")  # they change how many weights a layer has


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
    """An artifact under construction: the graph and what is known about its layers (`autotune.compress.plan.Plan`).

    Nodes and tensors are never changed in place: a technique puts new ones in their place.
    """

    nodes: list[onnx.NodeProto]

    # Constants by name; of a large model, a new message at every reading. `weight` is the cheap way to a layer's.
    @property
    def tensors(self) -> MutableMapping[str, onnx.TensorProto]: ...

    layers: dict[str, Layer]  # as they are now; keep them true: shape, nodes, weight, bias, parameters, group
    parts: dict[str, tuple[str, ...]]  # layer of the model -> what `split` has made of it; whole ones are missing

    def layer(self, name: str) -> Layer:
        """Raises `KeyError` for an unknown name."""
        ...

    def consumers(self) -> dict[str, list[onnx.NodeProto]]:
        """Tensor -> nodes that read it, in order."""
        ...

    def output_names(self) -> set[str]:
        """The graph's outputs."""
        ...

    def shapes(self) -> Mapping[str, tuple[int | None, ...]]:
        """Tensor -> its shape as inferred for the graph as it is now; None is an axis that varies. Computed anew at
        every call. Tensors of unknown rank are missing."""
        ...

    def was(self, layer: str) -> Layer | None:
        """The layer as it was before any decision was carried out; None for a part of one."""
        ...

    def weight(self, layer: Layer) -> np.ndarray:
        """The layer's weight as it is now, float32 of `layer.shape`; read only."""
        ...

    def set_tensor(self, name: str, array: np.ndarray) -> None:
        """Put a constant in the place of another one, or add it."""
        ...

    def moments(self, layer: str) -> Moments | None:
        """What the layer reads on the calibration data, as it is now; None where nothing is known."""
        ...

    def set_moments(self, layer: str, moments: Moments | None) -> None:
        """Tell what a layer reads after an edit of what is in front of it."""
        ...

    def split(self, layer: str, parts: Sequence[Layer]) -> None:
        """A layer has become several (or, with no parts, is gone). Later decisions on it hold for every part."""
        ...

    def banked(self, key: Sequence[object], make: Callable[[], Mapping[str, np.ndarray]]) -> Mapping[str, np.ndarray]:
        """What `make` returns, computed once per `key` and kept on disk with the study. `key` must name everything that
        the result depends on; of weights and moments take `weight_digest` and `Moments.digest`."""
        ...

    def checkpoint(self, name: str) -> Mapping[str, np.ndarray]:
        """Weights that training has found, tensor -> array. Raises `TrialFailure` where there are none of that name."""
        ...

    def weight_digest(self, layer: Layer) -> str:
        """sha256 of the layer's weight as it is now."""
        ...

    def write_precision(self, decisions: Mapping[str, str], rounding: Rounding = NEAREST) -> None:
        """Have the dialect write numeric formats (layer name -> choice) into the graph, weights rounded as asked."""
        ...


@runtime_checkable
class Technique(Protocol):
    """One way of compressing, made from its table in the study file: `Technique(**options)`.

    `stage` fixes the order once and for all, so no technique needs to know another: "torch" (the module that the model
    is exported from), "rewrite" (exact rewrites), "prune" (structure), "scale" (exact rescaling between layers),
    "factorize", "sparsify", "recover" (weights that training has found), and at last "precision" (the numeric format,
    in the way of the dialect). A technique of scope "graph" decides once for the whole model: its uniform recipe is
    part of every recipe that is proposed. `needs_moments` says whether it wants `Plan.moments`.

    Optional methods, called before `survey` where they are there: `cut_module(module)` (a
    `autotune.techniques.prune.route.ModuleRoute`, where the model is a torch module) and `suit(liked)` (what the
    targets like, `autotune.techniques.multiples.Liked`). Others: `changes(layer, choice)`, where a choice under the
    name of one layer changes others: all layers that it changes; `units`: such choices, for people
    (`autotune.techniques.prune.units.Unit`); `meaning`: option -> value, of those that say what a choice is;
    `told`: a sentence for `autotune check`; `lost(layer)`: choice that a layer does not have -> why, for people too.
    """

    name: str
    stage: Stage
    scope: Literal["layer", "graph"]
    calibration: Calibration | None
    needs_moments: bool

    def survey(self, plan: Plan) -> Sequence[Skipped]:
        """Look at the original model once, before choices are asked for: what must be left alone, and why.

        `plan` must not be edited.
        """
        ...

    def choices(self, layer: Layer, capabilities: Capabilities) -> Sequence[str]:
        """Choices for one layer, without "none", which is always there. Empty: the technique has nothing to offer."""
        ...

    def uniform(self, offered: Mapping[str, Sequence[str]]) -> list[tuple[str, dict[str, str]]]:
        """The recipes (label, layer -> choice) that anybody would try first: the same decision everywhere."""
        ...

    def apply(self, plan: Plan, decisions: Mapping[str, str]) -> None:
        """Carry out `decisions` (layer name -> choice) on the plan. Deterministic.

        Raises `TrialFailure` where a decision cannot be carried out.
        """
        ...


@runtime_checkable
class Foretelling(Protocol):
    """A technique that knows sizes without building anything, as one whose every cut is an export should."""

    stage: Stage

    def foretell(self, plan: Plan, decisions: Mapping[str, str]) -> Mapping[str, int]:
        """Layer -> how many weights `apply` leaves of it (0: it is gone); for layers that change.

        Raises what `apply` raises.
        """
        ...
