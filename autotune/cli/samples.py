"""Inputs that a user has: samples in an .npz file."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from autotune.cli.inputs import declared_inputs
from autotune.errors import DataError


def read_samples(model: Path, file: Path) -> list[Mapping[str, np.ndarray]]:
    """Samples of an .npz file: arrays [samples, ...] where ... is what the model takes.

    Where an array has no axis more than the model's input, its first axis is the batch that samples lie along.
    Raises `DataError` for a file that is none, and for arrays that are not what the model takes.
    """
    declared = declared_inputs(model)
    try:
        with file.open("rb") as handle, np.load(handle, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
    except (OSError, ValueError, EOFError, AttributeError, TypeError, zipfile.BadZipFile) as error:
        reason = getattr(error, "strerror", None) or "it is no .npz file of plain arrays"
        raise DataError(f"--inputs {file}: {reason}; write it with numpy.savez(FILE, NAME=array)") from error
    if set(arrays) != set(declared):
        raise DataError(f"--inputs {file}: holds {sorted(arrays)}, {model} takes {sorted(declared)}; rename the arrays")
    counts = {array.shape[0] if array.ndim else 0 for array in arrays.values()}
    if len(counts) != 1 or counts == {0}:
        raise DataError(f"--inputs {file}: arrays of {sorted(counts)} samples; give all inputs the same number, not 0")
    whole = {name: array.ndim == len(declared[name][1]) + 1 for name, array in arrays.items()}
    samples: list[Mapping[str, np.ndarray]] = [
        {name: array[index] if whole[name] else array[index : index + 1] for name, array in arrays.items()}
        for index in range(counts.pop())
    ]
    check_takes(model, samples[0], f"--inputs {file}")
    return samples


def check_takes(model: Path, sample: Mapping[str, np.ndarray], said: str) -> None:
    """Raise `DataError` unless `model` takes these arrays; `said` is where they come from."""
    declared = declared_inputs(model)
    if set(sample) != set(declared):
        raise DataError(f"{said}: holds {sorted(sample)}, {model} takes {sorted(declared)}; rename the arrays")
    for name, array in sample.items():
        dtype, axes = declared[name]
        known = axes == ("?",) or len(axes) == array.ndim
        fits = known and all(not isinstance(a, int) or a == n for a, n in zip(axes, array.shape, strict=False))
        if array.dtype != dtype or not fits:
            asked = ", ".join(str(axis) for axis in axes)
            raise DataError(
                f"{said}: {name!r} is {array.dtype}{list(array.shape)} for each sample, {model} takes {dtype}[{asked}]"
            )
