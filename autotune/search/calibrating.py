"""What the calibration data tell: activation ranges of every structure that needs them, and moments of layers' inputs.

Both are found by running a model with extra outputs (`reading` says where), and kept in the store's folder.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from autotune.compress import calibration, moments
from autotune.compress.assembly import Assembler
from autotune.compress.ingest import Ingested
from autotune.errors import DataError
from autotune.recipe import Recipe
from autotune.search.progress import Progress, Watcher
from autotune.search.reading import Reader
from autotune.techniques.moments import Moments
from autotune.techniques.protocol import Calibration
from autotune.workload import Workload
from hwprofiles.errors import DeviceFailure

_MOMENT_SAMPLES = 64

Found = TypeVar("Found")


@dataclass
class Calibrating:
    """Calibrates one prepared model: at the start for the structure that all recipes share, later for others."""

    workload: Workload
    ingested: Ingested
    assembler: Assembler
    reader: Reader
    folder: Path
    siblings: Sequence[Assembler] = ()  # of further dialects, which may need the ranges of other activations

    def begin(self, structure: Recipe, watch: Watcher) -> None:
        """Find out what the study's techniques want to know. Raises `DataError` for unusable calibration data."""
        techniques = self.assembler.techniques.values()
        if any(technique.needs_moments for technique in techniques):
            watch(Progress("prepare", "collecting what every layer reads"))
            self.assembler.tell_moments(self._moments())
        if any(technique.calibration is not None for technique in techniques):
            watch(Progress("prepare", "calibrating activation ranges"))
            self.assembler.ranges[structure.digest] = self.ranges(structure)
            self.assembler.calibrate_with = self.ranges

    def ranges(self, structure: Recipe) -> Mapping[str, calibration.Range]:
        """Activation -> its range in the model with these structural decisions."""
        wanted = self._wanted()
        statistics = self._statistics(structure, self._data(wanted.samples))
        return {name: each.range(wanted.method, wanted.percentile) for name, each in statistics.items()}

    def _wanted(self) -> Calibration:
        return next(t.calibration for t in self.assembler.techniques.values() if t.calibration is not None)

    def _data(self, samples: int) -> list[Mapping[str, Any]]:
        data = list(self.workload.calibration)[:samples]
        if not data:
            raise DataError("the workload has no calibration data; give at least one input dictionary")
        return data

    def _moments(self) -> Mapping[str, Moments]:
        data = self._data(_MOMENT_SAMPLES)
        key = _digest((self.ingested.source_digest, "moments", moments.PATCHES), data)

        def runs(wanted: tuple[str, ...]) -> Iterable[Mapping[str, np.ndarray]]:
            return self._activations(Recipe(), wanted, data)

        place = self.folder / f"moments-{key}"
        return self._somewhere(lambda: moments.collect(self.assembler.source, runs, place))

    def _statistics(self, structure: Recipe, data: Sequence[Mapping[str, Any]]) -> Mapping[str, calibration.Statistics]:
        """Statistics of every wanted activation of a structure, cached by model, structure, data and names."""
        wanted = self.assembler.calibration_tensors(structure)
        for sibling in self.siblings:
            wanted = tuple(dict.fromkeys((*wanted, *sibling.calibration_tensors(structure))))
        path = (
            self.folder / f"calibration-{_digest((self.ingested.source_digest, structure.digest, wanted), data)}.json"
        )
        cached = calibration.load(path)
        if cached is not None:
            return cached
        statistics = self._somewhere(lambda: calibration.collect(lambda: self._activations(structure, wanted, data)))
        calibration.save(statistics, path)
        return statistics

    def _somewhere(self, collect: Callable[[], Found]) -> Found:
        """What it collects, from the beginning again on another device where one fails."""
        while True:
            try:
                return collect()
            except DeviceFailure as error:
                if not self.reader.elsewhere(error):
                    raise

    def _activations(
        self, structure: Recipe, wanted: Sequence[str], data: Sequence[Mapping[str, Any]]
    ) -> Iterable[Mapping[str, np.ndarray]]:
        """One pass over the data: the wanted float32 activations of each sample, inputs of the model included."""
        source = self.assembler.structured(structure)
        there = {value.name for value in (*source.inputs, *source.outputs)}
        path = self.folder / "calibration.onnx"
        with path.open("wb") as file:
            self.reader.assembler.assemble_to(file, structure, [name for name in wanted if name not in there])
        try:
            with closing(self.reader.device.infer(path, iter(data))) as answers:
                for sample, outputs in zip(data, answers, strict=True):
                    seen = {name: array for name, array in outputs.items() if name in wanted}
                    seen.update({name: np.asarray(sample[name]) for name in wanted if name in sample})
                    yield {name: array for name, array in seen.items() if array.dtype == np.float32}
        finally:
            path.unlink(missing_ok=True)


def _digest(parts: object, data: Sequence[Mapping[str, Any]]) -> str:
    state = hashlib.sha256(repr(parts).encode())
    for sample in data:
        for name in sorted(sample):
            state.update(np.ascontiguousarray(sample[name]).tobytes())
    return state.hexdigest()[:24]
