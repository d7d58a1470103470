"""Budgets and slices in a study file and on the command line: what is read, and the one line where it cannot be."""

from __future__ import annotations

from pathlib import Path

import pytest

import autotune
from autotune.config import Asked, StudyConfig, idle, load_study, load_workload, override, read_budget, tightest
from autotune.config.loader import LoadedStudy
from autotune.errors import ConfigError, UsageError
from hwprofiles.errors import UnknownTarget
from hwprofiles.registry import find_target
from tests.unit.test_config import EMULATED, TASK, refuse, write

STUDY = """\
name = "small"
targets = ["local"]

[constraints]
size_bytes = "10MB"         # line 5

[budget]
"latency_p90@local" = "8ms" # line 8
"drop/worst" = "1pt"
"drop/night" = "2pt"
accuracy = "90%"            # line 11

[slices]
night = "even >= 1"         # line 14
"""


def loaded(folder: Path, text: str = STUDY) -> LoadedStudy:
    return load_study(str(write(folder, text)))


def test_a_budget_is_read_with_its_units(tmp_path: Path) -> None:
    config = loaded(tmp_path).config
    assert config.budget == {"latency_p90@local": 0.008, "drop/worst": 0.01, "drop/night": 0.02, "accuracy": 0.9}
    assert config.slices == {"night": "even >= 1"}


@pytest.mark.parametrize(
    ("old", "new", "line", "hint"),
    [
        ('"8ms"', '"0ms"', 8, "cannot be met; give an amount above 0"),
        ('"8ms"', "-1", 8, "cannot be met"),
        ('"8ms"', '"8MB"', 8, "has the wrong unit"),
        ('"8ms"', '"soon"', 8, "is not an amount"),
        ('"latency_p90@local"', '"latency_p90"', 8, "needs a target; write latency_p90@TARGET"),
        ('"latency_p90@local"', '"latency_p90@rpi5"', 8, "names a target that is not in targets; known: local"),
        ('"drop/night" = "2pt"', '"drop/night" = "-2pt"', 10, "asks for more than the original has"),
        ('"drop/night" = "2pt"', '"drop/night" = "0pt"', 10, "cannot be shown by any number of samples"),
        ('"drop/worst" = "1pt"', '"drop/worst" = 0', 9, "give the smallest loss that matters, e.g. 0.1pt"),
        ('"drop/worst" = "1pt"', '"drop/worst" = "-1pt"', 9, "give the smallest loss that matters, e.g. 0.1pt"),
        ('size_bytes = "10MB"  ', '"drop/worst" = "0pt"', 5, "drop/worst of at most 0 pt cannot be shown"),
        ('"drop/night" = "2pt"', '"drop/night" = 2', 10, "limits nothing; 2 percentage points are written 2pt"),
        ('"drop/night"', '"size_bytes/night"', 10, "size_bytes has no slices"),
        ('accuracy = "90%"', "accuracy = 90", 11, "cannot be met; 90 percent are written 90%"),
        ("even >= 1", "even >=", 14, "slices.night: "),
        ('night = "even', 'worst = "even', 14, "'worst' means something else in metric keys"),
        ('night = "even', 'all = "even', 14, "'all' means something else in metric keys"),
        ('night = "even', '"night@home" = "even', 14, "cannot be named in a metric key"),
        ('night = "even', '" night" = "even', 14, "cannot be named in a metric key"),
        ('night = "even', '"" = "even', 14, "cannot be named in a metric key"),
        ('size_bytes = "10MB"', 'size_bytes = "0MB"', 5, "size_bytes of at most 0 B cannot be met"),
    ],
)
def test_what_cannot_be_is_one_line(tmp_path: Path, old: str, new: str, line: int, hint: str) -> None:
    assert old in STUDY
    message = refuse(tmp_path, STUDY.replace(old, new, 1))
    assert message.startswith(f"{tmp_path / 'study.toml'}:{line}: ")
    assert hint in message


def test_budget_keys_are_checked_against_the_workload_metric(tmp_path: Path) -> None:
    (tmp_path / "study.toml").write_text(STUDY.replace("accuracy =", "acuracy ="))
    (tmp_path / "task.py").write_text(TASK)
    with pytest.raises(ConfigError, match=r"study.toml:11: budget.acuracy: .*did you mean 'accuracy'"):
        load_workload(load_study(str(tmp_path)))
    said = override(loaded(tmp_path), budget=[Asked("--min acuracy=90%", "acuracy", "90%", largest=False)])
    with pytest.raises(UsageError, match=r"^--min acuracy=90%: .*did you mean 'accuracy'"):
        load_workload(said)


def test_a_budget_on_costs_of_what_is_no_hardware_is_refused(tmp_path: Path) -> None:
    (tmp_path / "phone.toml").write_text(EMULATED.format("emulated"))
    text = 'name = "small"\ntargets = ["local", "phone"]\n[search]\nobjectives = ["size_bytes", "drop/worst"]\n'
    message = refuse(tmp_path, text + '[budget]\n"latency_p50@phone" = "8ms"\n')
    assert "study.toml:6: budget.latency_p50@phone: latency_p50@phone is a cost on target 'phone'" in message
    study = loaded(tmp_path, text)
    with pytest.raises(UsageError, match=r"^--max-latency-p50 8ms@phone: target 'phone' is emulated"):
        override(study, budget=[Asked("--max-latency-p50 8ms@phone", "latency_p50", "8ms@phone")])
    found = override(study, budget=[Asked("--max-latency-p50 8ms", "latency_p50", "8ms")])
    assert found.config.budget == {"latency_p50@local": 0.008}, "what has no target is meant for the hardware"


def asked(*words: str) -> list[Asked]:
    found = []
    for word in words:
        option, amount = word.split()
        key = {"--max-size": "size_bytes", "--max-p90": "latency_p90", "--max-drop": "drop/worst"}.get(option, "f1")
        found.append(Asked(word, key, amount, option.startswith("--max")))
    return found


def test_the_command_line_replaces_the_budget_key_by_key(tmp_path: Path) -> None:
    study = loaded(tmp_path)
    found = override(study, budget=asked("--max-size 5MB", "--max-drop 3pt"))
    assert found.config.budget == {**study.config.budget, "size_bytes": 5e6, "drop/worst": 0.03}
    assert {key: str(who) for key, who in found.asked.items()} == {
        "size_bytes": "--max-size 5MB",
        "drop/worst": "--max-drop 3pt",
    }
    assert study.config.budget["drop/worst"] == 0.01


def test_a_limit_without_a_target_is_meant_for_all_of_them(tmp_path: Path) -> None:
    (tmp_path / "board.toml").write_text(EMULATED.format("hardware"))
    text = 'name = "small"\ntargets = ["local", "board"]\n'
    found = override(loaded(tmp_path, text), budget=asked("--max-p90 8ms"))
    assert found.config.budget == {"latency_p90@local": 0.008, "latency_p90@board": 0.008}
    found = override(loaded(tmp_path, text), budget=asked("--max-p90 8ms@board"))
    assert found.config.budget == {"latency_p90@board": 0.008}
    with pytest.raises(UsageError, match=r"latency_p90@board is limited by --max-p90 8ms already; give one of them"):
        override(loaded(tmp_path, text), budget=asked("--max-p90 8ms", "--max-p90 9ms@board"))


@pytest.mark.parametrize(
    ("word", "hint"),
    [
        ("--max-size 0MB", "^--max-size 0MB: size_bytes of at most 0 B cannot be met"),
        ("--max-size big", "^--max-size big: size_bytes: 'big' is not an amount"),
        ("--max-size 5MB@local", "^--max-size 5MB@local: .*is the same on every target; drop '@local'"),
        ("--max-p90 8ms@locl", r"^--max-p90 8ms@locl: the study has no target 'locl'; did you mean 'local'"),
        ("--min-p90 8ms", "^--min-p90 8ms: "),
        ("--max-drop 2", "^--max-drop 2: .*2 percentage points are written 2pt"),
        ("--max-drop 0pt", "^--max-drop 0pt: drop/worst of at most 0 pt cannot be shown by any number of samples"),
        ("--max-drop 1e-9pt", "^--max-drop 1e-9pt: .* give the smallest loss that matters, e.g. 0.1pt"),
        ("--max-drop -1pt", "^--max-drop -1pt: .*asks for more than the original has; give the smallest loss"),
        ("--max-f1 90%", "^--max-f1 90%: larger is better for f1; use --min"),
    ],
)
def test_words_of_the_command_line_that_cannot_be(tmp_path: Path, word: str, hint: str) -> None:
    wish = asked(word)
    if word.startswith("--min-p90"):
        wish = [Asked(word, "latency_p90", "8ms", largest=False)]
    with pytest.raises(UsageError, match=hint):
        override(loaded(tmp_path), budget=wish)


def test_how_long_and_from_what_a_run_learns(tmp_path: Path) -> None:
    study = loaded(tmp_path)
    found = override(study, until_stable=True, warm_start=["a/store.db#a", "recipe.json"]).config.search
    assert (found.until_stable, found.warm_start) == (True, ("a/store.db#a", "recipe.json"))
    assert override(study).config == study.config
    with pytest.raises(UsageError, match="--warm-start needs"):
        override(study, warm_start=[""])


def test_of_two_limits_on_one_key_the_tighter_counts() -> None:
    both = {"constraints": {"size_bytes": 8e6, "accuracy": 0.9}, "budget": {"size_bytes": 10e6, "accuracy": 0.8}}
    assert StudyConfig(name="a", **both).limits == {"size_bytes": 8e6, "accuracy": 0.9, "drop/worst": 0.01}
    assert tightest({"drop": 0.1}, {"drop": 0.2}, {"drop": 0.05}) == {"drop": 0.05}


def test_the_largest_loss_is_the_budget_s_or_the_judge_s() -> None:
    assert StudyConfig(name="a", budget={"drop/worst": 0.03}).limits == {"drop/worst": 0.03}
    wide = StudyConfig(name="a", constraints={"drop/worst": 0.05})
    assert wide.limits == {"drop/worst": 0.01} and wide.drop_limit == 0.01
    own = StudyConfig(name="a", budget={"drop/worst": 0.03, "drop/night": 0.02, "drop/day": 0.05, "drop": 0.005})
    assert own.slice_limits == {"night": 0.02, "day": 0.05, "all": 0.005}
    assert own.drop_shares == pytest.approx({"day": 0.6})  # a slice that is allowed more counts in proportion


def test_limits_that_do_nothing_are_told() -> None:
    config = StudyConfig(
        name="a",
        constraints={"size_bytes": 8e6},
        budget={
            "size_bytes": 10e6,
            "latency_p50@local": 0.009,
            "latency_p90@local": 0.008,
            "drop/night": 0.02,
            "drop/day": 0.001,
        },
    )
    assert idle(config) == [
        "budget size_bytes 10 MB: the constraint 8 MB is tighter and counts",
        "latency_p50@local 9 ms: latency_p90@local 8 ms is tighter and counts",
    ]  # a slice may be allowed more than the others
    assert idle(StudyConfig(name="a", budget={"drop/worst": 0.02, "drop/night": 0.02})) == []


def test_a_budget_in_python() -> None:
    targets = [find_target("local")]
    found = read_budget({"size_bytes": "5MB", "latency_p90": 0.008, "drop/worst": "1pt"}, targets)
    assert found == {"size_bytes": 5e6, "latency_p90@local": 0.008, "drop/worst": 0.01}
    for wrong, hint in (
        ({"size_bytes": -1}, "budget 'size_bytes': size_bytes of at most -1 B cannot be met"),
        ({"drop/worst": 0}, "budget 'drop/worst': drop/worst of at most 0 pt cannot be shown"),
        ({"latency_p90": "8ms", "latency_p90@local": "9ms"}, "is limited twice"),
        ({"latency_p90@rpi": "8ms"}, "the study has no target 'rpi'"),
    ):
        with pytest.raises(UsageError, match=hint):
            read_budget(wrong, targets)


def test_optimize_refuses_limits_before_it_looks_at_anything() -> None:
    nothing = autotune.Dataset("none", [])
    for options, hint in (
        ({"budget": {"size_bytes": "0MB"}}, "budget 'size_bytes': size_bytes of at most 0 B cannot be met"),
        ({"budget": {"latency_p90": "8ms"}, "targets": ["nowhere"]}, "unknown target 'nowhere'"),
        ({"constraints": {"drop/worst": 2}}, "constraints: drop/worst of at most 200.0 pt limits nothing"),
        ({"constraints": {"drop/night": "0pt"}}, "constraints: drop/night of at most 0 pt cannot be shown"),
        ({"budget": {"drop": 0}}, "budget 'drop': drop of at most 0 pt cannot be shown"),
        ({"bugdet": {}}, "no option 'bugdet'; did you mean 'budget'"),
    ):
        with pytest.raises((UsageError, UnknownTarget), match=hint):
            autotune.optimize("m.onnx", calibration=[], search=nothing, heldout=nothing, decode=list, **options)
