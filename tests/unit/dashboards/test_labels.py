"""Names in the scatter plots do not lie on each other."""

from __future__ import annotations

import itertools

import numpy as np

from autotune.trial import Value
from dashboards.figures.front import drop_figure, speed_figure
from dashboards.figures.labels import HEIGHT, POSITIONS, WIDTHS, Label, _box, positions
from dashboards.info.front import FrontInfo, FrontPoint, Role


def crowd(seed: int, count: int, needed: bool = False) -> list[Label]:
    rng = np.random.default_rng(seed)
    return [Label(float(x), float(y), "w4-b32-load", 11, needed) for x, y in rng.uniform(0.4, 0.6, (count, 2))]


def test_no_name_lies_on_another_or_outside() -> None:
    labels = crowd(0, 40)
    found = positions(labels, [(label.x, label.y, label.size) for label in labels])
    boxes = [_box(label, position) for label, position in zip(labels, found, strict=True) if position]
    assert 3 <= len(boxes) < 40, "as many as there is room for"
    assert not [pair for pair in itertools.combinations(boxes, 2) if pair[0].meets(pair[1])]
    assert all(box.inside() for box in boxes)
    corner = positions([Label(0.0, 0.0, "original", 15)], [])
    assert corner == ["top right"]


def test_names_stay_apart_at_every_width_and_off_all_points() -> None:
    labels = sorted([*crowd(2, 30), *crowd(3, 3, needed=True)], key=lambda label: not label.needed)
    marks = [(label.x, label.y, label.size) for label in labels]
    found = positions(labels, marks)
    assert found == positions(labels, marks) and None not in found[:3] and None in found
    for width in np.linspace(*WIDTHS, 9):
        corners = []
        for label, position in zip(labels, found, strict=True):
            if position is None:
                continue
            box = _box(label, position)
            x, y = box.x * width + box.across, box.y * HEIGHT + box.up
            corners.append((x - box.half_width, x + box.half_width, y - box.half_height, y + box.half_height))
            if not label.needed:
                corner = corners[-1]
                assert corner[0] >= 0 and corner[1] <= width
                assert not any(
                    corner[0] < mx * width + size / 2
                    and mx * width - size / 2 < corner[1]
                    and corner[2] < my * HEIGHT + size / 2
                    and my * HEIGHT - size / 2 < corner[3]
                    for mx, my, size in marks
                )
        assert len(corners) > 3
        for a, b in itertools.combinations(corners, 2):
            assert a[0] >= b[1] or b[0] >= a[1] or a[2] >= b[3] or b[2] >= a[3]


def test_a_name_that_is_needed_is_always_there() -> None:
    assert None not in positions(crowd(1, 60, needed=True), [])


def test_a_name_avoids_the_points_of_others() -> None:
    below = (0.5, 0.5 - 0.045, 12.0)
    assert positions([Label(0.5, 0.5, "name", 10)], []) == [POSITIONS[0]]
    assert positions([Label(0.5, 0.5, "name", 10)], [below]) == [POSITIONS[1]]


def test_finalists_that_lie_together_are_named_apart() -> None:
    def around(value: float) -> Value:
        return Value(value=value, low=value - 0.01, high=value + 0.01)

    def point(number: int, role: Role, size: float, uniform: str = "") -> FrontPoint:
        return FrontPoint(number, role, "", uniform, size, around(0.5), around(0.02), "")

    roles: tuple[Role, ...] = ("recommended", "finalist", "finalist")
    final = tuple(point(10 + i, role, 1e6 + 5e3 * i) for i, role in enumerate(roles))
    names = ("int8-static", "int8-dynamic", "w8-load")
    uniform = tuple(point(i, "dominated", 1e6 + 4e3 * i, name) for i, name in enumerate(names, 1))
    original = FrontPoint(0, "original", "", "", 4e6, around(1.0), around(0.0), "")
    info = FrontInfo("local", (original, *uniform, *final), final, 4e6, 0.01, 0)
    for figure in (speed_figure(info), drop_figure(info)):
        traces = {trace.name: trace for trace in figure.data}
        rings = traces["finalist, measured again"]
        assert list(rings.text) == ["<b>#10</b>", "#11", "#12"] and len(set(rings.textposition)) == 3
        assert list(traces["original"].text) == ["original"]
        assert set(traces["uniform"].text) <= {*names, ""} and len(traces["uniform"].x) == 3
