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
from autotune.search.judging import Judging
from autotune.search.prepare import Prepared
from autotune.search.probing import Probing
from autotune.search.side import Side, about, by_family, judges, named
from autotune.search.stages import Lost, Stages, stopping_limits
from autotune.search.step_clock import StepClock
from autotune.search.targets import Stopped, TargetPaused, Targets
from autotune.search.timing import Timing
from autotune.search.values import at_targets, broken, cost_metrics, file_metrics, judged_metrics, worst_anywhere
from autotune.store import Store
from autotune.trial import Artifact, LayerOutcome, Trial, Value
from hwprofiles.errors import DeviceFailure, Failure, HardwareError, TargetUnavailable


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
    timing: Timing = field(init=False)
    _clocks: dict[int, StepClock] = field(default_factory=dict)  # of trials that wait for a target

    def __post_init__(self) -> None:
        self.probing = Probing(self.config, self.prepared, self.store, self.targets)
        self.timing = Timing(self.prepared, self.store, self.targets, self.sides)

    # -- the trial boundary

    def run(self, number: int, recipe: Recipe) -> Trial:
        """Finish a trial: complete, rejected or failed, and in the store.

        Raises `Stopped` between steps, and `Waiting` when everything that could be done without a target that is gone
        is done; run it again when the target is back.
        """
        clock = self._clocks.pop(number, None) or StepClock(self.stop)
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

    def _steps(self, number: int, recipe: Recipe, metrics: dict[str, Value], clock: StepClock) -> str:
        """Fill `metrics`; returns why the trial is rejected, or "". Raises `Waiting`."""
        away: dict[str, str] = {}  # target that is gone -> why
        with clock.step("build"):
            built = self.build(recipe)
        metrics.update(self.file_metrics({dialect: path for dialect, (_, path) in built.items()}))
        for dialect, (artifact, path) in built.items():
            with clock.step("kernels"), _noting(away), about(self.sides, dialect):
                self._record_build(number, artifact, recipe, path)
        if number and (reason := self._broken(metrics)):
            return reason
        if number and self.probing.active:
            with clock.step("probe"), _noting(away), about(self.sides, self.judging.family.dialect):
                self.probing.probe(number, built[self.judging.family.dialect][1])
        if number and self.config.drop_probe_gate:
            reason = self._judge(number, built, metrics, clock, away, first=True)
            if reason:
                return reason
        for name in self.prepared.timed:
            digest = built[self.prepared.family_of(name).dialect][0].digest
            with clock.step("measure"), _noting(away):
                measurement = self.timing.measure(name, digest, self.config.measure)
                if measurement.failure is not None:
                    raise TrialFailure(named(self.sides, measurement.failure, f"target {name}"))
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
        clock: StepClock,
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

    def build(self, recipe: Recipe) -> dict[str, tuple[Artifact, Path]]:
        """Assemble and store the artifact of every dialect, that of the first target first."""
        built = {}
        for dialect, assembler in self.prepared.assemblers.items():
            with about(self.sides, dialect):
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
        clock: StepClock,
        away: dict[str, str],
        *,
        first: bool = False,
    ) -> str:
        """Judge a recipe in every family, on the first part of the data or to the end; why it is hopeless, or ""."""
        for side in self.sides:
            reason = ""
            with clock.step("judge"), _noting(away), about(self.sides, side.family.dialect, side.family.judge):
                reason = self._judge_side(side, number, built[side.family.dialect][0].digest, metrics, first=first)
            if reason:
                return reason if len(self.sides) == 1 else f"on {side.family.judge} {reason}"
        if len(self.sides) > 1:
            metrics.update(worst_anywhere(metrics, judges(self.sides)))
        return ""

    def _judge_side(self, side: Side, number: int, digest: str, metrics: dict[str, Value], *, first: bool) -> str:
        stages = side.stages
        found = None if stages is None or not number else stages.first(digest) if first else stages.rest(digest)
        if isinstance(found, Lost):
            metrics.update(by_family(self.sides, side, found.metrics))
            self.store.set_meta(f"stopped/{number}", {"samples": found.samples, "of": found.of})
            return found.reason
        if not first:
            evaluation = side.judging.evaluate(digest, side.judged_search(), found)
            metrics.update(by_family(self.sides, side, judged_metrics(evaluation, self.config.judge.floor)))
        return ""


@contextmanager
def _noting(away: dict[str, str]) -> Iterator[None]:
    """A step whose target is gone is left out, and the target noted with the reason."""
    try:
        yield
    except TargetPaused as paused:
        away[paused.target] = str(paused)
