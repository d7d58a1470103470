"""Measure every model on every target, and judge what came out. One broken target does not end a comparison."""

from __future__ import annotations

import contextlib
import hashlib
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from hwprofiles.comparison.answers import nan_failure, with_file_names
from hwprofiles.comparison.records import Comparison, Place, Row, Subject
from hwprofiles.comparison.verdicts import cost_of, rankings
from hwprofiles.device import Device, open_device
from hwprofiles.errors import BadProfile, DeviceFailure, TargetBusy, TargetLost, TargetUnavailable
from hwprofiles.fingerprint import Fingerprint
from hwprofiles.measure import batch_of, group_by_shape
from hwprofiles.measurement import Estimate, Measurement
from hwprofiles.scenario import SEARCH, Scenario
from hwprofiles.target import Target

Feed = Mapping[str, np.ndarray[Any, Any]]

_OVERHEAD = 15.0  # seconds beside the timed pairs, a guess until a row has been measured: warming up, memory
_GONE = (TargetUnavailable, TargetBusy, BadProfile)  # says nothing about the model


@dataclass(frozen=True)
class ComparisonProgress:
    """`done` of `total` rows. `seconds_left` is an estimate; before anything was measured the most it may take."""

    done: int
    total: int
    message: str
    seconds_left: float
    at_most: bool
    row: Row | None = None  # the one that was just finished


def compare(
    models: Mapping[str, Path] | Sequence[Path],
    targets: Sequence[Target],
    *,
    inputs: Sequence[Feed],
    scenario: Scenario = SEARCH,
    prices: Mapping[str, float] | None = None,
    currency: str = "",
    work: Path,
    watch: Callable[[ComparisonProgress], None] | None = None,
) -> Comparison:
    """Measure `models` on `targets` with the same `inputs`, every model in turns with the first one that runs there.

    `inputs` are arrays by input name and must have the scenario's batch, or be of its shapes. `prices` is what an
    hour of a target costs, by its name, in `currency`. `work` is a folder for the targets' files. `watch` is told
    before and after each row.

    What is wrong with a model or a target is in its row. Raises `ValueError` for arguments that fit no comparison
    (no model, no target, one twice, a price that is no positive number or of an unknown target, a shape or batch of the
    scenario that no input has), `OSError` if a model file cannot be read.
    """
    started, clock = datetime.now(UTC), time.monotonic()
    files = _named(models)
    _check(files, targets, inputs, prices or {})
    for feeds in group_by_shape(inputs, scenario)[0].values():
        batch_of(feeds, scenario)
    subjects = tuple(_subject(name, path) for name, path in files.items())
    paths = {subject.sha256: str(path) for subject, path in zip(subjects, files.values(), strict=True)}
    journal = _Journal(len(files) * len(targets), scenario, watch)
    rows: list[Row] = []
    places = []
    for target in targets:
        price = (prices or {}).get(target.name)
        with _Bench(target, work / target.name) as bench:
            for row in _rows(bench, files, inputs, scenario, price, paths, journal):
                rows.append(row)
        places.append(_place(target, price, bench.fingerprint))
    shapes = tuple(scenario.shapes) or ("",)
    return Comparison(
        models=subjects,
        targets=tuple(places),
        scenario=scenario,
        shapes=shapes,
        currency=currency,
        rows=tuple(rows),
        rankings=rankings(subjects, rows, shapes),
        started_at=started.isoformat(timespec="milliseconds"),
        seconds=time.monotonic() - clock,
    )


class _Bench:
    """One target, opened when it is needed and again after it was lost."""

    def __init__(self, target: Target, work: Path) -> None:
        self.target = target
        self.fingerprint: Fingerprint | None = None
        self._work = work
        self._device: Device | None = None
        self._refused: Exception | None = None

    def __enter__(self) -> _Bench:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def device(self) -> Device:
        """Raises one of `_GONE`. A target that could not be opened once is not asked again."""
        if self._refused is not None:
            raise self._refused
        if self._device is None:
            try:
                self._device = open_device(self.target, work=self._work)
            except _GONE as error:
                self._refused = error
                raise
            self.fingerprint = self._device.fingerprint
        return self._device

    def close(self) -> None:
        device, self._device = self._device, None
        if device is not None:
            device.close()


class _Journal:
    """Tells the watcher where we are, and estimates how long the rest takes."""

    def __init__(self, total: int, scenario: Scenario, watch: Callable[[ComparisonProgress], None] | None) -> None:
        self._done, self._total = 0, total
        self._longest = scenario.max_seconds * max(1, len(scenario.shapes)) + scenario.energy_seconds * 2 + _OVERHEAD
        self._watch = watch
        self._took: list[float] = []

    @contextlib.contextmanager
    def row(self, model: str, target: str) -> Iterator[list[Row]]:
        """Around one row, which the caller puts into the list."""
        self._say(f"measuring {model} on {target}", None)
        began = time.monotonic()
        found: list[Row] = []
        yield found
        self._done += 1
        row = found[0]
        if row.measurement is not None and row.measurement.failure is None:
            self._took.append(time.monotonic() - began)
        self._say(f"{model} on {target}: {'measured' if row.problem is None else row.problem}", row)

    def _say(self, message: str, row: Row | None) -> None:
        if self._watch is None:
            return
        each = sum(self._took) / len(self._took) if self._took else self._longest
        left = each * (self._total - self._done)
        self._watch(ComparisonProgress(self._done, self._total, message, left, not self._took, row))


def _rows(
    bench: _Bench,
    files: Mapping[str, Path],
    inputs: Sequence[Feed],
    scenario: Scenario,
    price: float | None,
    paths: Mapping[str, str],
    journal: _Journal,
) -> Iterator[Row]:
    """A row for each model. The first that runs is what the others are paired with."""
    reference: Path | None = None
    target = bench.target.name
    for name, path in files.items():
        with journal.row(name, target) as made:
            try:
                record = _measure(bench.device(), path, inputs, reference, scenario)
            except TargetLost as error:
                bench.close()
                made.append(Row(model=name, target=target, unavailable=f"target lost: {error}"))
            except _GONE as error:
                made.append(Row(model=name, target=target, unavailable=f"target unavailable: {error}"))
            else:
                if record.failure is not None:
                    record = record.model_copy(update={"failure": with_file_names(record.failure, paths)})
                elif reference is None:
                    reference = path
                made.append(Row(model=name, target=target, measurement=record, cost=_costs(record, inputs, price)))
        yield made[0]


def _measure(
    device: Device, path: Path, inputs: Sequence[Feed], reference: Path | None, scenario: Scenario
) -> Measurement:
    """A model that answers NaN, or nothing at all, is not worth timing."""
    began = datetime.now(UTC)
    clock = time.monotonic()
    try:
        failure = nan_failure(device, path, inputs)
    except DeviceFailure as error:
        failure = error.failure
    if failure is None:
        return device.measure(path, inputs, baseline=reference, scenario=scenario)
    return Measurement(
        target=device.target.name,
        model=_sha256(path),
        baseline=_sha256(reference) if reference is not None else None,
        scenario=scenario,
        fingerprint=device.fingerprint,
        provenance=device.target.provenance,
        failure=failure,
        started_at=began.isoformat(timespec="milliseconds"),
        seconds=time.monotonic() - clock,
    )


def _costs(record: Measurement, inputs: Sequence[Feed], price: float | None) -> dict[str, Estimate]:
    """By label of the shape. A stand-in for hardware has no price."""
    if price is None or record.latency is None or record.provenance != "hardware":
        return {}
    found = {}
    for label, feeds in group_by_shape(inputs, record.scenario)[0].items():
        latency = next((part.latency for part in record.by_shape if part.label == label), record.latency)
        found[label] = cost_of(latency, price, batch_of(feeds, record.scenario))
    return found


def _named(models: Mapping[str, Path] | Sequence[Path]) -> dict[str, Path]:
    """A short name for each file: its own, with as many folders before it as tell it from the others."""
    if isinstance(models, Mapping):
        return {name: Path(path) for name, path in models.items()}
    paths = [Path(path) for path in models]
    named: dict[str, Path] = {}
    for path in paths:
        others = [other for other in paths if other is not path and other.absolute() != path.absolute()]
        parts = path.absolute().parts
        for length in range(1, len(parts)):
            name = "/".join(parts[-length:])
            if all("/".join(other.absolute().parts[-length:]) != name for other in others):
                break
        number = 2
        unique = name
        while unique in named:  # the very same file again: somebody wants to see how equal equal is
            unique, number = f"{name} ({number})", number + 1
        named[unique] = path
    return named


def _check(
    files: Mapping[str, Path], targets: Sequence[Target], inputs: Sequence[Feed], prices: Mapping[str, float]
) -> None:
    if not files or not targets or not inputs:
        raise ValueError("a comparison needs at least one model, one target and one input")
    names = [target.name for target in targets]
    if len(set(names)) < len(names):
        raise ValueError(f"a target is named twice: {', '.join(names)}")
    for name, price in prices.items():
        if name not in names:
            raise ValueError(f"a price is given for {name!r}, which is not among the targets {', '.join(names)}")
        if not (math.isfinite(price) and price > 0):
            raise ValueError(f"the price of an hour of {name!r} must be a positive number, got {price}")


def _subject(name: str, path: Path) -> Subject:
    return Subject(name=name, path=str(path), sha256=_sha256(path), size_bytes=path.stat().st_size)


def _place(target: Target, price: float | None, fingerprint: Fingerprint | None) -> Place:
    return Place(
        name=target.name,
        description=target.description,
        provenance=target.provenance,
        label=target.label,
        price=price,
        fingerprint=fingerprint,
    )


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
