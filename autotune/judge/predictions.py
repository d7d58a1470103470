"""Predictions: run an artifact on a data set through a device, in bounded memory, and decode what comes
back; alone, or two models beside each other."""

from __future__ import annotations

import time
from collections.abc import Generator, Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from autotune.errors import UsageError
from autotune.judge.confidence import ConfidenceReader
from autotune.judge.damage import MEMORY, divergence, divergence_logits
from autotune.judge.user_code import user_code, user_code_failure
from autotune.workload import Arrays, Confidence, Dataset, Decode
from hwprofiles.errors import DeviceFailure, Failure

_FIRST_TURN = 8  # batches; how large outputs are is known after these


class Infers(Protocol):
    """The part of `hwprofiles.device.Device` that judging needs."""

    def infer(
        self, model: Path, batches: Iterable[Mapping[str, np.ndarray]], *, workers: int = 1
    ) -> Generator[dict[str, np.ndarray]]: ...


@dataclass(frozen=True)
class Predictions:
    """What a model answered: `predictions[i]` (plain JSON values) for the sample `ids[i]`.

    `confidence[i]`, 0 to 1, says how sure it was; None where its outputs do not tell. `divergence[i]` is that of its
    outputs from the original's (see `damage.divergence`); None where the two were not run beside each other.
    """

    ids: tuple[str, ...]
    predictions: tuple[Any, ...]
    seconds: float  # wall time of inference and decoding
    confidence: tuple[float, ...] | None = None
    divergence: tuple[float, ...] | None = None


def predict(
    device: Infers,
    model: Path,
    dataset: Dataset,
    decode: Decode,
    *,
    batch: int = 1,
    workers: int = 1,
    confidence: Confidence | None = None,
) -> Predictions:
    """Run `model` on every sample and decode the outputs, batch by batch.

    Samples of equal shapes go through together, up to `batch` (the model's batch axis must then be dynamic).
    Only the batches in flight are held. Confidence is read off the same outputs, by `confidence` where it is given.

    Raises `DeviceFailure` when the model's process fails or an output holds NaN or infinity (kind "nonfinite"),
    `TrialFailure` of kind "user_code" when `decode` or `confidence` raises or does not give one plain value per
    sample.
    """
    started = time.perf_counter()
    groups = _groups(dataset, batch)
    answers = _Answers(dataset, decode, confidence)
    batches = (_join(dataset, group) for group in groups)
    with closing(device.infer(model, batches, workers=workers)) as outputs:  # also when `decode` raises
        for group, answer in zip(groups, outputs, strict=True):
            answers.add(answer, group, model)
    return answers.predictions(time.perf_counter() - started)


def predict_beside(
    device: Infers,
    original: Path,
    candidate: Path,
    dataset: Dataset,
    decode: Decode,
    *,
    batch: int = 1,
    workers: int = 1,
    confidence: Confidence | None = None,
    memory: int = MEMORY,
) -> tuple[Predictions, Predictions]:
    """Run two models on every sample, in turns, and compare their outputs as they come; otherwise as `predict`.

    The models take turns after as many samples as give about `memory` bytes of outputs, because a device opens one
    model at a time. The candidate's predictions carry the divergence; of a classifier whose output is logits it is that
    of their softmax.
    """
    seconds = [0.0, 0.0]
    groups = _groups(dataset, batch)
    both = (_Answers(dataset, decode, confidence), _Answers(dataset, decode, confidence))
    apart: list[float | None] = [None] * len(dataset)
    soft: dict[str, dict[int, float]] = {}  # output -> sample -> divergence, if it should hold logits
    begun, turn = 0, _FIRST_TURN
    while begun < len(groups):
        some = groups[begun : begun + turn]
        kept: list[Arrays] = []
        for side, model in enumerate((original, candidate)):
            started = time.perf_counter()
            batches = (_join(dataset, group) for group in some)
            with closing(device.infer(model, batches, workers=workers)) as outputs:
                for place, (group, answer) in enumerate(zip(some, outputs, strict=True)):
                    both[side].add(answer, group, model)
                    if side == 0:
                        kept.append(answer)
                        continue
                    for index, one, other in zip(
                        group, *(_apart(each, group) for each in (kept[place], answer)), strict=True
                    ):
                        apart[index] = divergence(one, other)
                        for name in both[0].possible_logits(other):
                            soft.setdefault(name, {})[index] = divergence_logits(one[name], other[name])
            seconds[side] += time.perf_counter() - started
        begun += len(some)
        each = max(1, sum(array.nbytes for answer in kept for array in answer.values()) // len(some))
        turn = max(1, memory // each)
    first, second = (answers.predictions(spent) for answers, spent in zip(both, seconds, strict=True))
    of_logits = soft.get(both[0].logits or "", {})
    values = apart if len(of_logits) < len(dataset) else [of_logits[index] for index in range(len(dataset))]
    known = tuple(value for value in values if value is not None)
    return first, replace(second, divergence=known if len(known) == len(dataset) else None)


class _Answers:
    """Decoded answers of one model as they come in, in any order."""

    def __init__(self, dataset: Dataset, decode: Decode, confidence: Confidence | None) -> None:
        self._ids, self._decode = tuple(sample.id for sample in dataset.samples), decode
        self._found: list[Any] = [None] * len(dataset)
        self._confidence = ConfidenceReader(len(dataset), confidence)

    def add(self, outputs: Arrays, group: Sequence[int], model: Path) -> None:
        check_finite(outputs, model, [self._ids[index] for index in group])
        for index, prediction in zip(group, _decode(self._decode, outputs, len(group)), strict=True):
            self._found[index] = prediction
        self._confidence.read(outputs, group)

    @property
    def logits(self) -> str | None:
        """The output that holds the logits behind the predictions; known after `predictions`."""
        return self._confidence.logits

    def possible_logits(self, other: Arrays) -> list[str]:
        return [name for name in self._confidence.possible_logits() if name in other]

    def predictions(self, seconds: float) -> Predictions:
        return Predictions(self._ids, tuple(self._found), seconds, self._confidence.result(self._found))


def _apart(outputs: Arrays, group: Sequence[int]) -> list[Arrays]:
    """The outputs of each sample of a batch; an output without a batch axis belongs to all of them."""
    count = len(group)
    return [
        {name: array[place : place + 1] if array.shape[:1] == (count,) else array for name, array in outputs.items()}
        for place in range(count)
    ]


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
