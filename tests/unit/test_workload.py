"""What a Workload tells about itself: digests of inputs and code, the name of its metric."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from autotune.judge.metrics import resolve_metric
from autotune.slices import Declaration, where
from autotune.workload import Dataset, Sample, Task, Workload, inputs_digest


def score(predictions: Sequence[Any], labels: Sequence[Any]) -> float:
    return 1.0


def dark(sample: Sample) -> bool:
    return True


def smear(sample: Sample, strength: float, rng: np.random.Generator) -> Sample:
    return sample


class Scoring:
    def __call__(self, predictions: Sequence[Any], labels: Sequence[Any]) -> float:
        return 1.0


def workload(**more: Any) -> Workload:
    return Workload("m.onnx", Dataset("search", []), Dataset("heldout", []), [], lambda outputs: [], **more)


def test_equal_inputs_have_one_digest_and_others_another() -> None:
    def batches() -> list[dict[str, np.ndarray]]:
        return [{"x": np.arange(6, dtype=np.float32).reshape(1, 6), "y": np.ones((1, 2), np.int64)} for _ in range(2)]

    known = inputs_digest(batches())
    assert known == inputs_digest([dict(reversed(each.items())) for each in batches()]) and len(known) == 64
    moved, typed, shaped, fewer = batches(), batches(), batches(), batches()[:1]
    moved[1]["x"][0, 3] += 1e-6
    typed[0]["y"] = typed[0]["y"].astype(np.int32)
    shaped[0]["x"] = shaped[0]["x"].reshape(2, 3)
    others = [inputs_digest(each) for each in (moved, typed, shaped, fewer, [])]
    assert len({known, *others}) == 6


def test_a_metric_without_a_name_is_called_metric() -> None:
    def named(metric: Any) -> tuple[str, str]:
        return workload(metric=metric).metric_name, resolve_metric(metric).name

    assert named(lambda predictions, labels: 1.0) == ("metric", "metric")
    assert named(score) == ("score", "score")
    assert named(functools.partial(score)) == ("partial", "partial")
    assert named(Scoring()) == ("Scoring", "Scoring")
    assert workload(metric={"good": lambda p, y: 1.0}).metric_name == "good"


def test_the_code_that_reads_and_scores_is_known_by_its_file() -> None:
    here = hashlib.sha256(Path(__file__).read_bytes()).hexdigest()
    given = {"good": score, "task": Task("key", functools.partial(score)), "object": Scoring(), "ours": "accuracy"}
    known = workload(metric=given, confidence=lambda outputs: []).code_digests()
    assert known == dict.fromkeys(("decode", "confidence", "metric good", "metric task", "metric object"), here)
    space: dict[str, Any] = {}
    exec("def score(predictions, labels): return 1.0", space)
    assert workload(metric=space["score"]).code_digests() == {"decode": here}, "no file, no digest"
    assert workload(metric=max).code_digests() == {"decode": here}


def test_the_code_that_tells_slices_apart_and_disturbs_samples_is_known_too() -> None:
    here = hashlib.sha256(Path(__file__).read_bytes()).hexdigest()
    given = workload(
        slices=["font", dark, where(lambda sample: True, "odd one") & "font=serif", Declaration("size")],
        perturbations={"smear": smear},
        encode=lambda text: {},
    )
    names = {"decode", "encode", "slice dark", "slice odd one", "perturbation smear"}
    assert given.code_digests() == dict.fromkeys(names, here)
    assert workload(slices={"night": dark}).code_digests() == dict.fromkeys(("decode", "slice night"), here)
    judged = given.code_digests([where(dark, "other")])
    assert {name for name in judged if name.startswith("slice")} == {"slice other"}, "those in the workload's place"


@pytest.mark.parametrize("names", [("test", "val", "mine"), ("heldout", "search", "search"), ("x", "x", "x")])
def test_data_sets_are_called_by_their_role(names: tuple[str, str, str]) -> None:
    """By name it is told what confirms a model and what only chose it, so no name that was given may say otherwise."""
    given = [Dataset(name, [Sample(f"s{i}", {"x": np.zeros(2)}, i)]) for i, name in enumerate(names)]
    made = Workload("m.onnx", given[0], given[1], [], lambda outputs: [], train=given[2])
    assert made.train is not None
    roles = [made.search, made.heldout, made.train]
    assert [each.name for each in roles] == ["search", "heldout", "train"]
    assert [each.digest() for each in roles] == [each.digest() for each in given]
    assert all(one.samples is other.samples for one, other in zip(roles, given, strict=True))
    assert tuple(each.name for each in given) == names, "what the caller holds stays as it is"
