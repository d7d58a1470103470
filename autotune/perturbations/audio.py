"""What rooms and microphones do to sound: on waveforms, arrays of floats [n], [1, n] or [1, 1, n]."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from autotune.errors import DataError
from autotune.perturbations.protocol import Surroundings
from autotune.workload import Arrays, Sample

SHORTEST = 64  # values; less is no sound
RATE = "sample_rate"  # metadata column, in hertz
_DECAY = np.log(1000.0)  # an amplitude of 1/1000 is -60 dB

Floats = NDArray[np.float64]


def gain(sample: Sample, strength: float, rng: np.random.Generator, _: Surroundings) -> Arrays:
    """`strength` decibels louder, or softer where it is negative: gain(-12). What was within -1 and 1 is clipped there,
    as a converter does."""

    def disturb(wave: Floats) -> Floats:
        louder = wave * 10 ** (strength / 20)
        return np.clip(louder, -1, 1) if np.abs(wave).max() <= 1 else louder

    return _waves(sample, "gain", disturb)


def hiss(sample: Sample, strength: float, rng: np.random.Generator, _: Surroundings) -> Arrays:
    """White noise at a signal-to-noise ratio of `strength` decibels: hiss(20)."""

    def disturb(wave: Floats) -> Floats:
        level = np.sqrt(np.mean(wave**2)) * 10 ** (-strength / 20)
        return np.clip(wave + rng.normal(0.0, level, wave.shape), -np.abs(wave).max(), np.abs(wave).max())

    return _waves(sample, "hiss", disturb)


def reverb(sample: Sample, strength: float, rng: np.random.Generator, _: Surroundings) -> Arrays:
    """A room whose echo fades by 60 dB within `strength` seconds: reverb(0.5). Each sample has a room of its own, as
    loud together as the sample was. Needs the metadata column `sample_rate` in hertz."""
    from scipy import signal  # a second of import time that only a study with reverb pays

    rate = sample.metadata.get(RATE)
    if isinstance(rate, str | bool) or not rate or rate <= 0:
        raise DataError(
            f"perturbation reverb: sample {sample.id!r} has {RATE}={rate!r} in its metadata; give it in "
            "hertz, e.g. 16000"
        )
    times = np.arange(1, max(2, round(strength * rate))) / rate
    echo = rng.normal(0.0, 1.0, len(times)) * np.exp(-_DECAY * times / strength)
    echo *= 1 / max(float(np.linalg.norm(echo)), 1e-12)  # echo and direct sound are as loud
    room = np.concatenate([[1.0], echo])

    def disturb(wave: Floats) -> Floats:
        wet = signal.fftconvolve(wave, room)[: len(wave)]
        loud = float(np.sqrt(np.mean(wet**2)))
        peak = np.abs(wave).max()
        return np.clip(wet * (np.sqrt(np.mean(wave**2)) / loud if loud else 1.0), -peak, peak)

    return _waves(sample, "reverb", disturb)


def _waves(sample: Sample, function: str, disturb: Callable[[Floats], Floats]) -> Arrays:
    """Disturb every waveform among the inputs, as `[n]`."""
    found = {name for name, array in sample.inputs.items() if _is_wave(name, array)}
    if not found:
        shapes = ", ".join(f"{name} {array.dtype}{list(array.shape)}" for name, array in sample.inputs.items())
        raise DataError(
            f"perturbation {function}: no input of sample {sample.id!r} looks like sound ({shapes}); it takes floats "
            f"[n], [1, n] or [1, 1, n] with n from {SHORTEST}"
        )
    return {
        name: disturb(array.astype(float).reshape(-1)).reshape(array.shape).astype(array.dtype)
        if name in found
        else array
        for name, array in sample.inputs.items()
    }


def _is_wave(name: str, array: np.ndarray) -> bool:
    flat = array.ndim in (1, 2, 3) and array.size == array.shape[-1]
    return array.dtype.kind == "f" and flat and array.size >= SHORTEST and "mask" not in name.lower()
