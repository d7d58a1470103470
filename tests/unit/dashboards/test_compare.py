"""The page of a comparison: honest, complete, and deaf to what names contain."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from autotune import plugins
from autotune.errors import DiskError
from dashboards.figures import palette
from dashboards.figures.compare import bars_figure, dots_figure
from dashboards.info.compare import charts, facts, headline, verdict
from dashboards.page.compare import render_comparison, write_comparison
from hwprofiles.comparison import Comparison, Row
from tests.unit.made_up import compared, failed, measured, row

EVIL = "</script><script>alert(1)</script><img src=x onerror=alert(2)>\"'&\u202e.onnx"


def rich() -> Comparison:
    """Two targets with prices, one emulated, one that is not there, one model that fails on one of them."""
    rows = [
        row(measured("big.onnx", "pi", 0.110, joules=0.9), "big.onnx", 0.02),
        row(measured("small.onnx", "pi", 0.046, 0.110, joules=0.4, quality=("noisy",)), "small.onnx", 0.02),
        row(measured("same.onnx", "pi", 0.1102, 0.110), "same.onnx", 0.02),
        row(measured("big.onnx", "card", 0.004), "big.onnx", 0.35),
        row(failed("small.onnx", "card", "no kernel for Foo"), "small.onnx", 0.35),
        row(measured("same.onnx", "card", 0.0041, 0.004, half=0.06), "same.onnx", 0.35),
        row(measured("big.onnx", "fake", 0.00001, provenance="emulated"), "big.onnx"),
        *(Row(model=name, target="gone", unavailable="no route to host") for name in ("big.onnx", "small.onnx")),
    ]
    return compared(rows, prices={"pi": 0.02, "card": 0.35})


def test_charts_hold_what_was_measured_on_hardware() -> None:
    found = {chart.name: chart for chart in charts(rich())}
    assert set(found) == {"latency", "cost", "energy", "memory"}
    latency = found["latency"]
    assert [panel.target for panel in latency.panels] == ["pi", "card"] and latency.unit == "ms"
    assert latency.logarithmic  # 4 to 110 ms
    labels = {(panel.target, p.model): p.label for panel in latency.panels for p in panel.points}
    assert labels == {
        ("pi", "big.onnx"): "110 ms",
        ("pi", "small.onnx"): "46.0 ms, fastest",
        ("pi", "same.onnx"): "110 ms",
        ("card", "big.onnx"): "4.00 ms, not told apart yet",
        ("card", "same.onnx"): "4.10 ms, not told apart yet",
    }
    assert [panel.target for panel in found["energy"].panels] == ["pi"]
    assert any(p.label.endswith("EUR, cheapest") for panel in found["cost"].panels for p in panel.points)


def test_the_headline_is_about_money_where_there_is_a_price() -> None:
    first = headline(rich())
    assert first is not None and first.metric == "cost"
    alone = compared([row(measured("a", "t", 0.01), "a")])
    assert headline(alone) is None and "nothing to rank" in render_comparison(alone)


def test_a_headline_claims_no_more_than_is_known() -> None:
    def told(*rows: Row, **prices: float) -> str:
        comparison = compared(rows, prices=prices)
        first = headline(comparison)
        assert first is not None
        claim, _ = verdict(comparison, first)
        assert claim in render_comparison(comparison)
        return claim

    a, b = row(measured("a", "t", 0.010), "a", 1.0), row(measured("b", "t", 0.020, 0.010), "b", 1.0)
    assert told(a, b, t=1.0) == "a clear winner"
    assert told(a, b, row(measured("a", "u", 0.010), "a"), t=1.0) == "ahead among the targets with a price"
    busy = measured("b", "t", 0.020, 0.010, quality=("contended",))
    assert told(a, row(busy, "b", 1.0), t=1.0) == "ahead, but measurements were disturbed"
    few = measured("b", "t", 0.020, 0.010, pairs=6, quality=("short",))
    assert told(a, row(few, "b", 1.0), t=1.0) == "not enough data"
    # Two targets on one of which there is a winner, but which are not told apart themselves.
    a, b = row(measured("a", "t", 0.010), "a"), row(measured("b", "t", 0.020, 0.010), "b")
    assert told(a, b, row(measured("a", "u", 0.0105, half=0.1), "a")).startswith("cannot be told apart")
    assert told(a, row(measured("b", "t", 0.010, 0.010), "b")) == "a tie"


def test_no_table_of_the_page_is_wider_than_a_usual_screen() -> None:
    page = render_comparison(rich())
    heads = re.findall(r"<thead>(.*?)</thead>", page, re.S)
    assert max(head.count("<th") for head in heads) <= 12
    for column in ("time ratio", "p99", "throughput", "cold start", "EUR per million", "energy"):
        assert f">{column}</th>" in page


def test_what_was_read_once_has_no_interval() -> None:
    rows = [row(measured("a", "t", 0.010, half=0.0), "a", 1.0)]
    (fact,) = facts(compared(rows, prices={"t": 1.0}))
    assert fact.interval == "" and "to" not in fact.cost


def test_facts_say_why_a_percentile_is_missing() -> None:
    fact = facts(rich())[0]
    assert fact.p99 == "needs 662, has 640" and fact.p90 == "121 ms" and fact.ratio == "1"


def test_every_colour_of_a_figure_has_a_dark_partner() -> None:
    for chart in charts(rich()):
        figure = bars_figure(chart) if chart.name == "memory" else dots_figure(chart)
        colours = set(re.findall(r'"(#[0-9a-fA-F]{6})"', json.dumps(figure.to_plotly_json(), default=str)))
        assert colours and colours <= set(palette.DARK)


def test_without_colour_a_figure_still_tells_who_is_best() -> None:
    latency = next(chart for chart in charts(rich()) if chart.name == "latency")
    figure = dots_figure(latency)
    symbols = [symbol for trace in figure.data if trace.marker.symbol for symbol in trace.marker.symbol]
    assert "circle" in symbols and "circle-open" in symbols
    texts = " ".join(text for trace in figure.data for text in trace.text or ())
    assert "fastest" in texts and "not told apart yet" in texts and "not measured" in texts


def test_shapes_differ_in_their_symbols() -> None:
    shapes = {"short": 1.0, "long": 3.0}
    rows = [
        row(measured("a", "t", 0.01, shapes=shapes), "a"),
        row(measured("b", "t", 0.02, 0.01, shapes=shapes), "b"),
    ]
    (latency, *_) = charts(compared(rows))
    assert latency.shapes == ("short", "long")
    figure = dots_figure(latency)
    assert {symbol for trace in figure.data if trace.marker.symbol for symbol in trace.marker.symbol} == {
        "circle",
        "circle-open",
        "square",
        "square-open",
    }
    heights = [y for trace in figure.data if trace.marker.symbol for y in trace.y]
    assert len(set(heights)) == 4  # no two points of a panel on top of each other
    assert "shape short" in render_comparison(compared(rows))


def test_the_page_is_one_file_with_every_figure_in_its_place() -> None:
    page = render_comparison(rich())
    figures = json.loads(re.search(r'<script type="application/json" id="figures">(.*?)</script>', page, re.S)[1])  # type: ignore[index]
    assert set(figures) == {"chart-latency", "chart-cost", "chart-energy", "chart-memory"}
    for name in figures:
        assert f'id="{name}"' in page
    assert not re.search(r"<(script|link|img)[^>]+(src|href)=[\"']https?:", page)
    for anchor in re.findall(r'href="#([^"]+)"', page):
        assert f'id="{anchor}"' in page
    for words in ("no route to host", "no kernel for Foo", "fake is emulated, not hardware", "small.onnx on pi: noisy"):
        assert words in page


def test_names_cannot_become_markup() -> None:
    page = render_comparison(
        compared([row(measured(EVIL, "t", 0.01), EVIL), row(measured("b", "t", 0.02, 0.01), "b")], currency=EVIL)
    )
    assert "<img src=x" not in page and "<script>alert" not in page and "\u202e" not in page.replace("\\u202e", "")


def test_it_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    path = write_comparison(rich(), tmp_path / "deep" / "page.html")
    assert path.read_text().startswith("<!doctype html>")
    with pytest.raises(DiskError, match="another path"):
        write_comparison(rich(), path / "below-a-file.html")
    assert [file.name for file in path.parent.iterdir()] == ["page.html"]


def test_it_is_registered_for_the_command() -> None:
    assert plugins.load("hw_autotune.reports", "comparison") is write_comparison
