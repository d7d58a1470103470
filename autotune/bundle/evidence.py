"""The evidence of a trial: every measurement and judgement with its raw samples."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from autotune.bundle.files import API_VERSION
from autotune.config import StudyConfig
from autotune.errors import DataError
from autotune.search.agreement import stored_parity
from autotune.search.drift import drifts
from autotune.search.evidence import further_evidence
from autotune.trial import Trial
from hwprofiles.measurement import Measurement

if TYPE_CHECKING:
    from autotune.store import Store


def evidence(store: Store, trial: Trial) -> dict[str, Any]:
    """What evidence.json holds.

    `drift`: sentences on targets that changed their speed meanwhile; `parity`: the report, None if none was made.
    """
    parity = stored_parity(store, trial.artifact.digest) if trial.artifact is not None else None
    return {
        "api_version": API_VERSION,
        "measurements": [measurement.model_dump(mode="json") for measurement in trial.measurements],
        "evaluations": [evaluation.model_dump(mode="json") for evaluation in trial.evaluations],
        "layers": [layer.model_dump(mode="json") for layer in trial.layers],
        "targets": store.meta("targets") or {},
        "parity": parity.model_dump(mode="json") if parity is not None else None,
        "drift": [str(drift) for drift in drifts(store.trials())],
        **further_evidence(store, trial, config_of(store)),
    }


def last(trial: Trial) -> list[Measurement]:
    """The measurement of each target that counts: the final one where there is one."""
    ordered = sorted(trial.measurements, key=lambda m: (m.scenario.phase == "final", m.started_at))
    return list({m.target: m for m in ordered}.values())


def config_of(store: Store) -> StudyConfig:
    """As the store keeps it. Raises `DataError` for one of another version."""
    try:
        text = store.config_json
        return StudyConfig(name=store.study) if text is None else StudyConfig.model_validate_json(text)
    except ValidationError as error:
        raise DataError(f"store {store.place} holds a configuration of another version; upgrade") from error
