"""Small things kept in the store for whoever reads it later: layers, targets, and the samples that flipped."""

from __future__ import annotations

import base64
from collections.abc import Sequence

from autotune.config import Family
from autotune.evaluation import Evaluation, Outcome
from autotune.layers import Inspection
from autotune.store import Store
from autotune.workload import Dataset, Sample
from hwprofiles.target import Target

_WORSE, _BETTER = 24, 12  # flips kept per judgement, the largest first


def keep_inspection(store: Store, inspection: Inspection) -> None:
    """Layers, what is not searchable and why, and notes, under the key "inspection"."""
    store.set_meta(
        "inspection",
        {
            "layers": [
                {"name": x.name, "op": x.op, "parameters": x.parameters, "shape": list(x.shape)}
                for x in inspection.layers
            ],
            "skipped": [{"name": s.name, "reason": s.reason} for s in inspection.skipped],
            "notes": list(inspection.notes),
        },
    )


def keep_targets(store: Store, targets: Sequence[Target]) -> None:
    """What a reader must know of each target, under the key "targets"; hosts and paths are nobody's business."""
    told = {"description", "label", "provenance", "transport", "policy"}
    store.set_meta("targets", {t.name: t.model_dump(mode="json", include=told) for t in targets})


def keep_families(store: Store, families: Sequence[Family]) -> None:
    """The runtime families of the targets, under the key "families", where there are several or there were before."""
    if len(families) > 1 or store.meta("families") is not None:
        store.set_meta("families", [family.model_dump(mode="json") for family in families])


def keep_flipped(store: Store, dataset: Dataset, evaluation: Evaluation) -> None:
    """The samples of the largest flips in both directions, each under "sample/<id>": label, and picture or text."""

    def gain(outcome: Outcome) -> tuple[float, str]:
        return outcome.candidate_score - outcome.original_score, outcome.id

    ordered = sorted((o for o in evaluation.outcomes if o.candidate_score != o.original_score), key=gain)
    worse = [o.id for o in ordered if o.candidate_score < o.original_score][:_WORSE]
    better = [o.id for o in reversed(ordered) if o.candidate_score > o.original_score][:_BETTER]
    wanted = {*worse, *better}
    for sample in dataset.samples:
        if sample.id in wanted and store.meta(f"sample/{sample.id}") is None:
            store.set_meta(f"sample/{sample.id}", _shown(sample))


def _shown(sample: Sample) -> dict[str, object]:
    label = sample.label if isinstance(sample.label, str | int | float | bool | None) else repr(sample.label)
    shown: dict[str, object] = {"label": label}
    if isinstance(sample.display, bytes):
        shown["png"] = base64.b64encode(sample.display).decode()
    elif sample.display:
        shown["text"] = sample.display
    return shown
