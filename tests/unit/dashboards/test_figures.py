"""Figures are drawn from the info and nothing is lost on the way."""

from __future__ import annotations

import re
from typing import Any

import pytest

from dashboards.figures import palette
from dashboards.figures.front import drop_figure, speed_figure
from dashboards.figures.layermap import layer_figure
from dashboards.figures.progress import progress_figure, stages_figure
from dashboards.figures.slicemap import slice_figure
from dashboards.info.front import front_info
from dashboards.info.layermap import layer_map
from dashboards.info.progress import progress
from dashboards.info.slicemap import slice_map
from dashboards.info.study import StudyView, read_study


@pytest.fixture(scope="module")
def view(study: Any) -> StudyView:
    return read_study(study.store())


@pytest.fixture(scope="module")
def figures(view: StudyView) -> dict[str, dict[str, Any]]:
    chosen = view.finalists[0].number
    front = front_info(view, "local", chosen)
    made = {
        "speed": speed_figure(front),
        "drop": drop_figure(front),
        "layers": layer_figure(layer_map(view), chosen),
        "slices": slice_figure(slice_map(view, chosen), chosen),
        "progress": progress_figure(progress(view)),
        "stages": stages_figure(progress(view).stages),
    }
    return {name: figure.to_plotly_json() for name, figure in made.items()}


def test_every_trial_with_a_size_is_in_both_views(view: StudyView, figures: dict[str, Any]) -> None:
    expected = {trial.number for trial in view.trials}
    for name in ("speed", "drop"):
        hovers = [text for trace in figures[name]["data"] for text in trace.get("hovertext") or ()]
        assert {int(match[1]) for text in hovers if (match := re.search(r"<b>trial (\d+)</b>", text))} == expected


def test_error_bars_reach_the_bounds_of_the_interval(view: StudyView, figures: dict[str, Any]) -> None:
    trace = next(t for t in figures["speed"]["data"] if t["name"] == "uniform")
    uniform = [t for t in view.trials if t.proposer.startswith("uniform")]
    for index, trial in enumerate(uniform):
        value = trial.metrics["latency_ratio@local"]
        assert trace["y"][index] + trace["error_y"]["array"][index] == pytest.approx(value.high)
        assert trace["y"][index] - trace["error_y"]["arrayminus"][index] == pytest.approx(value.low)


def test_finalists_are_drawn_where_the_second_look_saw_them(view: StudyView, figures: dict[str, Any]) -> None:
    rings = next(t for t in figures["speed"]["data"] if t.get("name") == "finalist, measured again")
    seen = {
        (trial.metrics["size_bytes"].value / 1e6, trial.final["latency_ratio@local"].value) for trial in view.finalists
    }
    assert set(zip(rings["x"], rings["y"], strict=True)) == seen
    lines = [t for t in figures["speed"]["data"] if t["mode"] == "lines"]
    assert {tuple(line["y"]) for line in lines} == {
        (trial.metrics["latency_ratio@local"].value, trial.final["latency_ratio@local"].value)
        for trial in view.finalists
    }


def test_every_cell_of_the_layer_map_has_the_colour_of_its_choice(view: StudyView, figures: dict[str, Any]) -> None:
    heat = figures["layers"]["data"][0]
    info = layer_map(view)
    colours = palette.choice_colours(info.choices)
    names = list(colours)
    for row, values in zip(info.rows, heat["z"], strict=True):
        assert tuple(names[int(value)] for value in values) == row.choices
    scale = dict(heat["colorscale"])
    assert set(scale.values()) <= set(colours.values())


def test_every_colour_has_a_dark_partner(figures: dict[str, Any]) -> None:
    used: set[str] = set()

    def walk(value: Any) -> None:
        if isinstance(value, str) and re.fullmatch(r"#[0-9a-f]{6}", value):
            used.add(value)
        elif isinstance(value, dict):
            for inner in value.values():
                walk(inner)
        elif isinstance(value, (list, tuple)):
            for inner in value:
                walk(inner)

    walk(figures)
    named = {*palette.DARK, *palette.CHOICES.values(), *palette.OTHER_CHOICES}
    assert used <= named, f"colours outside of the palette: {used - named}"


def test_palette_gives_no_two_roles_one_colour() -> None:
    roles = [palette.INK, palette.MUTED, palette.GRID, palette.SURFACE, palette.FAINT, palette.EMPTY, palette.EDGE]
    every = [*roles, *palette.MARK_SCALE, *palette.CELL_SCALE, *palette.SERIES, *palette.CHOICES.values()]
    assert len(every) == len(set(every))


@pytest.mark.parametrize("limit", [0.001, 0.01, 0.2])
def test_drop_scale_is_monotone_and_steps_at_the_limit(limit: float) -> None:
    drops = [-0.1, 0.0, limit / 2, limit, limit * 1.001, limit * 3, limit * 10]
    places = [palette.drop_position(drop, limit, limit * 10) for drop in drops]
    assert places == sorted(places) and places[3] < 0.5 <= places[4] and places[-1] == 1.0


def test_text_for_plotly_is_inert_and_cut_before_it_is_escaped() -> None:
    assert palette.plain('<a href="x">&') == '&lt;a href="x"&gt;&amp;'
    assert palette.plain("&&&&", 3) == "&amp;&amp;…"


def test_the_scale_of_drops_holds_without_room_below_the_limit() -> None:
    """A study of an earlier version may have a limit of 0."""
    assert [palette.drop_position(drop, 0.0, 0.04) for drop in (-0.1, 0.0, 0.01, 0.04)] == [0.0, 0.0, 0.75, 1.0]
    assert palette.drop_position(0.0, 0.0, 0.0) == 0.0
    positions, labels = palette.drop_ticks(0.0, 0.04)
    assert labels[0] == "0 (limit)" and positions[0] == 0.0 and len(positions) == len(labels) == len({*positions})


def test_pages_of_a_limit_of_zero_can_be_drawn(view: StudyView) -> None:
    front = front_info(view, "local", None)._replace(limit=0.0)
    assert len(drop_figure(front).data) > 1
    assert slice_figure(slice_map(view, None)._replace(limit=0.0), None).data


def test_what_search_data_say_is_marked_as_such(view: StudyView) -> None:
    info = slice_map(view, view.finalists[0].number)
    figure = slice_figure(info, None).to_plotly_json()["data"][0]
    claims = 0
    for row, texts in enumerate(figure["text"]):
        for column, text, hover in zip(info.columns, texts, figure["hovertext"][row], strict=True):
            result = column.results[row]
            looks = result is not None and result.verdict in ("pass", "fail") and column.dataset != "heldout"
            assert ("≈" in text) == looks == ("by search data alone" in hover)
            claims += looks
    assert claims and {column.dataset for column in info.columns} == {"search", "heldout"}
