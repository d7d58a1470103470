"""A short training after every change of structure, before anything is judged.

What loses channels, factors or weights answers badly until it has been trained a little: judged as it is, it says
nothing about what it could be. So each new structure is trained in float32 for some seconds, once; all recipes of that
structure, whatever their formats, begin with the same weights: `{"recover": {"start": CHECKPOINT}}`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from autotune.compress import checkpoints
from autotune.config import RecoverTable, StudyConfig
from autotune.recipe import Recipe
from autotune.search.opening import CHECKPOINTS
from autotune.search.prepare import Prepared
from autotune.search.recovery.failure import ABOUT_THE_STUDY, broken
from autotune.store import Store
from autotune.techniques.protocol import STRUCTURAL
from autotune.techniques.recover import NAME, START
from autotune.workload import Dataset

if TYPE_CHECKING:
    from autotune.recover.settings import Checkpoint

_KEY = "start/"
_STEPS = 10**9  # the time ends it
_LOOKS = 5  # at the validation samples, in each round of the data
_LEAST_STEPS = 10  # between two looks

Say = Callable[[str], None]


@dataclass
class Starting:
    """Gives recipes the weights that their structure begins with. Without `[recover]` it changes nothing."""

    config: StudyConfig
    prepared: Prepared
    store: Store

    @property
    def active(self) -> bool:
        """Whether structures are trained."""
        table = self.config.recover
        return table is not None and table.start > 0 and self.prepared.workload.train is not None

    def known(self, recipe: Recipe) -> Recipe:
        """The recipe as it is tried: with the weights of its structure, where that has been trained."""
        if not self._changes(recipe):
            return recipe
        kept = self.store.meta(_KEY + self._structure(recipe).digest)
        return _with(recipe, str(kept["weights"])) if kept and kept["weights"] else recipe

    def train(self, recipe: Recipe, watch: Say, say: Say) -> Recipe:
        """The same; a new structure is trained first. `watch` is told when that begins, `say` what went wrong.

        Of a training that breaks down the best weights until then are kept; without any the structure is tried as it
        is.
        """
        structure = self._structure(recipe)
        key = _KEY + structure.digest
        table, train = self.config.recover, self.prepared.workload.train
        if table is None or train is None or not self._changes(recipe) or self.store.meta(key) is not None:
            return self.known(recipe)
        watch(f"a new structure, trained {_for(table)}")
        best, why = None, ""
        try:
            for checkpoint in self._training(structure, table, train):
                best = checkpoint if checkpoint.step else None
        except ABOUT_THE_STUDY:
            raise
        except Exception as error:  # noqa: BLE001 as for a trial: what breaks one training does not end the study
            why = broken(error, "a new structure").message
            kept = "as it is" if best is None else f"with the weights of step {best.step}"
            say(f"{why}; it is tried {kept}")
        if best is None and not why:
            why = f"training of a new structure gained nothing {_within(table)}"
            say(f"{why}; it is tried as it is")
        name = checkpoints.save(self.store.folder / CHECKPOINTS, best.tensors) if best is not None else ""
        self.store.set_meta(key, {"weights": name, "why": why})
        return self.known(recipe)

    def _changes(self, recipe: Recipe) -> bool:
        techniques = self.prepared.assembler.techniques
        return self.active and any(techniques[name].stage in STRUCTURAL for name in recipe)

    def _structure(self, recipe: Recipe) -> Recipe:
        """All that comes before the weights."""
        structure = self.prepared.assembler.structure(recipe).to_dict()
        structure.pop(NAME, None)
        return Recipe(structure)

    def _training(self, structure: Recipe, table: RecoverTable, train: Dataset) -> Iterator[Checkpoint]:
        """What `recover` yields for a structure in float32."""
        from autotune.search.recovery.training import Training

        training = Training(table, self.prepared.assembler, self.prepared.workload, train)
        settings = training.settings(
            steps=table.start_steps or _STEPS,
            minutes=table.start / 60,
            lora_rank=0,  # all of a new structure is hurt
            evaluate_every=max(_LEAST_STEPS, training.samples() // table.batch // _LOOKS),
        )
        yield from training.run(training.student(structure), settings)


def _for(table: RecoverTable) -> str:
    return f"for {table.start:g} s" if table.start_steps is None else f"for at most {table.start_steps} steps"


def _within(table: RecoverTable) -> str:
    return f"in {table.start:g} s" if table.start_steps is None else f"in {table.start_steps} steps"


def _with(recipe: Recipe, weights: str) -> Recipe:
    return Recipe({**recipe.to_dict(), NAME: {START: weights}})
