"""What `autotune check` finds out: everything a person wants to know before spending the budget."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pydantic import BaseModel, ConfigDict

from autotune.compress.capabilities import UNWRITABLE
from autotune.config import Family, LeftOut, StudyConfig
from autotune.keys import WORST_ANYWHERE
from autotune.search import recovery
from autotune.search.budget import check_budget, filtered
from autotune.search.effort import before_the_end
from autotune.search.knowledge import smallest
from autotune.search.loop import FINALIST_FACTOR, SENSITIVITY_SHARE
from autotune.search.offers import Offer, notes, offers, told
from autotune.search.prepare import Prepared
from autotune.search.slice_sizes import too_small
from autotune.search.slicing import Slicing
from autotune.search.zeros import Zeros
from autotune.trial import Trial
from hwprofiles.fingerprint import Fingerprint


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class LayerChoices(_Record):
    """One layer and the formats that the targets run for it ("none" is always there and not listed)."""

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


class CheckedSlice(_Record):
    """A slice of the search data, and how many samples it has there and in the held-out data (None: known later)."""

    name: str
    kind: str
    n: int
    heldout: int | None


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
    slices: tuple[CheckedSlice, ...] = ()
    techniques: tuple[Offer, ...] = ()
    finalists: int = 0  # how many are measured again at the end
    left_out: tuple[LeftOut, ...] = ()  # targets that a run would leave out now, or did when the study began


def make_report(
    config: StudyConfig,
    prepared: Prepared,
    targets: Sequence[tuple[str, str]],
    baseline: Trial,
    slicing: Slicing,
    nothing: str,
    zeros: Mapping[str, Sequence[Zeros]],
) -> CheckReport:
    """`targets` are names with provenance; `nothing` says why there is nothing to search, "" where there is;
    `zeros` what they were measured to buy, by target.

    Raises `UsageError` for a limit on what is not measured here, `Infeasible` for a size that no recipe can have.
    """
    techniques = prepared.assembler.techniques
    formats = [v for v in prepared.space.variables if techniques[v.technique].stage == "precision"]
    offered = {layer: v.choices[1:] for v in formats for layer in v.layers}
    inspection = prepared.ingested.inspection
    each = sum(baseline.durations.values())
    again = config.finalists.count + 1 if config.finalists.count else 0  # the original is measured again too
    warnings = [
        f"target {name}: {what} is not offered: {why}"
        for name, refused in prepared.refused.items()
        for what, why in refused.items()
        if why != UNWRITABLE
    ]
    warnings += [
        f"target {name} is {provenance}: only what it answers counts, its times and bytes are not taken"
        for name, provenance in targets
        if provenance != "hardware"
    ]
    warnings += [*prepared.lost, *([nothing] if nothing else [])]
    metric = prepared.workload.metric_name
    warnings += check_budget(config, metric, baseline, smallest(prepared, baseline))
    warnings += [*filtered(config, baseline.metrics), *before_the_end(config.search)]
    offered_by = offers(prepared)
    warnings += notes(config, offered_by)
    sizes = {name: int(mask.sum()) for name, mask in slicing.search.items()}
    warnings += [*slicing.notes, *too_small(config, sizes, baseline.metrics)]
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
        notes=(
            *inspection.notes,
            *told(offered_by, zeros),
            *_about_families(prepared.families, recovers=config.recover is not None),
            *recovery.check_notes(config, prepared.workload.train),
        ),
        fingerprints={name: device.fingerprint for name, device in prepared.devices.items()},
        baseline=baseline,
        space_log10=prepared.space.log10_size,
        seconds_per_trial=each,
        trials=config.search.trials,
        seconds_total=each
        * (config.search.trials * (1 + SENSITIVITY_SHARE + config.search.swaps) + again * FINALIST_FACTOR)
        + recovery.seconds(config, each),
        warnings=tuple(warnings),
        slices=_slices(slicing),
        techniques=offered_by,
        finalists=config.finalists.count,
        left_out=config.left_out,
    )


def _about_families(families: Sequence[Family], *, recovers: bool) -> list[str]:
    """What a study of several runtime families builds and judges, and what its keys mean."""
    if len(families) < 2:
        return []
    each = [f"{' and '.join(f.targets)} ({f.dialect} by {f.runtime}, judged on {f.judge})" for f in families]
    first = families[0]
    trained = f"recover: recipes are trained with the rounding of {first.judge}'s family ({first.dialect}) alone"
    return [
        f"{len(families)} runtime families, each with an artifact and a judgement of its own: {'; '.join(each)}",
        f"size_bytes and drop/worst without @target are those of {families[0].judge}'s family, {WORST_ANYWHERE} is the "
        "largest drop of all; a limit without @target holds in every family",
        *([trained] if recovers else []),
    ]


def _slices(slicing: Slicing) -> tuple[CheckedSlice, ...]:
    masks, there = slicing.search, slicing.heldout_sizes
    return tuple(
        CheckedSlice(name=name, kind=masks.kinds[name], n=int(mask.sum()), heldout=there.get(name))
        for name, mask in masks.items()
    )
