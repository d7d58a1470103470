"""One trial, step by step: build, check kernels, probe, measure, judge. Cheap facts come first.

A trial is rejected as soon as a constraint is broken with certainty, or its drop is hopeless (`stages`). A budget does
not reject: what is a little outside of it tells the search where it ends.

Every step looks in the store before it works and records what it found, so that a trial that was interrupted anywhere
is continued, and nothing is measured twice. A step whose target is gone is left out; the trial then waits for that
target, with everything else recorded.

With targets of several runtime families the recipe is built once in each dialect, every target runs the artifact of its
own, paired with the baseline of that dialect, and every family judges what it answers itself.
"""

from __future__ import annotations

import threading
import time
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
import onnx

from autotune.compress.kernels import layer_outcomes
from autotune.config import StudyConfig
from autotune.errors import AutotuneError, TrialFailure
from autotune.recipe import Recipe
from autotune.search.beside import keep_beside, stored_beside
from autotune.search.judging import Judging
from autotune.search.prepare import Prepared
from autotune.search.probing import Probing
from autotune.search.side import Side
from autotune.search.stages import Lost, Stages, stopping_limits
from autotune.search.targets import Stopped, TargetPaused, Targets
from autotune.search.values import at_targets, broken, cost_metrics, file_metrics, judged_metrics, worst_anywhere
from autotune.store import Store
from autotune.trial import Artifact, LayerOutcome, Trial, Value
from hwprofiles.errors import DeviceFailure, Failure, HardwareError, TargetUnavailable
from hwprofiles.measurement import Measurement
from hwprofiles.scenario import Scenario


class Waiting(TargetUnavailable):
    """A trial cannot be finished before one of `targets` is back; it stays in the store as running."""

    def __init__(self, targets: frozenset[str], why: str) -> None:
        super().__init__(why)
        self.targets = targets


@dataclass
class TrialRunner:
    """Runs trials of one prepared study. `limits` are the study's constraints (key -> bound), not its budget."""

    config: StudyConfig
    prepared: Prepared
    store: Store
    sides: Sequence[Side]  # one for each runtime family, that of the first target first
    limits: Mapping[str, float]
    smaller: Mapping[str, bool]  # constraint key -> the bound is a maximum
    stop: threading.Event
    targets: Targets
    probing: Probing = field(init=False)
    _clocks: dict[int, _Clock] = field(default_factory=dict)  # of trials that wait for a target

    def __post_init__(self) -> None:
        self.probing = Probing(self.config, self.prepared, self.store, self.targets)

    # -- the trial boundary

    def run(self, number: int, recipe: Recipe) -> Trial:
        """Finish a trial: complete, rejected or failed, and in the store.

        Raises `Stopped` between steps, and `Waiting` when everything that could be done without a target that is gone
        is done; run it again when the target is back.
        """
        clock = self._clocks.pop(number, None) or _Clock(self.stop)
        metrics: dict[str, Value] = {}
        try:
            reason = self._steps(number, recipe, metrics, clock)
        except Waiting:
            self._clocks[number] = clock
            raise
        except (TrialFailure, DeviceFailure) as error:
            return self._finish(number, "failed", metrics, clock, failure=error.failure)
        except (Stopped, AutotuneError, HardwareError, OSError):
            raise  # about the study, its store or its target, not about this recipe
        except Exception as error:  # noqa: BLE001 the trial boundary: a wrong technique or user code fails this trial only
            lines = traceback.format_exc()
            message = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else 'no message'}"
            failure = Failure(kind="user_code", stage=clock.stage, message=message, traceback=lines)
            return self._finish(number, "failed", metrics, clock, failure=failure)
        return self._finish(number, "rejected" if reason else "complete", metrics, clock, reason=reason)

    def _steps(self, number: int, recipe: Recipe, metrics: dict[str, Value], clock: _Clock) -> str:
        """Fill `metrics`; returns why the trial is rejected, or "". Raises `Waiting`."""
        away: dict[str, str] = {}  # target that is gone -> why
        with clock.step("build"):
            built = self.build(recipe)
        metrics.update(self.file_metrics({dialect: path for dialect, (_, path) in built.items()}))
        for dialect, (artifact, path) in built.items():
            with clock.step("kernels"), _noting(away), self._about(dialect):
                self._record_build(number, artifact, recipe, path)
        if number and (reason := self._broken(metrics)):
            return reason
        if number and self.probing.active:
            with clock.step("probe"), _noting(away), self._about(self.judging.family.dialect):
                self.probing.probe(number, built[self.judging.family.dialect][1])
        if number and self.config.drop_probe_gate:
            reason = self._judge(number, built, metrics, clock, away, first=True)
            if reason:
                return reason
        for name in self.prepared.timed:
            digest = built[self.prepared.family_of(name).dialect][0].digest
            with clock.step("measure"), _noting(away):
                measurement = self.measure(name, digest, self.config.measure)
                if measurement.failure is not None:
                    raise TrialFailure(self._named(measurement.failure, f"target {name}"))
                metrics.update(cost_metrics(measurement))
        if number and (reason := self._broken(metrics)):
            return reason
        reason = self._judge(number, built, metrics, clock, away)
        # The original is the measure of all others, whatever it is.
        if number and (reason := reason or self._broken(metrics)):
            return reason
        if away:
            raise Waiting(frozenset(away), "; ".join(away.values()))
        return ""

    def _record_build(self, number: int, artifact: Artifact, recipe: Recipe, path: Path) -> None:
        """What was built, and what runs per layer; a trial that waited knows that already."""
        known = self.store.trial(number)
        there = [(known.artifact, known.layers), *((other.artifact, other.layers) for other in known.elsewhere)]
        if any(layers and found == artifact for found, layers in there):
            return
        try:
            outcomes = self.outcomes(recipe, path, artifact.dialect)
        except TargetPaused:
            self.store.record_build(number, artifact, ())
            raise
        self.store.record_build(number, artifact, outcomes)

    def _broken(self, metrics: Mapping[str, Value]) -> str:
        return "; ".join(broken(metrics, self.limits, self.smaller))

    def _finish(
        self,
        number: int,
        state: Literal["complete", "rejected", "failed"],
        metrics: Mapping[str, Value],
        clock: _Clock,
        *,
        reason: str = "",
        failure: Failure | None = None,
    ) -> Trial:
        self.store.finish_trial(
            number, state, metrics=metrics, reason=reason, failure=failure, durations=clock.durations
        )
        return self.store.trial(number)

    # -- the steps

    @property
    def judging(self) -> Judging:
        """How the family of the first target judges."""
        return self.sides[0].judging

    def side_of(self, target: str) -> Side:
        """The side of the family that a target belongs to."""
        return next(side for side in self.sides if target in side.family.targets)

    def build(self, recipe: Recipe) -> dict[str, tuple[Artifact, Path]]:
        """Assemble and store the artifact of every dialect, that of the first target first."""
        built = {}
        for dialect, assembler in self.prepared.assemblers.items():
            with self._about(dialect):
                artifact = self.store.save_artifact(partial(assembler.assemble_to, recipe=recipe), dialect)
            built[dialect] = artifact, self.store.artifact_path(artifact.digest)
        return built

    def file_metrics(self, paths: Mapping[str, Path]) -> dict[str, Value]:
        """What the files alone tell (`paths`: dialect -> artifact); of several families also by their targets."""
        found = {dialect: file_metrics(self.config, path) for dialect, path in paths.items()}
        metrics = dict(found[self.judging.family.dialect])
        for side in self.sides if len(self.sides) > 1 else ():
            metrics.update(at_targets(found[side.family.dialect], side.family.targets))
        return metrics

    def by_family(self, side: Side, metrics: Mapping[str, Value]) -> dict[str, Value]:
        """What was judged in a family, as metrics of the trial: with several families under the names of its targets,
        and those of the first one also without a name."""
        if len(self.sides) == 1:
            return dict(metrics)
        return {**(metrics if side is self.sides[0] else {}), **at_targets(metrics, side.family.targets)}

    def judges(self) -> tuple[str, ...]:
        """The target of each family that judges."""
        return tuple(side.family.judge for side in self.sides)

    def outcomes(self, recipe: Recipe, path: Path, dialect: str) -> tuple[LayerOutcome, ...]:
        """What ran for each layer of an artifact, on the first target of its dialect."""
        target = next(family.judge for family in self.prepared.families if family.dialect == dialect)
        with self.targets.using(target):
            kernels = self.prepared.devices[target].kernels(path, self.prepared.latency_inputs[0])
        assembler = self.prepared.assemblers[dialect]
        return layer_outcomes(
            onnx.load(path),
            assembler.layers(recipe),
            recipe["quantize"],
            assembler.expected_kernels(recipe),
            kernels,
        )

    def measure(self, target: str, digest: str, scenario: Scenario) -> Measurement:
        """Latency and memory of an artifact, paired with the baseline of its dialect; from the store if it is there.

        Raises `TargetPaused`.
        """
        device = self.prepared.devices[target]
        baseline = self.side_of(target).judging.baseline()
        key = device.fingerprint.key
        found = self.store.find_measurement(digest, baseline, target, key, scenario)
        if found is not None:
            return found
        path, base = self.store.artifact_path(digest), self.store.artifact_path(baseline)
        with self.targets.using(target):
            measurement = device.measure(path, self.prepared.latency_inputs, baseline=base, scenario=scenario)
            if measurement.failure is not None and measurement.failure.stage == "start":
                raise DeviceFailure(measurement.failure)
        if measurement.failure is None:
            self.store.add_measurement(measurement)
        return measurement

    def beside(self, target: str, digest: str, other: str, scenario: Scenario) -> Measurement:
        """An artifact timed in pairs with another one of the same dialect (`other`) in place of the original; kept
        apart from the trial's own measurements (`beside`). Raises `TargetPaused`."""
        device = self.prepared.devices[target]
        kept = stored_beside(self.store, target, digest)
        if kept is not None and (kept.baseline, kept.fingerprint.key) == (other, device.fingerprint.key):
            return kept
        paths = self.store.artifact_path(digest), self.store.artifact_path(other)
        with self.targets.using(target):
            found = device.measure(paths[0], self.prepared.latency_inputs, baseline=paths[1], scenario=scenario)
            if found.failure is not None and found.failure.stage == "start":
                raise DeviceFailure(found.failure)
        if found.failure is None:
            keep_beside(self.store, found)
        return found

    def start(self, masks: Mapping[str, np.ndarray]) -> None:
        """Judge the original on the search data, and keep its outputs on the probe samples. Raises `TargetPaused`."""
        for side in self.sides:
            side.search = side.judging.judged(self.prepared.workload.search, masks)
            limits = stopping_limits(self.config, side.family.targets)
            side.stages = Stages(side.judging, side.search, limits, self.config)
        self.probing.start(masks, self.store.artifact_path(self.judging.baseline()))

    def gave_up(self, number: int) -> bool:
        """Whether a rejected trial was judged on a part of the search data only."""
        return self.store.meta(f"stopped/{number}") is not None

    def _judge(
        self,
        number: int,
        built: Mapping[str, tuple[Artifact, Path]],
        metrics: dict[str, Value],
        clock: _Clock,
        away: dict[str, str],
        *,
        first: bool = False,
    ) -> str:
        """Judge a recipe in every family, on the first part of the data or to the end; why it is hopeless, or ""."""
        for side in self.sides:
            reason = ""
            with clock.step("judge"), _noting(away), self._about(side.family.dialect, side.family.judge):
                reason = self._judge_side(side, number, built[side.family.dialect][0].digest, metrics, first=first)
            if reason:
                return reason if len(self.sides) == 1 else f"on {side.family.judge} {reason}"
        if len(self.sides) > 1:
            metrics.update(worst_anywhere(metrics, self.judges()))
        return ""

    def _judge_side(self, side: Side, number: int, digest: str, metrics: dict[str, Value], *, first: bool) -> str:
        stages = side.stages
        found = None if stages is None or not number else stages.first(digest) if first else stages.rest(digest)
        if isinstance(found, Lost):
            metrics.update(self.by_family(side, found.metrics))
            self.store.set_meta(f"stopped/{number}", {"samples": found.samples, "of": found.of})
            return found.reason
        if not first:
            evaluation = side.judging.evaluate(digest, side.judged_search(), found)
            metrics.update(self.by_family(side, judged_metrics(evaluation, self.config.judge.floor)))
        return ""

    @contextmanager
    def _about(self, dialect: str, target: str = "") -> Iterator[None]:
        """A failure in one of several dialects names the target it is about."""
        try:
            yield
        except (TrialFailure, DeviceFailure) as error:
            if len(self.sides) == 1:
                raise
            named = target or next(side.family.judge for side in self.sides if side.family.dialect == dialect)
            failure = self._named(error.failure, f"target {named} (dialect {dialect})")
            if isinstance(error, DeviceFailure):
                raise DeviceFailure(failure, advised=error.advised) from error
            raise TrialFailure(failure) from error

    def _named(self, failure: Failure, where: str) -> Failure:
        if len(self.sides) == 1:
            return failure
        return failure.model_copy(update={"message": f"{where}: {failure.message}"})


@contextmanager
def _noting(away: dict[str, str]) -> Iterator[None]:
    """A step whose target is gone is left out, and the target noted with the reason."""
    try:
        yield
    except TargetPaused as paused:
        away[paused.target] = str(paused)


@dataclass
class _Clock:
    """Times the steps of a trial and lets a request to stop in between them."""

    stop: threading.Event
    durations: dict[str, float] = field(default_factory=dict)
    stage: str = "start"

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        if self.stop.is_set():
            raise Stopped
        self.stage = name
        begun = time.monotonic()
        try:
            yield
        finally:
            self.durations[name] = self.durations.get(name, 0.0) + time.monotonic() - begun
