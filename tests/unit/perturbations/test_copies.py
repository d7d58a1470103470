"""Perturbed copies: which are made, when, that they are the same every time, and what is refused."""

from __future__ import annotations

from importlib.metadata import EntryPoint
from typing import Any

import numpy as np
import pytest

from autotune import plugins
from autotune.errors import DataError, UsageError
from autotune.perturbations import BUILT_IN, perturbed
from autotune.slices import Declaration, assign
from autotune.workload import Dataset, Sample, Workload

FONTS = ("mono", "sans", "serif")


def sample(number: int) -> Sample:
    pixels = np.random.default_rng(number).random((1, 1, 8, 8)).astype(np.float32)
    return Sample(str(number), {"x": pixels}, number % 2, {"font": FONTS[number % 3], "length": number}, display=b"png")


DATA = Dataset("search", [sample(i) for i in range(30)])


def workload(**more: Any) -> Workload:
    return Workload("m.onnx", DATA, DATA, [DATA.samples[0].inputs], lambda out: [], **more)


def made(*declarations: str | Declaration, **more: Any) -> Dataset:
    return perturbed(DATA, declarations, workload(), **more)


def test_nothing_named_is_the_data_themselves() -> None:
    assert made("font", "length<8") is DATA


def test_copies_come_after_the_samples_and_keep_what_they_are() -> None:
    both = made("blur(2)", "font")
    assert len(both) == 60 and both.name == "search"
    assert both.samples[3] is DATA.samples[3]
    copy = both.samples[33]
    assert (copy.id, copy.label, copy.metadata, copy.perturbation) == ("3~blur(2)", 1, sample(3).metadata, "blur(2)")
    assert copy.display == b"png"
    assert not np.array_equal(copy.inputs["x"], sample(3).inputs["x"])
    assert both.samples[-1].id == "29~blur(2)" and [s.id for s in both.samples[29:31]] == ["29", "0~blur(2)"]
    with pytest.raises(IndexError):
        both.samples[60]


@pytest.mark.parametrize(
    ("declarations", "expected"),
    [
        (["blur(2) & font=mono"], {"blur(2)": range(0, 30, 3)}),
        (["blur(2) & length<5 | noise(1) & font=sans"], {"blur(2)": range(5), "noise(1)": range(1, 30, 3)}),
        (["blur(2) & length<5", "blur(2) & length>=28"], {"blur(2)": [0, 1, 2, 3, 4, 28, 29]}),
        (["blur(2) & length<5", "blur( 2.0 )"], {"blur(2)": range(30)}),
        (["blur(2) & font"], {"blur(2)": range(30)}),
        (["blur(2) & !font=mono & bands(length, 3)"], {"blur(2)": [i for i in range(30) if i % 3]}),
        (["(blur(2) | blur(3)) & length<2"], {"blur(2)": [0, 1], "blur(3)": [0, 1]}),
        (["blur(2) & difficulty=hard"], {"blur(2)": range(30)}),  # not known yet who that is
    ],
)
def test_only_what_a_declaration_covers_is_copied(declarations: list[str], expected: dict[str, list[int]]) -> None:
    copies = made(*declarations).samples[30:]
    assert [s.id for s in copies] == [f"{i}~{name}" for name, numbers in expected.items() for i in numbers]


def test_computed_columns_narrow_the_copies() -> None:
    words = ["hard" if i < 4 else "easy" for i in range(30)]
    both = made("blur(2) & difficulty=hard", columns={"difficulty": words})
    assert len(both) == 34
    found = assign(both, ["blur(2) & difficulty=hard"], columns={"difficulty": words})
    assert int(found["blur(2) & difficulty=hard"].sum()) == 4


def test_every_copy_is_in_a_slice() -> None:
    declarations = ["font", "blur(2) & font=mono", "noise(0.5)"]
    both = made(*declarations)
    found = assign(both, declarations)
    assert np.logical_or.reduce(list(found.values())).all()
    assert int(found["all"].sum()) == 30
    assert (int(found["blur(2) & font=mono"].sum()), int(found["noise(0.5)"].sum())) == (10, 30)


def test_the_same_every_time_and_different_by_sample_and_seed() -> None:
    first, again, other = made("noise(1)"), made("noise(1)", "blur(2)"), made("noise(1)", seed=1)
    x = {name: each.samples[30].inputs["x"] for name, each in (("1", first), ("2", again), ("3", other))}
    assert np.array_equal(x["1"], x["2"]) and not np.array_equal(x["1"], x["3"])
    assert first.digest() == made("noise(1)").digest() != other.digest() != DATA.digest()
    noise = [first.samples[30 + i].inputs["x"] - sample(i).inputs["x"] for i in (0, 1)]
    assert not np.allclose(noise[0], noise[1])


def test_inputs_are_made_when_they_are_looked_at() -> None:
    calls: list[str] = []

    def fog(sample: Sample, strength: float, rng: np.random.Generator) -> Sample:
        calls.append(sample.id)
        return Sample("ignored", {"x": sample.inputs["x"] * np.float32(strength)}, None)

    own = workload(perturbations={"fog": fog})
    both = perturbed(DATA, ["fog(0.5)"], own)
    assert calls == ["0"]  # the first one, to find out whether it works at all
    assign(both, ["fog(0.5)", "font"])
    assert calls == ["0"]
    copy = both.samples[37]
    assert copy.inputs["x"] == pytest.approx(sample(7).inputs["x"] / 2) and "x" in copy.inputs and len(copy.inputs) == 1
    assert calls == ["0", "7"] and (copy.id, copy.label) == ("7~fog(0.5)", 1)


@pytest.mark.parametrize(
    ("result", "message"),
    [
        (lambda s: None, r"fog\(1\) of sample '0' raised|returned NoneType for sample '0'; it must return an"),
        (lambda s: Sample("a", {"y": s.inputs["x"]}, 0), r"gives the inputs \['y'\]; the sample has \['x'\]"),
        (lambda s: Sample("a", {"x": s.inputs["x"].astype(float)}, 0), r"gives float64\[1, 1, 8, 8\] for input 'x'"),
        (lambda s: Sample("a", {"x": s.inputs["x"][0]}, 0), r"gives float32\[1, 8, 8\] for input 'x'"),
        (lambda s: Sample("a", {"x": s.inputs["x"] * np.nan}, 0), "gives NaN or infinity in input 'x'"),
        (lambda s: 1 / 0, r"fog\(1\) of sample '0' raised ZeroDivisionError: division by zero"),
    ],
)
def test_what_the_users_own_must_give(result: Any, message: str) -> None:
    own = workload(perturbations={"fog": lambda s, strength, rng: result(s)})
    with pytest.raises(DataError, match=message):
        perturbed(DATA, ["fog(1)"], own)


@pytest.mark.parametrize(
    ("declaration", "message"),
    [
        ("blurr(2)", "unknown perturbation 'blurr'; did you mean 'blur'"),
        (
            "blur(0)",
            r"blur\(0\): the strength must be a number from 0 to 1000 \(sigma in pixels\), not 0, which changes",
        ),
        ("blur(much)", r"the strength must be a number .*; write e.g. blur\(2\)"),
        ("jpeg(99)", r"a number from 1 to 95 \(quality\)"),
        ("contrast(1)", "not 1, which changes nothing"),
        ("token_noise(2)", "from 0 to 1"),
    ],
)
def test_strengths_that_cannot_be(declaration: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        made(declaration)
    with pytest.raises(UsageError, match=r"fog\(thick\): the strength must be a number"):
        perturbed(DATA, ["fog(thick)"], workload(perturbations={"fog": lambda s, strength, rng: s}))


def brighter(sample: Sample, strength: float, rng: np.random.Generator) -> Sample:
    return Sample(sample.id, {"x": sample.inputs["x"] + np.float32(strength)}, sample.label)


def test_another_package_registers_one(monkeypatch: pytest.MonkeyPatch) -> None:
    point = EntryPoint("sun", f"{__name__}:brighter", "hw_autotune.perturbations")
    monkeypatch.setattr(EntryPoint, "load", lambda self: brighter)
    monkeypatch.setattr(
        plugins,
        "entry_points",
        lambda group, name=None: [point] if group == point.group and name in (None, "sun") else [],
    )
    assert made("sun(0.5)").samples[30].inputs["x"] == pytest.approx(sample(0).inputs["x"] + 0.5)
    with pytest.raises(UsageError, match="unknown perturbation 'sum'; did you mean 'sun'"):
        made("sum(0.5)")


def test_every_built_in_says_what_its_strength_is() -> None:
    for name, each in BUILT_IN.items():
        assert each.function.__doc__ and (f"{name}(" in each.function.__doc__ or each.words)
        assert each.words or each.low <= float(each.example) <= each.high
