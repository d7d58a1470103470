"""The judgement in the report and on its own page: order, marks, what is said of held-out data."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from autotune.errors import DataError
from autotune.evaluation import Evaluation, SliceResult
from autotune.judge.models import ModelJudgement
from autotune.judge.noise import NoiseFloor
from autotune.judge.words import record_of, record_sentence, sentences
from autotune.store import HeldoutUse
from autotune.trial import Artifact, Trial
from dashboards.figures.judgement import forest_figure
from dashboards.info.judgement import hypotheses, judgement, stored_noise
from dashboards.page.judgement import render_judgement, write_judgement
from hwprofiles.fingerprint import Fingerprint
from hwprofiles.measurement import Estimate


def around(value: float, half: float = 0.01) -> Estimate:
    return Estimate(value=value, low=value - half, high=value + half)


def result(name: str, drop: float, verdict: str = "pass", **more: Any) -> SliceResult:
    return SliceResult(
        name=name,
        n=more.pop("n", 500),
        original=around(0.9),
        candidate=around(0.9 - drop),
        drop=around(drop),
        shrunk_drop=drop,
        flips_worse=5,
        flips_better=2,
        verdict=verdict,
        **more,
    )


RESULTS = (
    result("all", 0.005),
    result("mild", 0.01, "undecided", needed=1200, kind="automatic"),
    result("<b>bad</b>", 0.09, "fail", limit=0.03, p_value=1e-6, q_value=1e-5),
    result("found", 0.02, "undecided", kind="discovered", hypothesis=True),
    result("f1:all", 0.001, metric="f1"),
    result("f1:mild", 0.03, metric="f1", noise=0.03, within_noise=True),
)


def evaluation(*results: SliceResult) -> Evaluation:
    return Evaluation(
        artifact="c" * 64,
        dataset="heldout",
        dataset_digest="d" * 64,
        metric="accuracy",
        target="local",
        n=500,
        slices=results,
        worst_slice="<b>bad</b>",
        worst_drop=around(0.08),
        worst_raw=around(0.09),
        limit=0.02,
    )


def models(*results: SliceResult, limits: Mapping[str, float] | None = None) -> ModelJudgement:
    facts: dict[str, Any] = {"cpu_model": "cpu", "cores": 4, "threads": 1, "numpy": "2", "runtime": "onnxruntime"}
    facts |= {"runtime_version": "1.31", "provider": "CPUExecutionProvider", "machine": "x86_64", "system": "Linux"}
    facts |= {"memory_bytes": 1, "hostname": "h", "isa": (), "boot_id": "b"}
    known = {name: value for name, value in facts.items() if name in Fingerprint.model_fields}
    return ModelJudgement(
        original="original.onnx",
        candidate="small.onnx",
        target="local",
        fingerprint=Fingerprint.model_construct(**known),
        limit=0.02,
        limits=dict(limits or {}),
        evaluations=(evaluation(*results),),
        noise={"heldout": NoiseFloor(variations=("2 threads",), drops={"all": 0.0}, flips={"all": 0})},
    )


def test_the_whole_comes_first_then_the_worst_then_further_metrics() -> None:
    info = judgement(evaluation(*RESULTS))
    assert [row.result.name for row in info.rows] == ["all", "<b>bad</b>", "found", "mild", "f1:all", "f1:mild"]
    assert [row.limit for row in info.rows[:2]] == [0.02, 0.03]


def test_the_forest_shows_every_slice_with_interval_and_limit() -> None:
    figure = forest_figure(judgement(evaluation(*RESULTS)))
    assert figure.layout.yaxis.ticktext[1].startswith("<b>&lt;b&gt;bad")
    shown = {trace.name: trace for trace in figure.data}
    assert set(shown) == {"noise: the original against itself", "limit", "passes", "fails", "undecided"}
    assert list(shown["limit"].x) == pytest.approx([2, 3, 2, 2, 2, 2])
    assert shown["fails"].x[0] == pytest.approx(9) and shown["fails"].error_x.array[0] == pytest.approx(1)
    assert figure.layout.xaxis.range[0] < -3 and figure.layout.xaxis.range[1] > 10


def test_the_page_marks_what_is_not_declared_and_escapes_names(tmp_path: Path) -> None:
    page = write_judgement(models(*RESULTS), tmp_path / "page.html").read_text()
    body = page[page.index("<body") : page.index('id="figures"')]
    assert "<b>bad</b>" not in body and "&lt;b&gt;bad" in body
    for mark in ("hypothesis", "automatic", "within noise", "+1,200", "there is no noise"):
        assert mark in body


@pytest.mark.parametrize(
    ("results", "limits", "verdict", "said"),
    [
        (
            RESULTS,
            {},
            "fail",
            "Fails: 1 of 5 slices loses more than allowed: <b>bad</b> loses 9.0 points (8.0 to 10.0), 3.0",
        ),
        (RESULTS[:2], {}, "undecided", "do not decide for mild (about 1,200 more samples would)"),
        ((RESULTS[0], RESULTS[3]), {}, "pass", "Passes"),  # a hypothesis does not decide
        ((RESULTS[0], result("few", 0.3, "insufficient", n=9)), {}, "pass", "Passes"),
        ((RESULTS[0], result("few", 0.3, "insufficient", n=9)), {"few": 0.1}, "undecided", "few"),
        ((result("all", 0.3, "insufficient", n=9),), {}, "undecided", "the whole"),
    ],
)
def test_what_decides(results: tuple[SliceResult, ...], limits: dict[str, float], verdict: str, said: str) -> None:
    found = models(*results, limits=limits)
    assert found.verdict == verdict
    assert said in sentences(found)[0]
    assert "<script>alert" not in render_judgement(found)


def trial(number: int, artifact: str) -> Trial:
    return Trial(
        number=number,
        recipe={},
        state="complete",
        artifact=Artifact(digest=artifact * 64, size_bytes=1, dialect="ort-cpu"),
    )


def use(artifact: str, purpose: str = "judge") -> HeldoutUse:
    return HeldoutUse(artifact * 64, "d" * 64, purpose, {}, "2026-01-01T00:00:00.000+00:00")


def test_looks_at_heldout_data_are_counted() -> None:
    trials = [trial(0, "a"), trial(3, "b"), trial(7, "c"), trial(8, "c")]
    uses = [use("a", "noise"), use("a"), use("c"), use("b")]
    assert record_of(trials, uses) == ((7, 3), 2, 0)
    assert record_sentence(trials, uses) == (
        "Held-out data were used 2 times, for trials 7, 3; no model was judged on them twice. The choice among these 2 "
        "is a comparison of 2: an interval that holds with 95 % for each and for the chosen one with at least 90 %."
    )
    shared = [dataclasses.replace(each, rules={"share": 0.25}) for each in uses[1:]]
    assert record_sentence(trials, shared).endswith(
        "Verdicts, q values and the worst slice are corrected for the choice among these 2; the interval of a single "
        "slice holds with 95 % for each and for the chosen one with at least 90 %."
    )
    assert record_of(trials, [use("b"), use("b")]).again == 1
    assert record_sentence(trials, [use("a")]) == ""


class Meta:
    def __init__(self, value: object) -> None:
        self.value = value

    def meta(self, key: str) -> object:
        return self.value


def test_damaged_records_are_named() -> None:
    assert stored_noise(Meta(None), "d") is None and hypotheses(Meta(None)) == ()  # type: ignore[arg-type]
    with pytest.raises(DataError, match="noise floor"):
        stored_noise(Meta({"floor": {"drops": "x"}}), "d")  # type: ignore[arg-type]
    with pytest.raises(DataError, match="discovered slices"):
        hypotheses(Meta([{"name": "x"}]))  # type: ignore[arg-type]
