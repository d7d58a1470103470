"""What a tensor is divided by: one positive number per channel, float64. 1 where nothing is known or nothing gained."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from autotune.techniques.rounding import in_blocks

BITS, BLOCK = 4, 32  # the format whose rounding error `awq` looks at
GRID = tuple(step / 10 for step in range(11))  # exponents that `awq` tries; 0 changes nothing
LIMIT = 1e4  # a channel is scaled by no more than this, either way: float32 stays far from its ends


@dataclass(frozen=True)
class Reader:
    """A product: `matrix` float32 `[outputs, inputs]`, `squares` `[inputs]` the E x^2 of what it reads, and `channels`
    `[inputs]` where that comes from.
    """

    matrix: np.ndarray
    squares: np.ndarray
    channels: np.ndarray


def sizes(squares: np.ndarray, channels: np.ndarray, count: int) -> np.ndarray:
    """`[count]`: sqrt(E x^2) of each channel, over all inputs `[inputs]` that come from it."""
    found: np.ndarray = np.sqrt(
        np.bincount(channels, squares, count) / np.maximum(np.bincount(channels, minlength=count), 1)
    )
    return found


def cross_layer(written: np.ndarray, read: np.ndarray) -> np.ndarray:
    """sqrt(r1 / r2), which makes both ranges sqrt(r1 r2) (Nagel et al., arXiv 1906.04721, section 4.1).

    `written`, `read`: `[channels]`, the largest magnitude of the writer's and of the readers' weights per channel.
    """
    return _bounded(np.sqrt(_ratio(written, read)))


def smooth(activations: np.ndarray, read: np.ndarray, alpha: float) -> np.ndarray:
    """a^alpha / w^(1 - alpha), SmoothQuant (Xiao et al., arXiv 2211.10438, equation 4), with geometric mean 1."""
    alive = (activations > 0) & (read > 0)
    a, w = np.where(alive, activations, 1.0), np.where(alive, read, 1.0)
    return _centred(a**alpha / w ** (1 - alpha), alive)


def awq(readers: Sequence[Reader], activations: np.ndarray) -> np.ndarray:
    """a^b with the b of `GRID` that does least damage (Lin et al., arXiv 2306.00978, equation 5), geometric mean 1.

    The damage is that of rounding all readers to 4 bits in blocks of 32. b = 0 is among the candidates, so it never
    grows.
    """
    alive = activations > 0
    best, least = np.ones(len(activations)), np.inf
    for exponent in GRID:
        scale = _centred(np.where(alive, activations, 1.0) ** exponent, alive)
        damage = sum(rounding_damage(each.matrix, each.squares, scale[each.channels]) for each in readers)
        if damage < least:
            best, least = scale, damage
    return best


def rounding_damage(matrix: np.ndarray, squares: np.ndarray, scale: np.ndarray) -> float:
    """Expected squared error, errors of inputs taken as independent, when `matrix * scale` is rounded and its input
    divided by `scale` `[inputs]`."""
    scaled = (matrix * scale).astype(np.float32)
    error = (in_blocks(scaled, BITS, BLOCK).restore() - scaled) / scale
    return float(np.einsum("oi,oi,i->", error, error, squares, optimize=True))


def _centred(scale: np.ndarray, alive: np.ndarray) -> np.ndarray:
    """With geometric mean 1 over the channels that are alive, and 1 for the others."""
    if not alive.any():
        return np.ones_like(scale)
    return np.where(alive, _bounded(scale / np.exp(np.log(scale[alive]).mean())), 1.0)


def _ratio(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    alive = (one > 0) & (other > 0)
    return np.where(alive, one, 1.0) / np.where(alive, other, 1.0)


def _bounded(scale: np.ndarray) -> np.ndarray:
    bounded: np.ndarray = np.clip(scale, 1 / LIMIT, LIMIT)
    return bounded
