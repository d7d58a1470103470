"""Judging in parts, on a real model: the same judgement where a recipe is good, an early end where it is hopeless."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest

from autotune.recipe import Recipe
from autotune.search.knowledge import anchors, layer_times
from autotune.search.memory import Memory
from autotune.search.outlook import Outlook
from autotune.search.recovery.starting import Starting
from autotune.search.runner import Waiting
from autotune.search.stages import Lost
from autotune.search.study import Study
from autotune.search.warm import Warm
from autotune.trial import Trial
from autotune.workload import Arrays, Dataset, Sample, Workload
from tests.end_to_end import tiny

MANY = 320
JUDGE = {"limit": 0.06, "floor": 5, "probe": 10, "workers": 1, "shrinkage": 0.0, "noise": False, "automatic": ()}


def workload() -> Workload:
    """More samples than `tiny`; the answer is which output is farthest above its mean, so that every class occurs."""
    import onnxruntime as ort

    given = tiny.workload()
    assert not isinstance(given.model, str | Path)
    session = ort.InferenceSession(given.model.SerializeToString(), providers=["CPUExecutionProvider"])
    pictures = np.random.default_rng(1).normal(size=(MANY, 1, 3, 8, 8)).astype(np.float32)
    answers = np.concatenate([session.run(None, {"x": picture})[0] for picture in pictures])
    mean, spread = answers.mean(axis=0), answers.std(axis=0)

    def decode(outputs: Arrays) -> list[int]:
        return [int(row) for row in ((outputs["y"] - mean) / spread).argmax(axis=1)]

    samples = [
        Sample(f"s{i}", {"x": picture}, label, {"side": "left" if i % 2 else "right"})
        for i, (picture, label) in enumerate(zip(pictures, decode({"y": answers}), strict=True))
    ]
    return tiny.workload(search=Dataset("search", samples), decode=decode)


def open_study(path: Path, **judge: Any) -> Study:
    techniques = {"quantize": {"calibration_samples": 4, "choices": ["int8-static", "w8-load", "w2-b32-load"]}}
    return tiny.open_study(path, tiny.config(judge={**JUDGE, **judge}, techniques=techniques), workload())


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("parts") / "s.db"


@pytest.fixture
def study(store: Path) -> Iterator[Study]:
    """One study for all tests here, opened afresh by each: every test has a lock folder of its own."""
    with open_study(store) as opened:
        opened.check()
        yield opened


def uniform(study: Study, choice: str) -> Recipe:
    prepared, _ = study._start(lambda _: None)
    return next(recipe for _, recipe in prepared.space.uniform if choice in recipe["quantize"].values())


def finished(study: Study, recipe: Recipe) -> Trial:
    """The trial of a recipe; other programs may hold the device meanwhile."""
    _, runner = study._start(lambda _: None)
    number = study.store.start_trial(recipe, "user")
    while True:
        try:
            return runner.run(number, recipe)
        except Waiting as waiting:
            assert runner.targets.outlast(waiting.targets)


def test_a_recipe_that_goes_through_all_parts_is_judged_as_in_one_go(study: Study) -> None:
    _, runner = study._start(lambda _: None)
    assert runner.sides[0].stages is not None and runner.sides[0].stages.looks == 4
    ((artifact, _),) = runner.build(uniform(study, "int8-static")).values()
    whole = runner.judging.predict(artifact.digest, runner.sides[0].judged_search().dataset)
    assert runner.sides[0].stages.first(artifact.digest) is None  # not hopeless
    joined = runner.sides[0].stages.rest(artifact.digest)
    assert not isinstance(joined, Lost) and joined is not None
    assert (joined.ids, joined.predictions) == (whole.ids, whole.predictions)
    assert joined.confidence is None or joined.confidence == pytest.approx(whole.confidence)
    assert joined.divergence == whole.divergence


def test_parts_that_were_answered_are_not_asked_again(study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    _, runner = study._start(lambda _: None)
    assert runner.sides[0].stages is not None
    ((artifact, _),) = runner.build(uniform(study, "w8-load")).values()
    asked: list[str] = []
    real = type(runner.judging).predict

    def counting(judging: Any, digest: str, dataset: Dataset) -> Any:
        asked.extend(sample.id for sample in dataset.samples)
        return real(judging, digest, dataset)

    monkeypatch.setattr(type(runner.judging), "predict", counting)
    assert runner.sides[0].stages.first(artifact.digest) is None
    first = len(asked)
    assert runner.sides[0].stages.first(artifact.digest) is None and len(asked) == first
    runner.sides[0].stages.rest(artifact.digest)
    assert len(asked) == len(set(asked)) == MANY


def test_a_hopeless_recipe_is_given_up_before_the_device_is_asked(study: Study) -> None:
    _, runner = study._start(lambda _: None)
    recipe = uniform(study, "w2-b32-load")
    trial = finished(study, recipe)
    assert trial.state == "rejected" and not trial.measurements and not trial.evaluations
    assert trial.reason.startswith("after 64 of 320 samples") and "the limit is 30.0 pt" in trial.reason
    for key in ("drop", "drop/worst", "drop/side=left"):
        assert trial.metrics[key].low <= trial.metrics[key].value <= trial.metrics[key].high
    assert trial.metrics["drop/worst"].low > 0.3
    assert runner.gave_up(trial.number) and study.store.meta(f"stopped/{trial.number}") == {"samples": 64, "of": 320}


def test_the_sampler_is_told_what_is_known_of_it(study: Study) -> None:
    prepared, runner = study._start(lambda _: None)
    recipe = uniform(study, "w2-b32-load")
    if study.store.find_trial(recipe) is None:
        finished(study, recipe)
    memory = Memory(
        study.config,
        prepared,
        study.store,
        runner,
        study.objectives,
        Warm(),
        Starting(study.config, prepared, study.store),
        lambda _: None,
    )
    told = [t for t in memory._study.trials if t.state == optuna.trial.TrialState.PRUNED]
    assert len(told) == 1
    known = told[0].user_attrs
    assert set(known["observed"]) == {"0"} and known["damage"]  # the size, and no drop that only a part has shown
    assert "side=left" in known["drop"]


def test_judging_at_once_gives_the_same_record(study: Study, tmp_path: Path) -> None:
    recipe = uniform(study, "int8-static")
    with open_study(tmp_path / "whole.db", sequential=False) as whole:
        whole.check()
        records = []
        for each in (study, whole):
            trial = finished(each, recipe)
            assert trial.state == "complete"
            (evaluation,) = each.store.trial(trial.number).evaluations
            records.append(evaluation.model_dump(exclude={"seconds"}))
        assert whole._start(lambda _: None)[1].sides[0].stages.looks == 1  # type: ignore[union-attr]
    assert records[0] == records[1]


def test_profiles_of_uniform_recipes_are_a_guess_of_the_latency(study: Study) -> None:
    prepared, _ = study._start(lambda _: None)
    assert layer_times(study.store, prepared.space).keys() <= {v.name for v in prepared.space.variables}
    recipe = uniform(study, "w8-load")
    if study.store.find_trial(recipe) is None:
        finished(study, recipe)
    times = layer_times(study.store, prepared.space)
    assert times and all(row["none"] == 0.0 and "w8-load" in row for row in times.values())
    assert anchors(study.config, prepared.space) == prepared.space.uniform


def test_the_history_of_the_volume_is_kept(study: Study) -> None:
    outlook = Outlook(study.config, study.store, study.objectives)
    outlook.keep(20, "because")
    kept = study.store.meta("outlook")
    ended = [t for t in study.store.trials() if t.state != "running" and t.number]
    assert [number for number, _ in kept["volumes"]] == [t.number for t in ended]
    assert kept["stopped"] == "because" and kept["forecast"] is None
    volumes = [volume for _, volume in kept["volumes"]]
    assert volumes == sorted(volumes) and 0 <= volumes[-1] < 1
