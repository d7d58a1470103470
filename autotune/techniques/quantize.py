"""Technique `quantize`: the numeric format of each layer.

Choices, and what they mean. A recipe is the same for every target; how a choice is carried out differs by dialect:

| choice | weights in the file | dialect `ort-cpu` | dialect `tensorrt` |
|---|---|---|---|
| float16 | float16 | float32 kernel, weights expanded when the model is loaded | computed in float16 |
| bfloat16 | bfloat16 | - | computed in bfloat16 |
| int8-static | int8 per channel | integer kernel, activation ranges from calibration | likewise, symmetric |
| int8-dynamic | int8 per channel | integer kernel, activation range found at run time | - |
| fp8-static | E4M3 per channel | - | fp8 kernel, activation ranges from calibration |
| nvfp4 | E2M1 in blocks of 16 | - | fp4 kernel, activation ranges of blocks found at run time |
| w8-b128, w8-b32 | 8 bit in blocks | kernel that reads packed weights | - |
| w4-b128, w4-b32 | 4 bit in blocks | kernel that reads packed weights | likewise, computed in float16 |
| w2-b128, w2-b32 | 2 bit in blocks | kernel that reads packed weights | - |
| w8-load | int8 per channel | float32 kernel, weights expanded when the model is loaded | float16, expanded there |
| w4-b32-load, w2-b32-load | 4 or 2 bit in blocks | as w8-load | - |
| nf4-b64-load | 4 bit NormalFloat in blocks of 64 | as w8-load | - |
| int8-dynamic-o1% | int8 per channel, 1 % of the inputs float32 | integer kernel and a small float32 product | - |

On the CPU a `-load` choice buys size and nothing else; a packed one buys size and, for few rows per call, time. The
last two are offered only where `choices` asks for them by name. Dialect `ort-cuda` is in `docs/gpu.md`.

How weights are rounded is an option of the study, not a choice: `rounding = "gptq"` changes neither size nor time. It
needs calibration data, as does `bias_correction`; layers that have no moments (tables, ConvTranspose) are rounded to
nearest. Moments are those of the original: what a layer reads once the layers in front of it are quantised differs
a little.

`bias_correction` gives the outputs of a layer the mean that rounding took from them, by its bias: that of a Conv or
Gemm (one is made where there is none, 4 bytes per output that `Assembler.weight_bytes` does not count), or the constant
of the Add behind a MatMul. A MatMul without such an Add stays as it is, because a node more would cost time, and so
does a bias that is computed or has more than one row. float16 is exact enough without it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Literal

from autotune.errors import UsageError, did_you_mean
from autotune.layers import Layer, Skipped
from autotune.techniques.protocol import Calibration, Capabilities, Plan, Stage
from autotune.techniques.rounding import METHODS, Method, Rounding

CHOICES = (
    "float16",
    "bfloat16",
    "int8-static",
    "fp8-static",
    "int8-dynamic",
    "nvfp4",
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
ON_REQUEST = ("nf4-b64-load", "int8-dynamic-o1%")  # offered to those who ask by name
ALL_CHOICES = (*CHOICES, *ON_REQUEST)
CALIBRATED = ("int8-static", "fp8-static", "nvfp4")  # cannot be written without the ranges of activations
NEED_MOMENTS = ("int8-dynamic-o1%",)  # cannot be written without knowing what the layer reads

# What anybody would try first, best first: a small budget has room for a few only.
_UNIFORM_ORDER = (
    "int8-static",
    "fp8-static",
    "w8-load",
    "float16",
    "bfloat16",
    "nvfp4",
    "int8-dynamic",
    "int8-dynamic-o1%",
    "w4-b32-load",
    "nf4-b64-load",
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
    "bfloat16": ("float16",),
    "int8-static": ("w8-b32", "w8-load"),
    "fp8-static": ("int8-static", "w8-load", "float16"),
    "nvfp4": ("fp8-static", "w4-b32", "w8-load", "float16"),
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
    "nf4-b64-load": ("w4-b32-load", "w4-b32"),
    "int8-dynamic-o1%": ("int8-dynamic", "w8-b32", "w8-load"),
}


def parse_choice(choice: str) -> tuple[int, int]:
    """(bits, block size) of a weight-only choice; block 0 means one scale per channel. nf4 counts as 4 bits.

    Raises `UsageError` for a choice that is not weight-only.
    """
    found = re.fullmatch(r"(?:w|nf)(\d+)(?:-b(\d+))?(?:-load)?", choice)
    if found is None:
        raise UsageError(f"choice {choice!r} is not a weight-only format; " + did_you_mean(choice, ALL_CHOICES))
    return int(found[1]), int(found[2] or 0)


class Quantize:
    """The numeric format of each layer; see the module's table."""

    name = "quantize"
    stage: Stage = "precision"
    scope: Literal["layer", "graph"] = "layer"

    def __init__(
        self,
        choices: Sequence[str] = (),
        calibration: Literal["minmax", "percentile", "entropy"] = "minmax",
        percentile: float = 99.99,
        calibration_samples: int = 64,
        rounding: Method = "nearest",
        bias_correction: bool = False,
    ) -> None:
        """`choices` restricts what is offered, or asks for more; empty: `CHOICES`. Raises `UsageError` for an unknown
        choice or rounding."""
        if isinstance(choices, str):
            raise UsageError(f"technique quantize: choices is {choices!r}; give a list, such as ['float16']")
        for choice in choices:
            if choice not in ALL_CHOICES:
                raise UsageError(f"technique quantize has no choice {choice!r}; " + did_you_mean(choice, ALL_CHOICES))
        if rounding not in METHODS:
            raise UsageError(f"technique quantize has no rounding {rounding!r}; " + did_you_mean(rounding, METHODS))
        if not isinstance(bias_correction, bool):
            raise UsageError(f"technique quantize: bias_correction is {bias_correction!r}; give true or false")
        self._choices = tuple(choices) or CHOICES
        self.rounding = Rounding(rounding, bias_correction)
        self.needs_moments = self.rounding.needs_moments or any(c in NEED_MOMENTS for c in self._choices)
        self.calibration: Calibration | None = Calibration(calibration, percentile, calibration_samples)

    def meaning(self) -> dict[str, str]:
        """What else, beside its name, says what a choice does to a model: a study must not change it on the way."""
        return {"rounding": self.rounding.method, "bias_correction": str(self.rounding.bias_correction).lower()}

    def survey(self, plan: Plan) -> Sequence[Skipped]:
        """Nothing that inspection has not told."""
        return ()

    def choices(self, layer: Layer, capabilities: Capabilities) -> Sequence[str]:
        """What the targets run natively for this kind of layer, in the order of `ALL_CHOICES`."""
        return tuple(c for c in ALL_CHOICES if c in self._choices and capabilities.supports(layer, c))

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
        plan.write_precision(decisions, self.rounding)
