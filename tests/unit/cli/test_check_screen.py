"""What `check` prints of a made-up report: what is cut together, and how long all of it takes."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from autotune.cli.check import _print
from autotune.search.check import CheckReport, LayerChoices
from autotune.search.offers import LeftOutChoice, Offer, Part
from autotune.trial import Trial


def printed(
    parts: tuple[Part, ...] = (), finalists: int = 0, trials: int = 4, lost: tuple[LeftOutChoice, ...] = ()
) -> str:
    offer = Offer(
        technique="prune",
        stage="prune",
        decisions=1,
        layers=1,
        choices=("cut-50%",),
        left_alone=(),
        parts=parts,
        lost=lost,
    )
    report = CheckReport(
        study="s", model_digest="d", skipped=(), notes=(), fingerprints={}, space_log10=1.0, seconds_per_trial=2.0,
        layers=(LayerChoices(name="up", op="MatMul", parameters=10, choices=()),), trials=trials, seconds_total=9.0,
        baseline=Trial(number=0, recipe={}, state="complete", metrics={}), warnings=(), techniques=(offer,),
        finalists=finalists,
    )  # fmt: skip
    console = Console(file=io.StringIO(), width=200, highlight=False)
    _print(console, report)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def part(kind: str, size: int, *changes: str, layer: str = "up") -> Part:
    return Part(layer=layer, kind=kind, size=size, changes=changes, choices=("cut-50%",))


@pytest.mark.parametrize(
    ("made", "line"),
    [
        (part("neurons", 64, "down"), "prune up: 64 neurons, and down with it"),
        (part("heads", 6, "k", "v", "o"), "prune up: 6 heads, and k, v, o with it"),
        (part("channels", 8, *"abcdef"), "prune up: 8 channels, and a, b, c, d and 2 more with it"),
        (part("channels", 8), "prune up: 8 channels"),
        (part("blocks", 3, "b", "c"), "prune up: a block of 3 layers with b, c"),
    ],
)
def test_a_line_for_each_that_is_cut(made: Part, line: str) -> None:
    assert f"  {line}" in [each.rstrip() for each in printed((made,)).splitlines()]


def test_choices_that_vanish_are_told_in_one_line() -> None:
    lost = (
        LeftOutChoice(choice="cut-25%", layers=2, reason="it removes nothing"),
        LeftOutChoice(choice="cut-50%", layers=1, reason="it removes nothing"),
        LeftOutChoice(choice="cut-75%", layers=1, reason="because"),
    )
    text = [line.rstrip() for line in printed(lost=lost).splitlines()]
    line = (
        "  prune leaves out cut-25% for 2 layers, cut-50% for 1 layer: it removes nothing; cut-75% for 1 layer: because"
    )
    assert line in text


def test_many_are_counted() -> None:
    text = printed(tuple(part("neurons", 64, layer=f"up{i}") for i in range(30)))
    assert text.count("64 neurons") == 12 and "prune: and 18 more" in text


def test_finalists_are_spoken_of_where_there_are_some() -> None:
    assert "4 trials at about 2.0 s take about 9 s" in printed()
    assert "1 trial at about 2.0 s and the finalists take about 9 s" in printed(finalists=3, trials=1)
