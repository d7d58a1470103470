"""What cameras, scanners and networks do to pictures. Pixels stay within the range that the sample had.

A picture is an array of floats or of uint8 whose shape is [H, W], [C, H, W] or [H, W, C], with or without a batch axis
of 1 before it, and 1, 3 or 4 channels. `noise`, `contrast` and `brightness` do not care for shapes: without a picture
among the inputs they take every array of floats that is no mask.
"""

from __future__ import annotations

import io
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from autotune.errors import DataError, UsageError
from autotune.perturbations.protocol import Surroundings
from autotune.workload import Arrays, Sample

CHANNELS = (1, 3, 4)
SMALLEST = 4  # pixels along an edge; a smaller plane is no picture

Floats = NDArray[np.float64]


def noise(sample: Sample, strength: float, rng: np.random.Generator, _: Surroundings) -> Arrays:
    """Normal noise; `strength` is its standard deviation relative to that of the sample's own values: noise(0.5)."""

    def disturb(values: Floats) -> Floats:
        return values + rng.normal(0.0, strength * values.std(), values.shape)

    return _pointwise(sample, "noise", disturb)


def contrast(sample: Sample, strength: float, rng: np.random.Generator, _: Surroundings) -> Arrays:
    """Distances from the sample's mean times `strength`: contrast(0.5) halves the contrast."""
    return _pointwise(sample, "contrast", lambda values: values.mean() + strength * (values - values.mean()))


def brightness(sample: Sample, strength: float, rng: np.random.Generator, _: Surroundings) -> Arrays:
    """Adds `strength` times the range of the sample's values: brightness(0.2) is lighter, brightness(-0.2) darker."""
    return _pointwise(sample, "brightness", lambda values: values + strength * (values.max() - values.min()))


def blur(sample: Sample, strength: float, rng: np.random.Generator, _: Surroundings) -> Arrays:
    """Gaussian blur; `strength` is its sigma in pixels: blur(2)."""
    from scipy import ndimage  # a second of import time that only a study with blur pays

    def disturb(planes: Floats) -> Floats:
        return np.asarray(ndimage.gaussian_filter(planes, (0, strength, strength), mode="nearest"), dtype=float)

    return _pictures(sample, "blur", disturb)


def resample(sample: Sample, strength: float, rng: np.random.Generator, _: Surroundings) -> Arrays:
    """Down by the factor `strength` and up again, both by the nearest pixel: resample(2)."""

    def disturb(planes: Floats) -> Floats:
        for axis in (1, 2):
            size = planes.shape[axis]
            small = max(1, round(size / strength))
            kept = ((np.arange(small) + 0.5) * size / small).astype(int)  # the pixel at the centre of each large one
            planes = planes.take(kept[(np.arange(size) * small) // size], axis=axis)
        return planes

    return _pictures(sample, "resample", disturb)


def jpeg(sample: Sample, strength: float, rng: np.random.Generator, _: Surroundings) -> Arrays:
    """Compression by JPEG of quality `strength`, 1 to 95: jpeg(20). Three channels are taken for red, green and blue; a
    fourth one stays as it is. Needs Pillow."""
    try:
        from PIL import Image
    except ImportError as error:
        raise UsageError("perturbation jpeg needs Pillow; pip install Pillow") from error

    def disturb(planes: Floats) -> Floats:
        colours = planes[:3]
        low, span = colours.min(), max(colours.max() - colours.min(), 1e-12)
        pixels = np.rint((colours - low) / span * 255).astype(np.uint8)
        picture = Image.fromarray(pixels[0] if len(pixels) == 1 else np.moveaxis(pixels, 0, -1))
        file = io.BytesIO()
        picture.save(file, format="JPEG", quality=round(strength))
        with Image.open(file) as opened:
            decoded = np.asarray(opened, dtype=float).reshape(*planes.shape[1:], -1)
        return np.concatenate([np.moveaxis(decoded, -1, 0) / 255 * span + low, planes[3:]])

    return _pictures(sample, "jpeg", disturb)


def channel_axis(array: np.ndarray) -> int | None:
    """Which axis of a picture holds its channels, -1 for one without such an axis; None for what is no picture.

    Where the first and the last axis could both be it, the one that leaves the larger picture is; the first one if both
    leave the same.
    """
    if array.dtype.kind != "f" and array.dtype != np.uint8:
        return None
    batched = int(array.ndim > 2 and array.shape[0] == 1)
    shape = array.shape[batched:]
    if len(shape) == 2:
        return -1 if min(shape) >= SMALLEST else None
    if len(shape) != 3:
        return None
    smallest = {0: min(shape[1:]), 2: min(shape[:2])}
    fitting = [axis for axis in (0, 2) if shape[axis] in CHANNELS and smallest[axis] >= SMALLEST]
    return max(fitting, key=smallest.__getitem__) + batched if fitting else None


def _pictures(sample: Sample, function: str, disturb: Callable[[Floats], Floats]) -> Arrays:
    """Disturb every picture among the inputs, as `[planes, H, W]`."""
    found = {name: axis for name, array in sample.inputs.items() if (axis := channel_axis(array)) is not None}
    if not found:
        shapes = ", ".join(f"{name} {array.dtype}{list(array.shape)}" for name, array in sample.inputs.items())
        raise DataError(
            f"perturbation {function}: no input of sample {sample.id!r} looks like a picture ({shapes}); it takes "
            "[H, W], [C, H, W] or [H, W, C] of floats or uint8 with 1, 3 or 4 channels"
        )
    return {
        name: _in_planes(array, found[name], disturb) if name in found else array
        for name, array in sample.inputs.items()
    }


def _in_planes(array: np.ndarray, axis: int, disturb: Callable[[Floats], Floats]) -> np.ndarray:
    values = array.astype(float)
    first = values[None] if axis < 0 else np.moveaxis(values, axis, 0)  # [C, H, W], with a batch axis or without
    planes = disturb(first.reshape(len(first), *first.shape[-2:])).reshape(first.shape)
    return within(array, planes[0] if axis < 0 else np.moveaxis(planes, 0, axis))


def _pointwise(sample: Sample, function: str, disturb: Callable[[Floats], Floats]) -> Arrays:
    """Disturb the pictures among the inputs; where there is none, all arrays of floats that are no masks."""
    chosen = {name for name, array in sample.inputs.items() if channel_axis(array) is not None} or {
        name for name, array in sample.inputs.items() if array.dtype.kind == "f" and "mask" not in name.lower()
    }
    if not chosen:
        shapes = ", ".join(f"{name} {array.dtype}{list(array.shape)}" for name, array in sample.inputs.items())
        raise DataError(
            f"perturbation {function}: no input of sample {sample.id!r} holds floats or a picture ({shapes}); text has "
            "token_noise and casing"
        )
    return {
        name: within(array, disturb(array.astype(float))) if name in chosen else array
        for name, array in sample.inputs.items()
    }


def within(array: np.ndarray, values: Floats) -> np.ndarray:
    """`values` in the type and the range of `array`."""
    clipped = np.clip(values, float(array.min()), float(array.max()))
    return (np.rint(clipped) if array.dtype.kind in "iu" else clipped).astype(array.dtype)
