"""A study without some of its targets: which keys are left, and what they are called then."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from autotune.config import StudyConfig, families_of, load_study, without, worth_telling
from autotune.config.leaving_out import announced, in_short
from autotune.errors import ConfigError
from hwprofiles.errors import TargetUnavailable
from hwprofiles.registry import find_target
from hwprofiles.target import Target

CPU = Target(name="cpu")
PI = Target(name="pi", transport="ssh")
CARD = Target(name="card", runtime="onnxruntime-cuda", dialect="ort-cuda", provider="CUDAExecutionProvider")
SLOW = Target(name="slow", provenance="emulated")


def study(*targets: Target, **tables: Any) -> StudyConfig:
    given = {"name": "mine", "targets": [target.name for target in targets], **tables}
    return StudyConfig.model_validate(given).with_families(worth_telling(families_of(targets)))


def keys(config: StudyConfig) -> list[str]:
    return [str(key) for key in config.objective_keys]


def test_the_default_objectives_follow_the_targets_that_are_left() -> None:
    both = study(CPU, CARD)
    assert keys(both) == ["size_bytes", "latency_ratio@cpu", "latency_ratio@card", "drop/worst@worst"]
    left = without(both, [CPU, CARD], {"card": "no driver"})
    assert keys(left) == ["size_bytes", "latency_ratio@cpu", "drop/worst"] and left.targets == ("cpu",)
    assert left.families == () and [each.target for each in left.left_out] == ["card"]


def test_a_guard_that_is_left_alone_stays() -> None:
    left = without(study(CPU, CARD), [CPU, CARD], {"cpu": "gone"})
    assert [family.guard for family in left.families] == ["float16"] and not left.several


def test_keys_about_it_go_and_are_named() -> None:
    objectives = ["size_bytes", "latency_ratio@pi", "latency_ratio@cpu", "drop/worst"]
    config = study(
        CPU,
        PI,
        search={"objectives": objectives},
        constraints={"memory_peak@pi": 1e6, "memory_peak@cpu": 2e6},
        budget={"latency_p90@pi": 0.1, "size_bytes": 3e6},
    )
    left = without(config, [CPU, PI], {"pi": "asleep"})
    assert keys(left) == ["size_bytes", "latency_ratio@cpu", "drop/worst"]
    assert left.constraints == {"memory_peak@cpu": 2e6} and left.budget == {"size_bytes": 3e6}
    (told,) = left.left_out
    assert told.keys == ("objective latency_ratio@pi", "constraint memory_peak@pi", "budget latency_p90@pi")
    assert told.sentence == (
        "target pi was left out of this study: asleep; with it went objective latency_ratio@pi, constraint "
        "memory_peak@pi, budget latency_p90@pi"
    )
    first, keys_gone, advice = announced(told, left, [CPU, PI])
    assert first == "target pi is LEFT OUT of this study: asleep; it goes on with cpu"
    assert keys_gone == f"  with it go {', '.join(told.keys)}"
    assert "`autotune targets probe pi --folder FOLDER-OF-THE-STUDY`" in advice, "no profile of that name is known"
    assert announced(told, left, [PI, CPU])[1].endswith("answers and sizes without @target are those of cpu")


def test_what_is_said_is_short_and_what_is_recorded_is_whole() -> None:
    """The reason of a card that is absent has several hundred characters, most of them what to install."""
    why = f"no driver here: libcuda.so.1 is not there; install it; and {'x' * 500}; try: pip install"
    card = find_target("h200")
    left = without(study(CPU, card), [CPU, card], {"h200": why})
    first, *others = announced(left.left_out[0], left, [CPU, card])
    assert first.endswith(": no driver here: libcuda.so.1 is not there; it goes on with cpu")
    assert all(len(line) < 250 for line in (first, *others)) and left.left_out[0].why == why
    assert "`autotune targets probe h200`; to have it in, end this" in others[-1]
    assert len(in_short("y " * 1000)) <= 160


def test_one_family_that_is_left_needs_no_target_in_its_keys() -> None:
    config = study(
        CPU,
        CARD,
        search={"objectives": ["size_bytes", "size_bytes@cpu", "latency_ratio@cpu", "drop/worst@worst"]},
        constraints={"size_bytes": 4e6, "size_bytes@cpu": 5e6, "accuracy/night@cpu": 0.8, "accuracy@card": 0.9},
        budget={"drop/worst": 0.02, "drop/worst@worst": 0.01},
    )
    left = without(config, [CPU, CARD], {"card": "no driver"})
    assert keys(left) == ["size_bytes", "latency_ratio@cpu", "drop/worst"]
    assert left.constraints == {"size_bytes": 5e6, "accuracy/night": 0.8}, "its own limit took the place of the general"
    assert left.budget == {"drop/worst": 0.01}, "both of them held, so the tighter does"


def test_two_families_that_are_left_keep_theirs() -> None:
    rtx = Target(name="rtx", runtime="tensorrt-rtx", dialect="tensorrt", provider="TensorRT-RTX")
    config = study(CPU, CARD, rtx, constraints={"size_bytes@rtx": 5e6, "drop/worst@worst": 0.1})
    left = without(config, [CPU, CARD, rtx], {"cpu": "gone"})
    assert left.several and left.constraints == {"size_bytes@rtx": 5e6, "drop/worst@worst": 0.1}


@pytest.mark.parametrize(
    ("objectives", "why"),
    [
        (["latency_ratio@pi", "size_bytes"], "its first objective is latency_ratio@pi"),
        (["drop/worst", "latency_p50@pi"], r"no objective that is a cost is left \(drop/worst\)"),
        (["latency_p50@pi"], "its first objective is latency_p50@pi"),
    ],
)
def test_where_what_it_is_about_goes_there_is_no_study(objectives: list[str], why: str) -> None:
    with pytest.raises(TargetUnavailable, match=f"asleep; the study does not go on without it: {why}"):
        without(study(CPU, PI, search={"objectives": objectives}), [CPU, PI], {"pi": "asleep"})


def test_where_nothing_can_be_timed_there_is_no_study() -> None:
    config = study(PI, SLOW, search={"objectives": ["size_bytes", "drop/worst"]})
    with pytest.raises(TargetUnavailable, match="asleep; the study does not go on without it: slow cannot be timed"):
        without(config, [PI, SLOW], {"pi": "asleep"})
    alone = study(SLOW, Target(name="other", provenance="emulated"), search={"objectives": ["size_bytes"]})
    assert without(alone, [SLOW, Target(name="other", provenance="emulated")], {"other": "x"}).targets == ("slow",)


def test_it_is_recorded_and_read_back_and_one_that_has_all_looks_as_ever() -> None:
    config = study(CPU, PI)
    assert "left_out" not in config.to_json() and "all_targets" not in config.to_json()
    left = without(config, [CPU, PI], {"pi": "asleep"})
    assert StudyConfig.model_validate_json(left.to_json()).left_out == left.left_out
    assert StudyConfig.model_validate_json(study(CPU, PI, all_targets=True).to_json()).all_targets
    with pytest.raises(ValidationError):
        study(CPU, all_targets="perhaps")


def test_nobody_writes_it_into_a_file(tmp_path: Any) -> None:
    (tmp_path / "study.toml").write_text('name = "mine"\nleft_out = []\n')
    with pytest.raises(ConfigError, match=r"study.toml:2: left_out: is found out from the targets"):
        load_study(str(tmp_path))
