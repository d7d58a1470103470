"""Inputs for a model that comes without data: random numbers of the shapes it declares, or of those asked for."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from autotune.errors import DataError, UsageError, did_you_mean

_MAX_ELEMENTS = 1 << 28  # of one input; more is a mistake in a shape
_SEED = 0

Axes = tuple[int | str, ...]
Declared = Mapping[str, tuple[np.dtype, Axes]]
Shapes = Mapping[str, tuple[int, ...]]  # input -> dimensions


@dataclass(frozen=True)
class Plan:
    """One feed per shape. `shapes` names them: label -> input -> dimensions; empty if there is but one."""

    feeds: tuple[dict[str, np.ndarray], ...]
    shapes: dict[str, dict[str, tuple[int, ...]]]


def plan_inputs(
    model: Path,
    words: Sequence[str],
    *,
    batch: int | None = None,
    labelled: Mapping[str, Shapes] | None = None,
    say: Callable[[str], None],
) -> Plan:
    """Inputs of `model` for every shape in `words` (NAME=1,3,48,320), or for every one in `labelled`.

    An input that is given several times makes several shapes; one that is given once has that shape in all of them.
    A dynamic first axis that is not given is the batch. Raises `DataError` for a file that is no ONNX model and for a
    batch that it cannot take, `UsageError` for a shape that is missing or does not fit.
    """
    declared = declared_inputs(model)
    if words and labelled:
        raise UsageError("the scenario has shapes and --shape gives others; give one of them")
    if labelled:
        wanted = {label: _checked(shapes, declared, model, label) for label, shapes in labelled.items()}
    else:
        wanted = _labelled(_parse_shapes(words, declared, model))
    size = batch if batch is not None else 1
    feeds = {label: _feed(model, declared, shapes, size, say) for label, shapes in wanted.items()}
    found = {label: {name: array.shape for name, array in feed.items()} for label, feed in feeds.items()}
    if batch is None:
        _tell_batches(found, say)
    elif batch > 1 and not any(shape[:1] == (batch,) for shapes in found.values() for shape in shapes.values()):
        raise DataError(f"{model}: no input has a first axis of {batch}; --batch {batch} needs a dynamic or equal one")
    return Plan(tuple(feeds.values()), found if len(found) > 1 or labelled else {})


def make_inputs(model: Path, shapes: list[str], *, say: Callable[[str], None]) -> dict[str, np.ndarray]:
    """One array per input of `model`: normal numbers, or ones for integers (a token id, a mask, a length).

    A dynamic first axis is taken as a batch of 1; other dynamic axes must be given in `shapes` as
    NAME=1,3,48,320. Raises `DataError` for a file that is no ONNX model, `UsageError` for a shape that is
    missing, does not fit, or is one of several.
    """
    plan = plan_inputs(model, shapes, say=say)
    if len(plan.feeds) > 1:
        raise UsageError(f"{len(plan.feeds)} shapes are given, and only one can be used here; give each input once")
    return plan.feeds[0]


def declared_inputs(model: Path) -> dict[str, tuple[np.dtype, Axes]]:
    """Name -> element type and axes (a number, or the name of a dynamic axis). Reads no weights."""
    import onnx

    from autotune.compress.ingest_files import parse, read_file

    try:
        proto = parse(read_file(model))
    except DataError as error:
        raise DataError(f"{model}: {error}") from error
    weights = {initializer.name for initializer in proto.graph.initializer}
    result: dict[str, tuple[np.dtype, Axes]] = {}
    for value in proto.graph.input:
        if value.name in weights:
            continue
        tensor = value.type.tensor_type
        known = onnx.helper.get_all_tensor_dtypes()
        if not value.type.HasField("tensor_type") or tensor.elem_type not in known:
            raise DataError(
                f"{model}: input {value.name!r} is no plain tensor; such models cannot be given random inputs"
            )
        dtype = np.dtype(onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type))
        if dtype.kind not in "fiub":
            raise DataError(f"{model}: input {value.name!r} holds {dtype}; only numbers can be made up")
        if not tensor.HasField("shape"):
            result[value.name] = (dtype, ("?",))
            continue
        axes = [d.dim_value if d.HasField("dim_value") else d.dim_param or "?" for d in tensor.shape.dim]
        result[value.name] = (dtype, tuple(axes))
    return result


def _parse_shapes(words: Sequence[str], declared: Declared, model: Path) -> list[dict[str, tuple[int, ...]]]:
    """The shapes in the order they were given. The k-th shape takes the k-th value of every input."""
    given: dict[str, list[tuple[int, ...]]] = {}
    for word in words:
        name, equals, numbers = word.rpartition("=")
        parts = numbers.split(",")
        if not equals or not all(part.strip().isdecimal() and int(part) > 0 for part in parts):
            raise UsageError(f"--shape {word!r}: write NAME=1,3,48,320 with positive whole numbers")
        shape = tuple(int(part) for part in parts)
        _check_fit(f"--shape {word!r}", name, shape, declared, model)
        given.setdefault(name, []).append(shape)
    count = max(map(len, given.values()), default=1)
    odd = next((name for name, shapes in given.items() if len(shapes) not in (1, count)), None)
    if odd is not None:
        raise UsageError(
            f"--shape: {odd!r} is given {len(given[odd])} times and another input {count} times; give each input once, "
            "or once for every shape"
        )
    return [{name: shapes[k % len(shapes)] for name, shapes in given.items()} for k in range(count)]


def _checked(shapes: Shapes, declared: Declared, model: Path, label: str) -> dict[str, tuple[int, ...]]:
    for name, shape in shapes.items():
        _check_fit(f"shape {label!r} of the scenario", name, shape, declared, model)
    return dict(shapes)


def _check_fit(said: str, name: str, shape: tuple[int, ...], declared: Declared, model: Path) -> None:
    if name not in declared:
        raise UsageError(f"{said}: {model} has no input {name!r}; {did_you_mean(name, declared)}")
    axes = declared[name][1]
    fits = axes == ("?",) or len(shape) == len(axes)
    if not fits or any(isinstance(a, int) and a != s for a, s in zip(axes, shape, strict=False)):
        raise UsageError(f"{said} does not fit the declared shape [{_text(axes)}] of {name!r}")


def _labelled(shapes: list[dict[str, tuple[int, ...]]]) -> dict[str, dict[str, tuple[int, ...]]]:
    """A label for each shape from what tells them apart: "1x3x48x320", or "ids=1x16 mask=1x16"."""
    if len(shapes) == 1:
        return {"": shapes[0]}
    varying = [name for name in shapes[0] if len({shape[name] for shape in shapes}) > 1]
    found: dict[str, dict[str, tuple[int, ...]]] = {}
    for shape in shapes:
        sizes = {name: "x".join(map(str, shape[name])) for name in varying}
        label = next(iter(sizes.values()), "") if len(sizes) == 1 else " ".join(f"{n}={s}" for n, s in sizes.items())
        if label in found or not label:
            raise UsageError("--shape: the same shape is given twice; give each once")
        found[label] = shape
    return found


def _feed(
    model: Path, declared: Declared, shapes: Shapes, batch: int, say: Callable[[str], None]
) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(_SEED)
    arrays = {}
    for name, (dtype, axes) in declared.items():
        shape = shapes.get(name) or _fill(model, name, axes, batch, say)
        arrays[name] = _array(rng, dtype, shape)
    return arrays


def _tell_batches(found: Mapping[str, Shapes], say: Callable[[str], None]) -> None:
    """Measuring takes the first axis that all inputs share as the batch, which may not be what it means."""
    for label, shapes in found.items():
        sizes = {shape[0] if shape else 0 for shape in shapes.values()}
        if len(sizes) == 1 and (size := sizes.pop()) > 1:
            where = f"shape {label}: " if label else ""
            say(f"{where}the first axis of the inputs is taken as a batch of {size}; give --batch 1 if it is none")


def _fill(
    model: Path, name: str, axes: tuple[int | str, ...], batch: int, say: Callable[[str], None]
) -> tuple[int, ...]:
    shape = list(axes)
    if len(shape) > 1 and isinstance(shape[0], str):
        say(f"{model}: axis {shape[0]!r} of input {name!r} is dynamic; taken as a batch of {batch}")
        shape[0] = batch
    numbers = [axis for axis in shape if isinstance(axis, int)]
    if len(numbers) < len(shape):
        example = ",".join(str(axis) if isinstance(axis, int) else "N" for axis in shape)
        raise UsageError(
            f"{model}: input {name!r} has the dynamic shape [{_text(axes)}]; give --shape {name}={example}"
        )
    if any(number < 0 for number in numbers):
        raise DataError(f"{model}: input {name!r} declares the impossible shape [{_text(axes)}]")
    return tuple(numbers)


def _array(rng: np.random.Generator, dtype: np.dtype, shape: tuple[int, ...]) -> np.ndarray:
    if math.prod(shape) > _MAX_ELEMENTS:
        raise DataError(f"shape {list(shape)} has more than {_MAX_ELEMENTS:,} elements; give a smaller --shape")
    if dtype.kind == "f":
        return rng.standard_normal(shape, dtype=np.float32).astype(dtype)
    return np.ones(shape, dtype)


def _text(axes: tuple[int | str, ...]) -> str:
    return ",".join(str(axis) for axis in axes)
