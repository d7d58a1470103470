"""The training of one trial: from its structure in float32 to checkpoints on disk. Can be interrupted at any moment."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass

from autotune.recipe import Recipe
from autotune.search.recovery import record
from autotune.search.recovery.course import Course, Watch
from autotune.search.recovery.failure import ABOUT_THE_STUDY, broken
from autotune.search.recovery.record import Record
from autotune.search.recovery.training import Training
from autotune.store import Store
from autotune.trial import Trial


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
        recipe, named = Recipe(trial.recipe), self._named(weights)
        found = record.read(self.store, recipe)
        if found is None or found.settings != named:
            found = Record(trial=trial.number, settings=named)
        if found.state != "training":
            return found
        course = Course(self.training, self.store, recipe, found, weights, watch)
        try:
            found = course.run()
            found = found.model_copy(update={"state": "done", "why": _ended(found, course.obstacle)})
        except ABOUT_THE_STUDY:
            raise
        except Exception as error:  # noqa: BLE001 as for a trial: what breaks one training does not end the study
            failure = broken(error, f"recovery of trial {trial.number}")
            if course.kept.checkpoints:
                message = f"{failure.message}; what was found before that stays good"
                failure = failure.model_copy(update={"message": message})
            found = course.kept.model_copy(update={"state": "failed", "why": failure.message, "failure": failure})
        record.write(self.store, recipe, found)
        course.tidy()
        return found

    def _named(self, weights: Mapping[str, float]) -> str:
        """A digest of all that the result depends on, besides the recipe."""
        table, settings = self.training.table, asdict(self.training.settings())
        parts = (settings, table.checkpoints, table.cuts, self.digest, sorted(weights.items()))
        return hashlib.sha256(repr(parts).encode()).hexdigest()[:16]


def _ended(found: Record, obstacle: str) -> str:
    """How a training has ended; `obstacle` is why its cuts were made at once."""
    at_once = f" (cut at once: {obstacle})" if obstacle else ""
    if not found.better():
        after = "; the weights that came of the cuts are kept" if found.checkpoints else ""
        return f"no gain within {found.step} steps{after}{at_once}"
    last = found.checkpoints[-1]
    before = f" from {found.start:.3g}" if found.start is not None else ""
    return f"validation loss{before} to {last.validation:.3g} at step {last.step} of {found.step}{at_once}"
