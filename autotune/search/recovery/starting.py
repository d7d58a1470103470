"""A short training after every change of structure, before anything is judged.

What loses channels, factors or weights answers badly until it has been trained a little: judged as it is, it says
nothing about what it could be. So each new structure is trained in float32 for some seconds, once; all recipes of that
structure, whatever their formats, begin with the same weights: `{"recover": {"start": CHECKPOINT}}`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import onnx

from autotune.compress import checkpoints
from autotune.config import RecoverTable, StudyConfig
from autotune.errors import DataError, TrialFailure, UsageError
from autotune.recipe import Recipe
from autotune.search.prepare import CHECKPOINTS, Prepared
from autotune.search.recovery import data
from autotune.store import Store
from autotune.techniques.recover import NAME, START
from autotune.workload import Dataset

_KEY = "start/"
_CHANGES = ("prune", "factorize", "sparsify")  # stages after which the model is no longer the original
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

    def train(self, recipe: Recipe, say: Say) -> Recipe:
        """The same; a new structure is trained first. `say` is told when that begins, and what went wrong.

        A training that breaks down is kept as such: the structure is then tried as it is.
        """
        structure = self._structure(recipe)
        key = _KEY + structure.digest
        table, train = self.config.recover, self.prepared.workload.train
        if table is None or train is None or not self._changes(recipe) or self.store.meta(key) is not None:
            return self.known(recipe)
        say(f"a new structure, trained for {table.start:g} s")
        try:
            weights, why = self._trained(structure, table, train), ""
        except (TrialFailure, DataError, UsageError) as error:
            weights, why = "", str(error)
            say(f"a structure could not be trained and is tried as it is: {why}")
        self.store.set_meta(key, {"weights": weights, "why": why})
        return self.known(recipe)

    def _changes(self, recipe: Recipe) -> bool:
        techniques = self.prepared.assembler.techniques
        return self.active and any(techniques[name].stage in _CHANGES for name in recipe)

    def _structure(self, recipe: Recipe) -> Recipe:
        """All that comes before the weights."""
        structure = self.prepared.assembler.structure(recipe).to_dict()
        structure.pop(NAME, None)
        return Recipe(structure)

    def _trained(self, structure: Recipe, table: RecoverTable, train: Dataset) -> str:
        """The name of the best checkpoint, "" where nothing improved."""
        from autotune.recover.batching import Batches, joinable
        from autotune.recover.settings import Settings
        from autotune.recover.training import recover

        assembler = self.prepared.assembler
        source = assembler.structured(structure)
        student = onnx.load_from_string(assembler.assemble(structure))
        teacher = onnx.load_from_string(assembler.assemble(Recipe()))
        fit, held = data.split(train)
        together = joinable(student)
        hard = table.hard if table.hard is not None else float(self.prepared.workload.loss is not None)
        settings = Settings(
            steps=_STEPS,
            minutes=table.start / 60,
            learning_rate=table.learning_rate,
            batch=table.batch,
            temperature=table.temperature,
            soft=table.soft,
            hard=hard,
            evaluate_every=max(_LEAST_STEPS, len(fit) // table.batch // _LOOKS),
            patience=table.patience,
        )
        run = recover(
            student,
            teacher,
            source.layers.values(),
            {},
            {},
            Batches(fit, settings.batch, seed=0, joinable=together),
            Batches(held, settings.batch, shuffle=False, joinable=together),
            settings,
            hard_loss=self.prepared.workload.loss,
        )
        best = None
        for checkpoint in run:
            best = checkpoint if checkpoint.step else None
        return checkpoints.save(self.store.folder / CHECKPOINTS, best.tensors) if best is not None else ""


def _with(recipe: Recipe, weights: str) -> Recipe:
    return Recipe({**recipe.to_dict(), NAME: {START: weights}})
