"""An earlier study, as far as another one can learn from it: layers, trials, damage, and where it was measured."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from autotune.config import StudyConfig
from autotune.errors import DataError
from autotune.layers import Inspection
from autotune.store import Store
from autotune.store.outside import facts_of, read_other
from autotune.trial import Trial
from hwprofiles.fingerprint import Fingerprint

SAME_MODEL = 0.8  # share of this model's layers that an earlier study must have: a fine-tuned model may have a new head
_NAMED = 4  # layers that a message names


@dataclass(frozen=True)
class Earlier:
    """What the store of an earlier study holds. `alone` is damage of recipes that were no trials, by their digest."""

    place: str
    config: StudyConfig
    trials: tuple[Trial, ...]  # without details
    original: Trial  # with details
    layers: Mapping[str, tuple[str, int, tuple[int, ...] | None]]  # name -> op, parameters, shape where it was kept
    source_digest: str | None
    workload_digest: str | None
    damage: Mapping[int, Mapping[str, float]]  # trial -> slice -> damage
    alone: Mapping[str, Mapping[str, float]]

    @property
    def judge(self) -> Fingerprint | None:
        """What the judging target was, where it was timed too."""
        return self.fingerprint(self.config.targets[0])

    def fingerprint(self, target: str) -> Fingerprint | None:
        """Of a target, when the original was measured there."""
        found = [m.fingerprint for m in self.original.measurements if m.target == target]
        return found[-1] if found else None

    @property
    def compressed(self) -> tuple[Trial, ...]:
        """Trials besides the original of which something is known. What was trained says nothing of its recipe."""
        return tuple(t for t in self.trials if t.number and t.state in ("complete", "rejected") and not t.recovered)


def read_earlier(place: str | Path, study: str | None, own: Store) -> Earlier:
    """Read a study in the store at `place`. Raises `DataError` where it has nothing to teach, and what `read_other`
    raises.
    """
    with read_other(place, study) as store:
        if store.place == own.place and store.study == own.study:
            raise DataError("it is this study itself, which goes on from its own records anyway")
        text, inspection = store.config_json, store.meta("inspection")
        trials = store.trials(details=False)
        if text is None or not isinstance(inspection, Mapping) or not trials or trials[0].number != 0:
            raise DataError(f"study {store.study!r} has no finished original yet; run it first")
        try:
            config = StudyConfig.model_validate_json(text)
        except ValidationError as error:
            raise DataError(f"study {store.study!r} was recorded by another version of autotune") from error
        return Earlier(
            place=f"study {store.study!r} in {store.place}",
            config=config,
            trials=tuple(trials),
            original=store.trial(0),
            layers=_layers(inspection),
            source_digest=_text(store.meta("source_digest")),
            workload_digest=store.workload_digest,
            damage={int(key): table for key, table in facts_of(store, "damage/").items() if key.isdecimal()},
            alone=facts_of(store, "sensitivity/"),
        )


def matching(earlier: Earlier, inspection: Inspection) -> tuple[str, ...]:
    """Layers of this model that the earlier study had, too: same name, operator and shape.

    Raises `DataError` when it is about another model, naming the layers that it lacks.
    """
    matched: list[str] = []
    missing: list[str] = []
    for layer in inspection.layers:
        found = earlier.layers.get(layer.name)
        same = found is not None and found[:2] == (layer.op, layer.parameters) and found[2] in (None, layer.shape)
        (matched if same else missing).append(layer.name)
    if len(matched) < SAME_MODEL * len(inspection.layers):
        some = ", ".join(missing[:_NAMED]) + (f" and {len(missing) - _NAMED} more" if len(missing) > _NAMED else "")
        raise DataError(
            f"{earlier.place} is about another model: {len(matched)} of this one's {len(inspection.layers)} layers "
            f"match by name, operator and shape; it lacks {some}; name a study of this model or of a fine-tuned sibling"
        )
    return tuple(matched)


def _layers(inspection: Mapping[str, object]) -> dict[str, tuple[str, int, tuple[int, ...] | None]]:
    rows = inspection.get("layers")
    if not isinstance(rows, list):
        raise DataError("its saved layers cannot be read; it is damaged")
    found = {}
    for row in rows:
        shape = row.get("shape")
        found[str(row["name"])] = (str(row["op"]), int(row["parameters"]), tuple(shape) if shape else None)
    return found


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None
