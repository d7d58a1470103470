"""Which multiples of channels and features a target's kernels like: what is left of a layer is rounded up to one.

A width that is no multiple costs as much as the next one that is, as far as the kernel pads. From where each is known:

| target | float32 | float16 | int8 | source |
|---|---|---|---|---|
| AVX-512 | 16 | 16 | 16 | ONNX Runtime's MLAS: `NchwcBlockSize` (platform.cpp); int8 weights in panels of 16 columns |
| AVX2 | 8 | 8 | 16 | the same: blocks of 8, `MlasGemmU8S8CopyPackB` packs 16 columns at a time |
| NEON | 16 | 16 | 8 | the same: `MLAS_NEON_NCHWC_BLOCK_SIZE`, float32 panels of 16; UDOT packs 8 columns at a time |
| NVIDIA | 4 | 8 | 16 | "Matrix Multiplication Background User's Guide", table 1: 16 bytes, as TF32, FP16, INT8 |
| NVIDIA 8.0 | 32 | 64 | 128 | the same table, "on A100" |

`benchmarks/round_to.py` measures on one machine whether they matter there.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal

from hwprofiles.fingerprint import Fingerprint

Word = Literal["float32", "float16", "int8"]
DEFAULT = 8  # where nothing is known of a target
_STEPS = 4  # multiples that a width must hold, for its cuts to differ

_AVX512 = {"float32": 16, "float16": 16, "int8": 16}
_AVX2 = {"float32": 8, "float16": 8, "int8": 16}
_NEON = {"float32": 16, "float16": 16, "int8": 8}
_TENSOR_CORES = {"float32": 4, "float16": 8, "int8": 16}
_A100 = {"float32": 32, "float16": 64, "int8": 128}


@dataclass(frozen=True)
class Liked:
    """What one target likes. `why` says what it has, and where the number is from."""

    multiple: int
    why: str


@dataclass(frozen=True)
class Multiple:
    """What widths are rounded up to. Where it is found out (`shrinks`), a narrow unit takes half of it, and half again,
    down to 8, so that its cuts differ."""

    number: int
    shrinks: bool = False

    def of(self, width: int) -> int:
        """The multiple for a unit of `width` channels, features or neurons."""
        number = self.number
        while self.shrinks and number > DEFAULT and width < _STEPS * number:
            number //= 2
        return number


def liked(target: Fingerprint, words: Collection[Word]) -> Liked:
    """The least multiple that suits all the numeric formats in `words` on a target."""
    table, name, source = _row(target)
    word = max(words, key=lambda each: table[each])
    return Liked(table[word], f"{name}: {table[word]} {word} {source}")


def words_of(choices: Collection[str]) -> set[Word]:
    """What layers compute in under the choices of a study ("int8-static", "float16", ...), float32 always among it."""
    found: set[Word] = {"float32"}
    for choice in choices:
        if choice.startswith("int8"):
            found.add("int8")
        if choice.startswith("float16"):
            found.add("float16")
    return found


def _row(target: Fingerprint) -> tuple[dict[str, int], str, str]:
    """(multiples by word, what the target has, what the number counts there)."""
    on_cpu = target.provider == "CPUExecutionProvider"
    capability = re.search(r"compute capability (\d+\.\d+)", target.accelerator)
    if capability and not on_cpu:
        guide = "in NVIDIA's guide to matrix multiplication"
        if capability[1] == "8.0":
            return _A100, "compute capability 8.0", f"numbers at a time are most efficient {guide}"
        return _TENSOR_CORES, f"compute capability {capability[1]}", f"numbers are 16 bytes, which is asked {guide}"
    if on_cpu and "avx512f" in target.isa:
        return _AVX512, "AVX-512", "numbers are a block of ONNX Runtime's kernels"
    if on_cpu and "avx2" in target.isa:
        return _AVX2, "AVX2", "numbers are a block of ONNX Runtime's kernels"
    if on_cpu and "asimd" in target.isa:
        return _NEON, "NEON", "numbers are a block of ONNX Runtime's kernels"
    plain: dict[str, int] = dict.fromkeys(("float32", "float16", "int8"), DEFAULT)
    return plain, f"{target.provider}, of which nothing is known", "numbers suit most kernels"
