"""Words, screen and page of a parity report."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path

import pytest
from rich.console import Console

from autotune import plugins
from autotune.cli.agreement import print_parity
from autotune.errors import DiskError
from autotune.parity import words
from autotune.parity.report import (
    Divergence,
    LayerDistance,
    OutputParity,
    Pair,
    ParityReport,
    TargetParity,
    TensorDistance,
    Tolerance,
)
from dashboards.figures.parity import layers_figure
from dashboards.info.parity import CEILING, FLOOR, curves, outstanding
from dashboards.page.parity import render_parity, write_parity
from hwprofiles.errors import Failure
from hwprofiles.measurement import Estimate

EVIL = "</script><script>alert(1)</script><img src=x onerror=alert(2)>\"'&\u202e"


def layer(
    index: int, distance: float | None, own: float | None, *, name: str = "", wrong: bool = False
) -> LayerDistance:
    return LayerDistance(
        index=index, node=name or f"node{index}", op="Conv", layer=f"layer{index}", tensor=f"t{index}", kind="float",
        distance=distance, own=own, diverges=distance is None or distance > 1e-4, wrong=wrong,
        mismatch="" if distance is not None else "2 elements are NaN or infinite on one side only",
    )  # fmt: skip


def report(text: str = "") -> ParityReport:
    """One target that agrees, one with a wrong layer, one that is not there."""
    share = Estimate(value=0.875, low=0.6, high=0.97)
    good = OutputParity(output="y", kind="argmax", rows=16, agreement=Estimate(value=1, low=0.8, high=1), distance=1e-7,
                        worst_distance=2e-7, worst_sample=3, max_abs=1e-6, agrees=True)  # fmt: skip
    bad = good.model_copy(
        update={"agreement": share, "distance": None, "mismatch": f"sample 2: {text}NaN", "agrees": False}
    )
    where = layer(2, 0.02, 0.02, name=f"conv{text}", wrong=True)
    first = Divergence(where=where, inputs=(TensorDistance(tensor=f"t1{text}", distance=1e-7),), cause="operator",
                       tolerance=1e-4, explanation=f"why{text}")  # fmt: skip
    return ParityReport(
        model="ab" * 32, name=f"model{text}.onnx", samples=16, reference="float64", tolerance=Tolerance(),
        targets=(
            TargetParity(target="good", verdict="agree", outputs=(good,), traced_sample=3, exposed_equal=True,
                         layers=(layer(1, 1e-7, 1e-7), layer(2, 2e-7, 0.0)), sentence="good agrees"),
            TargetParity(target=f"bad{text}", verdict="disagree", outputs=(bad,), first=first, traced_sample=2,
                         layers=(layer(1, 1e-7, 1e-7), where, layer(3, None, None)), sentence=f"bad{text} differs",
                         notes=(f"a note{text}",)),
            TargetParity(target="gone", verdict="not compared", sentence="gone was not there",
                         failure=Failure(kind="unavailable", stage="open", message=f"no route{text}")),
        ),
        pairs=(Pair(one="good", other=f"bad{text}", equal=False, distance=None, agreement=0.875),),
        sentence="They differ.",
    )  # fmt: skip


def test_curves_share_their_places_and_stay_on_the_chart() -> None:
    good, bad = curves(report())
    assert [step.place for step in good.steps] == [1, 2] and [step.place for step in bad.steps] == [1, 2, 3]
    assert good.first is None and bad.first is not None and bad.first.layer.tensor == "t2"
    assert bad.steps[2].distance == CEILING and bad.steps[2].own is None and good.steps[1].own == FLOOR
    assert bad.first in outstanding(bad, 1) and len(outstanding(bad, 1)) == 1
    assert [step.place for step in outstanding(bad, 9)] == [1, 2, 3]


def test_figure_draws_both_distances_and_marks_the_first() -> None:
    figure = layers_figure(curves(report()), 1e-4)
    assert len(figure.data) == 5  # two targets with line and points, one mark
    assert list(figure.data[4].x) == [2] and figure.layout.yaxis.type == "log"


def test_targets_that_diverge_at_one_place_share_a_label() -> None:
    both = report()
    twin = both.targets[1].model_copy(update={"target": "twin"})
    figure = layers_figure(curves(both.model_copy(update={"targets": (*both.targets, twin)})), 1e-4)
    marks = [trace for trace in figure.data if trace.name == "first that diverges"]
    assert len(marks) == 1 and [text for text in marks[0].text if text] == ["bad, twin: layer2"]


def test_page_tells_everything_and_loads_nothing() -> None:
    page = render_parity(report())
    told = ("different answers", "They differ.", "First layer that diverges", "14 of 16", "conv", "a note")
    for text in (*told, "gone was not there", "a wrong kernel", "sample 2: NaN"):
        assert text in page
    assert not re.search(r'(src|href)="https?:', page.partition("<script")[0])


def test_hostile_names_stay_text() -> None:
    page = render_parity(report(EVIL))
    assert "<script>alert" not in page and "<img src=x" not in page and "\u202e" not in page
    figures = re.search(r'<script type="application/json" id="figures">(.*?)</script>', page, re.DOTALL)
    assert figures is not None and "<" not in figures[1]
    drawn = json.dumps(json.loads(figures[1]), ensure_ascii=False)
    assert "<script" not in drawn and "<img" not in drawn


def test_page_of_a_report_without_layers() -> None:
    bare = report().model_copy(update={"targets": report().targets[2:], "pairs": ()})
    page = render_parity(bare)
    assert "not all compared" in page and "chart-layers" not in page


def test_page_is_written_whole_through_the_entry_point(tmp_path: Path) -> None:
    path = tmp_path / "sub" / "parity.html"
    assert plugins.load("hw_autotune.reports", "parity") is write_parity
    assert write_parity(report(), path) == path
    assert path.read_text(encoding="utf-8") == render_parity(report())
    (tmp_path / "file").write_text("")
    with pytest.raises(DiskError, match="give another path"):
        write_parity(report(), tmp_path / "file" / "parity.html")


@pytest.mark.parametrize("text", ["", EVIL])
def test_screen_shows_each_target_once_and_no_markup(text: str) -> None:
    out = io.StringIO()
    print_parity(Console(file=out, width=120, highlight=False), report(text))
    shown = out.getvalue()
    assert shown.count("good agrees") == 1 and "14 of 16" in shown and "60 % to 97 %" in shown
    assert "first layer that diverges: Conv conv" in shown and "not compared" in shown


def test_screen_says_what_is_no_hardware() -> None:
    out = io.StringIO()
    given = report()
    emulated = given.targets[0].model_copy(update={"provenance": "emulated"})
    changed = given.model_copy(update={"targets": (emulated, *given.targets[1:])})
    print_parity(Console(file=out, width=140, highlight=False), changed)
    assert "good (emulated)" in out.getvalue() and "bad (" not in out.getvalue()
    assert ">emulated<" in render_parity(changed)


AMOUNTS = [(None, "no number can tell"), (0.0, "0"), (0.031, "3.1 %"), (2.4e-7, "2.4e-07"), (5e3, "5.0e+03")]


@pytest.mark.parametrize(("distance", "text"), AMOUNTS)
def test_amounts(distance: float | None, text: str) -> None:
    assert words.amount(distance) == text


def test_almost_all_is_not_all() -> None:
    assert words.share(0.99996) == "99.9 %" and words.share(1.0) == "100 %" and words.share(0.5) == "50 %"
