"""Inputs for a model that comes without data: random numbers of the shapes it declares."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from autotune.errors import DataError, UsageError, did_you_mean

_MAX_ELEMENTS = 1 << 28  # of one input; more is a mistake in a shape
_SEED = 0


def make_inputs(model: Path, shapes: list[str], *, say: Callable[[str], None]) -> dict[str, np.ndarray]:
    """One array per input of `model`: normal numbers, or ones for integers (a token id, a mask, a length).

    A dynamic first axis is taken as a batch of 1; other dynamic axes must be given in `shapes` as
    NAME=1,3,48,320. Raises `DataError` for a file that is no ONNX model, `UsageError` for a shape that is
    missing or does not fit.
    """
    declared = declared_inputs(model)
    given = _parse_shapes(shapes, declared, model)
    rng = np.random.default_rng(_SEED)
    arrays = {}
    for name, (dtype, axes) in declared.items():
        shape = given.get(name) or _fill(model, name, axes, say)
        arrays[name] = _array(rng, dtype, shape)
    return arrays


def declared_inputs(model: Path) -> dict[str, tuple[np.dtype, tuple[int | str, ...]]]:
    """Name -> element type and axes (a number, or the name of a dynamic axis). Reads no weights."""
    import onnx

    from autotune.compress.ingest_files import parse, read_file

    try:
        proto = parse(read_file(model))
    except DataError as error:
        raise DataError(f"{model}: {error}") from error
    weights = {initializer.name for initializer in proto.graph.initializer}
    result: dict[str, tuple[np.dtype, tuple[int | str, ...]]] = {}
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


def _parse_shapes(
    words: list[str], declared: Mapping[str, tuple[np.dtype, tuple[int | str, ...]]], model: Path
) -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {}
    for word in words:
        name, equals, numbers = word.rpartition("=")
        parts = numbers.split(",")
        if not equals or not all(part.strip().isdecimal() and int(part) > 0 for part in parts):
            raise UsageError(f"--shape {word!r}: write NAME=1,3,48,320 with positive whole numbers")
        if name not in declared:
            raise UsageError(f"--shape {word!r}: {model} has no input {name!r}; {did_you_mean(name, declared)}")
        shape, axes = tuple(int(part) for part in parts), declared[name][1]
        fits = axes == ("?",) or len(shape) == len(axes)
        if not fits or any(isinstance(a, int) and a != s for a, s in zip(axes, shape, strict=False)):
            raise UsageError(f"--shape {word!r} does not fit the declared shape [{_text(axes)}] of {name!r}")
        shapes[name] = shape
    return shapes


def _fill(model: Path, name: str, axes: tuple[int | str, ...], say: Callable[[str], None]) -> tuple[int, ...]:
    shape = list(axes)
    if len(shape) > 1 and isinstance(shape[0], str):
        say(f"{model}: axis {shape[0]!r} of input {name!r} is dynamic; taken as a batch of 1")
        shape[0] = 1
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
