"""The report of a study in a real store is the report of the same study in memory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from autotune.recipe import Recipe
from autotune.report import write_report
from autotune.store import Store, open_store
from dashboards.info.flips import flip_info
from dashboards.info.headline import headline
from dashboards.info.layermap import layer_map
from dashboards.info.study import read_study


def fill(store: Store, study: Any) -> None:
    store.begin(study.config().model_dump_json(), "w" * 64)
    for key, value in study.store()._meta.items():
        store.set_meta(key, value)
    for trial in study.made:
        number = store.start_trial(Recipe(trial.recipe), trial.proposer)
        artifact = store.save_artifact(f"model {number}".encode(), "ort-cpu")
        store.record_build(number, artifact, trial.layers)
        for measurement in trial.measurements:
            store.add_measurement(measurement.model_copy(update={"model": artifact.digest}))
        for evaluation in trial.evaluations:
            store.add_evaluation(evaluation.model_copy(update={"artifact": artifact.digest}))
        store.finish_trial(
            number,
            trial.state,
            metrics=trial.metrics,
            reason=trial.reason,
            failure=trial.failure,
            durations=trial.durations,
        )
        if trial.final:
            store.set_final(number, trial.final)


def test_report_of_a_real_store(make_study: Any, tmp_path: Path) -> None:
    study = make_study(trials=8)
    with open_store(tmp_path / "store.db", "ocr") as store, store.lock():
        fill(store, study)
        real, fake = read_study(store), read_study(study.store())
        assert real.front == fake.front and real.limit == fake.limit and real.layers == fake.layers
        assert [trial.number for trial in real.shown] == [trial.number for trial in fake.shown]
        assert layer_map(real) == layer_map(fake)
        head = headline(real)
        assert head.trial is not None and head.tone == headline(fake).tone
        assert (head.size, head.speeds, head.drop) == (headline(fake).size, headline(fake).speeds, headline(fake).drop)
        flips = flip_info(real, store, head.trial.number)
        assert flips == flip_info(fake, study.store(), head.trial.number) and flips is not None and flips.worse
        assert write_report(store, tmp_path / "report.html").stat().st_size > 1_000_000
