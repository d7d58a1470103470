"""What all trainings of a study share: the original that teaches, the data, the loss, and the table `[recover]`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper

from autotune.compress.assembly import Assembler
from autotune.compress.plan import Source
from autotune.config import RecoverTable
from autotune.recipe import Recipe
from autotune.recover.batching import Batches, joinable
from autotune.recover.formats import Formats
from autotune.recover.settings import Checkpoint, Progress, Settings
from autotune.recover.training import recover
from autotune.search.recovery import data
from autotune.workload import Dataset, Workload


@dataclass
class Untrained:
    """What is to be trained: a float graph, and the formats that its weights will have in the artifact."""

    model: onnx.ModelProto
    formats: Formats

    def take(self) -> onnx.ModelProto:
        """The graph, which is given away: a large one should not be there twice while it is trained."""
        model, self.model = self.model, onnx.ModelProto()
        return model

    def put(self, tensors: Mapping[str, np.ndarray]) -> None:
        """Let it begin with these constants; names that it does not have are passed over."""
        for tensor in self.model.graph.initializer:
            if tensor.name in tensors:
                tensor.CopyFrom(numpy_helper.from_array(np.asarray(tensors[tensor.name]), tensor.name))


@dataclass(frozen=True)
class Training:
    """Trains on the samples `train` of a workload what `assembler` makes of its model."""

    table: RecoverTable
    assembler: Assembler
    workload: Workload
    train: Dataset

    def settings(self, **changes: Any) -> Settings:
        """The table's settings, with `changes`."""
        table = self.table
        hard = table.hard if table.hard is not None else float(self.workload.loss is not None)
        given: dict[str, Any] = {
            "steps": table.steps,
            "minutes": table.minutes,
            "relative_rate": table.relative_rate,
            "learning_rate": table.learning_rate,
            "batch": table.batch,
            "temperature": table.temperature,
            "soft": table.soft,
            "hard": hard,
            "features": table.features,
            "lora_rank": table.lora_rank,
            "patience": table.patience,
            "least_gain": table.least_gain,
            "sample_weights": table.weigh_slices,
            "compare": table.compare,
        }
        return Settings(**(given | changes))

    def student(self, recipe: Recipe) -> Untrained:
        """A recipe's structure in float32, with the formats that the recipe writes. Raises what `assemble` raises."""
        structure = self.assembler.structure(recipe)
        model = onnx.load_from_string(self.assembler.assemble(structure))
        layers, known = self.assembler.structured(structure).layers, self.assembler.formats(recipe)
        formats = Formats(
            tuple(layers.values()),
            {layer: choice for layer, (choice, _) in known.items()},
            self.assembler.ranges_for(recipe),
            {layer: rounding for layer, (_, rounding) in known.items()},
            self.assembler.dialect,
        )
        return Untrained(model, formats)

    def student_of(self, source: Source) -> Untrained:
        """A structure that no recipe names, in float32."""
        model = onnx.load_from_string(self.assembler.begun(source).to_bytes())
        return Untrained(model, Formats(tuple(source.layers.values()), dialect=self.assembler.dialect))

    def samples(self) -> int:
        """How many samples there are for the steps, those of validation apart."""
        return len(data.split(self.train)[0])

    def run(
        self,
        student: Untrained,
        settings: Settings,
        *,
        weights: Mapping[str, float] = {},
        watch: Callable[[Progress], None] | None = None,
        before: int = 0,
    ) -> Iterator[Checkpoint]:
        """What `recover` yields for a student, whose graph is used up. `weights` (sample id -> weight) count in the
        steps and in validation; `before` steps were taken by earlier calls."""
        fit, held = data.split(self.train)
        together = joinable(student.model)
        yield from recover(
            student.take(),
            onnx.load_from_string(self.assembler.assemble(Recipe())),
            student.formats,
            Batches(fit, settings.batch, seed=settings.seed, weights=weights, joinable=together),
            Batches(held, settings.batch, weights=weights, shuffle=False, joinable=together),
            settings,
            watch=watch,
            hard_loss=self.workload.loss,
            before=before,
        )
