"""Resize and Upsample: interpolation axis by axis, in every way that ONNX knows to map coordinates."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch

from autotune.recover.operators.node import Builder, Node, Operator, Tensor, Unsupported, numbers

_MAPPINGS = ("half_pixel", "half_pixel_symmetric", "pytorch_half_pixel", "align_corners", "asymmetric")


def _resize(node: Node) -> Operator:
    mode, mapping = node.get("mode", "nearest"), node.get("coordinate_transformation_mode", "half_pixel")
    if node.op == "Upsample":
        mapping = "asymmetric"
    nearest = "floor" if node.op == "Upsample" else node.get("nearest_mode", "round_prefer_floor")
    policy = node.get("keep_aspect_ratio_policy", "stretch")
    if mapping not in _MAPPINGS:
        raise Unsupported(f"coordinate mode {mapping!r}")
    if node.get("antialias", 0):
        raise Unsupported("antialias")
    if policy != "stretch":
        raise Unsupported(f"aspect ratio policy {policy!r}")
    # Upsample: x, scales. Resize 10: x, scales. Resize 11: x, roi, scales, sizes.
    first = 1 if node.op == "Upsample" or node.opset < 11 else 2

    def run(x: Tensor, *more: Tensor | None) -> Tensor:
        given = more[first - 1] if len(more) >= first else None
        sizes = numbers(more[first]) if len(more) > first else None
        scales = node.get("scales") if given is None or not given.numel() else given.tolist()
        axes = node.get("axes") or list(range(x.dim()))
        for i, axis in enumerate(axes):
            length = x.shape[axis]
            size = sizes[i] if sizes else math.floor(length * np.float32(scales[i]))
            scale = np.float32(size / length) if sizes else np.float32(scales[i])
            if size == length and scale == 1:
                continue
            places = _coordinates(size, length, scale, mapping)
            if mode == "nearest":
                x = x.index_select(axis, torch.from_numpy(_nearest(places, length, nearest)))
            elif mode == "linear":
                x = _linear(x, axis, places)
            else:
                x = _cubic(x, axis, places, node.get("cubic_coeff_a", -0.75), bool(node.get("exclude_outside", 0)))
        return x

    return run


def _coordinates(size: int, length: int, scale: np.float32, mapping: str) -> np.ndarray:
    """Where each of `size` results lies among `length` numbers; float32, as runtimes compute it."""
    at = np.arange(size, dtype=np.float32)
    half = np.float32(0.5)
    if mapping == "asymmetric":
        straight: np.ndarray = at / scale
        return straight
    if mapping == "align_corners":
        corners: np.ndarray = at * np.float32(length - 1) / np.float32(max(1, size - 1))
        return corners
    if mapping == "pytorch_half_pixel" and size == 1:
        return np.zeros(size, np.float32)
    places: np.ndarray = np.asarray((at + half) / scale - half)
    if mapping == "half_pixel_symmetric":
        places += np.float32(length / 2) * (1 - np.float32(size) / (scale * np.float32(length)))
    return places


def _nearest(places: np.ndarray, length: int, way: str) -> np.ndarray:
    if way == "floor":
        picked = np.floor(places)
    elif way == "ceil":
        picked = np.ceil(places)
    elif way == "round_prefer_ceil":
        picked = np.floor(places + np.float32(0.5))
    else:
        picked = np.ceil(places - np.float32(0.5))
    indices: np.ndarray = np.clip(picked, 0, length - 1).astype(np.int64)
    return indices


def _linear(x: Tensor, axis: int, places: np.ndarray) -> Tensor:
    inside = np.clip(places, 0, x.shape[axis] - 1)
    low = np.floor(inside).astype(np.int64)
    high = np.minimum(low + 1, x.shape[axis] - 1)
    return _weighted(x, axis, [low, high], [1 - (inside - low), inside - low])


def _cubic(x: Tensor, axis: int, places: np.ndarray, a: float, exclude: bool) -> Tensor:
    """Keys' cubic convolution with parameter `a`."""
    base = np.floor(places)
    t = places - base
    weights = [
        ((a * (t + 1) - 5 * a) * (t + 1) + 8 * a) * (t + 1) - 4 * a,
        ((a + 2) * t - (a + 3)) * t * t + 1,
        ((a + 2) * (1 - t) - (a + 3)) * (1 - t) * (1 - t) + 1,
        ((a * (2 - t) - 5 * a) * (2 - t) + 8 * a) * (2 - t) - 4 * a,
    ]
    taken = [base.astype(np.int64) + offset for offset in (-1, 0, 1, 2)]
    if exclude:
        weights = [w * ((i >= 0) & (i < x.shape[axis])) for w, i in zip(weights, taken, strict=True)]
        total = sum(weights)
        weights = [w / total for w in weights]
    return _weighted(x, axis, [np.clip(i, 0, x.shape[axis] - 1) for i in taken], weights)


def _weighted(x: Tensor, axis: int, taken: Sequence[np.ndarray], weights: Sequence[np.ndarray]) -> Tensor:
    shape = [1] * x.dim()
    shape[axis] = -1
    total: Tensor | None = None
    for indices, weight in zip(taken, weights, strict=True):
        part = x.index_select(axis, torch.from_numpy(indices)) * torch.from_numpy(weight).to(x.dtype).reshape(shape)
        total = part if total is None else total + part
    assert total is not None
    return total


OPERATORS: dict[str, Builder] = {"Resize": _resize, "Upsample": _resize}
