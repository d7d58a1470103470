"""The training of one trial: from its structure in float32 to checkpoints on disk. Can be interrupted at any moment."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass

import numpy as np
import onnx
from onnx import numpy_helper

from autotune.compress import checkpoints
from autotune.config import RecoverTable
from autotune.recipe import Recipe
from autotune.recover.batching import Batches, joinable
from autotune.recover.settings import Progress, Settings
from autotune.recover.training import recover
from autotune.search.prepare import CHECKPOINTS, Prepared
from autotune.search.recovery import data, record
from autotune.search.recovery.failure import ABOUT_THE_STUDY, broken
from autotune.search.recovery.record import Kept, Record
from autotune.store import Store
from autotune.techniques.recover import NAME
from autotune.trial import Trial
from autotune.workload import Dataset

_LEAST = 1.0  # seconds of training that are worth going on for

Watch = Callable[[Progress, Record], None]  # a step that was taken, and what is kept by then


@dataclass(frozen=True)
class Attempt:
    """Trains trials of one study on the `train` data of its workload. `digest` names those data."""

    table: RecoverTable
    prepared: Prepared
    store: Store
    train: Dataset
    digest: str

    def run(self, trial: Trial, weights: Mapping[str, float], watch: Watch) -> Record:
        """Train until the end and return what came of it; what an earlier run has done is gone on with, or read back.

        A training that breaks down is one that failed, with the cause and the checkpoints that were made before.
        Raises what `watch` raises, such as `Stopped`, and leaves the rest for the next run.
        """
        recipe, settings = Recipe(trial.recipe), self._settings()
        named = self._named(settings, weights)
        found = record.read(self.store, recipe)
        if found is None or found.settings != named:
            found = Record(trial=trial.number, settings=named)
        if found.state != "training":
            return found
        left = 60 * settings.minutes - found.seconds
        if found.step < settings.steps and left >= _LEAST:
            try:
                found = self._train(recipe, found, settings, weights, watch)
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
        found = found.model_copy(update={"state": "done", "why": _ended(found)})
        record.write(self.store, recipe, found)
        return found

    def _train(
        self, recipe: Recipe, found: Record, settings: Settings, weights: Mapping[str, float], watch: Watch
    ) -> Record:
        assembler = self.prepared.assembler
        source = assembler.structured(assembler.structure(recipe))
        student = onnx.load_from_string(assembler.assemble(assembler.structure(recipe)))
        teacher = onnx.load_from_string(assembler.assemble(Recipe()))
        if found.checkpoints:  # an earlier run was interrupted: its best so far is where this one begins
            _put(student, checkpoints.load(assembler.checkpoints, found.checkpoints[-1].name))
        decisions = {
            part: choice for name, choice in recipe["quantize"].items() for part in source.parts.get(name, (name,))
        }
        fit, held = data.split(self.train)
        together = joinable(student)
        steps, spent = found.step, found.seconds
        state = found

        def watched(progress: Progress) -> None:
            nonlocal state
            state = state.model_copy(update={"step": steps + progress.step, "seconds": spent + progress.seconds})
            watch(progress, state)

        rest = Settings(
            **{
                **asdict(settings),
                "steps": settings.steps - steps,
                "minutes": settings.minutes - spent / 60,
                "seed": steps,  # other batches than those that were seen
            }
        )
        run = recover(
            student,
            teacher,
            source.layers.values(),
            decisions,
            assembler.ranges_for(recipe),
            Batches(fit, settings.batch, seed=steps, weights=weights, joinable=together),
            Batches(held, settings.batch, shuffle=False, joinable=together),
            rest,
            watch=watched,
            hard_loss=self.prepared.workload.loss,
        )
        for checkpoint in run:
            if checkpoint.step == 0:  # as it was given
                state = state if steps else state.model_copy(update={"start": _known(checkpoint.validation)})
                continue
            name = checkpoints.save(self.store.folder / CHECKPOINTS, checkpoint.tensors)
            kept = Kept(
                name=name,
                step=steps + checkpoint.step,
                seconds=spent + checkpoint.seconds,
                validation=checkpoint.validation,
            )
            state = self._keep(recipe, state, kept)
        return state

    def _keep(self, recipe: Recipe, state: Record, kept: Kept) -> Record:
        """Add a checkpoint; those between that will be no trial are deleted."""
        everything = (*state.checkpoints, kept)
        state = state.model_copy(
            update={
                "checkpoints": record.thinned(everything, self.table.checkpoints),
                "step": max(state.step, kept.step),
                "seconds": max(state.seconds, kept.seconds),
            }
        )
        record.write(self.store, recipe, state)
        unwanted = record.dropped(everything, state.checkpoints)
        if unwanted:
            in_use = {name for t in self.store.trials(details=False) for name in t.recipe.get(NAME, {}).values()}
            for name in unwanted - in_use:
                checkpoints.path_of(self.store.folder / CHECKPOINTS, name).unlink(missing_ok=True)
        return state

    def _settings(self) -> Settings:
        table, hard = self.table, self.table.hard
        if hard is None:
            hard = 1.0 if self.prepared.workload.loss is not None else 0.0
        return Settings(
            steps=table.steps,
            minutes=table.minutes,
            learning_rate=table.learning_rate,
            batch=table.batch,
            temperature=table.temperature,
            soft=table.soft,
            hard=hard,
            features=table.features,
            lora_rank=table.lora_rank,
            patience=table.patience,
            sample_weights=table.weigh_slices,
        )

    def _named(self, settings: Settings, weights: Mapping[str, float]) -> str:
        """A digest of all that the result depends on, besides the recipe."""
        parts = (asdict(settings), self.table.checkpoints, self.digest, sorted(weights.items()))
        return hashlib.sha256(repr(parts).encode()).hexdigest()[:16]


def _put(model: onnx.ModelProto, tensors: Mapping[str, np.ndarray]) -> None:
    for tensor in model.graph.initializer:
        if tensor.name in tensors:
            tensor.CopyFrom(numpy_helper.from_array(tensors[tensor.name], tensor.name))


def _ended(found: Record) -> str:
    if not found.checkpoints:
        return f"no gain within {found.step} steps"
    last = found.checkpoints[-1]
    before = f" from {found.start:.3g}" if found.start is not None else ""
    return f"validation loss{before} to {last.validation:.3g} at step {last.step} of {found.step}"


def _known(loss: float) -> float | None:
    return loss if math.isfinite(loss) else None
