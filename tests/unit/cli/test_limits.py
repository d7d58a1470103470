"""Limits on the command line: what is rewritten before options are parsed, and what reaches the study."""

from __future__ import annotations

from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from autotune.cli import limits, main
from autotune.cli.limits import KEYS, asked, spread_limits
from autotune.config import Asked
from autotune.errors import UsageError
from autotune.keys import parse_key
from tests.unit.test_config import write
from tests.unit.test_config_limits import STUDY


@pytest.mark.parametrize(
    ("typed", "parsed"),
    [
        ("run digits --max-drop/night 2pt", "run digits --max drop/night=2pt"),
        ("run --max-drop/night 2pt digits", "run --max drop/night=2pt digits"),
        ("run digits --max-drop/night=2pt", "run digits --max drop/night=2pt"),
        ("run digits --max-drop/font=serif 2pt", "run digits --max drop/font=serif=2pt"),
        ("run digits --max-drop/length=8 2pt", "run digits --max drop/length=8=2pt"),
        ("run digits --max-drop/all 1pt", "run digits --max drop=1pt"),
        ("run digits --max-drop/worst 1pt", "run digits --max drop/worst=1pt"),
        ("run digits --max-flips/night 3%", "run digits --max flips/night=3%"),
        ("run digits --min-accuracy/night 90%", "run digits --min accuracy/night=90%"),
        ("run digits --min-f1 0.8", "run digits --min f1=0.8"),
        ("run digits --min-f1-macro/night 80%@rpi5", "run digits --min f1_macro/night@rpi5=80%"),
        # declared options and everything else stay as they are
        ("run digits --max-drop 1pt --max-size=10MB", "run digits --max-drop 1pt --max-size=10MB"),
        ("run digits --max-sise 10MB", "run digits --max-sise 10MB"),
        ("run digits --max-drop/night", "run digits --max-drop/night"),
        ("run digits --max-drop/night soon", "run digits --max-drop/night soon"),
        ("run digits --trials 5 --min size=3", "run digits --trials 5 --min size=3"),
        ("measure m.onnx --max-pairs 5", "measure m.onnx --max-pairs 5"),
        ("--version", "--version"),
        # `front` has only the general form
        ("front digits --max-latency-p90 8ms@rpi5", "front digits --max latency_p90@rpi5=8ms"),
        ("front digits --max-size 10MB", "front digits --max size_bytes=10MB"),
        ("front digits --min-accuracy 90% --x a", "front digits --min accuracy=90% --x a"),
        ("judge a.onnx b.onnx --max-drop/night 2pt", "judge a.onnx b.onnx --max drop/night=2pt"),
    ],
)
def test_limits_that_no_option_can_be_declared_for(typed: str, parsed: str) -> None:
    assert spread_limits(typed.split()) == parsed.split()


def test_every_short_option_names_a_metric() -> None:
    for key in KEYS.values():
        needs_target = key.startswith(("latency", "memory", "energy"))
        parse_key(f"{key}@local" if needs_target else key, metric="accuracy")


def test_what_was_typed_is_named() -> None:
    words = spread_limits(["run", "digits", "--max-drop/night", "2pt", "--max", "drop/day=1pt"])
    assert asked({}, [words[3], words[5]], None) == [
        Asked("--max-drop/night 2pt", "drop/night", "2pt"),
        Asked("--max drop/day=1pt", "drop/day", "1pt"),
    ]
    spread_limits(["run", "digits"])
    assert asked({}, ["drop/night=2pt"], None)[0].said == "--max drop/night=2pt", "of this command line alone"


def test_what_was_asked_for() -> None:
    named = {"--max-size": ["10MB"], "--max-latency-p90": ["8ms@rpi5", "3ms@local"], "--max-drop": None}
    assert asked(named, ["drop/font=serif=2pt"], ["accuracy=90%"]) == [
        Asked("--max-size 10MB", "size_bytes", "10MB"),
        Asked("--max-latency-p90 8ms@rpi5", "latency_p90", "8ms@rpi5"),
        Asked("--max-latency-p90 3ms@local", "latency_p90", "3ms@local"),
        Asked("--max drop/font=serif=2pt", "drop/font=serif", "2pt"),
        Asked("--min accuracy=90%", "accuracy", "90%", largest=False),
    ]
    for word in ("accuracy", "=90%"):
        with pytest.raises(UsageError, match=r"--min .*write KEY=VALUE"):
            asked({}, None, [word])


def test_the_options_as_typer_reads_them() -> None:
    found: list[Asked] = []
    app = typer.Typer()

    @app.command()
    def take(size: limits.MaxSize = None, drop: limits.MaxDrop = None, largest: limits.Largest = None) -> None:
        found.extend(asked({"--max-size": size, "--max-drop": drop}, largest, None))

    words = ["--max-size", "10MB", "--max-drop", "1pt", "--max", "flips=3%", "--max", "drop/a=b=1pt"]
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 0, result.output
    assert [(each.key, each.amount) for each in found] == [
        ("size_bytes", "10MB"),
        ("drop/worst", "1pt"),
        ("flips", "3%"),
        ("drop/a=b", "1pt"),
    ]


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        ("--max-size 0MB", "--max-size 0MB: size_bytes of at most 0 B cannot be met"),
        ("--max-size 5MB --max-size 6MB", "--max-size 6MB: size_bytes is limited by --max-size 5MB already"),
        (
            "--max-drop/paper=clean 1pt --max-drop/paper=clean=2pt",
            "--max-drop/paper=clean=2pt: drop/paper=clean is limited by --max-drop/paper=clean 1pt already",
        ),
        ("--max drop/night=-1pt", "--max drop/night=-1pt: drop/night of at most -1.0 pt asks for more"),
        ("--max-latency-p90 8ms@rpi", "--max-latency-p90 8ms@rpi: the study has no target 'rpi'; known: local"),
        ("--max-drop 2", "--max-drop 2: drop/worst of at most 200.0 pt limits nothing"),
        ("--max-drop/night -1pt", "--max-drop/night -1pt: drop/night of at most -1.0 pt asks for more"),
        ("--max accuracy=90%", "--max accuracy=90%: larger is better for accuracy; use --min"),
        ("--min-acuracy 90%", "--min-acuracy 90%: metric key 'acuracy': unknown metric 'acuracy'; did you mean"),
        ("--min drop/night=1pt", "--min drop/night=1pt: smaller is better for drop; use --max"),
        ("--max drop", "--max 'drop': write KEY=VALUE"),
        ("--max-sise 5MB", "No such option: --max-sise"),
        ("--max-drop/night", "No such option: --max-drop/night"),
    ],
)
def test_a_mistake_in_a_limit_is_one_line_before_anything_runs(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], words: str, hint: str
) -> None:
    write(tmp_path, STUDY)
    assert main(["run", str(tmp_path), *words.split()]) == 2
    error = capfd.readouterr().err.strip().splitlines()
    assert hint in error[-1] and error[-1].startswith("autotune: ")
    assert len(error) == 1 or "running the study's own code" in error[0]
