"""How the numbers came about: on what, with which versions, how often; and everything that went wrong."""

from __future__ import annotations

from typing import NamedTuple

from autotune.trial import Trial
from dashboards.info.study import StudyView
from hwprofiles.fingerprint import Fingerprint
from hwprofiles.measurement import Measurement


class Device(NamedTuple):
    """One target with one fingerprint. Several rows for one target mean that it changed during the study."""

    target: str
    provenance: str
    fingerprint: Fingerprint
    batch: int
    measurements: int


class MeasurementRow(NamedTuple):
    """One measurement of one trial."""

    trial: int
    record: Measurement


class DatasetRow(NamedTuple):
    """One data set that trials were judged on."""

    name: str
    digest: str
    n: int
    metric: str
    evaluations: int


class ProblemRow(NamedTuple):
    """One trial without a result: failed (a cause) or rejected (a limit that it could not meet)."""

    trial: int
    state: str
    kind: str
    stage: str
    message: str
    proposer: str


class Protocol(NamedTuple):
    """Everything a reader needs to trust the numbers, or not to."""

    devices: tuple[Device, ...]
    measurements: tuple[MeasurementRow, ...]
    datasets: tuple[DatasetRow, ...]
    problems: tuple[ProblemRow, ...]
    flagged: int  # measurements with a quality flag other than "ok"
    warnings: tuple[str, ...]


def protocol(view: StudyView) -> Protocol:
    """Of all trials of the study."""
    rows = tuple(MeasurementRow(t.number, m) for t in view.trials for m in t.measurements)
    devices = _devices(rows)
    return Protocol(
        devices=devices,
        measurements=rows,
        datasets=_datasets(view),
        problems=tuple(_problem(t) for t in view.trials if t.state in ("failed", "rejected")),
        flagged=sum(set(row.record.quality) != {"ok"} for row in rows),
        warnings=_warnings(devices),
    )


def _devices(rows: tuple[MeasurementRow, ...]) -> tuple[Device, ...]:
    found: dict[tuple[str, str, str, int], list[Measurement]] = {}
    for _, record in rows:
        key = (record.target, record.fingerprint.key, record.provenance, record.scenario.batch)
        found.setdefault(key, []).append(record)
    return tuple(
        Device(target, provenance, records[0].fingerprint, batch, len(records))
        for (target, _, provenance, batch), records in found.items()
    )


def _datasets(view: StudyView) -> tuple[DatasetRow, ...]:
    found: dict[tuple[str, str, int, str], int] = {}
    for trial in view.trials:
        for evaluation in trial.evaluations:
            key = (evaluation.dataset, evaluation.dataset_digest, evaluation.n, evaluation.metric)
            found[key] = found.get(key, 0) + 1
    return tuple(DatasetRow(*key, count) for key, count in found.items())


def _problem(trial: Trial) -> ProblemRow:
    failure = trial.failure
    if failure is None:
        return ProblemRow(
            trial.number,
            trial.state,
            "limit",
            next(reversed(list(trial.durations)), ""),
            trial.reason or "no reason was recorded",
            trial.proposer,
        )
    return ProblemRow(trial.number, trial.state, failure.kind, failure.stage, failure.message, trial.proposer)


def _warnings(devices: tuple[Device, ...]) -> tuple[str, ...]:
    """What a reader must know before believing any number."""
    warnings = []
    for device in devices:
        if device.provenance != "hardware":
            warnings.append(f"Numbers of target {device.target} are {device.provenance}, not measured on hardware.")
    targets = [device.target for device in devices]
    for target in dict.fromkeys(targets):
        if targets.count(target) > 1:
            warnings.append(
                f"Target {target} was measured in {targets.count(target)} different configurations "
                "(fingerprint or batch); compare absolute times only inside one of them. Ratios are paired and "
                "stay valid."
            )
    return tuple(warnings)
