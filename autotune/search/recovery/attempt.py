"""The training of one trial: from its structure in float32 to checkpoints on disk. Can be interrupted at any moment."""

from __future__ import annotations

import hashlib
import math
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np

from autotune.compress import checkpoints
from autotune.compress.plan import Source
from autotune.recipe import Recipe
from autotune.recover.settings import Checkpoint, Progress, Settings
from autotune.search.prepare import CHECKPOINTS
from autotune.search.recovery import record
from autotune.search.recovery.failure import ABOUT_THE_STUDY, broken
from autotune.search.recovery.gradual import Gradual, with_tensors
from autotune.search.recovery.record import Kept, Record
from autotune.search.recovery.training import Training
from autotune.store import Store
from autotune.techniques.recover import NAME
from autotune.trial import Trial

_LEAST = 1.0  # seconds of training that are worth going on for

Watch = Callable[[Progress, Record], None]  # a step that was taken, and what is kept by then
Tensors = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Attempt:
    """Trains trials of one study. `digest` names the training data."""

    training: Training
    store: Store
    digest: str

    def run(self, trial: Trial, weights: Mapping[str, float], watch: Watch) -> Record:
        """Train until the end and return what came of it; what an earlier run has done is gone on with, or read back.

        A training that breaks down is one that failed, with the cause and the checkpoints that were made before.
        Raises what `watch` raises, such as `Stopped`, and leaves the rest for the next run.
        """
        recipe, settings = Recipe(trial.recipe), self.training.settings()
        named = self._named(settings, weights)
        found = record.read(self.store, recipe)
        if found is None or found.settings != named:
            found = Record(trial=trial.number, settings=named)
        if found.state != "training":
            return found
        left = 60 * settings.minutes - found.seconds
        obstacle = ""
        if found.step < settings.steps and left >= _LEAST:
            try:
                found, obstacle = self._train(recipe, found, settings, weights, watch)
            except ABOUT_THE_STUDY:
                raise
            except Exception as error:  # noqa: BLE001 as for a trial: what breaks one training does not end the study
                failure = broken(error, f"recovery of trial {trial.number}")
                # What was kept meanwhile is in the store.
                known = record.read(self.store, recipe)
                found = known if known is not None and known.settings == named else found
                found = found.model_copy(update={"state": "failed", "why": failure.message, "failure": failure})
                record.write(self.store, recipe, found)
                return found
        found = found.model_copy(update={"state": "done", "why": _ended(found) + obstacle})
        record.write(self.store, recipe, found)
        return found

    def _train(
        self, recipe: Recipe, found: Record, settings: Settings, weights: Mapping[str, float], watch: Watch
    ) -> tuple[Record, str]:
        """The record of the training, and why its cuts were made at once, if they should not have been."""
        begin: Tensors = {}
        obstacle = ""
        if self.training.table.cuts > 1 and not found.checkpoints:
            gradual = Gradual(self.training, recipe)
            obstacle = gradual.obstacle()
            if not obstacle:
                found, begin = self._cut(gradual, recipe, found, settings, weights, watch)
        student = self.training.student(recipe)
        student.put(begin)
        if found.checkpoints:  # an earlier run was interrupted: its best so far is where this one begins
            begin = checkpoints.load(self._folder, found.checkpoints[-1].name)
            student.put(begin)
        state, (steps, spent) = found, (found.step, found.seconds)

        def watched(progress: Progress) -> None:
            nonlocal state
            state = _after(state, progress, steps, spent)
            watch(progress, state)

        for checkpoint in self.training.run(student, _rest(settings, found), weights=weights, watch=watched):
            if checkpoint.step == 0:  # as it was given
                state = state if state.start is not None else state.model_copy(update={"start": _known(checkpoint)})
            else:
                kept = self._saved(checkpoint, {**begin, **checkpoint.tensors}, steps, spent)
                state = self._keep(recipe, state, kept)
        return state, f" (cut at once: {obstacle})" if obstacle else ""

    def _cut(
        self,
        gradual: Gradual,
        recipe: Recipe,
        found: Record,
        settings: Settings,
        weights: Mapping[str, float],
        watch: Watch,
    ) -> tuple[Record, Tensors]:
        """Make the recipe's cuts one by one, each but the last one followed by a training; the budget is shared out
        evenly. Returns the constants that the recipe's structure then begins with."""
        count = self.training.table.cuts
        share = replace(settings, steps=max(1, settings.steps // count), minutes=settings.minutes / count)
        source: Source | None = None
        for done in range(1, count):
            source = gradual.next(source, done, count)
            if done > len(found.cuts):
                found = self._after_cut(source, recipe, found, share, weights, watch)
            source = with_tensors(source, checkpoints.load(self._folder, found.cuts[done - 1].name))
        return found, gradual.differences(gradual.next(source, count, count))

    def _after_cut(
        self,
        source: Source,
        recipe: Recipe,
        found: Record,
        share: Settings,
        weights: Mapping[str, float],
        watch: Watch,
    ) -> Record:
        """Train a structure between two cuts. What it took is spent, whenever its best weights were found."""
        state = found

        def watched(progress: Progress) -> None:
            nonlocal state
            state = _after(found, progress, found.step, found.seconds)
            watch(progress, state)

        run = self.training.run(
            self.training.student_of(source), replace(share, seed=found.step), weights=weights, watch=watched
        )
        (best,) = deque(run, maxlen=1)  # the first one is the student as it was given
        cut = self._saved(best, best.tensors, found.step, found.seconds)
        state = state.model_copy(update={"cuts": (*state.cuts, cut)})
        record.write(self.store, recipe, state)
        return state

    def _saved(self, checkpoint: Checkpoint, tensors: Tensors, steps: int, spent: float) -> Kept:
        return Kept(
            name=checkpoints.save(self._folder, tensors),
            step=steps + checkpoint.step,
            seconds=spent + checkpoint.seconds,
            validation=checkpoint.validation,
        )

    def _keep(self, recipe: Recipe, state: Record, kept: Kept) -> Record:
        """Add a checkpoint; those between that will be no trial are deleted."""
        everything = (*state.checkpoints, kept)
        state = state.model_copy(
            update={
                "checkpoints": record.thinned(everything, self.training.table.checkpoints),
                "step": max(state.step, kept.step),
                "seconds": max(state.seconds, kept.seconds),
            }
        )
        record.write(self.store, recipe, state)
        unwanted = record.dropped(everything, state.checkpoints)
        if unwanted:
            in_use = {name for t in self.store.trials(details=False) for name in t.recipe.get(NAME, {}).values()}
            for name in unwanted - in_use:
                checkpoints.path_of(self._folder, name).unlink(missing_ok=True)
        return state

    @property
    def _folder(self) -> Path:
        return self.store.folder / CHECKPOINTS

    def _named(self, settings: Settings, weights: Mapping[str, float]) -> str:
        """A digest of all that the result depends on, besides the recipe."""
        table = self.training.table
        parts = (asdict(settings), table.checkpoints, table.cuts, self.digest, sorted(weights.items()))
        return hashlib.sha256(repr(parts).encode()).hexdigest()[:16]


def _rest(settings: Settings, found: Record) -> Settings:
    """What is left of the budget, with other batches than those that were seen."""
    steps, minutes = settings.steps - found.step, settings.minutes - found.seconds / 60
    return replace(settings, steps=steps, minutes=minutes, seed=found.step)


def _after(state: Record, progress: Progress, steps: int, spent: float) -> Record:
    return state.model_copy(update={"step": steps + progress.step, "seconds": spent + progress.seconds})


def _ended(found: Record) -> str:
    if not found.checkpoints:
        return f"no gain within {found.step} steps"
    last = found.checkpoints[-1]
    before = f" from {found.start:.3g}" if found.start is not None else ""
    return f"validation loss{before} to {last.validation:.3g} at step {last.step} of {found.step}"


def _known(checkpoint: Checkpoint) -> float | None:
    return checkpoint.validation if math.isfinite(checkpoint.validation) else None
