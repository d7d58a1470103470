"""How the numbers came about: on what, with which versions, how often; and everything that went wrong."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from autotune.trial import Trial
from dashboards.info.headline import guarded, headline
from dashboards.info.study import StudyView
from hwprofiles.fingerprint import Fingerprint
from hwprofiles.measurement import Conditions, Measurement
from hwprofiles.target import Policy

_UNREAD = "unread"  # in the environment: "governor, temperature"; None where everything was read
_ABSENT = frozenset({"disturbed"})  # where None is the good answer, and not a missing one


class Device(NamedTuple):
    """One target with one fingerprint. Several rows for one target mean that it changed during the study.

    `conditions` are those of its times; several if they changed. `unread` are facts that the machine does not tell.
    """

    target: str
    provenance: str
    fingerprint: Fingerprint
    batch: int
    measurements: int
    label: str = ""  # what a reader must know of its numbers
    transport: str = ""
    policy: tuple[str, ...] = ()  # how the device is used while it measures: "cpus big", "cooldown 30"
    conditions: tuple[Conditions, ...] = ()
    unread: tuple[str, ...] = ()


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
    devices = _devices(rows, view.profiles)
    return Protocol(
        devices=devices,
        measurements=rows,
        datasets=_datasets(view),
        problems=tuple(_problem(t) for t in view.trials if t.state in ("failed", "rejected")),
        flagged=sum(set(row.record.quality) != {"ok"} for row in rows),
        warnings=(*_warnings(devices), *(f"{said}."[0].upper() + f"{said}."[1:] for said in _said(view))),
    )


def _said(view: StudyView) -> list[str]:
    """What else a reader must know: targets that were left out or changed their speed, models that are not offered
    everywhere."""
    left_out = [left.sentence for left in view.config.left_out] if view.config is not None else []
    return [*left_out, *map(str, view.drifts), *guarded(view, headline(view).trial)]


def _devices(rows: tuple[MeasurementRow, ...], profiles: Mapping[str, Mapping[str, Any]]) -> tuple[Device, ...]:
    found: dict[tuple[str, str, str, int], list[Measurement]] = {}
    for _, record in rows:
        key = (record.target, record.fingerprint.key, record.provenance, record.scenario.batch)
        found.setdefault(key, []).append(record)
    devices = []
    for (target, _, provenance, batch), records in found.items():
        profile = profiles.get(target, {})
        conditions = dict.fromkeys(record.conditions for record in records if record.conditions is not None)
        devices.append(
            Device(
                target,
                provenance,
                records[0].fingerprint,
                batch,
                len(records),
                label=str(profile.get("label", "")),
                transport=str(profile.get("transport", "")),
                policy=_policy(profile.get("policy")),
                conditions=tuple(conditions),
                unread=_unread(records),
            )
        )
    return tuple(devices)


def _policy(saved: Any) -> tuple[str, ...]:
    """What differs from a device that is left alone."""
    if not isinstance(saved, dict):
        return ()
    usual = Policy().model_dump(mode="json")
    return tuple(f"{key.replace('_', ' ')} {value}" for key, value in saved.items() if value != usual.get(key))


def _unread(records: Sequence[Measurement]) -> tuple[str, ...]:
    """What none of the measurements could read: their own list, or for those without one the facts without a value."""
    lists = [_unread_of(record) for record in records]
    return tuple(name for name in lists[0] if all(name in rest for rest in lists[1:]))


def _unread_of(record: Measurement) -> list[str]:
    if _UNREAD in record.environment:
        said = record.environment[_UNREAD]
        return [name.strip() for name in str(said).split(",")] if said else []
    facts = {**record.fingerprint.environment, **record.environment}
    return sorted(name.replace("_", " ") for name, value in facts.items() if value is None and name not in _ABSENT)


def openings(record: Measurement) -> int | None:
    """How often the models were opened afresh; None where that was not recorded (measurements of earlier versions)."""
    numbers = record.ratio.openings if record.ratio is not None else ()
    numbers = numbers or (record.latency.openings if record.latency is not None else ())
    return len(set(numbers)) or None


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
