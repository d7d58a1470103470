"""Recovery as a phase of a study, between its search and its finalists."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from autotune.config import RecoverTable, StudyConfig
from autotune.keys import MetricKey
from autotune.recipe import Recipe
from autotune.search.prepare import Prepared
from autotune.search.progress import Progress, Watcher
from autotune.search.recovery import data
from autotune.search.recovery.choosing import candidates, why_none
from autotune.search.runner import TrialRunner, Waiting
from autotune.search.slicing import Slicing
from autotune.search.targets import Stopped
from autotune.store import Store
from autotune.techniques.protocol import STRUCTURAL
from autotune.techniques.recover import NAME, WEIGHTS
from autotune.trial import Trial
from autotune.workload import Dataset
from hwprofiles.errors import Failure

if TYPE_CHECKING:
    from autotune.recover.settings import Progress as Step
    from autotune.search.recovery.attempt import Attempt
    from autotune.search.recovery.record import Record

_PARTS = 10  # a progress bar moves so often in the course of one training


@dataclass
class Recovery:
    """Trains the most promising trials of a study; every checkpoint that is kept becomes a trial of its own."""

    config: StudyConfig
    prepared: Prepared
    store: Store
    runner: TrialRunner
    slicing: Slicing
    objectives: Sequence[MetricKey]
    stop: threading.Event

    def run(self, watch: Watcher) -> list[int]:
        """The numbers of all trials that the training has given, those of earlier runs too; nothing is trained twice.

        Without `[recover]` there are none. Raises `Stopped`, and `Waiting` where a target does not come back.
        """
        table, train = self.config.recover, self.prepared.workload.train
        if table is None or train is None:
            return []
        trials = self.store.trials(details=False)
        chosen = candidates(trials, self.config, self.objectives, table.count)
        if not chosen:
            said = f"no recipe promises to gain by training: {why_none(trials, self.config)}"
            watch(Progress(NAME, said, news=True))
            return []
        from autotune.search.recovery.attempt import Attempt
        from autotune.search.recovery.training import Training

        training = Training(table, self.prepared.assembler, self.prepared.workload, train)
        attempt = Attempt(training, self.store, train.digest())
        made: list[int] = []
        for place, trial in enumerate(chosen):
            made += self._recover(trial, attempt, train, len(chosen) - place - 1, watch)
        return made

    def _recover(self, trial: Trial, attempt: Attempt, train: Dataset, later: int, watch: Watcher) -> list[int]:
        """Train one and run its checkpoints, the best one first; `later` is how many are to be trained after it."""
        table, recipe = attempt.training.table, Recipe(trial.recipe)

        def watched(step: Step, record: Record) -> None:
            if self.stop.is_set():
                raise Stopped
            watch(_told(trial, step, record, table, later))

        watch(Progress(NAME, f"training trial {trial.number}", 0, _PARTS, 60 * table.minutes * (1 + later)))
        found = attempt.run(trial, self._weights(trial, train, table), watched)
        ended = found.why if found.failure is not None else f"trial {trial.number}: {found.why}"  # a failure names it
        watch(Progress(NAME, ended, _PARTS, _PARTS, 60 * table.minutes * later, news=True))
        proposer = f"recover of trial {trial.number}"
        if found.failure is not None:
            self._fail(_with(recipe, f"failed-{found.settings}"), proposer, found.failure)
        best_first = reversed(found.checkpoints)
        return [self._trial(_with(recipe, checkpoint.name), proposer, watch) for checkpoint in best_first]

    def _weights(self, trial: Trial, train: Dataset, table: RecoverTable) -> dict[str, float]:
        if not table.weigh_slices:
            return {}
        return data.weights(train, self.slicing.search.declarations, trial, self.config)

    def _trial(self, recipe: Recipe, proposer: str, watch: Watcher) -> int:
        """Measured and judged as any other; a target that is gone is waited for as long as there is hope."""
        number = self.store.start_trial(recipe, proposer)
        while self.store.trial(number).state == "running":
            if self.stop.is_set():
                raise Stopped
            watch(Progress(NAME, f"trial {number}: measuring and judging what was trained"))
            try:
                trial = self.runner.run(number, recipe)
            except Waiting as waiting:
                if not self.runner.targets.outlast(waiting.targets):
                    raise
            else:
                watch(Progress(NAME, _came_of(trial), trial=trial))
        return number

    def _fail(self, recipe: Recipe, proposer: str, failure: Failure) -> None:
        """A training that broke down is a trial that failed, with its cause."""
        number = self.store.start_trial(recipe, proposer)
        if self.store.trial(number).state == "running":
            self.store.finish_trial(number, "failed", failure=failure)


def check_notes(config: StudyConfig, train: Dataset | None) -> tuple[str, ...]:
    """What `autotune check` says of recovery; nothing without `[recover]`."""
    table = config.recover
    if table is None or train is None:
        return ()
    fit, held = data.split(train)
    which = "recipe that promises most is" if table.count == 1 else f"{table.count} recipes that promise most are"
    return (
        f"recover: {_at_the_start(config, table)}after the search the {which} trained for at most "
        f"{table.minutes:g} min or {table.steps:,} steps each, on {len(fit):,} samples, with {len(held):,} to validate"
        + (f"; what they prune goes in {table.cuts} cuts" if table.cuts > 1 else ""),
    )


def _at_the_start(config: StudyConfig, table: RecoverTable) -> str:
    """What becomes of new structures, for a study that has any."""
    if not _structural(config):
        return ""
    if table.start == 0:
        return "a new structure is not trained before it is judged (start = 0); "
    steps = "" if table.start_steps is None else f", at most {table.start_steps:,} steps,"
    return f"every new structure is trained for {table.start:g} s{steps} before it is judged; "


def _structural(config: StudyConfig) -> bool:
    return any(name in STRUCTURAL for name in config.techniques)


def seconds(config: StudyConfig, each: float) -> float:
    """How long recovery takes at most, where a trial takes `each` seconds: every trial may have a new structure."""
    table = config.recover
    if table is None:
        return 0.0
    starts = config.search.trials * table.start if _structural(config) else 0.0
    return starts + table.count * (60 * table.minutes + table.checkpoints * each)


def _with(recipe: Recipe, weights: str) -> Recipe:
    return Recipe({**recipe.to_dict(), NAME: {**recipe[NAME], WEIGHTS: weights}})


def _told(trial: Trial, step: Step, record: Record, table: RecoverTable, later: int) -> Progress:
    share = min(1.0, max(record.seconds / (60 * table.minutes), record.step / table.steps))
    left = record.seconds * (1 / share - 1)
    best = ""
    if record.checkpoints:
        from_ = f" ({record.start:.3g} at the start)" if record.start is not None else ""
        best = f", validation {record.checkpoints[-1].validation:.3g}{from_}"
    message = f"training trial {trial.number}: step {record.step}, loss {step.loss:.3g}{best}"
    return Progress(NAME, message, int(share * _PARTS), _PARTS, left + 60 * table.minutes * later)


def _came_of(trial: Trial) -> str:
    if trial.state == "failed" and trial.failure is not None:
        return f"trial {trial.number} failed: {trial.failure.message}"
    if trial.state == "rejected":
        return f"trial {trial.number} rejected: {trial.reason}"
    drop = trial.metrics.get("drop/worst")
    return f"trial {trial.number} complete" + (f", worst drop {100 * drop.value:.1f} pt" if drop is not None else "")
