"""Technique `quantize`: the numeric format of each layer.

Choices, and what they mean in the artifact:

| choice | weights in the file | what runs |
|---|---|---|
| float16 | float16 | float32 kernel, weights expanded when the model is loaded |
| int8-static | int8 per channel | integer kernel, activation ranges from calibration |
| int8-dynamic | int8 per channel | integer kernel, activation range found at run time |
| w8-b128, w8-b32 | 8 bit in blocks | kernel that reads packed weights |
| w4-b128, w4-b32 | 4 bit in blocks | kernel that reads packed weights |
| w2-b128, w2-b32 | 2 bit in blocks | kernel that reads packed weights |
| w8-load | int8 per channel | float32 kernel, weights expanded when the model is loaded |
| w4-b32-load, w2-b32-load | 4 or 2 bit in blocks | float32 kernel, weights expanded when the model is loaded |

A `-load` choice buys size and nothing else; a packed one buys size and, for few rows per call, time.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

from autotune.errors import UsageError, did_you_mean
from autotune.layers import Layer, Skipped
from autotune.techniques.protocol import Calibration, Capabilities, Plan, Stage

CHOICES = (
    "float16",
    "int8-static",
    "int8-dynamic",
    "w8-b128",
    "w8-b32",
    "w4-b128",
    "w4-b32",
    "w2-b128",
    "w2-b32",
    "w8-load",
    "w4-b32-load",
    "w2-b32-load",
)

# What anybody would try first, best first: a small budget has room for a few only.
_UNIFORM_ORDER = (
    "int8-static",
    "w8-load",
    "float16",
    "int8-dynamic",
    "w4-b32-load",
    "w8-b32",
    "w4-b32",
    "w8-b128",
    "w4-b128",
    "w2-b32-load",
    "w2-b32",
    "w2-b128",
)

# Tried in this order where a uniform recipe asks for something a layer cannot do: the next thing of the same intent.
FALLBACKS: dict[str, tuple[str, ...]] = {
    "float16": (),
    "int8-static": ("w8-b32", "w8-load"),
    "int8-dynamic": ("w8-b32", "w8-load"),
    "w8-b128": ("w8-b32", "w8-load"),
    "w8-b32": ("w8-load",),
    "w4-b128": ("w4-b32", "w4-b32-load"),
    "w4-b32": ("w4-b32-load",),
    "w2-b128": ("w2-b32", "w2-b32-load"),
    "w2-b32": ("w2-b32-load",),
    "w8-load": ("w8-b32",),
    "w4-b32-load": ("w4-b32",),
    "w2-b32-load": ("w2-b32",),
}


def parse_choice(choice: str) -> tuple[int, int]:
    """(bits, block size) of a weight-only choice; block 0 means one scale per channel.

    Raises `UsageError` for a choice that is not weight-only.
    """
    words = choice.split("-")
    if not words[0].startswith("w") or not words[0][1:].isdigit():
        raise UsageError(f"choice {choice!r} is not a weight-only format; " + did_you_mean(choice, CHOICES))
    block = next((int(word[1:]) for word in words[1:] if word[0] == "b"), 0)
    return int(words[0][1:]), block


class Quantize:
    """The numeric format of each layer; see the module's table."""

    name = "quantize"
    stage: Stage = "precision"
    scope: Literal["layer", "graph"] = "layer"
    needs_moments = False

    def __init__(
        self,
        choices: Sequence[str] = (),
        calibration: Literal["minmax", "percentile", "entropy"] = "minmax",
        percentile: float = 99.99,
        calibration_samples: int = 64,
    ) -> None:
        """`choices` restricts what is offered; empty: everything. Raises `UsageError` for an unknown choice."""
        for choice in choices:
            if choice not in CHOICES:
                raise UsageError(f"technique quantize has no choice {choice!r}; " + did_you_mean(choice, CHOICES))
        self._choices = tuple(choices) or CHOICES
        self.calibration: Calibration | None = Calibration(calibration, percentile, calibration_samples)

    def survey(self, plan: Plan) -> Sequence[Skipped]:
        """Nothing that inspection has not told."""
        return ()

    def choices(self, layer: Layer, capabilities: Capabilities) -> Sequence[str]:
        """What the targets run natively for this kind of layer, in the order of `CHOICES`."""
        return tuple(c for c in CHOICES if c in self._choices and capabilities.supports(layer, c))

    def uniform(self, offered: Mapping[str, Sequence[str]]) -> list[tuple[str, dict[str, str]]]:
        """One recipe per choice, most promising first: each layer takes it, or its nearest relative where it cannot."""
        result: list[tuple[str, dict[str, str]]] = []
        for label in (c for c in _UNIFORM_ORDER if c in self._choices):
            if not any(label in choices for choices in offered.values()):
                continue
            decisions = {}
            for layer, choices in offered.items():
                pick = next((c for c in (label, *FALLBACKS[label]) if c in choices), None)
                if pick is not None:
                    decisions[layer] = pick
            if decisions and decisions not in [d for _, d in result]:
                result.append((label, decisions))
        return result

    def apply(self, plan: Plan, decisions: Mapping[str, str]) -> None:
        """Write every decision into the graph in the plan's dialect."""
        plan.write_precision(decisions)
