"""What `check` prints of a made-up report: what is cut together, and how long all of it takes."""

from __future__ import annotations

import io
from typing import Any

import pytest
from rich.console import Console

from autotune.cli.check import _print
from autotune.config.families import LeftOut
from autotune.search.check import CheckReport, LayerChoices
from autotune.search.offers import LeftOutChoice, Offer, Part
from autotune.trial import Trial


def printed(
    parts: tuple[Part, ...] = (),
    finalists: int = 0,
    trials: int = 4,
    lost: tuple[LeftOutChoice, ...] = (),
    left_out: tuple[LeftOut, ...] = (),
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
        finalists=finalists, left_out=left_out,
    )  # fmt: skip
    console = Console(file=io.StringIO(), width=200, highlight=False)
    _print(console, report)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def part(kind: str, size: int, *changes: str, layer: str = "up", **more: Any) -> Part:
    return Part(layer=layer, kind=kind, size=size, changes=changes, choices=("cut-50%",), **more)


@pytest.mark.parametrize(
    ("made", "line"),
    [
        (part("neurons", 64, "down"), "prune up: 64 neurons, and down with it"),
        (part("heads", 6, "k", "v", "o"), "prune up: 6 heads, and k, v, o with it"),
        (part("channels", 8, *"abcdef"), "prune up: 8 channels, and a, b, c, d and 2 more with it"),
        (part("channels", 8), "prune up: 8 channels"),
        (part("blocks", 3, "b", "c"), "prune up: a block of 3 layers with b, c"),
        (part("heads", 2, "k", total=8), "prune up: 2 groups of 4 heads, and k with it"),
        (part("heads", 8, "k", total=8), "prune up: 8 heads, and k with it"),
        (part("channels", 24, total=32, even=False), "prune up: 32 channels, in 24 groups"),
        (part("neurons", 64, normed=True), "prune up: 64 neurons; norms take their statistics over what is left"),
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


def test_a_target_that_is_left_out_is_named_with_its_reason_and_the_remedy_below() -> None:
    left = LeftOut(
        target="card", why="no driver here; install it; and no runtime; try: pip install x", keys=("budget a",)
    )
    text = [line.rstrip() for line in printed(left_out=(left,)).splitlines()]
    place = text.index("  card: LEFT OUT: no driver here")
    assert text[place + 1 : place + 3] == [
        "    install it; and no runtime; try: pip install x",
        "    with it go budget a",
    ]
