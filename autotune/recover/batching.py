"""From the samples of a data set to shuffled batches of one shape. Imports no torch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import onnx

from autotune.errors import DataError, UsageError
from autotune.workload import Arrays, Dataset, Sample


class Batch(NamedTuple):
    """Samples that go through the model together.

    `inputs` are joined along axis 0. `labels` and `weights` (float32 [samples], 1 where nothing was said) are one per
    sample. `places` are the samples' places in their data set: the original is asked once about each; (): every time.
    `ids` name the samples where something is wrong with them; (): they are not named.
    """

    inputs: dict[str, np.ndarray]
    labels: tuple[Any, ...]
    weights: np.ndarray
    places: tuple[int, ...] = ()
    ids: tuple[str, ...] = ()


class Batches:
    """The samples of a data set in batches; every iteration over it is one epoch, shuffled anew and each time alike.

    Samples whose inputs differ in shape never share a batch. `weights` is {sample id: weight} for samples that count
    more or less than 1, e.g. those of slices that compression hurt.
    """

    def __init__(
        self,
        dataset: Dataset,
        batch: int,
        *,
        seed: int = 0,
        weights: Mapping[str, float] = {},
        shuffle: bool = True,
        joinable: bool = True,
    ) -> None:
        """`joinable` False: the model takes one sample at a time (see `joinable`).

        Raises `UsageError` for an empty data set, a batch below 1 or weights that are negative or not finite.
        """
        if not len(dataset):
            raise UsageError(
                f"recover: data set {dataset.name!r} has no samples to train on; give some or leave it out"
            )
        if batch < 1:
            raise UsageError(f"recover: batch is {batch}; it must be at least 1")
        bad = [f"{key} ({value})" for key, value in weights.items() if not (np.isfinite(value) and value >= 0)]
        if bad:
            raise UsageError(f"recover: weights must be finite and not negative, not {', '.join(bad[:3])}")
        self._samples = dataset.samples
        self._weights = np.array([weights.get(s.id, 1.0) for s in dataset.samples], np.float32)
        if not self._weights.any():
            raise UsageError(f"recover: every sample of data set {dataset.name!r} has weight 0; weigh some above 0")
        self._size = batch if joinable else 1
        self._seed, self._shuffle, self._epoch = seed, shuffle, 0
        self._groups: dict[object, list[int]] = {}
        for index, sample in enumerate(dataset.samples):
            self._groups.setdefault(_form(sample), []).append(index)

    def __len__(self) -> int:
        """Batches per epoch."""
        return sum(-(-len(group) // self._size) for group in self._groups.values())

    def __iter__(self) -> Iterator[Batch]:
        rng = np.random.default_rng([self._seed, self._epoch])
        self._epoch += self._shuffle
        pieces: list[np.ndarray] = []
        for group in self._groups.values():
            order = rng.permutation(group) if self._shuffle else np.array(group)
            pieces += [order[start : start + self._size] for start in range(0, len(order), self._size)]
        if self._shuffle:
            pieces = [pieces[i] for i in rng.permutation(len(pieces))]
        for piece in pieces:
            yield self._join(piece)

    def _join(self, indices: np.ndarray) -> Batch:
        samples = [self._samples[i] for i in indices]
        return Batch(
            inputs={name: _joined(samples, name) for name in samples[0].inputs},
            labels=tuple(sample.label for sample in samples),
            weights=self._weights[indices],
            places=tuple(int(i) for i in indices),
            ids=tuple(sample.id for sample in samples),
        )


def joinable(model: onnx.ModelProto) -> bool:
    """Whether samples can go through `model` together: the first axis of every input may vary."""
    constants = {tensor.name for tensor in model.graph.initializer}
    for value in model.graph.input:
        dims = value.type.tensor_type.shape.dim
        if value.name not in constants and not (dims and not dims[0].HasField("dim_value")):
            return False
    return True


def _form(sample: Sample) -> object:
    """Samples of the same form can be joined. One that is not a batch of one by itself stays alone."""
    first = {array.shape[0] if array.ndim else None for array in sample.inputs.values()}
    alone = sample.id if first != {1} else ""
    return alone, tuple(sorted((name, a.shape[1:], a.dtype.str) for name, a in sample.inputs.items()))


def _joined(samples: Sequence[Sample], name: str) -> np.ndarray:
    arrays: list[np.ndarray] = [sample.inputs[name] for sample in samples]
    return np.concatenate(arrays) if len(arrays) > 1 else np.asarray(arrays[0])


def check_inputs(model: onnx.ModelProto, inputs: Arrays) -> None:
    """Raises `DataError` where a batch lacks an input of the model."""
    constants = {tensor.name for tensor in model.graph.initializer}
    missing = [v.name for v in model.graph.input if v.name not in constants and v.name not in inputs]
    if missing:
        raise DataError(f"recover: training samples lack the input {missing[0]!r} of the model; add it to every sample")
