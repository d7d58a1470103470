"""What `autotune check` finds out: everything a person wants to know before spending the budget."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from pydantic import BaseModel, ConfigDict

from autotune.config import StudyConfig
from autotune.search.loop import FINALIST_FACTOR, SENSITIVITY_SHARE
from autotune.search.prepare import Prepared
from autotune.trial import Trial
from hwprofiles.fingerprint import Fingerprint


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class LayerChoices(_Record):
    """One layer and what the targets can do with it ("none" is always there and not listed)."""

    name: str
    op: str
    parameters: int
    choices: tuple[str, ...]


class SkippedLayer(_Record):
    """Something that is not searchable, and why."""

    name: str
    op: str
    reason: str
    parameters: int


class CheckReport(_Record):
    """Answer of `Study.check`. Times in seconds; `space_log10` is log10 of the number of recipes."""

    study: str
    model_digest: str
    layers: tuple[LayerChoices, ...]
    skipped: tuple[SkippedLayer, ...]
    notes: tuple[str, ...]
    fingerprints: dict[str, Fingerprint]
    baseline: Trial
    space_log10: float
    seconds_per_trial: float
    trials: int
    seconds_total: float
    warnings: tuple[str, ...]


def make_report(
    config: StudyConfig,
    prepared: Prepared,
    targets: Sequence[tuple[str, str]],
    baseline: Trial,
    masks: Mapping[str, np.ndarray],
    nothing: str,
) -> CheckReport:
    """`targets` are names with provenance; `nothing` says why there is nothing to search, "" where there is."""
    offered = {layer: v.choices[1:] for v in prepared.space.variables for layer in v.layers}
    inspection = prepared.ingested.inspection
    each = sum(baseline.durations.values())
    finalists = config.finalists.count + 1  # the original is measured again too
    warnings = [
        f"target {name}: {what} is not offered: {why}"
        for name, refused in prepared.refused.items()
        for what, why in refused.items()
        if why != "the dialect cannot write it"
    ]
    warnings += [
        f"target {name} is {provenance}: only what it answers counts, its times and bytes are not taken"
        for name, provenance in targets
        if provenance != "hardware"
    ]
    warnings += [nothing] if nothing else []
    warnings += [f"slice {name!r} has {mask.sum()} samples" for name, mask in masks.items() if mask.sum() < 100]
    return CheckReport(
        study=config.name,
        model_digest=prepared.ingested.source_digest,
        layers=tuple(
            LayerChoices(name=x.name, op=x.op, parameters=x.parameters, choices=offered.get(x.name, ()))
            for x in inspection.layers
        ),
        skipped=tuple(
            SkippedLayer(name=s.name, op=s.op, reason=s.reason, parameters=s.parameters) for s in inspection.skipped
        ),
        notes=inspection.notes,
        fingerprints={name: device.fingerprint for name, device in prepared.devices.items()},
        baseline=baseline,
        space_log10=prepared.space.log10_size,
        seconds_per_trial=each,
        trials=config.search.trials,
        seconds_total=each * (config.search.trials * (1 + SENSITIVITY_SHARE) + finalists * FINALIST_FACTOR),
        warnings=tuple(warnings),
    )
