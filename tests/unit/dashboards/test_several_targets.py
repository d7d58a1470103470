"""The report of a study on two targets, of which one drifted; and what is said when answers differ."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from autotune.config import StudyConfig
from autotune.parity.report import FLOAT64, OutputParity, Pair, ParityReport, TargetParity, Tolerance
from autotune.search.drift import Drift
from autotune.trial import Trial, Value
from dashboards.info.front import front_info, winners_curse
from dashboards.info.headline import headline
from dashboards.info.protocol import openings, protocol
from dashboards.info.study import StudyView, read_study
from dashboards.page import render, words
from hwprofiles.measurement import Energy, Estimate, Latency, Measurement, Ratio, ShapeResult


def on_both(trial: Trial) -> Trial:
    """The same trial, measured on `pi` too, where everything takes ten times as long and nothing is gained."""

    def more(values: Any) -> dict[str, Value]:
        found = dict(values)
        if "latency_ratio@local" in found:
            found["latency_ratio@pi"] = Value(value=1.001, low=0.98, high=1.02)
            p50, peak = found["latency_p50@local"].value * 10, found["memory_peak@local"]
            found |= {"latency_p50@pi": Value(value=p50, low=p50, high=p50), "memory_peak@pi": peak}
        return found

    extra = tuple(m.model_copy(update={"target": "pi"}) for m in trial.measurements)
    update = {"metrics": more(trial.metrics), "final": more(trial.final), "measurements": (*trial.measurements, *extra)}
    return trial.model_copy(update=update)


def report(*, agrees: bool, digest: str = "d" * 64) -> ParityReport:
    def target(name: str, verdict: str, agreement: float) -> TargetParity:
        output = OutputParity(
            output="y", kind="argmax", rows=4, agreement=Estimate(value=agreement, low=0.4, high=1.0), distance=1e-6,
            worst_distance=1e-6, worst_sample=0, max_abs=1e-6, agrees=agreement == 1,
        )  # fmt: skip
        sentence = f"Answers of {name} {verdict}."
        return TargetParity(target=name, verdict=verdict, outputs=(output,), sentence=sentence)  # type: ignore[arg-type]

    other = target("pi", "agree", 1.0) if agrees else target("pi", "disagree", 0.75)
    pair = Pair(one="local", other="pi", equal=agrees, distance=1e-6, agreement=1.0 if agrees else 0.75)
    return ParityReport(
        model=digest, name="model.onnx", samples=4, reference=FLOAT64, tolerance=Tolerance(), pairs=(pair,),
        targets=(target("local", "agree", 1.0), other), sentence="All agree." if agrees else "pi answers differently.",
    )  # fmt: skip


@pytest.fixture
def both(study: Any) -> Any:
    """The usual study on two targets, as a store."""
    changed = copy.copy(study)
    changed.made = [on_both(trial) for trial in study.made]
    store = changed.store()
    config = StudyConfig.model_validate_json(store.config_json)
    objectives = ("size_bytes", "latency_ratio@local", "latency_ratio@pi", "drop/worst")
    search = config.search.model_copy(update={"objectives": objectives})
    config = config.model_copy(update={"targets": ("local", "pi", "phone"), "search": search})
    store.config_json = config.model_dump_json()
    store._meta["targets"] = {
        "pi": {"label": "android-glibc-bundle", "transport": "ssh", "policy": {"cpus": "big", "cooldown": 30.0}},
    }
    return store


def with_parity(store: Any, *, agrees: bool) -> StudyView:
    for trial in read_study(store).finalists:
        assert trial.artifact is not None
        made = report(agrees=agrees, digest=trial.artifact.digest)
        store._meta[f"parity/{trial.artifact.digest}"] = made.model_dump(mode="json")
    return read_study(store)


def test_every_timed_target_has_its_numbers(both: Any) -> None:
    view = read_study(both)
    assert view.timed == ("local", "pi"), "nothing was timed on the third, which is no hardware"
    head = headline(view)
    assert [speed.target for speed in head.speeds] == ["local", "pi"]
    assert head.speeds[1].latency is not None and head.speeds[0].latency is not None
    assert head.speeds[1].latency.value == pytest.approx(10 * head.speeds[0].latency.value)
    assert head.speeds[1].original_latency is not None
    said = words.sentence(head)
    assert "less time per inference on local" in said and "ties with the original in time per inference on pi" in said
    assert {curse.key for curse in winners_curse(view)} == {"latency_ratio@local", "latency_ratio@pi", "drop/worst"}
    page = render(both)
    for text in (
        "Time per inference on pi",
        "of the original, a tie",
        "Peak memory on local",
        "Target pi",
        "time on pi",
    ):
        assert text in page
    assert "Target phone" not in page


def test_nothing_is_called_faster_whose_interval_holds_one() -> None:
    assert "tie" in words.speed(Value(value=0.9, low=0.79, high=1.01))
    assert "less time" in words.speed(Value(value=0.9, low=0.85, high=0.99))
    assert "more time" in words.speed(Value(value=1.02, low=1.01, high=1.03))


def test_answers_that_differ_are_said_next_to_the_recommendation(both: Any) -> None:
    assert words.doubt(headline(with_parity(both, agrees=True))) == ""
    page = render(both)
    assert "The same answers on every target?" in page and "tag good" in page
    head = headline(with_parity(both, agrees=False))
    assert head.trial is not None
    doubt = words.doubt(head)
    assert doubt.startswith(f"Trial {head.trial.number} does not answer the same on local and pi (75.0% of the classes")
    page = render(both)
    assert page.index(doubt) < page.index('id="front"') and "75 %" in page and "disagree" in page


def test_without_a_comparison_nothing_is_claimed(both: Any) -> None:
    assert words.doubt(headline(read_study(both))) == ""
    assert "The same answers on every target?" not in render(both)


def test_times_of_before_a_drift_are_marked(both: Any) -> None:
    view = read_study(both)
    assert view.drifts == ()
    early = [t.number for t in view.trials if t.state == "complete" and not t.final][:3]
    view = view._replace(drifts=(Drift("pi", 0.2, 0.21, frozenset(early)),))
    assert [p.trial for p in front_info(view, "pi", None).points if p.stale] == early
    assert not [p for p in front_info(view, "local", None).points if p.stale]
    assert any("Target pi has become 5.0% slower" in warning for warning in protocol(view).warnings)


def test_conditions_and_what_was_not_told(both: Any) -> None:
    view = read_study(both)
    trial = next(t for t in view.trials if t.measurements)

    def seen(*environments: dict[str, Any]) -> Any:
        records = [trial.measurements[-1].model_copy(update={"environment": e}) for e in environments]
        return protocol(view._replace(trials=(trial.model_copy(update={"measurements": tuple(records)}),)))

    unread = "governor, temperature"
    assert seen({"unread": unread}, {"unread": "temperature"}).devices[0].unread == ("temperature",)
    assert seen({"unread": unread}, {"unread": None}).devices[0].unread == (), "one of them could read everything"
    info = seen({"temperature_c": None, "disturbed": None, "load": 0.5})  # as earlier versions wrote it
    pi = next(device for device in info.devices if device.target == "pi")
    assert (pi.label, pi.transport, pi.policy) == ("android-glibc-bundle", "ssh", ("cpus big", "cooldown 30.0"))
    assert pi.unread == ("temperature c",), "nobody disturbed it, which is an answer"
    assert [c.clocks for c in pi.conditions] == ["performance, 3.20 GHz"]
    page = render(both)
    for text in ("performance, 3.20 GHz", "android-glibc-bundle", "over ssh", "cpus big, cooldown 30.0"):
        assert text in page


def test_the_new_numbers_of_a_measurement_are_shown(both: Any) -> None:
    trial = both._trials[1]
    old: Measurement = trial.measurements[0]
    assert old.latency is not None and old.ratio is not None
    latency = Latency(**{**old.latency.model_dump(), "cold_seconds": 1.234, "throughput": 56.7})
    ratio = Ratio(**{**old.ratio.model_dump(), "openings": (0, 0, 1)})
    shapes = tuple(
        ShapeResult(label=label, shapes={"x": (1, width)}, latency=latency)
        for label, width in (("line", 320), ("word", 96))
    )
    watts = Energy(joules=Estimate(value=0.123, low=0.12, high=0.13), idle_watts=3.0, source="rapl:package-0")
    update = {"latency": latency, "ratio": ratio, "energy": watts, "by_shape": shapes}
    new = old.model_copy(update=update)
    assert openings(old) is None and openings(new) == 2
    both._trials[1] = trial.model_copy(update={"measurements": (new,)})
    page = render(both)
    for text in ("1.23 s", "56.7", "0.123 J", "By shape", "word", "x [1, 96]"):
        assert text in page
