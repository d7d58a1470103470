"""What is checked about a workload before anything is spent: functions, metrics, labels, slices; one line each."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest

from autotune.config.task import check_workload
from autotune.errors import AutotuneError, DataError, UsageError
from autotune.slices import Declaration
from autotune.workload import Dataset, Sample, Task, Workload


def samples(seed: int, count: int = 60, label: Any = 0, **more: Any) -> list[Sample]:
    rng = np.random.default_rng(seed)
    return [
        Sample(
            f"{seed}-{i}",
            {"x": rng.random((1, 1, 8, 8)).astype(np.float32)},
            label,
            {"font": ("mono", "serif")[i % 2], "length": i, **more},
        )
        for i in range(count)
    ]


def workload(search: Sequence[Sample] = (), heldout: Sequence[Sample] = (), **more: Any) -> Workload:
    return Workload(
        model="model.onnx",
        search=Dataset("search", search or samples(0)),
        heldout=Dataset("heldout", heldout or samples(1)),
        calibration=[sample.inputs for sample in samples(2, 4)],
        decode=lambda outputs: [0],
        name="w",
        **more,
    )


def refusal(checked: Workload, kind: type[AutotuneError] = DataError, table: Mapping[str, str] | None = None) -> str:
    with pytest.raises(kind) as caught:
        check_workload(checked, table=table)
    message = str(caught.value)
    assert "\n" not in message
    return message


def score(predictions: Sequence[Any], labels: Sequence[Any]) -> float:
    return 1.0


LABELS = {"digit": 3, "kind": "a"}
TASKS = {"digits": Task("digit"), "kinds": Task("kind", "f1_macro")}


def test_what_is_fine() -> None:
    check_workload(workload(metric={"accuracy": "accuracy", "mine": score}))
    check_workload(workload(samples(0, label=LABELS), samples(1, label=LABELS), metric=TASKS))
    check_workload(workload(metric=functools.partial(score)))
    check_workload(workload(metric=lambda predictions, labels: 1.0))
    check_workload(workload(slices={"late": lambda sample: sample.metadata["length"] > 30, "serif": "font=serif"}))
    check_workload(
        workload(
            slices=[
                "font",
                "bands(length, 3)",
                Declaration("blur(2) & font=mono", "soft"),
                "difficulty",
                "size * font",
            ],
            perturbations={"fog": lambda sample, strength, rng: sample},
        ),
        table={"long and foggy": "fog(0.5) & length>=20"},
    )


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("metric", {}, "w: metric is an empty dictionary; name at least one"),
        ("metric", {"my metric": score}, "the metric's name 'my metric' must be usable in metric keys"),
        ("metric", {"size_bytes": score}, "the metric's name 'size_bytes' means something else in metric keys"),
        ("metric", {"drop": "accuracy"}, "the metric's name 'drop' means something else in metric keys"),
        ("metric", {"good": 3}, "w: metric 'good': must be a name or a function"),
        ("metric", {"good": Task("a", 3)}, "w: metric 'good': must be a name or a function"),  # type: ignore[arg-type]
        ("metric", {"good": Task(3)}, "the task of metric 'good' needs a key, a text, not 3"),  # type: ignore[arg-type]
        ("metric", Task("digit"), "w: metric must be a name or a function"),
        ("confidence", 0.9, "confidence must be a function of a batch's outputs, not 0.9"),
        ("encode", "utf-8", "encode must be a function of a text, not 'utf-8'"),
        ("perturbations", [score], "perturbations must be a dictionary of name -> function"),
        ("perturbations", {"fog": 2}, "'fog' must be a function (sample, strength, random numbers) -> sample, not 2"),
        ("perturbations", {"thick fog": score}, "perturbations: 'thick fog' is no plain name"),
        ("perturbations", {"blur": score}, "perturbations: 'blur' is built in; call it by another word"),
        ("perturbations", {"cuts": score}, "perturbations: 'cuts' is built in; call it by another word"),
        ("slices", ["length<0"], "slice length<0 covers none of the 60 samples of the search data"),
        ("slices", ["length<60"], "slice length<60 covers all 60 samples of the search data: it is the same as 'all'"),
        ("slices", ["fnt"], "no sample of the search data has the column 'fnt'; did you mean 'font'?"),
        ("slices", ["fnt & difficulty=hard"], "no sample of the search data has the column 'fnt'"),
    ],
)
def test_what_is_not(option: str, value: Any, message: str) -> None:
    assert message in refusal(workload(**{option: value}))


@pytest.mark.parametrize(
    ("declarations", "message"),
    [
        ("font", "slices are 'font', one text; give a list of declarations"),
        ([3], "slice 3 is neither a text nor a Declaration nor a function of a sample"),
        (3, "slices are 3; give a list of declarations, or a dictionary of name -> declaration"),
        (["late()"], "slice late(): there is no function 'late'; the workload declares none"),
        (["font & & length<3"], "slice 'font & & length<3': expected a column at character 8"),
        (["bluur(2)"], "unknown perturbation 'bluur'; did you mean 'blur'?"),
        (["jpeg(0)"], "perturbation jpeg(0): the strength must be a number from 1 to 95"),
    ],
)
def test_slices_that_cannot_be_read(declarations: Any, message: str) -> None:
    assert message in refusal(workload(slices=declarations), UsageError)


def test_labels_have_what_the_tasks_look_at() -> None:
    lacking = [*samples(1, 59, LABELS), *samples(3, 1, {"digit": 3})]
    message = refusal(workload(samples(0, label=LABELS), lacking, metric=TASKS))
    assert "data set 'heldout', sample '3-0': the label {'digit': 3} has no entry for the task 'kind'" in message
    assert "it must be a dictionary with digit, kind" in message
    assert "the label 0 has no entry for the task 'digit'" in refusal(workload(metric=TASKS))


@pytest.mark.parametrize(
    ("label", "odd", "message"),
    [
        (0, None, "the label is missing (None), those before are one value"),
        (0, [0, 1], "the label is a list, those before are one value"),
        (np.zeros(3), np.zeros((3, 1)), "the label is an array with 2 axes, those before are an array with 1 axes"),
        ({"a": 1}, 3, "the label is one value, those before are a dictionary"),
    ],
)
def test_labels_are_of_one_kind(label: Any, odd: Any, message: str) -> None:
    mixed = [*samples(0, 59, label), *samples(3, 1, odd)]
    assert f"w: data set 'search', sample '3-0': {message}" in refusal(workload(mixed, samples(1, label=label)))


def test_held_out_data_need_every_slice_too() -> None:
    only_mono = [sample for sample in samples(1, 120) if sample.metadata["font"] == "mono"]
    message = refusal(workload(heldout=only_mono, slices=["font"]))
    assert "slice font=serif covers none of the 60 samples of the heldout data; every slice needs samples" in message
    assert "slice old covers none of the 60 samples of the heldout data" in refusal(
        workload(heldout=only_mono), table={"old": "font=serif"}
    )


def test_a_slice_is_not_called_like_one_of_a_metric() -> None:
    both = workload(metric={"good": score, "better": score}, slices=[Declaration("font=mono", "better: mono")])
    assert "the slice 'better: mono' reads like one of a metric; give it another name" in refusal(both)


def test_a_perturbation_that_does_not_fit_is_found_before_anything_is_run() -> None:
    assert "reverb: sample '0-0' has sample_rate=None in its metadata" in refusal(workload(slices=["reverb(0.5)"]))
    assert "casing: sample '0-0' has no text" in refusal(workload(slices=["casing(upper)"]))
    assert "gain: no input of sample '0-0' looks like sound" in refusal(workload(slices=["gain(-6)"]))
