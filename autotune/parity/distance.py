"""How far an array is from what it should be, and from where on that is more than rounding."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import onnx

from autotune.parity.report import Tolerance

Array = np.ndarray[Any, Any]
Kind = Literal["float", "levels", "exact"]

_TINY = 1e-30
_LEVELS = frozenset({"int8", "uint8", "int16", "uint16", "int4", "uint4", "int2", "uint2"})
_SUMS = frozenset({"MatMulInteger", "ConvInteger"})  # int32 that are amounts, not indices

# float16 keeps 11 bits where float32 keeps 24. Rounding once costs up to 5e-4; a sum rounds more often.
_HALF = 5e-3
# What a runtime may do by the meaning of an operator: MatMulNBits says how exact it has to be.
_ACCURACY = {1: 0.0, 2: 5e-3, 3: 2e-2, 4: 2e-2}  # float32, float16, bfloat16, int8 activations

# Sums may cancel, and then rounding is small only beside what was summed.
_CANCELLING = frozenset(
    [
        "Add", "Sub", "Sum", "Mean", "ReduceSum", "ReduceMean", "GlobalAveragePool", "AveragePool", "CumSum", "Einsum",
        "MatMul", "Gemm", "Conv", "ConvTranspose",
    ]
)  # fmt: skip
# Results between 0 and 1 (or -1 and 1) are right beside 1; runtimes compute these functions by approximation.
BOUNDED = frozenset(["Sigmoid", "Softmax", "HardSigmoid", "Tanh", "Erf", "Sin", "Cos", "Exp", "Gelu", "Softsign"])
_SMALL = 1e-3  # share of the inputs, or of 1, below which a result is not asked for all its digits


@dataclass(frozen=True)
class Gap:
    """`distance` is relative L2, None with a `mismatch`. `unequal` counts elements, `step` is the largest absolute
    difference."""

    distance: float | None
    unequal: int
    size: int
    step: float
    mismatch: str = ""

    @property
    def share(self) -> float:
        return self.unequal / self.size if self.size else 0.0


def kind_of(array: Array, op: str) -> Kind:
    """How an array that a target gave is to be compared."""
    if array.dtype.kind in "fc" or (op in _SUMS and array.dtype.name == "int32"):
        return "float"
    return "levels" if array.dtype.name in _LEVELS else "exact"


def gap(found: Array, truth: Any, *, floor: float = 0.0) -> Gap:
    """Compare. `floor` is the root mean square below which the size of `truth` is not taken.

    Equal infinities, and NaN where there should be NaN, are no difference. A float32 holds no more than 3.4e38: what
    the reference has beyond that is infinite for a float32.
    """
    if not isinstance(truth, np.ndarray):
        return Gap(None, found.size, found.size, 0.0, "one is a tensor, the other is not")
    if found.shape != truth.shape:
        return Gap(None, found.size, found.size, 0.0, f"shape {list(found.shape)} against {list(truth.shape)}")
    if found.dtype.kind not in "fciub" or truth.dtype.kind not in "fciub":
        unequal = int((found != truth).sum())
        return Gap(None if unequal else 0.0, unequal, found.size, 0.0, f"{unequal} texts differ" if unequal else "")
    with np.errstate(all="ignore"):
        other = truth.astype(np.float64, copy=False)
        difference = found - other
        away = float(np.square(difference).sum())
        odd = None
        if not np.isfinite(away):  # rare, and slower to look at
            other, difference, odd = _finite_part(found, other)
            away = float(np.square(difference).sum())
        unequal = int(np.count_nonzero(difference))
        step = float(max(difference.max(initial=0.0), -difference.min(initial=0.0)))
        if odd is not None and odd.any():
            count = int(odd.sum())
            what = "element is" if count == 1 else "elements are"
            return Gap(None, unequal + count, found.size, step, f"{count} {what} NaN or infinite on one side only")
        scale = max(float(np.sqrt(np.square(other).sum())), floor * np.sqrt(other.size))
        if not np.isfinite(scale):
            return Gap(None, unequal, found.size, step, "numbers too large to take their distance")
        away = float(np.sqrt(away))
        return Gap(away / scale if scale > _TINY else float(away > 0), unequal, found.size, step)


def _finite_part(found: Array, truth: Array) -> tuple[Array, Array, Array]:
    """(truth and difference where both are finite and 0 elsewhere, where only one of them is finite or NaN)."""
    if found.dtype == np.float32:
        truth = np.where(np.abs(truth) > np.finfo(np.float32).max, np.sign(truth) * np.inf, truth)
    whole = np.isfinite(found) & np.isfinite(truth)
    odd = ~whole & ~((found == truth) | (np.isnan(found) & np.isnan(truth)))
    return np.where(whole, truth, 0.0), np.where(whole, found - truth, 0.0), odd


def floor_of(op: str, inputs: list[Array]) -> float:
    """Root mean square below which the result of an operator carries rounding of its inputs, or of 1."""
    if op in BOUNDED:
        return _SMALL
    if op not in _CANCELLING:
        return 0.0
    sizes = [_rms(a) for a in inputs if isinstance(a, np.ndarray) and a.dtype.kind == "f" and a.size]
    if op in ("MatMul", "Gemm", "Conv", "ConvTranspose"):
        return _SMALL * float(np.prod(sizes[:2])) if len(sizes) >= 2 else 0.0
    return _SMALL * max(sizes, default=0.0)


def allowed(half: bool, tolerance: Tolerance) -> float:
    """The relative distance from which on a float result is no rounding any more. `half`: float16 takes part."""
    return max(tolerance.layer, _HALF) if half else tolerance.layer


def permitted(node: onnx.NodeProto) -> float:
    """The relative error that an operator permits the runtime by its own meaning."""
    if node.op_type != "MatMulNBits":
        return 0.0
    return _ACCURACY.get(next((int(a.i) for a in node.attribute if a.name == "accuracy_level"), 0), 0.0)


def beyond(found: Gap, kind: Kind, limit: float, tolerance: Tolerance) -> bool:
    """Whether a difference is more than rounding.

    `limit` is for floats. Levels may be off by one for a few, at least for one; what is exact may not be off at all.
    """
    if found.mismatch:
        return True
    if kind == "exact":
        return found.unequal > 0
    if kind == "levels":
        return found.step > 1 or found.unequal > max(1.0, tolerance.levels * found.size)
    return found.distance is not None and found.distance > limit


def _rms(array: Array) -> float:
    with np.errstate(all="ignore"):
        value = float(np.sqrt(np.mean(np.square(array, dtype=np.float64)))) if array.size else 0.0
    return value if np.isfinite(value) else 0.0
