"""Engines for a bundle: what targets' runtimes built from a trial's model, if it is still what was measured.

Builders choose among kernels by timing them, so that two builds of one model differ. A number of one is no evidence for
another: an engine goes into a bundle only with the digest that its measurement recorded.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from autotune.trial import Trial
from hwprofiles.agent.client import Feed
from hwprofiles.errors import DeviceFailure, HardwareError
from hwprofiles.measurement import Measurement
from hwprofiles.scenario import Scenario


class Builds(Protocol):
    """What is needed of `hwprofiles.device.Device`."""

    def engine(self, model: Path, inputs: Sequence[Feed], scenario: Scenario) -> bytes: ...


@dataclass(frozen=True)
class Engine:
    """The engine that was measured on a target. `plan` is None where it cannot be had any more, and `why` says why."""

    target: str
    digest: str
    plan: bytes | None
    why: str = ""


def engines_of(
    trial: Trial, devices: Mapping[str, Builds], inputs: Sequence[Feed], file: Callable[[str], Path]
) -> list[Engine]:
    """Of every target that built one for the trial's last measurement there, in the order of names.

    `file`: where the artifact with a digest lies.
    """
    ordered = sorted(trial.measurements, key=lambda m: (m.scenario.phase == "final", m.started_at))
    last = {m.target: m for m in ordered}
    return [
        _engine(last[target], devices[target], inputs, file)
        for target in sorted(last)
        if target in devices and last[target].accelerator is not None and _built(last[target])
    ]


def _built(measurement: Measurement) -> str:
    """The digest of the engine that was measured; "" where the runtime builds none."""
    card = measurement.accelerator
    return card.builds[0].digest if card is not None and card.builds else ""


def _engine(measurement: Measurement, device: Builds, inputs: Sequence[Feed], file: Callable[[str], Path]) -> Engine:
    target, digest = measurement.target, _built(measurement)
    try:
        plan = device.engine(file(measurement.model), inputs, measurement.scenario)
    except (HardwareError, DeviceFailure) as error:
        return Engine(target, digest, None, str(error))
    if hashlib.sha256(plan).hexdigest() != digest:
        return Engine(
            target, digest, None, "the device does not have it any more, and what it builds now was not measured"
        )
    return Engine(target, digest, plan)
