"""Recovery by training in a study: a damaged recipe is trained, its weights are measured and judged as any other trial,
and an interruption at any moment costs nothing that was kept."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from io import StringIO
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper
from rich.console import Console

from autotune.api.watch import ProgressView
from autotune.bundle import export_bundle, verify_bundle
from autotune.cli import main
from autotune.compress import checkpoints
from autotune.compress.ingest import load_model
from autotune.errors import ConfigError, DataError
from autotune.recover.batching import Batches
from autotune.recover.settings import Settings
from autotune.search.opening import CHECKPOINTS
from autotune.search.progress import Progress
from autotune.search.recovery import training
from autotune.search.recovery.data import split
from autotune.store import Store, open_store
from autotune.trial import Trial
from autotune.workload import Dataset, Sample, Workload
from tests.end_to_end import tiny
from tests.end_to_end.test_cli_bad_input import PROFILE, STUDY, TASK, model

torch = pytest.importorskip("torch")

STEPS = 200  # time never ends a training here, so that every machine takes the same steps
RECOVER = {"count": 1, "minutes": 60.0, "steps": STEPS, "batch": 32, "learning_rate": 0.005, "checkpoints": 2}
LOSSY = {"quantize": {"choices": ["w2-b32-load"], "calibration_samples": 4}}  # one recipe, which loses much


def network() -> onnx.ModelProto:
    """x [batch, 32] -> y [batch, 6]: three layers with random weights, whose answers are spread over the six."""
    rng = np.random.default_rng(3)
    nodes, constants, value = [], {}, "x"
    for index, (inputs, outputs) in enumerate(((32, 64), (64, 64), (64, 6))):
        constants[f"w{index}"] = rng.normal(size=(inputs, outputs)).astype(np.float32) * np.float32((2 / inputs) ** 0.5)
        nodes.append(
            helper.make_node("MatMul", [value, f"w{index}"], [f"m{index}" if index < 2 else "y"], name=f"l{index}")
        )
        if index < 2:
            nodes.append(helper.make_node("Relu", [f"m{index}"], [f"r{index}"], name=f"r{index}"))
            value = f"r{index}"
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 32])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 6])],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


def data(name: str, count: int, seed: int) -> Dataset:
    """Random inputs; labels are what the original answers."""
    inputs = np.random.default_rng(seed).normal(size=(count, 1, 32)).astype(np.float32)
    session = ort.InferenceSession(network().SerializeToString(), providers=["CPUExecutionProvider"])
    labels = session.run(None, {"x": inputs[:, 0]})[0].argmax(axis=1)
    return Dataset(
        name,
        [
            Sample(f"{name}{i}", {"x": x}, int(label), {"side": "left" if i % 2 else "right"})
            for i, (x, label) in enumerate(zip(inputs, labels, strict=True))
        ],
    )


def workload(**changes: Any) -> Workload:
    given = {
        "model": network(),
        "search": data("search", 200, 1),
        "heldout": data("heldout", 200, 2),
        "calibration": [sample.inputs for sample in data("calibration", 8, 4).samples],
        "train": data("train", 640, 7),
    }
    return tiny.workload(**(given | changes))


def config(**changes: Any) -> Any:
    """One lossy recipe within reach of recovery: a limit of 15 points, five of which are 75."""
    given = {
        "techniques": LOSSY,
        "search": {"trials": 1, "objectives": ["size_bytes", "drop/worst"]},
        "judge": {"limit": 0.15, "floor": 5, "probe": 10, "workers": 1},
        "recover": RECOVER,
        "finalists": {"count": 0},
    }
    return tiny.config(**(given | changes))


def run(
    path: Path,
    watch: Callable[[Progress], None] = lambda _: None,
    *,
    config_: Any = None,
    workload_: Workload | None = None,
) -> list[Trial]:
    with tiny.open_study(path, config_ or config(), workload_ or workload()) as study:
        study.run(watch)
        return study.store.trials()


def recovered(trials: Sequence[Trial]) -> list[Trial]:
    return [trial for trial in trials if trial.recovered]


def parent(trial: Trial, trials: Sequence[Trial]) -> Trial:
    (found,) = [t for t in trials if t.number == int(trial.proposer.removeprefix("recover of trial "))]
    return found


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Progress]]:
    """The store of a whole run, and what it told."""
    path = tmp_path_factory.mktemp("recovered") / "store.db"
    told: list[Progress] = []
    run(path, told.append, config_=config(finalists={"count": 1, "parity": 0}))
    return path, told


def test_what_was_trained_loses_less_than_before(finished: tuple[Path, list[Progress]]) -> None:
    with open_store(finished[0], "tiny", must_exist=True) as store:
        trials = store.trials()
    found = recovered(trials)
    assert 1 <= len(found) <= 2 and all(trial.state == "complete" for trial in found)
    best = found[0]  # the best checkpoint is the first to be tried
    before = parent(best, trials)
    assert before.metrics["drop/worst"].value > 0.1
    assert best.metrics["drop/worst"].value < before.metrics["drop/worst"].value
    assert best.recipe["quantize"] == before.recipe["quantize"]
    assert abs(best.metrics["size_bytes"].value - before.metrics["size_bytes"].value) < 64  # formats are the same
    assert {"drop/side=left", "drop/side=right", "latency_p50@local"} <= best.metrics.keys()
    assert best.layers and all(layer.honoured for layer in best.layers)


def test_a_trained_one_is_a_finalist(finished: tuple[Path, list[Progress]]) -> None:
    with open_store(finished[0], "tiny", must_exist=True) as store:
        assert any(trial.final for trial in recovered(store.trials()))


def test_the_artifact_is_a_function_of_the_recipe(finished: tuple[Path, list[Progress]]) -> None:
    from autotune.recipe import Recipe

    with tiny.open_study(finished[0], config(), workload()) as study:
        prepared, _ = study._start(lambda _: None)
        for trial in recovered(study.store.trials()):
            assert trial.artifact is not None
            built = prepared.assembler.assemble(Recipe(trial.recipe))
            assert built == study.store.artifact_bytes(trial.artifact.digest)
            name = trial.recipe["recover"]["weights"]
            assert (study.store.folder / "recovered" / f"{name}.npz").is_file()


def test_progress_tells_step_loss_and_time(finished: tuple[Path, list[Progress]]) -> None:
    told = [each for each in finished[1] if each.stage == "recover"]
    steps = [each for each in told if "step" in each.message and "loss" in each.message]
    assert len(steps) >= STEPS // 2 and all(each.seconds_left is not None for each in steps)
    assert [each.done for each in steps] == sorted(each.done for each in steps) and steps[-1].done == steps[-1].total


def test_nothing_is_trained_twice(finished: tuple[Path, list[Progress]], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "recover", _never)
    with open_store(finished[0], "tiny", must_exist=True) as store:
        before = [t.model_dump_json() for t in store.trials()]
    again = run(finished[0], config_=config(finalists={"count": 1, "parity": 0}))
    assert [t.model_dump_json() for t in again] == before


def test_a_trained_trial_is_no_trial_of_the_search(finished: tuple[Path, list[Progress]], tmp_path: Path) -> None:
    """`search.trials` counts recipes of the space; the forecast and the sampler look at those only."""
    with open_store(finished[0], "tiny", must_exist=True) as store:
        volumes = store.meta("outlook")["volumes"]
        numbers = {t.number for t in recovered(store.trials())}
    assert not numbers & {number for number, _ in volumes}


def test_bundle_report_and_show_know_what_was_trained(
    finished: tuple[Path, list[Progress]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with open_store(finished[0], "tiny", must_exist=True) as store:
        trial = store.trial(recovered(store.trials())[0].number)
        folder = export_bundle(store, trial, tmp_path / "bundle", workload=workload())
    manifest = verify_bundle(folder)
    assert manifest["data"]["train"]["samples"] == 640
    assert "trained after compression" in (folder / "README.md").read_text()
    assert main(["show", "tiny", str(trial.number), "--store", str(finished[0])]) == 0
    said = capsys.readouterr().out
    assert f"recover: weights {trial.recipe['recover']['weights']}" in said
    assert f"proposed by {trial.proposer}" in said
    ort.InferenceSession(str(folder / "model.onnx"), providers=["CPUExecutionProvider"])


def test_check_says_what_recovery_takes(tmp_path: Path) -> None:
    with tiny.open_study(tmp_path / "s.db", config(), workload()) as study:
        report = study.check()
        (note,) = [note for note in report.notes if note.startswith("recover:")]
        assert "60 min or 200 steps" in note
        assert report.seconds_total > 3600
    with tiny.open_study(tmp_path / "t.db", config(recover=None), workload()) as study:
        assert not [note for note in study.check().notes if "recover" in note]


def test_where_none_is_worth_training_it_says_why(tmp_path: Path) -> None:
    told: list[Progress] = []
    assert not recovered(run(tmp_path / "s.db", told.append, config_=config(judge={"limit": 0.001, "workers": 1})))
    (last,) = [each for each in told if each.stage == "recover"]
    assert last.news  # it is not gone with the next line
    said = last.message
    assert said.startswith("no recipe promises to gain by training: no trial is complete (trial 1: after ")
    assert said.endswith("); allow milder choices in [techniques]")


# --- interruptions


class Killed(BaseException):
    """Ends the process, as far as the study can tell: nothing catches it."""


def _never(*_: object, **__: object) -> Any:
    raise AssertionError("this was trained before")


def _killed_at(word: str) -> Callable[[Progress], None]:
    def watch(progress: Progress) -> None:
        if progress.stage == "recover" and word in progress.message:
            raise Killed

    return watch


def test_killed_after_training_it_is_not_trained_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(Killed):
        run(tmp_path / "s.db", _killed_at("measuring and judging"))
    monkeypatch.setattr(training, "recover", _never)
    found = recovered(run(tmp_path / "s.db"))
    assert found and all(trial.state == "complete" for trial in found)


def test_killed_in_the_middle_it_goes_on_from_its_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(Killed):
        run(tmp_path / "s.db", _killed_at(f"step {STEPS - 20},"))
    with open_store(tmp_path / "s.db", "tiny", must_exist=True) as store:
        assert not recovered(store.trials())
        kept = _kept(store)
    assert kept, "no checkpoint was made by then"
    begun: list[int] = []
    wanted = training.recover

    def counted(student: onnx.ModelProto, *args: Any, **kwargs: Any) -> Any:
        (settings,) = [each for each in args if isinstance(each, Settings)]
        begun.append(settings.steps)
        return wanted(student, *args, **kwargs)

    monkeypatch.setattr(training, "recover", counted)
    found = recovered(run(tmp_path / "s.db"))
    assert begun == [STEPS - kept[-1]["step"]] and found
    with open_store(tmp_path / "s.db", "tiny", must_exist=True) as store:
        steps = [each["step"] for each in _kept(store)]
    assert steps[-1] >= kept[-1]["step"] and steps == sorted(steps)


def _kept(store: Store) -> list[dict[str, Any]]:
    """The checkpoints of the one training of a study."""
    records = [store.meta(f"recovery/{_digest(trial)}") for trial in store.trials() if not trial.recovered]
    (found,) = [each for each in records if each is not None]
    checkpoints: list[dict[str, Any]] = found["checkpoints"]
    return checkpoints


def _digest(trial: Trial) -> str:
    from autotune.recipe import Recipe

    return Recipe(trial.recipe).digest


# --- failures as values


def test_a_loss_that_becomes_nan_fails_the_attempt_and_not_the_study(tmp_path: Path) -> None:
    calls = 0

    def sick(outputs: Mapping[str, Any], labels: Sequence[Any]) -> Any:
        nonlocal calls
        calls += 1
        logits = outputs["y"]
        return torch.nn.functional.cross_entropy(logits, torch.tensor(labels)) * (float("nan") if calls > 100 else 1.0)

    lightly = config(recover={**RECOVER, "hard": 0.1})
    told: list[Progress] = []
    trials = run(tmp_path / "s.db", told.append, config_=lightly, workload_=workload(loss=sick))
    (failed,) = [trial for trial in trials if trial.state == "failed"]
    assert failed.failure is not None and failed.failure.kind == "nonfinite" and failed.failure.stage == "recover"
    assert "the workload's own loss is nan at step" in failed.failure.message
    assert "rate" not in failed.failure.message and "\n" not in failed.failure.message
    assert failed.failure.message.endswith("; what was found before that stays good")
    assert failed.proposer.startswith("recover of trial")
    before = [trial for trial in recovered(trials) if trial.state == "complete"]
    assert before, "the checkpoint from before stays, and is a trial"
    for trial in before:
        weights = checkpoints.load(tmp_path / CHECKPOINTS, trial.recipe["recover"]["weights"])
        assert weights and all(np.isfinite(array).all() for array in weights.values())
        assert trial.metrics["drop/worst"].value < parent(trial, trials).metrics["drop/worst"].value
    (ended,) = {
        each.message
        for each in told
        if "own loss is nan" in each.message and "recovery of" in each.message and not each.message.startswith("trial ")
    }
    assert ended.count("trial") == 1  # its number is told once
    count = len(trials)
    again = run(tmp_path / "s.db", config_=lightly, workload_=workload(loss=sick))
    assert len(again) == count  # not tried again


def test_steps_that_are_too_large_fail_the_attempt_with_the_step_and_leave_the_recipe_as_it_was(tmp_path: Path) -> None:
    trials, shown = shown_run(tmp_path / "s.db", config(recover={**RECOVER, "learning_rate": 1e30}), workload())
    (failed,) = [trial for trial in trials if trial.state == "failed"]
    assert failed.failure is not None and (failed.failure.kind, failed.failure.stage) == ("nonfinite", "recover")
    wanted = "recovery of trial 1: the loss became nan at step 2; lower learning_rate (now 1e+30)"
    assert failed.failure.message == wanted
    assert [line for line in shown if "nan" in line] == [f"recover  {wanted}"]
    assert parent(failed, trials).state == "complete" and recovered(trials) == [failed]
    assert not list((tmp_path / CHECKPOINTS).glob("*.npz"))  # there was none before


def test_a_training_sample_that_the_model_cannot_answer_is_named_and_the_checkpoint_from_before_stays(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One of 640 has NaN in its inputs, and its turn comes after validation was looked at."""
    small = {**RECOVER, "batch": 8, "checkpoints": 1}
    train = data("train", 640, 7)
    fit, _ = split(train)
    from autotune.recover.lessons import lessons

    lesson = next(islice(lessons(Batches(fit, 8), Settings(batch=8)), 59, None))
    sick = lesson[0].ids[0]
    samples = [
        replace(sample, inputs={"x": np.full((1, 32), np.nan, np.float32)}) if sample.id == sick else sample
        for sample in train.samples
    ]
    trials, shown = shown_run(tmp_path / "s.db", config(recover=small), workload(train=Dataset("train", samples)))
    failed, before = sorted(recovered(trials), key=lambda trial: trial.state, reverse=True)
    wanted = (
        f"recovery of trial 1: the loss became nan at step 60; the original's own answer to '{sick}' is not finite, so "
        "mend the inputs of Workload.train; what was found before that stays good"
    )
    assert failed.failure is not None and failed.failure.message == wanted
    assert [line for line in shown if "nan" in line] == [f"recover  {wanted}"]
    assert before.state == "complete"
    weights = checkpoints.load(tmp_path / CHECKPOINTS, before.recipe["recover"]["weights"])
    assert weights and all(np.isfinite(array).all() for array in weights.values())
    assert before.metrics["drop/worst"].value < parent(before, trials).metrics["drop/worst"].value
    assert main(["show", "tiny", str(failed.number), "--store", str(tmp_path / "s.db")]) == 0
    assert f"failed in recover (nonfinite): {wanted}" in " ".join(capsys.readouterr().out.split())


def shown_run(path: Path, config_: Any, workload_: Workload) -> tuple[list[Trial], list[str]]:
    """The trials of a study, and the lines that are seen while it runs."""
    seen = StringIO()
    view = ProgressView(Console(file=seen))
    trials = run(path, view.update, config_=config_, workload_=workload_)
    return trials, seen.getvalue().splitlines()


def test_a_loss_that_raises_fails_the_attempt_with_its_cause(tmp_path: Path) -> None:
    def broken(outputs: Mapping[str, Any], labels: Sequence[Any]) -> Any:
        return outputs["logits"]

    trials = run(tmp_path / "s.db", workload_=workload(loss=broken))
    (failed,) = [trial for trial in trials if trial.state == "failed"]
    assert failed.failure is not None and "logits" in failed.failure.message
    assert "stays good" not in failed.failure.message
    assert failed.failure.traceback is not None and "broken" in failed.failure.traceback


# --- bad input


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"train": None}, "[recover]: needs training data: set Workload.train in task.py, or remove the table"),
        ({"train": data("train", 1, 5)}, "needs two"),
    ],
)
def test_recovery_without_data_to_train_on(changes: dict[str, Any], words: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        tiny.open_study(tmp_path / "s.db", config(), workload(**changes))
    assert words in str(caught.value) and "\n" not in str(caught.value)
    assert not (tmp_path / "s.db").exists()


@pytest.mark.parametrize("command", ["check", "run"])
def test_the_command_line_says_so_before_anything_runs(
    command: str, own_folders: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = own_folders / "small"
    folder.mkdir()
    (folder / "study.toml").write_text(STUDY + "\n[recover]\nminutes = 1.0\n")
    (folder / "task.py").write_text(TASK)
    (folder / "local.toml").write_text(PROFILE)
    onnx.save(model(), folder / "model.onnx")
    assert main([command, str(folder)]) == 2
    err = capsys.readouterr().err.strip().splitlines()
    assert "recover: needs training data: set Workload.train in task.py, or remove the table" in err[-1]
    assert "study.toml:17:" in err[-1]
    assert not list(own_folders.rglob("store.db"))


def test_training_data_must_not_be_judged_on() -> None:
    from autotune.config.task import check_workload

    given = workload()
    check_workload(given, floor=5)
    for name in ("search", "heldout"):
        taken = Dataset("train", [*getattr(given, name).samples])
        with pytest.raises(DataError, match="different samples"):
            check_workload(workload(train=taken), floor=5)


def test_a_store_does_not_care_whether_there_is_training_data(finished: tuple[Path, list[Progress]]) -> None:
    """Adding `train` to a workload does not make another study of it."""
    from autotune.search.prepare import workload_digest

    ingested = load_model(network())
    assert workload_digest(workload(), ingested) == workload_digest(workload(train=None), ingested)
