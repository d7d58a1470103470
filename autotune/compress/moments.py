"""Second moments of what every layer reads: passes over the calibration data, in bounded memory, kept on disk.

The model with the layers' inputs as extra outputs runs on the target; of each tensor x the sums of x and of x xᵀ are
kept, never x itself. Layers that read the same tensor in the same way share one result. A convolution reads patches:
at most `PATCHES` of each sample, evenly spread, are enough for a mean.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from scipy.linalg.blas import dsyrk

from autotune.compress.plan import Source
from autotune.errors import DataError, DiskError
from autotune.layers import Layer
from autotune.techniques.moments import Moments
from autotune.techniques.nodes import attribute

PATCHES = 256
_SUMS_BYTES = 256 << 20  # of float64 sums at a time; more layers take more passes
_FILE = "moments.json"

Runs = Callable[[tuple[str, ...]], Iterable[Mapping[str, np.ndarray]]]  # wanted tensors -> one pass over the data


@dataclass(frozen=True)
class _Reading:
    """How a node reads a tensor: the window of a convolution, () for a product."""

    tensor: str
    groups: int
    inputs: int  # per group
    kernel: tuple[int, ...] = ()
    strides: tuple[int, ...] = ()
    dilations: tuple[int, ...] = ()
    pads: tuple[int, ...] = ()
    auto_pad: str = ""


def collect(source: Source, runs: Runs, folder: Path) -> dict[str, Moments]:
    """Layer -> moments of what it reads; layers without a product or a convolution, and those that the data never
    reach, are missing. Cached in `folder`, whose name must say what the data were.

    Raises `DataError` for NaN or infinite activations, `DiskError`, and what `runs` raises.
    """
    known = load(folder)
    if known is not None:
        return known
    readings = _readings(source)
    distinct = list(dict.fromkeys(reading for each in readings.values() for reading in each))
    folder.mkdir(parents=True, exist_ok=True)
    files: dict[tuple[_Reading, ...], str] = {}
    counts: dict[tuple[_Reading, ...], int] = {}
    sums: dict[_Reading, _Sums] = {}
    for batch in _batches(distinct):
        sums.update(_one_pass(batch, runs))
        for each in readings.values():
            if each not in files and all(reading in sums for reading in each):
                files[each] = f"{len(files)}"
                counts[each] = sum(sums[reading].rows for reading in each)
                if counts[each]:
                    _save(folder, files[each], [sums[reading] for reading in each], counts[each])
        # A layer that is used several times may need readings of two passes; all others are done with.
        open_still = {reading for each in readings.values() if each not in files for reading in each}
        sums = {reading: value for reading, value in sums.items() if reading in open_still}
    index = {name: files[each] for name, each in readings.items() if counts[each]}
    temporary = folder / f"{_FILE}.{os.getpid()}.part"
    temporary.write_text(json.dumps(index))
    temporary.replace(folder / _FILE)  # written last: without it nothing here counts
    return load(folder) or {}


def load(folder: Path) -> dict[str, Moments] | None:
    """What `collect` kept there; None if it is not there or torn. The numbers stay on disk until they are read."""
    try:
        index = json.loads((folder / _FILE).read_text())
        rows = {file: int(np.load(folder / f"{file}.rows.npy")) for file in set(index.values())}
        made = {
            file: _OnDisk(folder / f"{file}.gram.npy", np.load(folder / f"{file}.mean.npy"), count)
            for file, count in rows.items()
        }
        return {layer: made[file] for layer, file in index.items()}
    except (OSError, ValueError, KeyError, AttributeError):
        return None


class _OnDisk(Moments):
    """Moments whose second ones are mapped at every reading: for wide layers they are as large as the weights."""

    file: Path

    def __init__(self, file: Path, mean: np.ndarray, rows: int) -> None:
        """Raises `OSError` or `ValueError` for a file that is not there or torn."""
        object.__setattr__(self, "file", file)
        object.__setattr__(self, "mean", mean)
        object.__setattr__(self, "rows", rows)
        if self.gram.ndim != 3:
            raise ValueError(f"{file} holds no matrices")

    @property
    def gram(self) -> np.ndarray:
        array: np.ndarray = np.load(self.file, mmap_mode="r")
        return array


@dataclass
class _Sums:
    """Sums of x xᵀ (only what lies on and above the diagonal) and of x, float64, and how many x."""

    gram: np.ndarray
    total: np.ndarray
    rows: int = 0

    @classmethod
    def of(cls, reading: _Reading) -> _Sums:
        shape = (reading.groups, reading.inputs)
        return cls(np.zeros((*shape, reading.inputs)), np.zeros(shape))

    def add(self, rows: np.ndarray) -> None:
        """`rows` is float32 `[groups, n, inputs]`."""
        values = rows.astype(np.float64)
        for gram, each in zip(self.gram, values, strict=True):
            # In place: BLAS wants columns first, in which order the sums lie below the diagonal.
            dsyrk(1.0, each.T, beta=1.0, c=gram.T, lower=1, overwrite_c=1)
        self.total += values.sum(axis=1)
        self.rows += rows.shape[1]


def _one_pass(batch: Sequence[_Reading], runs: Runs) -> dict[_Reading, _Sums]:
    sums = {reading: _Sums.of(reading) for reading in batch}
    for activations in runs(tuple(dict.fromkeys(reading.tensor for reading in batch))):
        for reading, value in sums.items():
            array = activations.get(reading.tensor)
            if array is not None and array.size:
                value.add(_rows(reading, array))
                if not np.isfinite(value.total).all():
                    raise DataError(
                        f"calibration: activation {reading.tensor!r} of the original model is not finite; check the "
                        "model and the calibration inputs"
                    )
    return sums


def _save(folder: Path, file: str, sums: Sequence[_Sums], rows: int) -> None:
    groups, inputs = sums[0].total.shape
    gram = np.zeros((groups, inputs, inputs), np.float32)
    for each in sums:
        for target, source in zip(gram, each.gram, strict=True):
            for row in range(inputs):  # row by row: a second copy in float64 may be a gigabyte
                target[row, row:] += source[row, row:] / rows
    for target in gram:
        for row in range(inputs):
            target[row:, row] = target[row, row:]
    mean = np.sum([each.total for each in sums], axis=0) / rows
    try:
        np.save(folder / f"{file}.gram.npy", gram)
        np.save(folder / f"{file}.mean.npy", mean.astype(np.float32))
        np.save(folder / f"{file}.rows.npy", np.array(rows))
    except OSError as error:
        raise DiskError(f"moments in {folder}: {error.strerror}; free space or choose another store") from error


def _batches(readings: Sequence[_Reading]) -> Iterable[list[_Reading]]:
    """Readings whose sums fit into memory together; one that alone does not fit is a batch of its own."""
    batch: list[_Reading] = []
    size = 0
    for reading in readings:
        need = 8 * reading.groups * reading.inputs**2
        if batch and size + need > _SUMS_BYTES:
            yield batch
            batch, size = [], 0
        batch.append(reading)
        size += need
    if batch:
        yield batch


def _readings(source: Source) -> dict[str, tuple[_Reading, ...]]:
    """Layer -> how its nodes read."""
    nodes = {node.name: node for node in source.nodes}
    found = {}
    for layer in source.layers.values():
        if layer.op in ("MatMul", "Gemm", "Conv"):
            found[layer.name] = tuple(dict.fromkeys(_reading(layer, nodes[name]) for name in layer.nodes))
    return found


def _reading(layer: Layer, node: onnx.NodeProto) -> _Reading:
    inputs = layer.parameters // layer.shape[layer.output_axis]
    if layer.op != "Conv":
        return _Reading(node.input[0], 1, inputs)
    kernel = layer.shape[2:]
    return _Reading(
        node.input[0],
        layer.group,
        inputs,
        kernel,
        _ints(node, "strides", (1,) * len(kernel)),
        _ints(node, "dilations", (1,) * len(kernel)),
        _ints(node, "pads", (0,) * (2 * len(kernel))),
        bytes(attribute(node, "auto_pad", b"NOTSET")).decode(),
    )


def _ints(node: onnx.NodeProto, name: str, default: tuple[int, ...]) -> tuple[int, ...]:
    values: Any = attribute(node, name, default)
    return tuple(int(value) for value in values)


def _rows(reading: _Reading, array: np.ndarray) -> np.ndarray:
    """What the layer reads, `[groups, n, inputs]`."""
    if not reading.kernel:
        return array.reshape(1, -1, reading.inputs)
    patches = _patches(reading, array)  # [batch, channels, *places, *kernel]
    dimensions = len(reading.kernel)
    batch, channels = patches.shape[:2]
    places = int(np.prod(patches.shape[2 : 2 + dimensions]))
    order = (0, *range(2, 2 + dimensions), 1, *range(2 + dimensions, 2 + 2 * dimensions))
    flat = patches.transpose(order)  # [batch, *places, channels, *kernel], a view
    each = max(1, PATCHES // batch)
    spread = np.unique(np.linspace(0, places - 1, min(each, places)).astype(int))
    chosen: tuple[Any, ...] = np.unravel_index(spread, flat.shape[1 : 1 + dimensions])
    taken = flat[(slice(None), *chosen)]  # [batch, n, channels, *kernel]
    grouped = taken.reshape(batch * taken.shape[1], reading.groups, channels // reading.groups, -1)
    return grouped.transpose(1, 0, 2, 3).reshape(reading.groups, -1, reading.inputs)


def _patches(reading: _Reading, array: np.ndarray) -> np.ndarray:
    """All windows of `[batch, channels, *size]`, a view of the padded array."""
    spans = [(k - 1) * d + 1 for k, d in zip(reading.kernel, reading.dilations, strict=True)]
    size = array.shape[2:]
    if reading.auto_pad in ("SAME_UPPER", "SAME_LOWER"):
        wanted = [
            max(0, (-(-n // s) - 1) * s + span - n) for n, s, span in zip(size, reading.strides, spans, strict=True)
        ]
        small, large = [w // 2 for w in wanted], [w - w // 2 for w in wanted]
        before, after = (small, large) if reading.auto_pad == "SAME_UPPER" else (large, small)
    else:
        before, after = list(reading.pads[: len(size)]), list(reading.pads[len(size) :])
    padded = np.pad(array, [(0, 0), (0, 0), *zip(before, after, strict=True)])
    axes = tuple(range(2, 2 + len(size)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, spans, axis=axes)
    places = tuple(slice(None, None, s) for s in reading.strides)
    kernel = tuple(slice(None, None, d) for d in reading.dilations)
    picked: np.ndarray = windows[(slice(None), slice(None), *places, *kernel)]
    return picked
