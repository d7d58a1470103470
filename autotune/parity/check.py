"""`check_parity`: the same inputs on every target and on the reference."""

from __future__ import annotations

import itertools
import re
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from autotune.judge.predictions import Infers
from autotune.parity import words
from autotune.parity.answers import OutputTally, kind_of_output
from autotune.parity.exposure import Sizes, shapes_of
from autotune.parity.findings import Traced, find
from autotune.parity.reference import NoReference, Values
from autotune.parity.report import FLOAT64, Pair, ParityReport, TargetParity, Tolerance
from autotune.parity.subject import Feed, Subject
from hwprofiles.errors import DeviceFailure, Failure, HardwareError
from hwprofiles.target import Provenance, Target

Arrays = dict[str, np.ndarray[Any, Any]]
Watch = Callable[[str], None]


TOLERANCE = Tolerance()


def check_parity(
    model: Path,
    inputs: Sequence[Feed],
    devices: Mapping[str, Infers],
    *,
    folder: Path,
    tolerance: Tolerance = TOLERANCE,
    missing: Mapping[str, Failure] = {},
    numbers: bool = False,
    seconds: float | None = None,
    watch: Watch = lambda _: None,
) -> ParityReport:
    """Run `inputs` on each of `devices` (target name -> open device) and on a float64 reference, and compare.

    `folder` holds the instrumented copies of the model while this runs. `missing` are targets that could not be
    opened; they are in the report as not compared. With `numbers` every float output is judged by its distance, also
    those that look like class scores. After `seconds` no further sample is begun; the report counts those that were
    compared. A target that fails is recorded, the others go on. Raises `DataError` for a file
    that is no model and for inputs that do not fit.
    """
    subject = Subject(model, inputs)
    failures = dict(missing)
    end = None if seconds is None else time.monotonic() + seconds
    gap = subject.reference.gap
    while True:
        left = {name: device for name, device in devices.items() if name not in failures}
        session = _Session(subject, inputs, left, tolerance, numbers, not gap, end, watch)
        try:
            session.run()
        except NoReference as error:
            gap = str(error)
            continue
        except _BaselineFailed as error:
            failures[error.target] = error.failure
            continue
        failures.update(session.failures)
        break
    targets = {name: _not_compared(name, failure, devices.get(name)) for name, failure in failures.items()}
    for name in session.devices:
        if name not in failures:
            watch(f"{name}: looking for the first layer that diverges")
            targets[name] = session.target(name, folder)
    ordered = tuple(targets[name] for name in dict.fromkeys([*devices, *missing]) if name in targets)
    pairs = session.pairs()
    return ParityReport(
        model=subject.digest,
        name=model.name,
        samples=session.samples,
        reference=session.reference,
        reference_note=_note(gap, session.reference),
        tolerance=tolerance,
        targets=ordered,
        pairs=pairs,
        sentence=words.of_report(ordered, pairs, session.reference),
    )


@dataclass(frozen=True)
class Answering:
    """A model where it runs."""

    model: Path
    device: Infers


def compare_answers(
    asked: Mapping[str, Answering], inputs: Sequence[Feed], *, until: Callable[[], bool] = lambda: False
) -> tuple[Pair, ...]:
    """How far the answers of models that should do the same lie apart, target by target: the second of a pair against
    the first. After `until` says so no further sample is begun. Raises hardware errors."""
    tallies: dict[tuple[str, str], dict[str, OutputTally]] = {}
    unequal: set[tuple[str, str]] = set()
    for index, feed in enumerate(inputs):
        if index and until():
            break
        answers = {name: infer(each.device, each.model, feed) for name, each in asked.items()}
        for one, other in itertools.combinations(answers, 2):
            tally = tallies.setdefault((one, other), {})
            for name in answers[one].keys() & answers[other].keys():
                if name not in tally:
                    tally[name] = OutputTally(name, kind_of_output(answers[one][name], numbers=False), "")
                tally[name].add(index, answers[other][name], answers[one][name])
            if not same(answers[one], answers[other]):
                unequal.add((one, other))
    return tuple(_pair(one, other, tally, (one, other) not in unequal) for (one, other), tally in tallies.items())


def _pair(one: str, other: str, tallies: Mapping[str, OutputTally], equal: bool) -> Pair:
    distances = [tally.distance for tally in tallies.values()]
    shares = [t.agreement.value for t in tallies.values() if t.kind == "argmax" and t.agreement is not None]
    known = [d for d in distances if d is not None]
    return Pair(
        one=one,
        other=other,
        equal=equal,
        distance=max(known) if known and len(known) == len(distances) else None,
        agreement=min(shares, default=None),
    )


class _BaselineFailed(Exception):
    """The target that stands in for the reference failed; another one has to."""

    def __init__(self, target: str, failure: Failure) -> None:
        super().__init__(failure.message)
        self.target, self.failure = target, failure


@dataclass
class _Session:
    """All samples on all targets, one sample at a time; only sums and the worst sample's number are kept."""

    subject: Subject
    inputs: Sequence[Feed]
    devices: Mapping[str, Infers]
    tolerance: Tolerance
    numbers: bool
    exact: bool  # is there a float64 reference?
    end: float | None  # of the time for samples, by the monotonic clock
    watch: Watch
    failures: dict[str, Failure] = field(default_factory=dict)
    samples: int = 0  # that were compared
    tallies: dict[str, dict[str, OutputTally]] = field(default_factory=dict)
    _pairs: dict[tuple[str, str], dict[str, OutputTally]] = field(default_factory=dict)
    _unequal: set[tuple[str, str]] = field(default_factory=set)
    _shapes: dict[str, tuple[str, int]] = field(default_factory=dict)

    @property
    def reference(self) -> str:
        """What targets are compared with: `FLOAT64`, or the first target that runs."""
        return FLOAT64 if self.exact else next((n for n in self.devices if n not in self.failures), FLOAT64)

    def run(self) -> None:
        """Raises `NoReference`, `_BaselineFailed`."""
        for index, feed in enumerate(self.inputs):
            if index and self.end is not None and time.monotonic() > self.end:
                return
            self.watch(f"sample {index + 1} of {len(self.inputs)}")
            answers: dict[str, Arrays] = {}
            for name, device in self.devices.items():
                if name not in self.failures:
                    try:
                        answers[name] = infer(device, self.subject.path, feed)
                    except HardwareError as error:
                        self._failed(name, error)
            if not answers:
                return
            truth = self._truth(feed, answers)
            self.samples = index + 1
            for name, answer in answers.items():
                self._count(self.tallies.setdefault(name, {}), index, answer, truth)
            for one, other in itertools.combinations(answers, 2):
                self._count(self._pairs.setdefault((one, other), {}), index, answers[one], answers[other])
                if not same(answers[one], answers[other]):
                    self._unequal.add((one, other))

    def _failed(self, name: str, error: HardwareError) -> None:
        failure = failure_of(error)
        if name == self.reference:
            raise _BaselineFailed(name, failure) from error
        self.failures[name] = failure
        self.tallies.pop(name, None)
        self._pairs = {pair: tally for pair, tally in self._pairs.items() if name not in pair}

    def _truth(self, feed: Feed, answers: Mapping[str, Arrays]) -> Values:
        if not self.exact:
            return dict(answers[self.reference])
        reference = self.subject.reference
        found: Values = {}
        wanted = {*self.subject.outputs}
        for _, made in reference.walk(feed):
            if not wanted.isdisjoint(made):
                found.update({name: value for name, value in made.items() if name in wanted})
            for name, shape in shapes_of(made).items():
                if name not in self._shapes or shape[1] > self._shapes[name][1]:
                    self._shapes[name] = shape
        plain = {**reference.constants, **feed}
        return found | {name: plain[name] for name in wanted if name in plain and name not in found}

    def _count(self, tally: dict[str, OutputTally], index: int, answer: Arrays, truth: Values) -> None:
        for name, array in answer.items():
            if name not in truth:
                continue
            if name not in tally:
                kind = kind_of_output(array, numbers=self.numbers)
                tally[name] = OutputTally(name, kind, self.subject.makers.get(name, ""))
            tally[name].add(index, array, truth[name])

    def target(self, name: str, folder: Path) -> TargetParity:
        """The record of a target that answered every sample."""
        tallies = self.tallies[name].values()
        outputs = tuple(tally.result(self.tolerance) for tally in tallies)
        agrees = all(output.agrees for output in outputs)
        worst = max(tallies, key=lambda tally: tally.worst).worst_sample
        sizes = Sizes.of_values(self._shapes) if self.exact else Sizes.inferred(self.subject.proto, self.inputs[worst])
        device, baseline = self.devices[name], None if self.exact else self.devices[self.reference]
        try:
            shipped = infer(device, self.subject.path, self.inputs[worst])
            traced = find(
                self.subject, self.inputs[worst], _runner(device), sizes, shipped, folder, self.tolerance,
                baseline=None if baseline is None else _runner(baseline),
            )  # fmt: skip
        except HardwareError as error:
            traced = Traced((), None, None, (f"its layers could not be followed: {failure_of(error).message}",))
        reference = self.reference
        sentence = (
            words.of_agreement(reference, outputs, name)
            if agrees
            else words.of_disagreement(reference, outputs, name, traced.first)
        )
        return TargetParity(
            target=name,
            provenance=_provenance(device),
            verdict="agree" if agrees else "disagree",
            outputs=outputs,
            first=traced.first,
            layers=traced.layers,
            traced_sample=worst,
            exposed_equal=traced.exposed_equal,
            notes=(*self.subject.accuracy_notes(), *traced.notes),
            sentence=sentence,
        )

    def pairs(self) -> tuple[Pair, ...]:
        """Every two targets that answered all samples."""
        return tuple(
            _pair(one, other, tallies, (one, other) not in self._unequal)
            for (one, other), tallies in self._pairs.items()
        )


def infer(device: Infers, model: Path, feed: Feed) -> Arrays:
    """One inference. Raises hardware errors."""
    with closing(device.infer(model, [feed])) as answers:
        return next(iter(answers))


def same(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Bit for bit, names, types and shapes included."""
    return one.keys() == other.keys() and all(
        a.dtype == other[n].dtype and a.shape == other[n].shape and np.asarray(a).tobytes() == other[n].tobytes()
        if a.dtype.kind not in "OU"
        else np.array_equal(a, other[n])
        for n, a in one.items()
    )


def failure_of(error: HardwareError) -> Failure:
    """An error as a value: of the measured process, or that the target is not there."""
    if isinstance(error, DeviceFailure):
        # The runtime names the copy of the model on the device, which nobody knows.
        message = re.sub(r"Load model from \S+ failed:\s*", "", error.failure.message)
        return error.failure.model_copy(update={"message": message})
    return Failure(kind="unavailable", stage="infer", message=str(error))


def _runner(device: Infers) -> Callable[[Path, Feed], Arrays]:
    return lambda model, feed: infer(device, model, feed)


def _not_compared(name: str, failure: Failure, device: Infers | None) -> TargetParity:
    return TargetParity(
        target=name, provenance=_provenance(device), verdict="not compared", failure=failure,
        sentence=words.of_failure(name, failure),
    )  # fmt: skip


def _provenance(device: object) -> Provenance:
    target: Target | None = getattr(device, "target", None)
    return "hardware" if target is None else target.provenance


def _note(gap: str, reference: str) -> str:
    if not gap:
        return ""
    return f"{gap}; targets are compared with {reference} instead" if reference != FLOAT64 else gap
