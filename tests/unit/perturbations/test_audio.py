"""Perturbed sound: loudness, noise and rooms, measured on the waveform."""

from __future__ import annotations

import numpy as np
import pytest

from autotune.errors import DataError
from autotune.perturbations import BUILT_IN
from autotune.perturbations.protocol import Surroundings
from autotune.workload import Sample

RATE = 8000


def apply(name: str, strength: float, wave: np.ndarray, **metadata: float) -> np.ndarray:
    sample = Sample("a", {"wave": wave}, 0, metadata)
    return BUILT_IN[name].inputs(sample, strength, np.random.default_rng(1), Surroundings())["wave"]


def tone(*shape: int, peak: float = 0.5) -> np.ndarray:
    size = int(np.prod(shape))
    return (peak * np.sin(np.arange(size) * 2 * np.pi * 440 / RATE)).reshape(shape).astype(np.float32)


def level(wave: np.ndarray) -> float:
    return float(20 * np.log10(np.sqrt(np.mean(wave.astype(float) ** 2))))


@pytest.mark.parametrize("name", ["gain", "hiss", "reverb"])
@pytest.mark.parametrize("shape", [(RATE,), (1, RATE), (1, 1, RATE)])
def test_shape_and_type_stay(name: str, shape: tuple[int, ...]) -> None:
    wave = tone(*shape)
    made = apply(name, float(BUILT_IN[name].example), wave, sample_rate=RATE)
    assert made.shape == wave.shape and made.dtype == wave.dtype
    assert np.isfinite(made).all() and np.abs(made).max() <= np.abs(wave).max()
    assert (made != wave).any()


def test_gain_is_in_decibels_and_clips_where_a_converter_would() -> None:
    wave = tone(1, RATE)
    assert level(apply("gain", -12.0, wave)) == pytest.approx(level(wave) - 12, abs=0.01)
    assert np.abs(apply("gain", 12.0, wave)).max() == 1.0
    assert np.abs(apply("gain", 12.0, wave * 1000)).max() > 1000  # not in -1 to 1: integers as floats


def test_hiss_is_a_signal_to_noise_ratio() -> None:
    wave = np.random.default_rng(0).normal(0, 1, 50_000)
    assert level(wave) - level(apply("hiss", 20.0, wave) - wave) == pytest.approx(20, abs=0.3)


def test_reverb_fades_by_sixty_decibels_in_its_time() -> None:
    click = np.zeros(RATE * 2)
    click[10] = 1.0
    echo = apply("reverb", 0.5, click, sample_rate=RATE)[11:]
    early, late = (level(echo[int(at * RATE) : int((at + 0.05) * RATE)]) for at in (0.0, 0.4))
    assert early - late == pytest.approx(48, abs=3)  # 60 dB x 0.4 s / 0.5 s
    assert np.abs(echo[int(0.55 * RATE) :]).max() < 1e-3


def test_what_sound_needs() -> None:
    for rate in ({}, {"sample_rate": 0}, {"sample_rate": "8 kHz"}):
        with pytest.raises(DataError, match=r"reverb: sample 'a' has sample_rate=.* in its metadata; give it in hertz"):
            apply("reverb", 0.5, tone(1, RATE), **rate)
    with pytest.raises(DataError, match=r"gain: no input of sample 'a' looks like sound \(wave float32\[3, 100\]\)"):
        apply("gain", -6.0, tone(3, 100))


def test_silence_stays_silence() -> None:
    silence = np.zeros(500, np.float32)
    for name in ("gain", "hiss", "reverb"):
        assert not apply(name, float(BUILT_IN[name].example), silence, sample_rate=RATE).any()
