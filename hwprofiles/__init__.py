"""What hardware there is, and what a model costs on it: measured in pairs, with intervals, ties called ties.

Compare two models on this machine, and be told how sure that is:

>>> from pathlib import Path
>>> import hwprofiles, numpy
>>> result = hwprofiles.compare(
...     [Path("original.onnx"), Path("small.onnx")],
...     [hwprofiles.find_target("local")],
...     inputs=[{"x": numpy.ones((1, 64), "float32")}],
...     scenario=hwprofiles.find_scenario("quick"),
...     work=Path("work"),
... )
>>> len(hwprofiles.summary(result)) > 0
True
>>> result.row("small.onnx", "local").measurement.ratio.estimate.value > 0
True

Everything is loaded on first use: `import hwprofiles` alone loads neither numpy nor pydantic, and nothing here ever
loads a runtime, which runs in a process of its own.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hwprofiles.comparison import Comparison, ComparisonProgress, compare, summary
    from hwprofiles.device import Device, open_device
    from hwprofiles.errors import (
        BadProfile,
        BadScenario,
        DeviceFailure,
        Failure,
        HardwareError,
        TargetBusy,
        TargetLost,
        TargetUnavailable,
        UnknownTarget,
    )
    from hwprofiles.fingerprint import Fingerprint
    from hwprofiles.measurement import Conditions, Energy, Estimate, Kernel, Latency, Measurement, Memory, Ratio
    from hwprofiles.registry import find_target, list_targets
    from hwprofiles.scenario import Scenario
    from hwprofiles.scenarios import find_scenario, load_scenario
    from hwprofiles.target import Policy, Target

_HOME = {  # public name -> module that defines it
    "BadProfile": "hwprofiles.errors",
    "BadScenario": "hwprofiles.errors",
    "Comparison": "hwprofiles.comparison",
    "ComparisonProgress": "hwprofiles.comparison",
    "Conditions": "hwprofiles.measurement",
    "Device": "hwprofiles.device",
    "DeviceFailure": "hwprofiles.errors",
    "Energy": "hwprofiles.measurement",
    "Estimate": "hwprofiles.measurement",
    "Failure": "hwprofiles.errors",
    "Fingerprint": "hwprofiles.fingerprint",
    "HardwareError": "hwprofiles.errors",
    "Kernel": "hwprofiles.measurement",
    "Latency": "hwprofiles.measurement",
    "Measurement": "hwprofiles.measurement",
    "Memory": "hwprofiles.measurement",
    "Policy": "hwprofiles.target",
    "Ratio": "hwprofiles.measurement",
    "Scenario": "hwprofiles.scenario",
    "Target": "hwprofiles.target",
    "TargetBusy": "hwprofiles.errors",
    "TargetLost": "hwprofiles.errors",
    "TargetUnavailable": "hwprofiles.errors",
    "UnknownTarget": "hwprofiles.errors",
    "compare": "hwprofiles.comparison",
    "find_scenario": "hwprofiles.scenarios",
    "find_target": "hwprofiles.registry",
    "list_targets": "hwprofiles.registry",
    "load_scenario": "hwprofiles.scenarios",
    "open_device": "hwprofiles.device",
    "summary": "hwprofiles.comparison",
}

__all__ = [
    "BadProfile",
    "BadScenario",
    "Comparison",
    "ComparisonProgress",
    "Conditions",
    "Device",
    "DeviceFailure",
    "Energy",
    "Estimate",
    "Failure",
    "Fingerprint",
    "HardwareError",
    "Kernel",
    "Latency",
    "Measurement",
    "Memory",
    "Policy",
    "Ratio",
    "Scenario",
    "Target",
    "TargetBusy",
    "TargetLost",
    "TargetUnavailable",
    "UnknownTarget",
    "compare",
    "find_scenario",
    "find_target",
    "list_targets",
    "load_scenario",
    "open_device",
    "summary",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'hwprofiles' has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOME[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
