"""The whole main job on a tiny real model: search, finalists, resume after kill -9, stop, failures as values."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import onnx
import pytest

from autotune.errors import DataError, UsageError
from autotune.recipe import Recipe
from autotune.search.progress import Progress
from autotune.store import open_store
from autotune.workload import Arrays
from tests.end_to_end import tiny

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The store of a whole run."""
    path = tmp_path_factory.mktemp("finished") / "store.db"
    with tiny.open_study(path, tiny.config(), tiny.workload()) as study:
        summary = study.run()
    assert summary.trials == 7 and not summary.stopped and len(summary.finalists) >= 1
    return path


def test_every_trial_is_whole(finished: Path) -> None:
    with open_store(finished, "tiny", must_exist=True) as store:
        trials = store.trials()
        assert [t.number for t in trials] == list(range(7))
        assert trials[0].recipe == {} and trials[0].metrics["drop/worst"].value == 0.0
        assert len({Recipe(t.recipe).digest for t in trials}) == 7
        for trial in trials:
            assert trial.state in ("complete", "rejected"), trial.failure
            assert trial.artifact is not None
            assert store.verify_artifact(trial.artifact.digest).stat().st_size == trial.artifact.size_bytes
            assert trial.layers and all(layer.honoured for layer in trial.layers), trial.layers
        complete = [t for t in trials if t.state == "complete"]
        for trial in complete:
            assert {"size_bytes", "latency_ratio@local", "memory_peak@local", "drop/side=left"} <= set(trial.metrics)
            assert trial.metrics["accuracy"].low <= trial.metrics["accuracy"].value <= trial.metrics["accuracy"].high


def test_finalists_are_judged_on_data_the_search_never_saw(finished: Path) -> None:
    with open_store(finished, "tiny", must_exist=True) as store:
        final = [t for t in store.trials() if t.final]
        assert {0} < {t.number for t in final}
        for trial in final:
            assert {e.dataset for e in store.trial(trial.number).evaluations} == {"search", "heldout"}
            assert {m.scenario.phase for m in trial.measurements} == {"search", "final"}


def test_a_second_run_has_nothing_to_do(finished: Path) -> None:
    with open_store(finished, "tiny", must_exist=True) as store:
        before = [t.model_dump_json() for t in store.trials()]
    messages: list[str] = []
    with tiny.open_study(finished, tiny.config(), tiny.workload()) as study:
        assert study.run(lambda progress: messages.append(progress.message)).new_trials == 0
    assert "the search ends: all 6 trials are done" in messages
    with open_store(finished, "tiny", must_exist=True) as store:
        assert [t.model_dump_json() for t in store.trials()] == before


def test_more_trials_go_on_where_it_stopped(finished: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy" / "store.db"
    copy.parent.mkdir()
    for part in finished.parent.iterdir():
        (copy.parent / part.name).symlink_to(part) if part.is_dir() else (copy.parent / part.name).write_bytes(
            part.read_bytes()
        )
    with tiny.open_study(copy, tiny.config(search={"trials": 8}), tiny.workload()) as study:
        summary = study.run()
    assert summary.new_trials == 2


def test_the_history_of_the_front_is_kept(finished: Path) -> None:
    with open_store(finished, "tiny", must_exist=True) as store:
        kept = store.meta("outlook")
    assert [number for number, _ in kept["volumes"]] == list(range(1, 7))
    volumes = [volume for _, volume in kept["volumes"]]
    assert volumes == sorted(volumes) and kept["stopped"] == "all 6 trials are done"
    assert kept["forecast"] is None  # after six trials nobody knows


def test_optuna_opens_the_mirror(finished: Path) -> None:
    import optuna

    storage = optuna.storages.JournalStorage(
        optuna.storages.journal.JournalFileBackend(str(finished.parent / "optuna.log"))
    )
    study = optuna.load_study(study_name="tiny", storage=storage)
    assert len(study.trials) >= 6 and study.best_trials


def test_kill_at_any_moment_loses_nothing_and_measures_nothing_twice(tmp_path: Path) -> None:
    store_path = tmp_path / "store.db"
    command = [sys.executable, "-m", "tests.end_to_end.tiny", str(store_path)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    acknowledged: set[int] = set()
    for lines in (3, 5, 8, 12):
        child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment, cwd=tmp_path)
        assert child.stdout is not None
        for _ in range(lines):
            child.stdout.readline()
        child.send_signal(signal.SIGKILL)
        child.wait()
        child.stdout.close()
        with open_store(store_path, "tiny") as store:
            finished = {t.number for t in store.trials(details=False) if t.state != "running"}
            assert acknowledged <= finished
            acknowledged = finished
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=environment, cwd=tmp_path, timeout=120)
    with open_store(store_path, "tiny") as store:
        trials = store.trials()
    assert len(trials) == 7 and all(t.state in ("complete", "rejected") for t in trials)
    measured = [(m.model, m.scenario.phase) for t in trials for m in t.measurements]
    by_artifact = {(t.artifact.digest, m.scenario.phase) for t in trials if t.artifact for m in t.measurements}
    assert len(set(measured)) == len(by_artifact)
    assert len({t.number for t in trials}) == 7


def test_stop_leaves_a_study_that_goes_on(tmp_path: Path) -> None:
    stop = threading.Event()

    def watch(progress: Progress) -> None:
        if progress.done == 2:
            stop.set()

    with tiny.open_study(tmp_path / "s.db", tiny.config(), tiny.workload()) as study:
        assert study.run(watch, stop).stopped
    with tiny.open_study(tmp_path / "s.db", tiny.config(), tiny.workload()) as study:
        summary = study.run()
        assert summary.trials == 7 and 0 < summary.new_trials < 7


def test_check_runs_the_baseline_and_nothing_else(tmp_path: Path) -> None:
    with tiny.open_study(tmp_path / "s.db", tiny.config(), tiny.workload()) as study:
        report = study.check()
        assert [t.number for t in study.store.trials()] == [0]
    assert {layer.op for layer in report.layers} == {"Conv", "Gemm"}
    assert all(layer.choices for layer in report.layers)
    assert report.space_log10 > 1 and report.seconds_per_trial > 0 and report.fingerprints["local"].cores > 0


def test_another_model_is_refused_by_a_used_store(finished: Path) -> None:
    other = tiny.workload(metric=_strict)
    with tiny.open_study(finished, tiny.config(), other) as study, pytest.raises(DataError):
        study.run()


def _strict(predictions: list[int], labels: list[int]) -> float:
    return float(np.mean([p == q for p, q in zip(predictions, labels, strict=True)]))


def test_a_decode_that_raises_fails_the_baseline_with_its_line(tmp_path: Path) -> None:
    def broken(outputs: Arrays) -> list[int]:
        raise KeyError("logits")

    with (
        tiny.open_study(tmp_path / "s.db", tiny.config(), tiny.workload(decode=broken)) as study,
        pytest.raises(Exception, match="logits") as caught,
    ):
        study.run()
    assert "\n" not in str(caught.value)


def test_the_original_may_break_the_constraints(tmp_path: Path) -> None:
    changes = {"constraints": {"size_bytes": 3200.0}, "search": {"trials": 3}}
    with tiny.open_study(tmp_path / "s.db", tiny.config(**changes), tiny.workload()) as study:
        study.run()
        trials = study.store.trials()
    assert trials[0].state == "complete" and trials[0].metrics["size_bytes"].value > 3200
    assert any(t.state == "rejected" and "size_bytes" in t.reason for t in trials)
    own = [t for t in trials if t.artifact != trials[0].artifact]  # equal bytes share their measurements
    assert all(not t.measurements for t in own if t.state == "rejected")  # size is known before device time


def test_a_recipe_that_cannot_be_built_is_a_failed_trial(tmp_path: Path) -> None:
    recipe = Recipe({"quantize": {"no such layer": "w8-load"}})
    with tiny.open_study(tmp_path / "s.db") as study:
        study.check()
        _, runner = study._start(lambda _: None)
        trial = runner.run(study.store.start_trial(recipe, "user"), recipe)
    assert trial.state == "failed" and trial.failure is not None and "no such layer" in trial.failure.message
    assert trial.failure.traceback


def test_a_model_that_answers_nan_is_refused_in_one_line(tmp_path: Path) -> None:
    model = onnx.ModelProto()
    model.CopyFrom(tiny.workload().model)
    for tensor in model.graph.initializer:
        if tensor.name == "fc.bias":
            tensor.CopyFrom(onnx.numpy_helper.from_array(np.full(5, np.nan, np.float32), "fc.bias"))
    with (
        tiny.open_study(tmp_path / "s.db", tiny.config(), tiny.workload(model=model)) as study,
        pytest.raises(Exception, match=r"not finite|NaN|nan") as caught,
    ):
        study.run()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"targets": ("lokal",)}, "lokal"),
        ({"search": {"objectives": ("size_byte",)}}, "size_byte"),
        ({"search": {"objectives": ("latency_p50@phone",)}}, "phone"),
        ({"search": {"sampler": "tpee"}}, "tpee"),
        ({"techniques": {"quantise": {}}}, "quantise"),
        ({"techniques": {"quantize": {"choices": ("int7",)}}}, "int7"),
        ({"exclude": ("no_such_*",)}, "no_such_"),
    ],
)
def test_unknown_names_are_one_line(changes: dict[str, object], message: str, tmp_path: Path) -> None:
    with (
        pytest.raises(Exception, match=message) as caught,
        tiny.open_study(tmp_path / "s.db", tiny.config(**changes), tiny.workload()) as study,
    ):
        study.run()
    assert "\n" not in str(caught.value) and getattr(caught.value, "exit_code", None) == 2


def test_verify_refuses_what_is_not_complete(finished: Path) -> None:
    with tiny.open_study(finished, tiny.config(), tiny.workload()) as study, pytest.raises(UsageError):
        study.verify(99)
