"""What can go wrong with hardware.

HardwareError
├── UnknownTarget        no such name; the message offers the nearest ones        exit 2
├── BadProfile           a target's TOML says something impossible                exit 2
├── BadScenario          a scenario's TOML says so, or there is no such scenario  exit 2
├── TargetUnavailable    the device or its runtime is not there                   exit 69
│   └── TargetLost       it was there and is gone: connection, reboot, lease      exit 69
├── TargetBusy           somebody else holds the lease                            exit 75
└── DeviceFailure        the measured process failed; carries a Failure   a value, never a crash

Every message says what happened, to which thing, and what to do.
"""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict

FailureKind = Literal[
    "timeout",
    "crash",
    "oom",
    "nonfinite",
    "bad_model",
    "unsupported",
    "protocol",
    "unavailable",
    "user_code",
    "disk",
]


class Failure(BaseModel):
    """Why something could not be measured or judged: a value that is recorded, never an infinity."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: FailureKind
    stage: str  # "build", "load", "kernels", "latency", "memory", "infer", "judge", ...
    message: str  # one line: what happened, to which thing, what to do
    traceback: str | None = None


class HardwareError(Exception):
    """Root of everything `hwprofiles` raises on purpose."""

    exit_code = 69


class UnknownTarget(HardwareError):
    exit_code = 2


class BadProfile(HardwareError):
    exit_code = 2


class BadScenario(HardwareError):
    exit_code = 2


class TargetUnavailable(HardwareError):
    exit_code = 69


class TargetLost(TargetUnavailable):
    """Says nothing about the model: whatever was being measured is to be measured again."""


class TargetBusy(HardwareError):
    exit_code = 75


class DeviceFailure(HardwareError):
    """The measured process failed. The study records `failure` and goes on.

    `advised`: its message says already what to do, and a hint what to install would mislead.
    """

    exit_code = 1

    def __init__(self, failure: Failure, *, advised: bool = False) -> None:
        super().__init__(failure.message)
        self.failure = failure
        self.advised = advised
