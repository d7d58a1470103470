"""What `autotune check` finds out: everything a person wants to know before spending the budget."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

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
