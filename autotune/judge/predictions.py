"""Predictions: run an artifact on a data set through a device, in bounded memory, and decode what comes
back."""

from __future__ import annotations

import time
from collections.abc import Generator, Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from autotune.errors import UsageError
from autotune.judge.user_code import user_code, user_code_failure
from autotune.workload import Arrays, Dataset, Decode
from hwprofiles.errors import DeviceFailure, Failure


class Infers(Protocol):
    """The part of `hwprofiles.device.Device` that judging needs."""

    def infer(
        self, model: Path, batches: Iterable[Mapping[str, np.ndarray]], *, workers: int = 1
    ) -> Generator[dict[str, np.ndarray]]: ...


@dataclass(frozen=True)
class Predictions:
    """What a model answered: `predictions[i]` (plain JSON values) for the sample `ids[i]`."""

    ids: tuple[str, ...]
    predictions: tuple[Any, ...]
    seconds: float  # wall time of inference and decoding


def predict(
    device: Infers, model: Path, dataset: Dataset, decode: Decode, *, batch: int = 1, workers: int = 1
) -> Predictions:
    """Run `model` on every sample and decode the outputs, batch by batch.

    Samples of equal shapes go through together, up to `batch` (the model's batch axis must then be dynamic).
    Only the batches in flight are held. Raises `DeviceFailure` when the model's process fails or an output
    holds NaN or infinity (kind "nonfinite"), `TrialFailure` of kind "user_code" when `decode` raises or does
    not give one plain prediction per sample.
    """
    started = time.perf_counter()
    groups = _groups(dataset, batch)
    predictions: list[Any] = [None] * len(dataset)
    batches = (_join(dataset, group) for group in groups)
    with closing(device.infer(model, batches, workers=workers)) as outputs:  # also when `decode` raises
        for group, answer in zip(groups, outputs, strict=True):
            check_finite(answer, model, [dataset.samples[index].id for index in group])
            for index, prediction in zip(group, _decode(decode, answer, len(group)), strict=True):
                predictions[index] = prediction
    ids = tuple(sample.id for sample in dataset.samples)
    return Predictions(ids, tuple(predictions), time.perf_counter() - started)


def check_finite(outputs: Arrays, model: Path, samples: str | Sequence[str]) -> None:
    """Raises `DeviceFailure` of kind "nonfinite" that names the output and the sample of the batch."""
    for name, array in outputs.items():
        if array.dtype.kind != "f" or np.isfinite(array).all():
            continue
        ids = [samples] if isinstance(samples, str) else samples
        one_each = array.ndim > 0 and len(array) == len(ids)
        bad = next(i for i, row in zip(ids, array, strict=True) if not np.isfinite(row).all()) if one_each else ids[0]
        message = (
            f"{model.name} gives NaN or infinity in output {name!r} at sample {bad}; "
            "if the original does so too, look at the input, else this recipe breaks the model"
        )
        raise DeviceFailure(Failure(kind="nonfinite", stage="infer", message=message))


def plain(value: Any) -> Any:
    """`value` with numpy's scalars and arrays as Python's. Raises `TypeError` for what JSON cannot hold."""
    if value is None or isinstance(value, str | bool | int | float):
        return value
    if isinstance(value, np.generic | np.ndarray):
        return plain(value.tolist())
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    raise TypeError(f"{type(value).__name__} is not a JSON value")


def _groups(dataset: Dataset, batch: int) -> list[list[int]]:
    """Sample indices in batches; samples of one batch have equal shapes."""
    if batch == 1:
        return [[index] for index in range(len(dataset))]
    by_shape: dict[tuple[object, ...], list[int]] = {}
    for index, sample in enumerate(dataset.samples):
        for name, array in sample.inputs.items():
            if array.shape[:1] != (1,):
                raise UsageError(
                    f"judge.batch is {batch}, but input {name!r} of sample {sample.id!r} has shape {array.shape}; only "
                    "inputs whose first axis is a batch of 1 can be judged in batches: set judge.batch = 1"
                )
        shape = tuple((name, sample.inputs[name].shape) for name in sorted(sample.inputs))
        by_shape.setdefault(shape, []).append(index)
    return [indices[start : start + batch] for indices in by_shape.values() for start in range(0, len(indices), batch)]


def _join(dataset: Dataset, group: Sequence[int]) -> dict[str, np.ndarray]:
    inputs = [dataset.samples[index].inputs for index in group]
    if len(inputs) == 1:
        return dict(inputs[0])
    return {name: np.concatenate([each[name] for each in inputs]) for name in inputs[0]}


def _decode(decode: Decode, outputs: Arrays, count: int) -> list[Any]:
    shapes = ", ".join(f"{name} {array.dtype}{list(array.shape)}" for name, array in outputs.items())
    with user_code("decode", f"it was given {shapes}"):
        decoded = [plain(prediction) for prediction in decode(outputs)]
    if len(decoded) != count:
        raise user_code_failure(
            f"decode gave {len(decoded)} predictions for a batch of {count} ({shapes}); it must give one per sample"
        )
    return decoded
