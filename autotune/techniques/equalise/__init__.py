"""Technique `equalise`: scales are moved between neighbours so that fewer levels are wasted when weights or
activations are rounded later. In float the model computes what it did, to float32 rounding.

A unit is a tensor with one scale per channel: what writes it is divided by the scale, the weights of all layers that
read it are multiplied. It has the name of the first layer that reads it.

| choice | the scale of a channel | needs |
|---|---|---|
| cross-layer | sqrt(r1 / r2), ranges of the weights before and behind (Nagel et al., arXiv 1906.04721) | weights |
| smooth-25%, -50%, -75% | a^alpha / w^(1 - alpha) (SmoothQuant, arXiv 2211.10438), alpha the percentage | moments |
| awq | a^b, b searched for the least error of rounding to 4 bits (AWQ, arXiv 2306.00978) | moments |

`a` is the size of the activations in the channel, sqrt(E x^2), as the first reader sees them. The papers take the
largest |x| (SmoothQuant) and the mean |x| (AWQ). The root mean square is what moments hold. It is less driven by one
outlier than the maximum, so a given alpha moves less of a rare outlier into the weights. `w` and r are the largest
|weight| of the channel. `smooth` and `awq` are for products and 1 x 1 convolutions, `cross-layer` for every unit that
a layer writes.

Between writer and readers there may be operators that commute with positive scales per channel: Relu, LeakyRelu,
PRelu, pooling, products with a gate, constant factors and shifts (which are scaled too), Reshape, Transpose, and the
mixing of rows in attention. Clip (Relu6), hard-swish, GELU, a residual sum or any other reader of the tensor prevent
it: the layer is told as left alone, with the node. `cross-layer` is repeated over all units that ask for it until
scales settle, since the layer between two units has a part in both.

With `insert = true` products that belong to no unit get one too: a Mul in front of them divides the tensor, once for
all products that read it. That costs one pass over the tensor at run time, where folding costs nothing. In post-norm
transformers, such as BERT, and behind GELU it is the only way.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Literal, NoReturn, get_args

import numpy as np

from autotune.errors import TrialFailure, UsageError
from autotune.layers import Layer, Skipped
from autotune.techniques import shares as share
from autotune.techniques.equalise import folding, scales
from autotune.techniques.equalise.balance import balanced
from autotune.techniques.equalise.finding import find
from autotune.techniques.equalise.units import Unit, is_product
from autotune.techniques.protocol import Calibration, Capabilities, Plan, Stage
from hwprofiles.errors import Failure

VERSION = 1  # raise it when the numbers of `awq` change: what the bank holds is then never read again
Kind = Literal["cross-layer", "smooth", "awq"]


class Equalise:
    """See the module."""

    name = "equalise"
    stage: Stage = "scale"
    scope: Literal["layer", "graph"] = "layer"
    calibration: Calibration | None = None

    def __init__(
        self,
        kinds: Sequence[Kind] = ("cross-layer", "smooth", "awq"),
        alphas: Sequence[float] = (0.25, 0.5, 0.75),
        insert: bool = False,
    ) -> None:
        """`kinds` restricts what is offered; `alphas`: exponents of `smooth`; `insert`: see the module. Raises
        `UsageError` for impossible values."""
        unknown = [kind for kind in kinds if kind not in get_args(Kind)]
        if isinstance(kinds, str) or unknown:
            raise UsageError(f"technique equalise: kinds is {kinds!r}; choose among {', '.join(get_args(Kind))}")
        if not isinstance(insert, bool):
            raise UsageError(f"technique equalise: insert is {insert!r}; give true or false")
        self._kinds = tuple(kinds)
        self._insert = insert
        self._alphas = share.checked(self.name, "alphas", alphas)
        self.needs_moments = "smooth" in kinds or "awq" in kinds
        self._offers: dict[str, tuple[str, ...]] | None = None
        self._changes: dict[str, tuple[str, ...]] = {}

    def survey(self, plan: Plan) -> Sequence[Skipped]:
        """Find the units, and tell the layers that are in none."""
        units, skipped = find(plan, insert=self._insert)
        self._offers = {name: self._choices(plan, unit) for name, unit in units.items()}
        self._changes = {
            name: (*unit.readers, *([unit.writer] if unit.writer is not None else [])) for name, unit in units.items()
        }
        return skipped

    def changes(self, layer: str, choice: str) -> tuple[str, ...]:
        """The layers that a unit's scale is moved between: those that read, and the one that writes."""
        return self._changes.get(layer, ())

    def choices(self, layer: Layer, capabilities: Capabilities) -> Sequence[str]:
        """What the unit of this name can do. `survey` must have been called. Raises `UsageError` otherwise."""
        if self._offers is None:
            raise UsageError("technique equalise knows its choices after survey; call that first")
        return self._offers.get(layer.name, ())

    def uniform(self, offered: Mapping[str, Sequence[str]]) -> list[tuple[str, dict[str, str]]]:
        """One recipe per choice; a unit that does not have it stays as it is."""
        recipes = [(label, {unit: label for unit, each in offered.items() if label in each}) for label in self._labels]
        return [(label, decisions) for label, decisions in recipes if decisions]

    def apply(self, plan: Plan, decisions: Mapping[str, str]) -> None:
        """Scale. Units whose layers are gone have nothing left to scale.

        Raises `UsageError` for a choice that is none, `KeyError` for an unknown layer, `TrialFailure` where an earlier
        edit leaves no unit of that name, or a choice finds no moments.
        """
        for choice in decisions.values():
            if choice not in ("cross-layer", "awq") and share.parsed("smooth", choice) is None:
                raise UsageError(f"technique equalise has no choice {choice!r}; give cross-layer, awq or smooth-P%")
        units, skipped = find(plan, insert=self._insert)
        reasons = {each.name: each.reason for each in skipped}
        wanted: dict[str, str] = {}
        for name, choice in decisions.items():
            if plan.parts.get(name) == ():
                continue  # pruned away
            if name not in units:
                plan.layer(name)
                _fail(f"layer {name!r} has no scale to move: {reasons.get(name, 'another layer names its unit')}")
            wanted[name] = choice
        asked = [units[name] for name in units if wanted.get(name) == "cross-layer"]
        for unit in asked:
            if unit.writer is None:
                _fail(f"layer {unit.name!r} reads what no layer writes; cross-layer needs weights on both sides")
        for unit, scale in balanced(plan, asked):
            folding.fold(plan, unit, scale)
        for name in (name for name in units if wanted.get(name, "cross-layer") != "cross-layer"):
            folding.fold(plan, units[name], _activation_aware(plan, units[name], wanted[name]))

    @property
    def _labels(self) -> tuple[str, ...]:
        smooth = tuple(share.named("smooth", alpha) for alpha in self._alphas)
        by_kind = {"cross-layer": ("cross-layer",), "smooth": smooth, "awq": ("awq",)}
        return tuple(label for kind, labels in by_kind.items() if kind in self._kinds for label in labels)

    def _choices(self, plan: Plan, unit: Unit) -> tuple[str, ...]:
        products = all(is_product(plan.layer(name)) for name in unit.readers)
        return tuple(
            label for label in self._labels if (unit.writer is not None if label == "cross-layer" else products)
        )


def _activation_aware(plan: Plan, unit: Unit, choice: str) -> np.ndarray:
    """The scale of `smooth` and `awq`, float64 `[channels]`."""
    if not all(is_product(plan.layer(name)) for name in unit.readers):
        _fail(f"layer {unit.name!r}: {choice} is for products and 1 x 1 convolutions, and another kind reads it too")
    squares = {name: folding.activation_squares(plan, name) for name in unit.readers}
    for name, known in squares.items():
        if known is None:
            _fail(
                f"layer {name!r}: nothing is known about what it reads, and {choice} needs that; give calibration "
                "data that reach it"
            )
    seen = {name: known for name, known in squares.items() if known is not None}
    sizes = scales.sizes(seen[unit.name], unit.readers[unit.name], unit.channels)
    alpha = share.parsed("smooth", choice)
    if alpha is not None:
        return scales.smooth(sizes, folding.read_range(plan, unit), alpha)

    def search() -> dict[str, np.ndarray]:
        readers = [
            scales.Reader(folding.matrix_of(plan, name), seen[name], each) for name, each in unit.readers.items()
        ]
        return {"scale": scales.awq(readers, sizes)}

    digests = [
        (name, plan.weight_digest(plan.layer(name)), _digest(seen[name], each)) for name, each in unit.readers.items()
    ]
    return plan.banked(("equalise", VERSION, choice, unit.name, digests), search)["scale"]


def _digest(*arrays: np.ndarray) -> str:
    return hashlib.sha256(b"".join(np.ascontiguousarray(each).tobytes() for each in arrays)).hexdigest()


def _fail(message: str) -> NoReturn:
    raise TrialFailure(Failure(kind="unsupported", stage="build", message=message))
