"""A Study: the search that owns trials. Opens everything, runs the loop, verifies finalists."""

from __future__ import annotations

import functools
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import numpy as np

from autotune import pareto, slices
from autotune.compress.ingest import require_layers
from autotune.config import StudyConfig, not_on_hardware
from autotune.errors import ConfigError, DataError, Infeasible, TrialFailure, UsageError, did_you_mean
from autotune.judge.metrics import resolve_metric
from autotune.keys import WORST, MetricKey, parse_key
from autotune.layers import Inspection
from autotune.recipe import Recipe
from autotune.search.agreement import has_parity, keep_parity
from autotune.search.check import CheckReport, LayerChoices, SkippedLayer
from autotune.search.keepsakes import keep_flipped, keep_inspection, keep_targets
from autotune.search.loop import FINALIST_FACTOR, SENSITIVITY_SHARE, Budget, SearchLoop
from autotune.search.mirror import mirror
from autotune.search.prepare import Prepared, ingest, prepare, workload_digest
from autotune.search.progress import Progress, Watcher, nobody
from autotune.search.runner import Judged, TrialRunner
from autotune.search.targets import GONE, Stopped, TargetPaused, Targets
from autotune.search.values import cost_metrics, judged_metrics
from autotune.store import Store, open_store
from autotune.trial import Artifact, Trial, Value
from autotune.workload import Workload
from hwprofiles.registry import find_target
from hwprofiles.target import Target


@dataclass(frozen=True)
class RunSummary:
    """How a run ended. `stopped`: the user asked for it. `gone`: which targets did not come back, and why."""

    trials: int  # finished in the study, all runs together
    new_trials: int  # finished by this run
    finalists: tuple[int, ...]
    stopped: bool
    seconds: float
    gone: str = ""
    waiting: tuple[int, ...] = ()  # trials that are not finished


class Study:
    """A study that can be checked, run and verified. Use as a context manager; nothing heavy happens before a verb."""

    def __init__(self, config: StudyConfig, workload: Workload, store: Store, targets: Sequence[Target]) -> None:
        """See `open`."""
        self.config, self.workload, self.store, self.targets = config, workload, store, targets
        self._stack = ExitStack()
        self._prepared: Prepared | None = None
        self._runner: TrialRunner | None = None
        self._masks: Mapping[str, np.ndarray] = {}
        self._heldout: Judged | None = None
        self._stop = threading.Event()

    @classmethod
    def open(
        cls,
        config: StudyConfig,
        workload: Workload,
        *,
        store: str | Path | None = None,
        folder: Path | None = None,
    ) -> Study:
        """`store`: a file, a URL, or None for the default place; `folder`: where the study's own target profiles lie.

        Raises `UnknownTarget`, `UsageError` for unknown metric keys, `ConfigError` for a cost on a target that is not
        hardware, and what `open_store` raises.
        """
        targets = [find_target(name, folders=[folder] if folder else []) for name in config.targets]
        for key in (*config.search.objectives, *config.constraints):
            _check_key(key, workload.metric_name, config.targets)
        for text, why in not_on_hardware(config, targets):
            raise ConfigError(f"study {config.name!r}: {text}: {why}")
        return cls(config, workload, open_store(store, config.name), targets)

    def __enter__(self) -> Study:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Ends the agents and closes the store."""
        self._stack.close()
        self.store.close()

    # -- what is asked for

    @property
    def objectives(self) -> tuple[MetricKey, ...]:
        """What is optimised."""
        return self.config.objective_keys

    @property
    def limits(self) -> dict[str, float]:
        """What a shippable trial must satisfy."""
        return self.config.limits

    # -- verbs

    def check(self, progress: Watcher = nobody) -> CheckReport:
        """Parse, probe the targets, run the baseline, and estimate; spends nothing else."""
        with self.store.lock():
            prepared, _ = self._start(progress)
        baseline = self.store.trial(0)
        offered = {layer: v.choices[1:] for v in prepared.space.variables for layer in v.layers}
        inspection = prepared.ingested.inspection
        each = sum(baseline.durations.values())
        finalists = self.config.finalists.count + 1  # the original is measured again too
        warnings = [
            f"target {name}: {what} is not offered: {why}"
            for name, refused in prepared.refused.items()
            for what, why in refused.items()
            if why != "the dialect cannot write it"
        ]
        warnings += [
            f"target {t.name} is {t.provenance}: only what it answers counts, its times and bytes are not taken"
            for t in self.targets
            if t.provenance != "hardware"
        ]
        if not prepared.space.variables:
            warnings.append(nothing_to_search(inspection, prepared.refused))
        warnings += [
            f"slice {name!r} has {mask.sum()} samples" for name, mask in self._masks.items() if mask.sum() < 100
        ]
        return CheckReport(
            study=self.config.name,
            model_digest=prepared.ingested.source_digest,
            layers=tuple(
                LayerChoices(name=x.name, op=x.op, parameters=x.parameters, choices=offered.get(x.name, ()))
                for x in inspection.layers
            ),
            skipped=tuple(
                SkippedLayer(name=s.name, op=s.op, reason=s.reason, parameters=s.parameters) for s in inspection.skipped
            ),
            notes=inspection.notes,
            fingerprints={name: device.fingerprint for name, device in prepared.devices.items()},
            baseline=baseline,
            space_log10=prepared.space.log10_size,
            seconds_per_trial=each,
            trials=self.config.search.trials,
            seconds_total=each * (self.config.search.trials * (1 + SENSITIVITY_SHARE) + finalists * FINALIST_FACTOR),
            warnings=tuple(warnings),
        )

    def run(self, progress: Watcher = nobody, stop: threading.Event | None = None) -> RunSummary:
        """Search until the budget is spent or `stop` is set, then verify finalists. Continues what is there.

        A target that goes away meanwhile pauses only itself; the summary says so where it did not come back. Raises
        `StoreLocked` when another run works on this study, `TargetUnavailable` when a target is not there at the start.
        """
        begun = time.monotonic()
        self._stop = stop or threading.Event()
        with self.store.lock():
            before = len(self._finished())
            finalists: list[int] = []
            stopped, gone = False, ""
            try:
                prepared, runner = self._start(progress)
                if not prepared.space.variables and not prepared.space.uniform:
                    raise Infeasible(nothing_to_search(prepared.ingested.inspection, prepared.refused))
                budget = Budget(self.config.search.trials, self.config.search.hours, begun)
                loop = SearchLoop(self.config, prepared, self.store, runner, self.objectives, self.limits, progress)
                try:
                    loop.run(budget)
                    finalists = self._finalists(progress)
                except GONE as error:
                    gone = str(error)
            except Stopped:
                stopped = True
            self._mirror()
        done = len(self._finished())
        waiting = tuple(t.number for t in self.store.trials(details=False) if t.state == "running")
        return RunSummary(done, done - before, tuple(finalists), stopped, time.monotonic() - begun, gone, waiting)

    def verify(self, number: int, progress: Watcher = nobody) -> Trial:
        """Measure a trial again with more samples and judge it on held-out data; done once, then read back.

        Raises `UsageError` for a trial that is not complete, `DeviceFailure`/`TrialFailure` when it fails now,
        `TargetPaused` when a target is gone; what it recorded by then is found again.
        """
        trial = self.store.trial(number)
        if trial.state != "complete" or trial.artifact is None:
            raise UsageError(f"trial {number} is {trial.state}, only a complete one can be verified or exported")
        if not trial.final:
            self._measure_again(number, trial.artifact, progress)
        if number and self.config.finalists.parity:
            self._compare_answers(number, trial.artifact.digest, progress)
        return self.store.trial(number)

    def _measure_again(self, number: int, artifact: Artifact, progress: Watcher) -> None:
        """More samples, and data that the search never saw."""
        prepared, runner = self._start(progress)
        metrics: dict[str, Value] = {"size_bytes": Value.exact(float(artifact.size_bytes))}
        for name in prepared.timed:
            progress(Progress("finalists", f"measuring trial {number} again on {name}"))
            measurement = runner.measure(name, artifact.digest, self.config.remeasure)
            if measurement.failure is not None:
                raise UsageError(f"trial {number} failed when measured again: {measurement.failure.message}")
            metrics.update(cost_metrics(measurement))
        progress(Progress("finalists", f"judging trial {number} on held-out data"))
        heldout = self.workload.heldout
        if self._heldout is None:
            masks = slices.assign(heldout, self.workload.slices, expected=self._masks)
            self._heldout = runner.judged(heldout, masks)
            runner.evaluate(runner.baseline_digest(), self._heldout)
        evaluation = runner.evaluate(artifact.digest, self._heldout)
        keep_flipped(self.store, heldout, evaluation)
        metrics.update(judged_metrics(evaluation, self.config.judge.floor))
        self.store.set_final(number, metrics)

    def _compare_answers(self, number: int, digest: str, progress: Watcher) -> None:
        """Does it answer the same on every target? Found out once."""
        if has_parity(self.store, digest, self.config.targets):
            return
        prepared, runner = self._start(progress)
        samples = self.workload.heldout.samples
        step = max(
            1, len(samples) // self.config.finalists.parity
        )  # data sets are often sorted: take them from all over
        inputs = [sample.inputs for sample in samples[::step][: self.config.finalists.parity]]

        def watch(message: str) -> None:
            progress(Progress("finalists", f"comparing the answers of trial {number}: {message}"))

        watch(f"on {', '.join(prepared.devices)}")
        keep_parity(self.store, digest, inputs, prepared.devices, runner.targets, self.config.finalists, watch)

    # -- inside

    def _start(self, progress: Watcher) -> tuple[Prepared, TrialRunner]:
        """Prepare once, and make sure that the baseline (trial 0) is there."""
        if self._prepared is not None and self._runner is not None:
            return self._prepared, self._runner
        ingested = ingest(self.workload, progress)
        self.store.begin(self.config.model_dump_json(), workload_digest(self.workload, ingested))
        keep_inspection(self.store, ingested.inspection)
        self.store.set_meta("source_digest", ingested.source_digest)
        metric = resolve_metric(self.workload.metric)
        self._masks = slices.assign(self.workload.search, self.workload.slices)
        for text in (*self.config.search.objectives, *self.config.constraints):
            named = parse_key(text, metric=self.workload.metric_name).slice
            if named is not None and named not in (*self._masks, WORST):
                raise UsageError(f"metric key {text!r}: no slice {named!r}; " + did_you_mean(named, self._masks))
        prepared = prepare(self.config, self.workload, ingested, self.targets, self.store.folder, self._stack, progress)
        smaller = {
            key: parse_key(key, metric=self.workload.metric_name).smaller_is_better for key in self.config.constraints
        }
        told = functools.partial(self._tell, progress)
        names = Targets(prepared.devices, self.config.patience, self._stop, told)
        limits = self.config.constraints
        runner = TrialRunner(self.config, prepared, self.store, metric, limits, smaller, self._stop, names)
        keep_targets(self.store, self.targets)
        progress(Progress("baseline", "measuring and judging the original"))
        number = self.store.start_trial(Recipe(), "baseline")
        trial = self.store.trial(number)
        runner.start(self._masks)
        if trial.state == "running" or trial.state == "failed":
            trial = runner.run(number, Recipe())
        if trial.failure is not None:
            raise TrialFailure(trial.failure)
        for key in self.objectives:
            if str(key) not in trial.metrics:
                raise UsageError(f"objective {key} is not measured here; " + did_you_mean(str(key), trial.metrics))
        self._prepared, self._runner = prepared, runner
        return prepared, runner

    def _tell(self, progress: Watcher, message: str) -> None:
        """What happens to a target, in between."""
        paused = self._runner.targets.state() if self._runner is not None else {}
        progress(Progress("targets", message, paused=paused))

    def _finished(self) -> list[Trial]:
        return [t for t in self.store.trials(details=False) if t.state != "running"]

    def _finalists(self, progress: Watcher) -> list[int]:
        """Verify the most promising trials; go on a little where none of them holds on held-out data."""
        count = self.config.finalists.count
        verified: list[int] = []
        while len(verified) < 2 * count:
            trials = self.store.trials(details=False)
            holding = pareto.within([t for t in trials if t.number in verified], self.limits, final=True)
            if len(verified) >= count and holding:
                break
            pick = self._next_finalist([t for t in trials if t.number not in (0, *verified)])
            if pick is None:
                break
            if self._stop.is_set():
                raise Stopped
            progress(Progress("finalists", f"verifying trial {pick.number}", len(verified), count))
            self._verify_patiently(pick.number, progress)
            verified.append(pick.number)
        if count:
            self._verify_patiently(0, progress)
        return verified

    def _verify_patiently(self, number: int, progress: Watcher) -> None:
        """As `verify`; where a target goes away, wait for it as long as there is hope. Raises `TargetPaused`."""
        _, runner = self._start(progress)
        while True:
            try:
                self.verify(number, progress)
            except TargetPaused as paused:
                if not runner.targets.outlast({paused.target}):
                    raise
            else:
                return

    def _next_finalist(self, trials: Sequence[Trial]) -> Trial | None:
        complete = [t for t in trials if t.state == "complete"]
        try:
            return pareto.best(complete, self.limits, self.objectives)
        except Infeasible:
            # Nothing left within the limits: the least damaged point of the front is what comes nearest.
            front = [t for t in pareto.front(complete, self.objectives) if not t.final]
            return min(front, key=lambda t: t.metrics["drop/worst"].value, default=None)

    def _mirror(self) -> None:
        """Keep the Optuna view of the study in step, for optuna-dashboard."""
        names = [str(key) for key in self.objectives]
        directions = ["minimize" if key.smaller_is_better else "maximize" for key in self.objectives]
        variables = self._prepared.space.variables if self._prepared is not None else ()
        choices = {v.name: v.choices for v in variables}
        path = self.store.folder / "optuna.log"
        mirror(self.store.trials(details=False), path, self.config.name, directions, names, choices=choices)


def nothing_to_search(inspection: Inspection, refused: Mapping[str, Mapping[str, str]]) -> str:
    """Why a model gives an empty space: it has no layers, or the targets run no choice on those it has."""
    try:
        require_layers(inspection)
    except DataError as error:
        return str(error)
    reasons = sorted({why for each in refused.values() for why in each.values()})
    return (
        f"none of the {len(inspection.layers)} layers has a choice that the technique offers and every target runs "
        f"({'; '.join(reasons[:2]) or 'all are excluded'}); widen [techniques] or `exclude`"
    )


def _check_key(text: str, metric: str, targets: Sequence[str]) -> None:
    key = parse_key(text, metric=metric)
    if key.target is not None and key.target not in targets:
        raise UsageError(
            f"metric key {text!r}: the study has no target {key.target!r}; " + did_you_mean(key.target, targets)
        )
