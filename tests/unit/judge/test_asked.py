"""What is asked of a judgement is looked at before any model runs, and only what it uses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from autotune.config import JudgeTable
from autotune.errors import AutotuneError, DataError, UsageError
from autotune.judge import models
from autotune.judge.models import judge_models
from autotune.slices import where
from autotune.workload import Dataset, Sample, Workload


class Reached(Exception):
    """A device would have been opened now."""


def samples(name: str, count: int = 60) -> Dataset:
    made = [
        Sample(f"{name}{i}", {"x": np.ones((1, 4 + i % 9), np.float32)}, i % 2, {"font": ("mono", "serif")[i % 2]})
        for i in range(count)
    ]
    return Dataset(name, made)


def lengths(name: str, count: int, step: int = 1) -> Dataset:
    """`count` samples of the lengths 1, 1 + step, ..., of two fonts."""
    made = [
        Sample(f"{name}{i}", {"x": np.ones((1, 4), np.float32)}, 0, {"length": 1 + i * step, "font": "ab"[i % 2]})
        for i in range(count)
    ]
    return Dataset(name, made)


def workload(**more: Any) -> Workload:
    given: dict[str, Any] = {"model": "m.onnx", "search": samples("search"), "heldout": samples("heldout")}
    given |= {"calibration": [], "decode": lambda outputs: [0]}
    return Workload(**{**given, **more})


def ask(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, given: Workload, **more: Any) -> None:
    def open_device(*_: object, **__: object) -> None:
        raise Reached

    monkeypatch.setattr(models, "open_device", open_device)
    model = tmp_path / "model.onnx"
    model.write_bytes(b"anything")
    judge_models(model, model, given, table=JudgeTable(floor=5), **more)


@pytest.mark.parametrize(
    ("given", "more", "kind", "message"),
    [
        ({}, {"declarations": ["font=monno"]}, DataError, "slice font=monno covers none of the 60 samples"),
        ({}, {"declarations": ["fnt & difficulty=hard"]}, DataError, "no sample of the heldout data has the column"),
        ({}, {"declarations": ["difficulty=hrad"]}, DataError, "did you mean 'difficulty=hard'"),
        ({}, {"declarations": ["size=smal"]}, DataError, "did you mean 'size=small'"),
        ({}, {"declarations": ["long()"]}, UsageError, "there is no function 'long'"),
        ({}, {"declarations": ["bluur(2)"]}, UsageError, "did you mean 'blur'?"),
        ({}, {"limits": {"nope": 0.02}}, UsageError, "limit on slice 'nope': there is no such slice"),
        ({}, {"limits": {"difficulty=hrad": 0.02}}, UsageError, "did you mean 'difficulty=hard'"),
        ({"slices": ["font"]}, {"limits": {"font=sans": 0.02}}, UsageError, "there is no such slice"),
        ({"metric": {"a": "accuracy", "b": "accuracy"}}, {"limits": {"c:all": 0.02}}, UsageError, "no such slice"),
        ({"decode": 3}, {}, DataError, "decode must be a function"),
        ({"heldout": Dataset("heldout", [])}, {}, DataError, "data set 'heldout' is empty"),
        ({"search": Dataset("search", [])}, {"data": "both"}, DataError, "data set 'search' is empty"),
    ],
)
def test_what_does_not_exist_is_refused_before_a_device_is_opened(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    given: dict[str, Any],
    more: dict[str, Any],
    kind: type[AutotuneError],
    message: str,
) -> None:
    with pytest.raises(kind) as caught:
        ask(monkeypatch, tmp_path, workload(**given), **more)
    assert message in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("given", "more"),
    [
        ({"search": Dataset("search", [])}, {}),  # nor calibration: there is none
        ({"search": samples("heldout")}, {"data": "both"}),  # nothing is chosen by either of them
        ({"train": 3, "loss": 3, "latency_inputs": 3, "model": None}, {}),
        ({"heldout": None}, {"data": "search"}),
        (
            {},
            {"declarations": ["difficulty * font", "size & font=mono"], "limits": {"difficulty=hard & font=mono": 0.1}},
        ),
        ({"slices": {"long": lambda s: s.inputs["x"].size > 8}}, {"declarations": ["long() & font=mono"]}),
        ({"slices": [where(lambda s: s.label == 1, "odd")]}, {"limits": {"odd": 0.1, "size=small": 0.1}}),
        ({"metric": lambda predictions, labels: 0.5}, {}),
    ],
)
def test_only_what_judging_uses_is_looked_at(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, given: dict[str, Any], more: dict[str, Any]
) -> None:
    with pytest.raises(Reached):
        ask(monkeypatch, tmp_path, workload(**given), **more)


def test_bands_of_the_first_data_must_hold_samples_of_the_second(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Both sets are cut at the edges of the first, 31 and 61, and not each at its own."""
    given = workload(search=lengths("search", 90), heldout=lengths("heldout", 30), slices=["bands(length, 3)"])
    with pytest.raises(DataError, match="31<=length<61 covers none of the 30 samples of the heldout data"):
        ask(monkeypatch, tmp_path, given, data="both")
    for data in ("search", "heldout"):
        with pytest.raises(Reached):
            ask(monkeypatch, tmp_path, given, data=data)


@pytest.mark.parametrize("part", ["", "difficulty=hard & "])
def test_limits_are_on_the_bands_of_the_first_data(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, part: str) -> None:
    given = workload(
        search=lengths("search", 90), heldout=lengths("heldout", 60, 2), slices=[f"{part}bands(length, 3)"]
    )
    name = f"{part}31<=length<61"
    with pytest.raises(Reached):
        ask(monkeypatch, tmp_path, given, data="both", limits={name: 0.1})
    with pytest.raises(UsageError, match="there is no such slice of the heldout data"):
        ask(monkeypatch, tmp_path, given, data="heldout", limits={name: 0.1})
    with pytest.raises(UsageError, match="there is no such slice of the search data"):
        ask(monkeypatch, tmp_path, given, data="both", limits={f"{part}41<=length<81": 0.1})


@pytest.mark.parametrize(("lacks", "has"), [("search", "heldout"), ("heldout", "search")])
def test_a_limit_is_on_a_slice_of_every_data_set(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, lacks: str, has: str
) -> None:
    plain = samples(has)
    rare = [Sample(f"rare{i}", s.inputs, 0, {"font": "gothic"}) for i, s in enumerate(plain.samples[:10])]
    given = workload(**{has: Dataset(has, [*plain.samples, *rare])}, slices=["font"])
    more: dict[str, Any] = {"limits": {"font=gothic": 0.1}}
    with pytest.raises(UsageError, match=f"'font=gothic': there is no such slice of the {lacks} data"):
        ask(monkeypatch, tmp_path, given, data="both", **more)
    with pytest.raises(Reached):
        ask(monkeypatch, tmp_path, given, data=has, **more)
