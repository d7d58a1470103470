"""One study over two dialects: an artifact, a judgement and a baseline for each, and one recipe for both.

The second dialect is registered as another package would register it, and its files really differ.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest

from autotune.api import choose
from autotune.bundle import export_bundle, verify_bundle
from autotune.compress.plan import Plan
from autotune.config import families
from autotune.errors import TrialFailure, UsageError
from autotune.recipe import Recipe
from autotune.report import write_report
from autotune.search.across import stored_across
from autotune.search.agreement import stored_parity
from autotune.search.beside import stored_beside
from autotune.search.evidence import not_offered
from autotune.search.study import Study
from autotune.store import open_store
from autotune.trial import Trial
from hwprofiles.errors import Failure
from tests.end_to_end import other_dialect, tiny
from tests.end_to_end.other_dialect import OtherCpu

ROOT = Path(__file__).parents[2]


def prepare(folder: Path) -> Path:
    """A folder with the profiles `local` and `other`, which has another dialect; and a package that registers it."""
    folder.mkdir(parents=True, exist_ok=True)
    profile = (tiny.TARGETS / "local.toml").read_text()
    (folder / "local.toml").write_text(profile)
    (folder / "other.toml").write_text(f'dialect = "{other_dialect.NAME}"\n{profile}')
    if not (folder / "site").exists():
        other_dialect.register(folder / "site")
    return folder


def study(folder: Path, **changes: Any) -> Study:
    config = tiny.config(**{"targets": ("local", "other"), "search": {"trials": 4}, **changes})
    return Study.open(config, tiny.workload(), store=folder / "store.db", folder=folder)


def trials_in(folder: Path) -> list[Trial]:
    with open_store(folder / "store.db", "tiny", must_exist=True) as store:
        return store.trials()


@pytest.fixture(autouse=True)
def registered(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(other_dialect.register(tmp_path_factory.mktemp("site") / "x")))


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A finished study over both."""
    folder = prepare(tmp_path_factory.mktemp("families"))
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(folder / "site"))
        patch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
        patch.setenv("HW_AUTOTUNE_LOCKS", str(folder / "locks"))
        with study(folder) as opened:
            summary = opened.run()
        assert summary.finalists and not summary.gone
    yield folder


def test_every_target_runs_and_judges_the_artifact_of_its_dialect(finished: Path) -> None:
    trials = trials_in(finished)
    assert len(trials) == 5 and all(trial.state == "complete" for trial in trials), [t.failure for t in trials]
    original = trials[0]
    for trial in trials:
        (other,) = trial.elsewhere
        mine, theirs = trial.artifact_for("local"), trial.artifact_for("other")
        assert mine is not None and mine == trial.artifact and theirs == other.artifact
        assert (mine.dialect, theirs.dialect) == ("ort-cpu", other_dialect.NAME)
        assert trial.layers and other.layers, "what ran is known for both"
        if "quantize" in trial.recipe:
            assert mine.digest != theirs.digest
        for measurement in trial.measurements:
            artifact, base = trial.artifact_for(measurement.target), original.artifact_for(measurement.target)
            assert artifact is not None and base is not None
            assert (measurement.model, measurement.baseline) == (artifact.digest, base.digest)
        seen = [(m.target, m.scenario.phase) for m in trial.measurements]
        assert len(seen) == len(set(seen)), "nothing is measured twice"
        assert {m.target for m in trial.measurements} == {"local", "other"}
        assert {e.target for e in trial.evaluations} == {"local"}
        assert {e.target for e in other.evaluations} == {"other"}
        assert all(e.artifact == theirs.digest for e in other.evaluations)


def test_metrics_of_every_family_have_its_name(finished: Path) -> None:
    for trial in trials_in(finished):
        mine, theirs = trial.artifact_for("local"), trial.artifact_for("other")
        assert mine is not None and theirs is not None
        for values in filter(None, (trial.metrics, trial.final)):
            assert values["size_bytes"].value == values["size_bytes@local"].value == mine.size_bytes
            assert values["size_bytes@other"].value == theirs.size_bytes
            assert values["drop/worst"] == values["drop/worst@local"]
            drops = [values[f"drop/worst@{name}"].value for name in ("local", "other")]
            assert values["drop/worst@worst"].value == max(drops)
        (other,) = trial.elsewhere
        assert trial.metrics["drop@other"].value == next(
            result.drop.value for result in other.evaluations[0].slices if result.name == "all"
        )


def test_what_one_dialect_cannot_write_is_no_choice_and_check_says_whose_fault_it_is(tmp_path: Path) -> None:
    with study(prepare(tmp_path)) as opened:
        report = opened.check()
        again = opened.check()
    offered = {choice for layer in report.layers for choice in layer.choices}
    assert "w8-load" in offered and not any("-b" in choice for choice in offered)
    (lost,) = [w for w in report.warnings if w.startswith("no choice for any target")]
    assert (
        f"because the dialect of other, {other_dialect.NAME}, cannot write it: " in lost
        and "Gather, Gemm, MatMul: " in lost
    )
    assert "w8-b32" in lost
    told = "\n".join(report.notes)
    assert "2 runtime families" in told and "size_bytes and drop/worst without @target are those of local" in told
    assert again.baseline == report.baseline


def test_default_objectives_limits_and_fronts(finished: Path) -> None:
    with study(finished) as opened:
        config = opened.config
    names = ["size_bytes", "latency_ratio@local", "latency_ratio@other", "drop/worst@worst"]
    assert [str(key) for key in config.objective_keys] == names
    assert config.limits == {"drop/worst": 0.2, "drop/worst@other": 0.2}
    choice = choose(trials_in(finished), config)
    assert choice.recommended is not None and not choice.guarded
    local, other = choice.targets
    assert [str(key) for key in local.keys] == ["size_bytes@local", "latency_ratio@local", "drop/worst@local"]
    assert [str(key) for key in other.keys] == ["size_bytes@other", "latency_ratio@other", "drop/worst@other"]


def test_the_bundle_holds_an_artifact_of_each_dialect_with_its_evidence(finished: Path, tmp_path: Path) -> None:
    with open_store(finished / "store.db", "tiny", must_exist=True) as store:
        trial = next(t for t in store.trials() if t.final and t.number)
        folder = export_bundle(store, trial, tmp_path / "bundle", workload=tiny.workload())
        page = write_report(store, tmp_path / "report.html").read_text()
        across = stored_across(store, trial)
        for artifact in trial.artifacts:
            report = stored_parity(store, artifact.digest)
            assert report is not None and len(report.targets) == 1, "compared with the reference where it runs"
    assert "Target other" in page
    assert [(pair.one, pair.other) for pair in across] == [("local", "other")] and across[0].equal
    manifest = verify_bundle(folder)
    theirs = trial.artifact_for("other")
    assert theirs is not None
    file = f"model-{other_dialect.NAME}.onnx"
    assert manifest["models"][file]["targets"] == ["other"] and manifest["files"][file]["sha256"] == theirs.digest
    assert manifest["models"]["model.onnx"]["targets"] == ["local"]
    evidence = json.loads((folder / "evidence.json").read_text())
    (elsewhere,) = evidence["elsewhere"]
    assert elsewhere["artifact"]["digest"] == theirs.digest and elsewhere["parity"] and elsewhere["layers"]
    assert all(each["outcomes"] is not None and each["target"] == "other" for each in elsewhere["evaluations"])
    assert f"`{file}` for other" in (folder / "README.md").read_text()
    feed = tiny.workload().heldout.samples[0].inputs
    answers = [
        ort.InferenceSession(folder / name, providers=["CPUExecutionProvider"]).run(None, dict(feed))[0]
        for name in ("model.onnx", file)
    ]
    np.testing.assert_array_equal(*answers)
    assert "tests.other" in {opset.domain for opset in onnx.load(folder / file).opset_import}


def test_a_build_that_one_dialect_refuses_fails_the_trial_and_names_the_target(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = OtherCpu.write

    def refusing(self: OtherCpu, plan: Plan, decisions: Mapping[str, str]) -> None:
        if "float16" in decisions.values():
            raise TrialFailure(Failure(kind="unsupported", stage="build", message="no half precision today"))
        write(self, plan, decisions)

    with study(prepare(tmp_path), search={"trials": 1}, finalists={"count": 0}) as opened:
        opened.check()
        monkeypatch.setattr(OtherCpu, "write", refusing)
        _, runner = opened._start(lambda _: None)
        layers = [layer.name for layer in runner.prepared.ingested.inspection.layers]
        recipe = Recipe({"quantize": dict.fromkeys(layers, "float16")})
        trial = runner.run(opened.store.start_trial(recipe, "user"), recipe)
    assert trial.state == "failed" and trial.failure is not None
    assert trial.failure.message == f"target other (dialect {other_dialect.NAME}): no half precision today"
    assert not trial.measurements


def test_a_killed_study_goes_on_and_measures_nothing_twice(tmp_path: Path) -> None:
    folder = prepare(tmp_path)
    path = os.pathsep.join([str(folder / "site"), str(ROOT)])
    said = []
    with subprocess.Popen(
        [sys.executable, __file__, str(folder)], stdout=subprocess.PIPE, text=True, cwd=ROOT,
        env={**os.environ, "PYTHONPATH": path},
    ) as run:  # fmt: skip
        assert run.stdout is not None
        for line in run.stdout:
            said.append(line)
            if line.startswith("trial 2"):
                run.send_signal(signal.SIGKILL)
                break
    assert any(line.startswith("trial 1 complete") for line in said), said
    before = trials_in(folder)
    with study(folder, finalists={"count": 0}) as opened:
        summary = opened.run()
    assert summary.trials == 5 and not summary.waiting
    after = trials_in(folder)
    assert after[:2] == before[:2], "what was finished is not done again"
    for trial in after:
        assert trial.state == "complete" and {e.target for e in trial.elsewhere[0].evaluations} == {"other"}
        seen = [(m.model, m.target) for m in trial.measurements]
        assert len(seen) == len(set(seen))


def test_a_key_of_a_target_is_refused_where_all_share_one_family(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="size_bytes is the same on every target; drop '@local'"):
        study(prepare(tmp_path), targets=("local",), search={"objectives": ["size_bytes@local"]})


@pytest.fixture
def guarded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(families.GUARDS, other_dialect.NAME, "float16")


@pytest.mark.usefixtures("guarded")
def test_on_a_guarded_target_a_searched_recipe_is_timed_beside_the_uniform_one(tmp_path: Path) -> None:
    """The study's own choices leave float16 out: it is tried all the same, and verified, whoever else is."""
    techniques = {"quantize": {"calibration_samples": 4, "choices": ["int8-static"]}}
    folder = prepare(tmp_path)
    with study(folder, targets=("other",), techniques=techniques) as opened:
        opened.run()
        trials = opened.store.trials()
        uniform = [t for t in trials if t.proposer.startswith("uniform ") and t.recipe]
        assert uniform[0].proposer == "uniform float16"
        assert all(set(t.recipe["quantize"].values()) == {t.proposer.removeprefix("uniform ")} for t in uniform)
        best = next(t for t in uniform if t.final)
        searched = next(t for t in trials if t.number and not t.proposer.startswith("uniform "))
        verified = opened.verify(searched.number)
        beside = stored_beside(opened.store, "other", verified.artifacts[0].digest)
        again = opened.verify(searched.number)
        trials = opened.store.trials()
        choice = choose(trials, opened.config)
        bundle = export_bundle(opened.store, verified, tmp_path / "bundle", workload=tiny.workload())
        why = not_offered(trials, verified, opened.config)["other"]
    assert (
        beside is not None and beside.ratio is not None and beside.baseline in {t.artifacts[0].digest for t in uniform}
    )
    ratio = verified.final["uniform_ratio@other"]
    assert ratio.value == beside.ratio.estimate.value and again.final == verified.final
    assert bool(why) is (ratio.high >= 1), "it is offered only where it is faster with certainty"
    assert choice.recommended is None or choice.recommended.number != verified.number or not why
    manifest, text = verify_bundle(bundle), (bundle / "README.md").read_text()
    assert manifest["not_offered"] == ({"other": why} if why else {})
    assert ("On other this model is not offered" in text) is bool(why)
    kept = json.loads((bundle / "evidence.json").read_text())["beside_uniform"]["other"]
    assert kept["baseline"] == beside.baseline and best.final


if __name__ == "__main__":  # the child of the kill test
    with study(Path(sys.argv[1]), finalists={"count": 0}) as running:
        running.run(lambda progress: print(progress.message, flush=True))  # noqa: T201 the parent reads it
