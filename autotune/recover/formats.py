"""What the layers of a student will be in its artifact. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from autotune.compress.calibration import Range
from autotune.compress.dialects.protocol import Dialect
from autotune.compress.dialects.sixteen import ComputesInSixteen
from autotune.errors import TrialFailure
from autotune.layers import Layer
from autotune.techniques.rounding import NEAREST, Rounding
from hwprofiles.errors import Failure

Ranges = Mapping[str, Range | tuple[float, float]]


@dataclass(frozen=True)
class Formats:
    """What is rounded of a student, and how.

    `layers` are the student's (`Source.layers`), `decisions` is {layer: choice of `quantize`} and `ranges` holds the
    calibrated ranges of the activations that static choices read. `roundings` says how a layer's weight is rounded,
    where that is not to nearest, and what the layer reads; their bias correction is left out, because training finds
    the biases. `dialect` is what the artifact is written in: one that is a `ComputesInSixteen` says how layers round;
    None and all others round as on the CPU.
    """

    layers: tuple[Layer, ...]
    decisions: Mapping[str, str] = field(default_factory=dict)
    ranges: Ranges = field(default_factory=dict)
    roundings: Mapping[str, Rounding] = field(default_factory=dict)
    dialect: Dialect | None = None

    @property
    def named(self) -> dict[str, Layer]:
        """The layers by name."""
        return {layer.name: layer for layer in self.layers}

    @property
    def chosen(self) -> dict[str, str]:
        """The decisions that change a layer."""
        return {name: choice for name, choice in self.decisions.items() if choice != "none"}

    @property
    def sixteen(self) -> ComputesInSixteen | None:
        """The dialect, where its layers compute in 16 bit."""
        return self.dialect if isinstance(self.dialect, ComputesInSixteen) else None

    def rounding(self, layer: Layer) -> Rounding:
        """How the layer's weight is rounded."""
        return self.roundings.get(layer.name, NEAREST)

    def range_of(self, tensor: str, layer: Layer) -> Range:
        """Of an activation that `layer` reads or writes by a static choice.

        Raises `TrialFailure` where there is none.
        """
        found = self.ranges.get(tensor)
        if found is None:
            choice = self.decisions.get(layer.name, "static choices")
            message = (
                f"layer {layer.name!r}: activation {tensor!r} has no calibrated range; calibrate this structure before "
                f"recovery or leave the layer out of {choice}"
            )
            raise TrialFailure(Failure(kind="unsupported", stage="recover", message=message))
        return found if isinstance(found, Range) else Range(*found)
