"""A Study: the search that owns trials. Opens everything, runs the loop, verifies finalists."""

from __future__ import annotations

import functools
import hashlib
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from autotune.compress.ingest import Ingested, require_layers
from autotune.config import StudyConfig, families_of, impossible, not_on_hardware, worth_telling
from autotune.config.task import cannot_recover
from autotune.errors import ConfigError, DataError, Infeasible, TrialFailure, UsageError, did_you_mean
from autotune.judge.metrics import resolve_metrics
from autotune.keys import WORST, MetricKey, names_target, parse_key
from autotune.layers import Inspection
from autotune.recipe import Recipe
from autotune.search import budget, warm, zeros
from autotune.search.attendance import attend
from autotune.search.check import CheckReport, make_report
from autotune.search.effort import Effort
from autotune.search.engines import Engine, engines_of
from autotune.search.finalists import Finalists
from autotune.search.judging import Judging
from autotune.search.keepsakes import keep_families, keep_inspection, keep_targets
from autotune.search.knowledge import smallest
from autotune.search.loop import SearchLoop
from autotune.search.mirror import mirror
from autotune.search.opening import Opener
from autotune.search.prepare import Prepared, check_inputs, ingest, prepare, workload_digest
from autotune.search.progress import Progress, Watcher, nobody
from autotune.search.recovery import Recovery
from autotune.search.runner import TrialRunner
from autotune.search.side import Side
from autotune.search.slicing import Slicing
from autotune.search.suiting import keep_meanings
from autotune.search.targets import GONE, Stopped, Targets
from autotune.store import Store, open_store
from autotune.trial import Trial, Value
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
        self.config, self.workload, self.store, self.targets = config, workload, store, tuple(targets)
        self._stack = ExitStack()
        self._prepared: Prepared | None = None
        self._runner: TrialRunner | None = None
        self._slicing: Slicing | None = None
        self._second: Finalists | None = None
        self._zeros: dict[str, tuple[zeros.Zeros, ...]] = {}
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

        Raises `UnknownTarget`, `UsageError` for unknown metric keys and limits that cannot be, `ConfigError` for a cost
        on a target that is not hardware, and what `open_store` raises.
        """
        targets = [find_target(name, folders=[folder] if folder else []) for name in config.targets]
        config = config.with_families(worth_telling(families_of(targets)))
        for key in (*config.search.objectives, *config.constraints, *config.budget):
            _check_key(key, workload.metric_name, config.targets)
        for text, limit in (*config.constraints.items(), *config.budget.items()):
            if problem := impossible(parse_key(text), limit):
                raise UsageError(f"study {config.name!r}: {problem}")
        for text, why in not_on_hardware(config, targets):
            raise ConfigError(f"study {config.name!r}: {text}: {why}")
        if config.recover is not None and (problem := cannot_recover(config.recover, workload)):
            raise ConfigError(f"study {config.name!r}: [recover]: {problem}")
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
        """Parse, probe the targets, run the baseline, and estimate; spends nothing else.

        Where a target is left out, nothing is recorded: the study can still begin with it.
        """
        with self.store.lock():
            prepared, _ = self._start(progress, only_looking=True)
        baseline = self.store.trial(0)
        targets = [(target.name, target.provenance) for target in self.targets]
        nothing = "" if prepared.space.variables else nothing_to_search(prepared.ingested.inspection, prepared.refused)
        assert self._slicing is not None  # made by the start
        return make_report(self.config, prepared, targets, baseline, self._slicing, nothing, self._zeros)

    def run(self, progress: Watcher = nobody, stop: threading.Event | None = None) -> RunSummary:
        """Search until the budget is spent or `stop` is set, train where that is asked for, then verify finalists.
        Continues what is there.

        A target that goes away meanwhile pauses only itself; the summary says so where it did not come back. One that
        is not there when the study begins is left out of it: `config.left_out` says so afterwards, and `attend` when
        that is an error instead (`TargetUnavailable`, mostly). Raises `StoreLocked` when another run works on this
        study.
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
                effort = Effort(
                    self.config.search.trials, self.config.search.hours, begun, self.config.search.until_stable
                )
                loop = SearchLoop(self.config, prepared, self.store, runner, self.objectives, progress)
                try:
                    loop.run(effort)
                    self._discover(progress)
                    self._recover(prepared, runner, progress)
                    finalists = self._finalists(prepared, runner).run(progress)
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
        prepared, runner = self._start(progress)
        return self._finalists(prepared, runner).verify(number, progress)

    def engines(self, trial: Trial, progress: Watcher = nobody) -> list[Engine]:
        """What targets' runtimes built from the trial's model and measured, for its bundle. Verify the trial first."""
        prepared, _ = self._start(progress)
        return engines_of(trial, prepared.devices, prepared.latency_inputs, self.store.artifact_path)

    # -- inside

    def _finalists(self, prepared: Prepared, runner: TrialRunner) -> Finalists:
        if self._second is None:
            assert self._slicing is not None  # made by the start
            self._second = Finalists(
                self.config, prepared, self.store, runner, self._slicing, self.objectives, self.limits, self._stop
            )
        return self._second

    def _recover(self, prepared: Prepared, runner: TrialRunner, progress: Watcher) -> None:
        """Training of the most promising trials, where the study asks for it."""
        assert self._slicing is not None  # made by the start
        Recovery(self.config, prepared, self.store, runner, self._slicing, self.objectives, self._stop).run(progress)

    def _discover(self, progress: Watcher) -> None:
        """Slices that nobody declared, as hypotheses for the held-out data."""
        assert self._slicing is not None  # made by the start
        if self.config.judge.discover:
            progress(Progress("search", "looking for what the samples share on which models disagree"))
            self._slicing.discover()

    def _start(self, progress: Watcher, *, only_looking: bool = False) -> tuple[Prepared, TrialRunner]:
        """Prepare once, and make sure that the baseline (trial 0) is there."""
        if self._prepared is not None and self._runner is not None:
            return self._prepared, self._runner
        ingested = ingest(self.workload, progress)
        identity = _identity(self.workload, ingested)
        self.store.expect(identity)
        warm.check(self.config, ingested.inspection, self.store)
        slicing = self._slicing = Slicing(self.config, self.workload, self.store)
        check_inputs(slicing.made, ingested.model)
        folder = self.store.folder
        opener = Opener(self.config, slicing.made, ingested, folder, self._stack, progress)
        there = attend(self.config, self.targets, opener, self.store, progress)
        self.config, self.targets = there.config, there.targets
        if only_looking and there.new:
            self._look_only()
        slicing.config, slicing.store = self.config, self.store
        self.store.begin(self.config.to_json(), identity)
        keep_inspection(self.store, ingested.inspection)
        self.store.set_meta("source_digest", ingested.source_digest)
        metrics = resolve_metrics(self.workload.metric)
        prepared = prepare(self.config, slicing.made, ingested, there.opened, folder, self._stack, progress)
        keep_meanings(self.store, prepared.assembler.techniques)
        limits = self.config.bounds
        smaller = {key: parse_key(key, metric=self.workload.metric_name).smaller_is_better for key in limits}
        told = functools.partial(self._tell, progress)
        names = Targets(prepared.devices, self.config.patience, self._stop, told)
        sides = [
            Side(Judging(self.config, prepared, self.store, metrics, names, family)) for family in prepared.families
        ]
        judging = sides[0].judging
        runner = TrialRunner(self.config, prepared, self.store, sides, limits, smaller, self._stop, names)
        keep_targets(self.store, self.targets)
        keep_families(self.store, prepared.families)
        progress(Progress("baseline", "measuring and judging the original"))
        number = self.store.start_trial(Recipe(), "baseline")
        trial = self.store.trial(number)
        data = slicing.made.search
        masks = slicing.assign_search(judging.original(data), judging.digest(data))
        self._check_slices(masks)
        size = float(self.store.artifact_path(judging.baseline()).stat().st_size)
        known = Trial(number=0, recipe={}, state="running", metrics={"size_bytes": Value.exact(size)})
        budget.check_early(self.config, self.workload.metric_name, size, smallest(prepared, known))
        runner.start(masks)
        if trial.state == "running" or trial.state == "failed":
            trial = runner.run(number, Recipe())
        if trial.failure is not None:
            raise TrialFailure(trial.failure)
        for key in self.objectives:
            if str(key) not in trial.metrics:
                raise UsageError(f"objective {key} is not measured here; " + did_you_mean(str(key), trial.metrics))
        self._zeros = zeros.find_out(self.config, prepared, self.store, runner, progress)
        self._prepared, self._runner = prepared, runner
        return prepared, runner

    def _look_only(self) -> None:
        """From now on what is found out goes into a store of its own, which is thrown away."""
        place = self._stack.enter_context(tempfile.TemporaryDirectory(prefix="hw-autotune-check-"))
        self._stack.callback(self.store.close)
        self.store = self._stack.enter_context(open_store(Path(place) / "store.db", self.config.name))

    def _check_slices(self, masks: Mapping[str, object]) -> None:
        """Raises `UsageError` for a key about a slice that is not there."""
        for text in (*self.config.search.objectives, *self.config.constraints, *self.config.budget):
            named = parse_key(text, metric=self.workload.metric_name).slice
            if named is not None and named not in (*masks, WORST):
                raise UsageError(f"metric key {text!r}: no slice {named!r}; " + did_you_mean(named, masks))

    def _tell(self, progress: Watcher, message: str) -> None:
        """What happens to a target, in between."""
        paused = self._runner.targets.state() if self._runner is not None else {}
        progress(Progress("targets", message, paused=paused))

    def _finished(self) -> list[Trial]:
        return [t for t in self.store.trials(details=False) if t.state != "running"]

    def _mirror(self) -> None:
        """Keep the Optuna view of the study in step, for optuna-dashboard."""
        names = [str(key) for key in self.objectives]
        directions = ["minimize" if key.smaller_is_better else "maximize" for key in self.objectives]
        variables = self._prepared.space.variables if self._prepared is not None else ()
        choices = {v.name: v.choices for v in variables}
        path = self.store.journal
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


def _identity(workload: Workload, ingested: Ingested) -> str:
    """What a store is about: model, data, and all metrics where there are several."""
    digest = workload_digest(workload, ingested)
    if not isinstance(workload.metric, Mapping):
        return digest
    return hashlib.sha256(repr((digest, tuple(workload.metric))).encode()).hexdigest()


def _check_key(text: str, metric: str, targets: Sequence[str]) -> None:
    key = parse_key(text, metric=metric)
    if not names_target(key, targets):
        raise UsageError(
            f"metric key {text!r}: the study has no target {key.target!r}; " + did_you_mean(str(key.target), targets)
        )
