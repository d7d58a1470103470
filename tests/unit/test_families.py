"""Runtime families of a study's targets: what they are, and which values, limits and objectives belong to each."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from autotune.config import StudyConfig, families_of, load_study, worth_telling
from autotune.errors import ConfigError, UsageError
from autotune.keys import parse_key
from autotune.pareto.families import of_target, own_key
from autotune.search.values import at_targets, slice_drops, worst_anywhere
from autotune.trial import Artifact, Elsewhere, Trial, Value
from hwprofiles.target import Target

CPU, PI = Target(name="cpu"), Target(name="pi", transport="ssh")
GPU = Target(name="gpu", dialect="tensorrt", runtime="tensorrt")
RTX = Target(name="rtx", dialect="tensorrt", runtime="tensorrt-rtx")


def config(*targets: Target, **changes: object) -> StudyConfig:
    made = StudyConfig.model_validate({"name": "s", "targets": tuple(t.name for t in targets), **changes})
    return made.with_families(worth_telling(families_of(targets)))


def test_a_family_is_a_dialect_with_what_runs_it() -> None:
    found = families_of([CPU, GPU, PI, RTX])
    assert [(f.dialect, f.targets, f.judge, f.guard) for f in found] == [
        ("ort-cpu", ("cpu", "pi"), "cpu", ""),
        ("tensorrt", ("gpu",), "gpu", "float16"),
        ("tensorrt", ("rtx",), "rtx", "float16"),
    ]
    assert worth_telling(families_of([CPU, PI])) == () and worth_telling(families_of([GPU])) == families_of([GPU])


def test_a_study_of_one_plain_family_is_kept_as_ever() -> None:
    plain = config(CPU, PI)
    assert not plain.several and "families" not in json.loads(plain.to_json())
    assert [str(key) for key in plain.objective_keys][-1] == "drop/worst"
    assert plain.limits == {"drop/worst": 0.01} and plain.bounds == {}
    told = config(CPU, GPU)
    assert StudyConfig.model_validate_json(told.to_json()) == told


def test_limits_without_a_target_hold_in_every_family() -> None:
    made = config(CPU, GPU, constraints={"drop/night": 0.05, "size_bytes": 1e6}, budget={"drop/worst@gpu": 0.03})
    assert made.bounds == {
        "drop/night": 0.05, "size_bytes": 1e6, "drop/night@gpu": 0.05, "size_bytes@gpu": 1e6,
    }  # fmt: skip
    assert made.limits == made.bounds | {"drop/worst": 0.01, "drop/worst@gpu": 0.03}
    assert made.slice_limits == {"night": 0.05}


def test_keys_that_cannot_be_are_refused() -> None:
    with pytest.raises(UsageError, match="size_bytes is the same on every target; drop '@pi'"):
        config(CPU, PI, constraints={"size_bytes@pi": 1e6})
    with pytest.raises(UsageError, match="cannot be called 'worst'"):
        families_of([CPU, Target(name="worst", dialect="tensorrt")])


def test_a_study_file_does_not_name_families(tmp_path: Path) -> None:
    (tmp_path / "study.toml").write_text('name = "s"\nfamilies = []\n')
    with pytest.raises(ConfigError, match=r"study.toml:2: families: is found out from the targets; leave it out"):
        load_study(str(tmp_path))


def test_a_loaded_study_knows_the_families_of_its_targets(tmp_path: Path) -> None:
    (tmp_path / "study.toml").write_text('name = "s"\ntargets = ["local", "two"]\n')
    (tmp_path / "two.toml").write_text('dialect = "tensorrt"\n')
    assert [family.targets for family in load_study(str(tmp_path)).config.families] == [("local",), ("two",)]


def test_values_of_families_have_the_names_of_their_targets() -> None:
    drop = Value(value=0.02, low=0.01, high=0.03)
    metrics = {"drop/worst": Value.exact(0.0), **at_targets({"drop/worst": Value.exact(0.0)}, ["cpu"])}
    metrics |= at_targets({"drop/worst": drop, "drop/night": drop}, ["gpu", "gpu2"])
    assert worst_anywhere(metrics, ["cpu", "gpu"]) == {"drop/worst@worst": drop}
    assert worst_anywhere(metrics, ["cpu", "rtx"]) == {}, "one has not judged"
    assert [name for name, _ in slice_drops(metrics)] == ["night", "night"]


def test_the_key_of_a_target_is_its_own_where_its_family_has_a_value() -> None:
    known = {"size_bytes", "size_bytes@gpu", "drop/worst", "drop/worst@gpu", "drop/worst@worst", "latency_ratio@gpu"}
    for text, mine in [("size_bytes", "size_bytes@gpu"), ("drop/worst@worst", "drop/worst@gpu"), ("flips", "flips")]:
        assert str(own_key(parse_key(text), "gpu", known)) == mine
    assert str(own_key(parse_key("drop/worst@worst"), "gpu", {"drop/worst"})) == "drop/worst"
    limits = {"drop/worst": 0.01, "drop/worst@gpu": 0.03, "size_bytes": 5.0, "latency_p50@cpu": 1.0}
    assert of_target(limits, "gpu", known) == {"drop/worst@gpu": 0.03, "size_bytes@gpu": 5.0}


def test_a_trial_as_a_target_of_another_family_has_it() -> None:
    artifacts = [Artifact(digest=letter * 64, size_bytes=1, dialect=letter) for letter in "ab"]
    metrics = {"size_bytes": Value.exact(1), "size_bytes@gpu": Value.exact(2), "latency_p50@gpu": Value.exact(3)}
    trial = Trial(
        number=1, recipe={}, state="complete", artifact=artifacts[0], metrics=metrics,
        elsewhere=(Elsewhere(targets=("gpu",), artifact=artifacts[1]),),
    )  # fmt: skip
    assert trial.on("cpu") is trial and trial.artifact_for("cpu") == artifacts[0]
    seen = trial.on("gpu")
    assert seen.artifact == trial.artifact_for("gpu") == artifacts[1] and trial.artifacts == tuple(artifacts)
    assert seen.metrics["size_bytes"].value == 2 and "latency_p50" not in seen.metrics
