"""The course of one training: its phases, one after the other, and what is kept of them on disk and in the store."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path

import numpy as np

from autotune.compress import checkpoints
from autotune.compress.plan import Source
from autotune.recipe import Recipe
from autotune.recover.settings import Checkpoint, Progress
from autotune.search.opening import CHECKPOINTS
from autotune.search.recovery import record
from autotune.search.recovery.budget import Budget
from autotune.search.recovery.gradual import Gradual, with_tensors
from autotune.search.recovery.record import Kept, Record
from autotune.search.recovery.training import Training, Untrained
from autotune.store import Store
from autotune.techniques.recover import NAME

Watch = Callable[[Progress, Record], None]  # a step that was taken, and what is kept by then
Tensors = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Phase:
    """The training of one structure, which may take one of `parts` equal parts of the budget.

    `keep` is called with its checkpoints as they come, the first one being the student as it was given; with
    `best_only` once, with the last one, when the phase has ended.
    """

    student: Untrained
    parts: int
    keep: Callable[[Checkpoint], None]
    best_only: bool


class Course:
    """Trains what a recipe describes, from where `found` left off. `kept` is what the store knows, at any moment."""

    def __init__(
        self,
        training: Training,
        store: Store,
        recipe: Recipe,
        found: Record,
        weights: Mapping[str, float],
        watch: Watch,
    ) -> None:
        self._training, self._store, self._recipe = training, store, recipe
        self._weights, self._watch = weights, watch
        self._now = self.kept = found
        self._before = self._budget()  # the phase that is under way
        self.obstacle = ""  # why its cuts were made at once, if they should not have been

    def run(self) -> Record:
        """Train until the end. Raises what `watch` and the training raise; a course from `kept` then goes on."""
        for phase in self._phases():
            self._before = self._budget()
            settings = self._before.part(phase.parts)
            run = self._training.run(
                phase.student, settings, weights=self._weights, watch=self._took, before=self._before.step
            )
            made: Iterable[Checkpoint] = islice(run, 1) if self._before.over else run
            for checkpoint in deque(made, maxlen=1) if phase.best_only else made:
                phase.keep(checkpoint)
        return self._now

    def _phases(self) -> Iterator[Phase]:
        """Each one begins with what came of the one before: a training after every cut but the last one, then that of
        the recipe's structure with its formats."""
        cuts = self._training.table.cuts
        gradual = Gradual(self._training, self._recipe) if cuts > 1 else None
        self.obstacle = gradual.obstacle() if gradual is not None else ""
        begin: Tensors = {}
        if self._now.checkpoints:  # an earlier run was interrupted: its best so far is where this one begins
            begin = checkpoints.load(self._folder, self._now.checkpoints[-1].name)
        elif gradual is not None and not self.obstacle:
            source: Source | None = None
            for done in range(1, cuts):
                source = gradual.next(source, done, cuts)
                if done > len(self._now.cuts):
                    yield Phase(self._training.student_of(source), cuts, self._keep_cut, best_only=True)
                source = with_tensors(source, checkpoints.load(self._folder, self._now.cuts[done - 1].name))
            begin = gradual.differences(gradual.next(source, cuts, cuts))
        if self._budget().over and not self._cuts_at_stake:
            return
        student = self._training.student(self._recipe)
        student.put(begin)
        yield Phase(student, 1, partial(self._keep, begin), best_only=False)

    def _budget(self) -> Budget:
        return Budget(self._training.settings(), self._now.step, self._now.seconds)

    @property
    def _cuts_at_stake(self) -> bool:
        """Whether cuts were trained and no checkpoint holds the weights yet that came of them."""
        return bool(self._now.cuts) and not self._now.checkpoints

    def _took(self, progress: Progress) -> None:
        """A step was taken; what it took is spent, whenever the best weights are found."""
        step, seconds = self._before.step + progress.step, self._before.seconds + progress.seconds
        self._now = self._now.model_copy(update={"step": step, "seconds": seconds})
        self._watch(progress, self._now)

    def _keep_cut(self, best: Checkpoint) -> None:
        self._write(cuts=(*self._now.cuts, self._saved(best, best.tensors)))

    def _keep(self, begin: Tensors, checkpoint: Checkpoint) -> None:
        """Add a checkpoint; those between that will be no trial are deleted.

        What a training begins with is the recipe as it is, or was kept before. Not so after cuts: then it is kept until
        something better is found.
        """
        if checkpoint.step == 0:
            if self._now.start is None and math.isfinite(checkpoint.validation):
                self._now = self._now.model_copy(update={"start": checkpoint.validation})
            if not self._cuts_at_stake:
                return
        kept = self._saved(checkpoint, {**begin, **checkpoint.tensors})
        before = (*self._now.checkpoints, kept)
        left = record.thinned((*self._now.better(), kept), self._training.table.checkpoints)
        self._write(checkpoints=left, step=max(self._now.step, kept.step), seconds=max(self._now.seconds, kept.seconds))
        self._delete(record.dropped(before, left))

    def tidy(self) -> None:
        """Delete the weights between cuts, when nothing will go on from them any more: what is kept then is trials."""
        self._delete(record.dropped(self.kept.cuts, self.kept.checkpoints))

    def _delete(self, unwanted: set[str]) -> None:
        if unwanted:
            in_use = {name for t in self._store.trials(details=False) for name in t.recipe.get(NAME, {}).values()}
            for name in unwanted - in_use:
                checkpoints.path_of(self._folder, name).unlink(missing_ok=True)

    def _saved(self, checkpoint: Checkpoint, tensors: Tensors) -> Kept:
        return Kept(
            name=checkpoints.save(self._folder, tensors),
            step=self._before.step + checkpoint.step,
            seconds=self._before.seconds + checkpoint.seconds,
            validation=checkpoint.validation,
        )

    def _write(self, **changes: object) -> None:
        self._now = self.kept = self._now.model_copy(update=changes)
        record.write(self._store, self._recipe, self.kept)

    @property
    def _folder(self) -> Path:
        return self._store.folder / CHECKPOINTS
