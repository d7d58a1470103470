"""Finalists: the most promising trials, measured again and judged on data that the search never saw."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence

from autotune import pareto
from autotune.config import StudyConfig
from autotune.errors import Infeasible, UsageError
from autotune.keys import WORST_ANYWHERE, MetricKey
from autotune.search import budget
from autotune.search.across import has_across, keep_across
from autotune.search.agreement import has_parity, keep_parity
from autotune.search.judging import Judged
from autotune.search.keepsakes import keep_flipped
from autotune.search.prepare import Prepared
from autotune.search.progress import Progress, Watcher, nobody
from autotune.search.runner import TrialRunner
from autotune.search.side import Side, by_family, judges
from autotune.search.slicing import Slicing
from autotune.search.targets import Stopped, TargetPaused
from autotune.search.values import cost_metrics, judged_metrics, worst_anywhere
from autotune.store import Store
from autotune.trial import Artifact, Trial, Value


class Finalists:
    """Chooses and verifies. `slicing` cuts the held-out data as it cut the search data."""

    def __init__(
        self,
        config: StudyConfig,
        prepared: Prepared,
        store: Store,
        runner: TrialRunner,
        slicing: Slicing,
        objectives: Sequence[MetricKey],
        limits: Mapping[str, float],
        stop: threading.Event,
    ) -> None:
        self._config, self._prepared, self._store, self._runner = config, prepared, store, runner
        self._slicing, self._objectives, self._limits, self._stop = slicing, tuple(objectives), limits, stop
        self._heldout: dict[str, Judged] = {}  # target that judges -> the original there

    def verify(self, number: int, progress: Watcher = nobody) -> Trial:
        """Measure a trial again with more samples and judge it on held-out data; done once, then read back.

        Raises `UsageError` for a trial that is not complete, `DeviceFailure`/`TrialFailure` when it fails now,
        `TargetPaused` when a target is gone; what it recorded by then is found again.
        """
        trial = self._store.trial(number)
        if trial.state != "complete" or trial.artifact is None:
            raise UsageError(f"trial {number} is {trial.state}, only a complete one can be verified or exported")
        if not trial.final:
            self._measure_again(trial, progress)
        if number and self._config.finalists.parity:
            self._compare_answers(trial, progress)
        return self._store.trial(number)

    def _measure_again(self, trial: Trial, progress: Watcher) -> None:
        """More samples, and data that the search never saw."""
        number, runner = trial.number, self._runner
        metrics = runner.file_metrics(
            {artifact.dialect: self._store.artifact_path(artifact.digest) for artifact in self._built(trial)}
        )
        for name in self._prepared.timed:
            progress(Progress("finalists", f"measuring trial {number} again on {name}"))
            measurement = runner.timing.measure(name, _digest(trial, name), self._config.remeasure)
            if measurement.failure is not None:
                raise UsageError(f"trial {number} failed when measured again: {measurement.failure.message}")
            metrics.update(cost_metrics(measurement))
        metrics.update(self._beside_the_uniform(trial, progress))
        for side in runner.sides:
            where = f" on {side.family.judge}" if len(runner.sides) > 1 else ""
            progress(Progress("finalists", f"judging trial {number} on held-out data{where}"))
            heldout = self._judged_heldout(side)
            evaluation = side.judging.evaluate(_digest(trial, side.family.judge), heldout)
            if side is runner.sides[0]:
                self._slicing.confirm(number, evaluation)
                keep_flipped(self._store, heldout.dataset, evaluation)
            metrics.update(by_family(runner.sides, side, judged_metrics(evaluation, self._config.judge.floor)))
        if len(runner.sides) > 1:
            metrics.update(worst_anywhere(metrics, judges(runner.sides)))
        self._store.set_final(number, metrics)

    def _guards(self) -> dict[str, pareto.Guard]:
        """Of the guarded targets that are timed, by what is measured now."""
        found = pareto.guards(self._store.trials(details=False), self._config, self._config.limits)
        return {name: guard for name, guard in found.items() if name in self._prepared.timed}

    def _beside_the_uniform(self, trial: Trial, progress: Watcher) -> dict[str, Value]:
        """`uniform_ratio` of each guarded target: the trial timed in pairs with the best uniform recipe there."""
        metrics = {}
        for name, guard in self._guards().items():
            if guard.uniform is None or trial.number in (0, guard.uniform.number):
                continue
            mine, other = _digest(trial, name), _digest(guard.uniform, name)
            if mine == other or pareto.is_uniform(trial, guard.choice):
                continue
            progress(Progress("finalists", f"measuring trial {trial.number} against {guard.name} on {name}"))
            found = self._runner.timing.beside(name, mine, other, self._config.remeasure)
            if found.failure is not None or found.ratio is None:
                why = found.failure.message if found.failure is not None else "it was not timed in pairs"
                raise UsageError(f"trial {trial.number} failed when measured against {guard.name}: {why}")
            ratio = found.ratio.estimate
            metrics[f"uniform_ratio@{name}"] = Value(value=ratio.value, low=ratio.low, high=ratio.high)
        return metrics

    def _built(self, trial: Trial) -> list[Artifact]:
        """Of every dialect. Raises `UsageError` where one is missing: the study has new targets since."""
        built = {
            a.dialect: a for a in (trial.artifact, *(other.artifact for other in trial.elsewhere)) if a is not None
        }
        for family in self._prepared.families:
            if family.dialect not in built:
                raise UsageError(
                    f"trial {trial.number} was never built for {family.judge} (dialect {family.dialect}), which the "
                    "study did not have then; choose a trial that was, or export without that target"
                )
        return list(built.values())

    def _judged_heldout(self, side: Side) -> Judged:
        """The original on the held-out data where a family judges, once."""
        known = self._heldout.get(side.family.judge)
        if known is None:
            judging, data = side.judging, self._prepared.workload.heldout
            masks, hypotheses = self._slicing.assign_heldout(self._runner.judging.original(data))
            known = judging.judged(data, masks, hypotheses=hypotheses, heldout=True)
            self._heldout[side.family.judge] = known
            judging.evaluate(judging.baseline(), known)
        return known

    def _compare_answers(self, trial: Trial, progress: Watcher) -> None:
        """Does an artifact answer the same on every target that runs it, and do those of other dialects? Found out
        once."""
        number, devices = trial.number, self._prepared.devices
        samples = self._prepared.workload.heldout.samples
        step = max(
            1, len(samples) // self._config.finalists.parity
        )  # data sets are often sorted: take them from all over
        inputs = [sample.inputs for sample in samples[::step][: self._config.finalists.parity]]

        def watch(message: str) -> None:
            progress(Progress("finalists", f"comparing the answers of trial {number}: {message}"))

        groups: dict[str, list[str]] = {}
        for name in devices:
            groups.setdefault(_digest(trial, name), []).append(name)
        for digest, names in groups.items():
            if not has_parity(self._store, digest, names):
                watch(f"on {', '.join(names)}")
                here = {name: devices[name] for name in names}
                keep_parity(self._store, digest, inputs, here, self._runner.targets, self._config.finalists, watch)
        asked_of = judges(self._runner.sides)
        if len(groups) > 1 and not has_across(self._store, trial, asked_of):
            watch(f"of its artifacts on {' and '.join(asked_of)}")
            asked = {name: (self._store.artifact_path(_digest(trial, name)), devices[name]) for name in asked_of}
            keep_across(self._store, trial, inputs, asked, self._runner.targets, self._config.finalists)

    def run(self, progress: Watcher) -> list[int]:
        """Verify the most promising trials; go on a little where none of them holds on held-out data."""
        count = self._config.finalists.count
        verified: list[int] = []
        while len(verified) < 2 * count:
            trials = self._store.trials(details=False)
            holding = pareto.within([t for t in trials if t.number in verified], self._limits, final=True)
            if len(verified) >= count and holding:
                break
            pick = self._next_finalist([t for t in trials if t.number not in (0, *verified)])
            if pick is None:
                break
            if self._stop.is_set():
                raise Stopped
            progress(
                Progress("finalists", f"verifying trial {pick.number}", len(verified), max(count, len(verified) + 1))
            )
            self._verify_patiently(pick.number, progress)
            verified.append(pick.number)
        for guard in self._guards().values() if count else ():
            if guard.uniform is not None and guard.uniform.number not in verified:
                progress(Progress("finalists", f"verifying {guard.name}, which others have to beat on {guard.target}"))
                self._verify_patiently(guard.uniform.number, progress)
                verified.append(guard.uniform.number)
        if count:
            self._verify_patiently(0, progress)
        return verified

    def _verify_patiently(self, number: int, progress: Watcher) -> None:
        """As `verify`; where a target goes away, wait for it as long as there is hope. Raises `TargetPaused`."""
        while True:
            try:
                self.verify(number, progress)
            except TargetPaused as paused:
                if not self._runner.targets.outlast({paused.target}):
                    raise
            else:
                return

    def _next_finalist(self, trials: Sequence[Trial]) -> Trial | None:
        complete = [t for t in trials if t.state == "complete"]
        try:
            return budget.best(complete, self._config)
        except Infeasible:
            # Nothing left within the limits: the least damaged point of the front is what comes nearest.
            front = [t for t in pareto.front(complete, self._objectives) if not t.final]
            return min(front, key=_damage, default=None)


def _damage(trial: Trial) -> float:
    """The largest loss of any slice, in any runtime family."""
    return trial.metrics.get(WORST_ANYWHERE, trial.metrics["drop/worst"]).value


def _digest(trial: Trial, target: str) -> str:
    """Of what runs on a target."""
    artifact = trial.artifact_for(target)
    assert artifact is not None  # a complete trial was built
    return artifact.digest
