"""Metric keys: one grammar everywhere, `name[/slice][@target]`."""

from __future__ import annotations

import math
import re
from collections.abc import Collection
from dataclasses import dataclass

from autotune.errors import UsageError, did_you_mean

# name -> (unit, smaller is better, needs @target). Those that need none have one value for each runtime family: without
# a target that of the first target's.
COST_METRICS = {
    "size_bytes": ("bytes", True, False),
    "download_bytes": ("bytes", True, False),  # the file compressed by zlib, level 6; zeros count here only
    "latency_p50": ("s", True, True),
    "latency_p90": ("s", True, True),
    "latency_ratio": ("x", True, True),
    "uniform_ratio": ("x", True, True),  # latency over that of the best uniform recipe, timed side by side
    "memory_peak": ("bytes", True, True),
    "energy_j": ("J", True, True),
}
JUDGED_METRICS = ("drop", "flips")  # beside the workload's own metric, e.g. "accuracy"
WORST = "worst"
WORST_ANYWHERE = f"drop/{WORST}@{WORST}"  # the largest drop of any slice in any runtime family

_KEY = re.compile(r"(?P<name>[A-Za-z][A-Za-z0-9_]*)(/(?P<slice>[^@\n]+))?(@(?P<target>[A-Za-z0-9][A-Za-z0-9._-]*))?")


@dataclass(frozen=True, order=True)
class MetricKey:
    """A parsed key. `str(key)` gives the text form back."""

    name: str
    slice: str | None = None
    target: str | None = None

    def __str__(self) -> str:
        tail = f"/{self.slice}" if self.slice is not None else ""
        return self.name + tail + (f"@{self.target}" if self.target is not None else "")

    @property
    def smaller_is_better(self) -> bool:
        """True for costs, drops and flips; False for the workload's own metric."""
        return self.name in COST_METRICS or self.name in JUDGED_METRICS

    @property
    def unit(self) -> str:
        """SI unit: bytes, s, J; "x" for ratios; "" for fractions."""
        return COST_METRICS[self.name][0] if self.name in COST_METRICS else ""


def parse_key(text: str, *, metric: str | None = None) -> MetricKey:
    """Parse `text`; `metric` is the name of the workload's own metric where it is known.

    Raises `UsageError` for a malformed key, an unknown name, a missing `@target`, or a slice on a cost.
    """
    match = _KEY.fullmatch(text)
    if match is None:
        raise UsageError(f"metric key {text!r} is malformed; write name[/slice][@target], e.g. drop/worst")
    key = MetricKey(match["name"], match["slice"], match["target"])
    if key.name in COST_METRICS:
        if key.slice is not None:
            raise UsageError(f"metric key {text!r}: {key.name} has no slices; drop '/{key.slice}'")
        if COST_METRICS[key.name][2] and key.target is None:
            raise UsageError(f"metric key {text!r} needs a target; write {key.name}@TARGET")
    elif metric is not None and key.name != metric and key.name not in JUDGED_METRICS:
        raise UsageError(
            f"metric key {text!r}: unknown metric {key.name!r}; "
            + did_you_mean(key.name, [*COST_METRICS, *JUDGED_METRICS, metric])
        )
    return key


def names_target(key: MetricKey, targets: Collection[str]) -> bool:
    """Whether the key is about all targets, one of `targets`, or the worst of them."""
    return key.target is None or key.target in targets or str(key) == WORST_ANYWHERE


_AMOUNT = re.compile(r"^\s*(?P<number>[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?)\s*(?P<unit>[A-Za-zµμ%×]*)\s*$")
_SCALES: dict[str, dict[str, float]] = {  # unit of the key -> written unit -> factor to SI
    "bytes": {
        "": 1, "b": 1, "bytes": 1, "kb": 1e3, "mb": 1e6, "gb": 1e9, "kib": 2**10, "mib": 2**20, "gib": 2**30,
    },
    "s": {"": 1, "s": 1, "ms": 1e-3, "us": 1e-6, "µs": 1e-6, "μs": 1e-6, "ns": 1e-9, "min": 60, "h": 3600},
    "x": {"": 1, "x": 1, "×": 1, "%": 1e-2},
    "J": {"": 1, "j": 1, "mj": 1e-3},
    "": {"": 1, "pt": 1e-2, "pts": 1e-2, "%": 1e-2},
}  # fmt: skip


def parse_amount(text: str, key: MetricKey) -> float:
    """What a person wrote for `key`, in SI units: 10MB, 8ms, 0.9x, 1pt (one point, 0.01), or a bare number.

    Raises `UsageError` when it is no number or the unit does not belong to the key.
    """
    scales = _SCALES[key.unit]
    match = _AMOUNT.match(text)
    if match is None:
        raise UsageError(f"{key}: {text!r} is not an amount; write a number such as {_example(key)}")
    scale = scales.get(match["unit"].lower())
    if scale is None:
        units = ", ".join(unit for unit in scales if unit)
        raise UsageError(f"{key}: {text!r} has the wrong unit; known for this key: {units}")
    value = float(match["number"]) * scale
    if not math.isfinite(value):
        raise UsageError(f"{key}: {text!r} is too large for a number")
    return value


def _example(key: MetricKey) -> str:
    return {"bytes": "10MB", "s": "8ms", "x": "0.9x", "J": "5mJ", "": "1pt"}[key.unit]


def format_amount(value: float, key: MetricKey) -> str:
    """`value` (SI) for the screen: 3.06 MB, 8.20 ms, 0.831x; drops and flips in points, other fractions in
    percent.
    """
    if key.unit == "bytes":
        return _scaled(value, ((1e9, "GB"), (1e6, "MB"), (1e3, "kB"), (1, "B")))
    if key.unit == "s":
        return _scaled(value, ((1, "s"), (1e-3, "ms"), (1e-6, "µs"), (1e-9, "ns")))
    if key.unit == "J":
        return _scaled(value, ((1, "J"), (1e-3, "mJ"), (1e-6, "µJ")))
    if key.unit == "x":
        return f"{value:.3f}x"
    unit = "pt" if key.name in JUDGED_METRICS else "%"
    return f"{round(100 * value, 1) + 0.0:.1f} {unit}"  # + 0.0 makes -0.0 plain zero


def _scaled(value: float, steps: tuple[tuple[float, str], ...]) -> str:
    factor, unit = next((step for step in steps if abs(value) >= step[0]), steps[-1])
    return f"{value / factor:.3g} {unit}" if abs(value / factor) < 999.5 else f"{value / factor:.0f} {unit}"
