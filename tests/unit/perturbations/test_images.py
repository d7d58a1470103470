"""Perturbed pictures: every layout, the range kept, and what each function does to pixels."""

from __future__ import annotations

import builtins
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from autotune.errors import DataError, UsageError
from autotune.perturbations import BUILT_IN
from autotune.perturbations.images import channel_axis
from autotune.perturbations.protocol import Surroundings
from autotune.workload import Sample

PICTURES = ("noise", "blur", "contrast", "brightness", "jpeg", "resample")
NONE = Surroundings()


def apply(name: str, strength: float, seed: int = 0, **inputs: np.ndarray) -> dict[str, np.ndarray]:
    sample = Sample("a", inputs, 0)
    return dict(BUILT_IN[name].inputs(sample, strength, np.random.default_rng(seed), NONE))


def picture(*shape: int, dtype: Any = np.float32, seed: int = 0) -> np.ndarray:
    values = np.random.default_rng(seed).random(shape)
    return (values * 255).astype(np.uint8) if dtype == np.uint8 else (values * 2 - 1).astype(dtype)


@pytest.mark.parametrize(
    ("shape", "axis"),
    [
        ((1, 3, 8, 8), 1), ((1, 8, 8, 3), 3), ((1, 1, 8, 9), 1), ((1, 8, 9, 1), 3), ((1, 4, 8, 8), 1),
        ((3, 8, 8), 0), ((8, 8, 3), 2), ((8, 9), -1), ((1, 8, 9), -1), ((1, 3, 4, 224), 1), ((1, 4, 8, 4), 1),
        ((1, 3, 8, 4), 1), ((1, 4, 9, 3), 3), ((1, 144), None), ((144,), None), ((1, 3, 2, 2), None),
        ((1, 2, 8, 8), None), ((2, 3, 8, 8), None), ((1, 5, 6, 7, 8), None), ((), None),
    ],
)  # fmt: skip
def test_the_layout_is_read_off_the_shape(shape: tuple[int, ...], axis: int | None) -> None:
    assert channel_axis(np.zeros(shape, np.float32)) == axis
    assert channel_axis(np.zeros(shape, np.int64)) is None


@pytest.mark.parametrize("name", PICTURES)
@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16, np.uint8])
@pytest.mark.parametrize("shape", [(1, 3, 12, 10), (1, 12, 10, 3), (12, 10), (1, 12, 10, 4), (1, 1, 12, 10)])
def test_shape_type_and_range_stay(name: str, dtype: Any, shape: tuple[int, ...]) -> None:
    x = picture(*shape, dtype=dtype)
    before = x.copy()
    made = apply(name, float(BUILT_IN[name].example), x=x)["x"]
    assert made.shape == x.shape and made.dtype == x.dtype
    assert np.isfinite(made).all()
    assert made.min() >= x.min() and made.max() <= x.max()
    assert (made != x).any()
    assert np.array_equal(x, before)  # the sample itself is left alone


def test_layouts_give_the_same_pixels() -> None:
    x = picture(3, 12, 10)
    for name in ("blur", "contrast", "brightness", "jpeg", "resample"):
        first = apply(name, float(BUILT_IN[name].example), x=x[None])["x"][0]
        last = apply(name, float(BUILT_IN[name].example), x=np.moveaxis(x, 0, -1)[None])["x"][0]
        assert np.allclose(np.moveaxis(first, 0, -1), last, atol=1e-6), name


def test_blur_spreads_a_point_over_sigma_pixels_and_not_over_channels() -> None:
    x = np.zeros((1, 3, 41, 41))
    x[0, 1, 20, 20] = 1
    made = apply("blur", 3.0, x=x)["x"][0]
    assert made[0].max() == made[2].max() == 0
    places = np.arange(41) - 20
    assert np.sqrt((made[1].sum(0) * places**2).sum()) == pytest.approx(3.0, rel=0.03)


def test_resample_repeats_every_nth_pixel() -> None:
    x = np.arange(8.0)[None, :] * np.ones((8, 1))
    assert apply("resample", 2.0, x=x)["x"][0].tolist() == [1, 1, 3, 3, 5, 5, 7, 7]
    assert len(np.unique(apply("resample", 100.0, x=x)["x"])) == 1


def test_contrast_and_brightness() -> None:
    x = np.linspace(0, 1, 64).reshape(8, 8)
    assert apply("contrast", 0.5, x=x)["x"].std() == pytest.approx(x.std() / 2)
    assert apply("contrast", 0.0, x=x)["x"].std() == pytest.approx(0)
    assert apply("brightness", 0.25, x=x)["x"].ravel()[:3] == pytest.approx(x.ravel()[:3] + 0.25)
    assert apply("brightness", -0.25, x=x)["x"].min() == 0


def test_noise_is_relative_to_the_spread_of_the_sample() -> None:
    x = np.random.default_rng(0).normal(0, 7, (200, 200))
    added = apply("noise", 0.5, x=x)["x"] - x
    assert added.std() == pytest.approx(3.5, rel=0.02)
    flat = np.full((8, 8), 3.0)
    assert np.array_equal(apply("noise", 0.5, x=flat)["x"], flat)


def test_worse_quality_is_farther_away() -> None:
    x = picture(1, 3, 32, 32)
    near, far = (np.abs(apply("jpeg", quality, x=x)["x"] - x).mean() for quality in (95.0, 5.0))
    assert near < far
    with_alpha = picture(1, 4, 16, 16)
    assert np.array_equal(apply("jpeg", 10.0, x=with_alpha)["x"][:, 3], with_alpha[:, 3])


def test_jpeg_without_pillow(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def refuse(name: str, *rest: Any) -> Any:
        if name == "PIL":
            raise ImportError(name)
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(UsageError, match="perturbation jpeg needs Pillow; pip install Pillow"):
        apply("jpeg", 10.0, x=picture(8, 8))


def test_other_inputs_stay_as_they_are() -> None:
    scale, x = np.ones((1, 2), np.float32), picture(1, 3, 8, 8)
    made = apply("contrast", 0.5, x=x, scale=scale)
    assert made["scale"] is scale and (made["x"] != x).any()


def test_without_a_picture() -> None:
    flat = picture(1, 144)
    for name in ("blur", "jpeg", "resample"):
        with pytest.raises(
            DataError, match=rf"{name}: no input of sample 'a' looks like a picture \(x float32\[1, 144"
        ):
            apply(name, 2.0, x=flat)
    made = apply("noise", 0.5, x=flat, some_mask=np.ones((1, 144), np.float32))
    assert (made["x"] != flat).any() and (made["some_mask"] == 1).all()
    with pytest.raises(DataError, match=r"holds floats or a picture .*; text has token_noise and casing"):
        apply("noise", 0.5, ids=np.zeros((1, 9), np.int64))


@given(st.integers(4, 20), st.integers(4, 20), st.sampled_from(["blur", "resample", "contrast", "noise"]))
def test_any_size(height: int, width: int, name: str) -> None:
    x = picture(1, 3, height, width)
    made = apply(name, 3.0, x=x)["x"]
    assert made.shape == x.shape and np.isfinite(made).all()
