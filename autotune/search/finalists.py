"""Finalists: the most promising trials, measured again and judged on data that the search never saw."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence

from autotune import pareto
from autotune.config import StudyConfig
from autotune.errors import Infeasible, UsageError
from autotune.keys import MetricKey
from autotune.search import budget
from autotune.search.agreement import has_parity, keep_parity
from autotune.search.judging import Judged
from autotune.search.keepsakes import keep_flipped
from autotune.search.prepare import Prepared
from autotune.search.progress import Progress, Watcher, nobody
from autotune.search.runner import TrialRunner
from autotune.search.slicing import Slicing
from autotune.search.targets import Stopped, TargetPaused
from autotune.search.values import cost_metrics, file_metrics, judged_metrics
from autotune.store import Store
from autotune.trial import Artifact, Trial


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
        self._heldout: Judged | None = None

    def verify(self, number: int, progress: Watcher = nobody) -> Trial:
        """Measure a trial again with more samples and judge it on held-out data; done once, then read back.

        Raises `UsageError` for a trial that is not complete, `DeviceFailure`/`TrialFailure` when it fails now,
        `TargetPaused` when a target is gone; what it recorded by then is found again.
        """
        trial = self._store.trial(number)
        if trial.state != "complete" or trial.artifact is None:
            raise UsageError(f"trial {number} is {trial.state}, only a complete one can be verified or exported")
        if not trial.final:
            self._measure_again(number, trial.artifact, progress)
        if number and self._config.finalists.parity:
            self._compare_answers(number, trial.artifact.digest, progress)
        return self._store.trial(number)

    def _measure_again(self, number: int, artifact: Artifact, progress: Watcher) -> None:
        """More samples, and data that the search never saw."""
        metrics = file_metrics(self._config, self._store.artifact_path(artifact.digest))
        for name in self._prepared.timed:
            progress(Progress("finalists", f"measuring trial {number} again on {name}"))
            measurement = self._runner.measure(name, artifact.digest, self._config.remeasure)
            if measurement.failure is not None:
                raise UsageError(f"trial {number} failed when measured again: {measurement.failure.message}")
            metrics.update(cost_metrics(measurement))
        progress(Progress("finalists", f"judging trial {number} on held-out data"))
        heldout = self._judged_heldout()
        evaluation = self._runner.judging.evaluate(artifact.digest, heldout)
        self._slicing.confirm(number, evaluation)
        keep_flipped(self._store, heldout.dataset, evaluation)
        metrics.update(judged_metrics(evaluation, self._config.judge.floor))
        self._store.set_final(number, metrics)

    def _judged_heldout(self) -> Judged:
        """The original on the held-out data, once."""
        if self._heldout is None:
            judging, data = self._runner.judging, self._prepared.workload.heldout
            masks, hypotheses = self._slicing.assign_heldout(judging.original(data))
            self._heldout = judging.judged(data, masks, hypotheses=hypotheses, heldout=True)
            judging.evaluate(judging.baseline(), self._heldout)
        return self._heldout

    def _compare_answers(self, number: int, digest: str, progress: Watcher) -> None:
        """Does it answer the same on every target? Found out once."""
        if has_parity(self._store, digest, self._config.targets):
            return
        samples = self._prepared.workload.heldout.samples
        step = max(
            1, len(samples) // self._config.finalists.parity
        )  # data sets are often sorted: take them from all over
        inputs = [sample.inputs for sample in samples[::step][: self._config.finalists.parity]]

        def watch(message: str) -> None:
            progress(Progress("finalists", f"comparing the answers of trial {number}: {message}"))

        watch(f"on {', '.join(self._prepared.devices)}")
        keep_parity(
            self._store, digest, inputs, self._prepared.devices, self._runner.targets, self._config.finalists, watch
        )

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
            return min(front, key=lambda t: t.metrics["drop/worst"].value, default=None)
