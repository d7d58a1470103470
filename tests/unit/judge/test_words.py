"""The verdict in one sentence: what passes, what was not judged, and on which data."""

from __future__ import annotations

import json
from typing import Any

import pytest

from autotune.evaluation import Evaluation, SliceResult, Verdict
from autotune.judge.models import ModelJudgement
from autotune.judge.words import verdict_sentence
from hwprofiles.fingerprint import Fingerprint
from hwprofiles.measurement import Estimate


def around(value: float, half: float = 0.01) -> Estimate:
    return Estimate(value=value, low=value - half, high=value + half)


def result(name: str, verdict: Verdict = "pass", n: int = 500, drop: float = 0.0, **more: Any) -> SliceResult:
    facts = {"original": around(0.9), "candidate": around(0.9 - drop), "drop": around(drop), "shrunk_drop": drop}
    return SliceResult(name=name, n=n, verdict=verdict, flips_worse=0, flips_better=0, **facts, **more)  # type: ignore[arg-type]


def evaluation(dataset: str, *results: SliceResult) -> Evaluation:
    return Evaluation(
        artifact="c" * 64,
        dataset=dataset,
        dataset_digest="d" * 64,
        metric="accuracy",
        target="local",
        n=500,
        slices=(result("all"), *results),
        worst_slice="all",
        worst_drop=around(0.0),
        limit=0.05,
    )


def found(*evaluations: Evaluation, **more: Any) -> ModelJudgement:
    known = {"original": "a.onnx", "candidate": "b.onnx", "target": "local", "limit": 0.05, "limits": {}, "noise": {}}
    facts = Fingerprint.model_construct()
    return ModelJudgement(**{**known, "floor": 200, "fingerprint": facts, "evaluations": evaluations, **more})


SMALL = result("rare=yes", "insufficient", n=30, needed=170)
FEW = result("f1:rare=yes", "insufficient", n=30, needed=170, metric="f1")


def test_a_slice_that_was_not_judged_is_named() -> None:
    judged = found(evaluation("heldout", result("rare=no"), SMALL))
    assert judged.verdict == "pass"
    assert verdict_sentence(judged) == (
        "Passes: all 2 slices that could be judged certainly lose no more than allowed (5.0 points where nothing else "
        "is said); not judged: rare=yes has 30 samples of the 200 that a verdict needs."
    )
    undecided = found(evaluation("heldout", result("rare=no", "undecided", needed=90), SMALL))
    assert verdict_sentence(undecided).endswith(
        "; not judged: rare=yes has 30 samples of the 200 that a verdict needs."
    )
    fails = found(evaluation("heldout", result("rare=no", "fail", drop=0.2), SMALL))
    assert verdict_sentence(fails).endswith("; not judged: rare=yes has 30 samples of the 200 that a verdict needs.")


@pytest.mark.parametrize(
    ("small", "more"),
    [(SMALL, {"asked": ("rare=yes",)}), (SMALL, {"limits": {"rare=yes": 0.3}}), (FEW, {"asked": ("rare=yes",)})],
)
def test_one_that_was_asked_for_by_name_does_not_pass(small: SliceResult, more: dict[str, Any]) -> None:
    judged = found(evaluation("heldout", result("rare=no"), small), **more)
    assert judged.verdict == "undecided"
    assert verdict_sentence(judged) == (
        f"Undecided: 2 of 3 slices pass, none fails; the data do not decide for {small.name} (30 samples of the 200 "
        "that a verdict needs)."
    )


def test_many_that_were_not_judged_are_counted() -> None:
    rows = [result(f"font={place}", "insufficient", n=1 + place) for place in range(14)]
    said = verdict_sentence(found(evaluation("heldout", *rows)))
    assert "not judged: font=0 has 1 sample, font=1 has 2 samples, " in said
    assert said.endswith("font=9 has 10 samples and 4 more of the 200 that a verdict needs.")


def test_two_data_sets_are_counted_apart() -> None:
    both = found(evaluation("search", result("a"), result("b")), evaluation("heldout", result("a"), SMALL))
    assert verdict_sentence(both) == (
        "Passes: all 3 slices of the search data and all 2 slices of the held-out data that could be judged certainly "
        "lose no more than allowed (5.0 points where nothing else is said); not judged: rare=yes (held-out) has 30 "
        "samples of the 200 that a verdict needs."
    )
    fails = found(evaluation("search", result("a")), evaluation("heldout", result("a", "fail", drop=0.2)))
    assert verdict_sentence(fails).startswith(
        "Fails: 0 of 2 slices of the search data and 1 of 2 slices of the held-out data loses more than allowed: "
        "a (held-out) loses 20.0 points (19.0 to 21.0), 5.0 allowed"
    )
    open_ = found(evaluation("search", result("a", "undecided", needed=90)), evaluation("heldout", result("a")))
    assert verdict_sentence(open_) == (
        "Undecided: 1 of 2 slices of the search data and 2 of 2 slices of the held-out data pass, none fails; the data "
        "do not decide for a (search) (about 90 more samples would)."
    )


def test_what_was_written_before_is_read() -> None:
    judged = found(evaluation("heldout"), fingerprint=Fingerprint.model_construct())
    data = judged.model_dump(mode="json", exclude={"fingerprint"})
    for added in ("floor", "asked", "original_digest", "candidate_digest", "code"):
        del data[added]
    older = ModelJudgement(**{**json.loads(json.dumps(data)), "fingerprint": judged.fingerprint})
    assert older.verdict == "pass" and older.floor is None and older.original_digest == ""
