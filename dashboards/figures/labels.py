"""Names beside points, so that none lies on another: where there is no room, a point is named in its hover only."""

from __future__ import annotations

import html
import re
from collections.abc import Sequence
from typing import NamedTuple

WIDTH, HEIGHT = 520.0, 360.0  # pixels of a plot on a narrow page; on a wide one there is only more room
CHARACTER, LINE = 6.8, 15.0  # pixels, of text of size 12
_GAP = 3.0  # between a point and its name
_SIDES = {"bottom": -1, "middle": 0, "top": 1, "left": -1, "center": 0, "right": 1}
POSITIONS = (
    "bottom center", "top center", "middle right", "middle left",
    "bottom right", "bottom left", "top right", "top left",
)  # fmt: skip


class Label(NamedTuple):
    """A name at the point (x, y), in shares of the plot from its lower left corner; `size` of its mark in pixels.

    One that is `needed` is shown whatever it lies on.
    """

    x: float
    y: float
    text: str
    size: float
    needed: bool = False


class _Box(NamedTuple):
    left: float
    bottom: float
    right: float
    top: float

    def meets(self, other: _Box) -> bool:
        return (
            self.left < other.right and other.left < self.right and self.bottom < other.top and other.bottom < self.top
        )

    def inside(self) -> bool:
        return self.left >= 0 and self.right <= WIDTH and self.bottom >= 0 and self.top <= HEIGHT


def positions(labels: Sequence[Label], marks: Sequence[tuple[float, float, float]]) -> list[str | None]:
    """Plotly's `textposition` of each label, None where it is left out; the first labels choose first.

    `marks`: (x, y, size) of all points, which names avoid where they can.
    """
    points = [_mark(*mark) for mark in marks]
    taken: list[_Box] = []
    found: list[str | None] = []
    for label in labels:
        costs = []
        for order, position in enumerate(POSITIONS):
            box = _box(label, position)
            meeting = sum(box.meets(other) for other in taken) + (not box.inside())
            costs.append((meeting, sum(box.meets(point) for point in points), order, position, box))
        meeting, _, _, position, box = min(costs)
        if meeting and not label.needed:
            found.append(None)
            continue
        taken.append(box)
        found.append(position)
    return found


def _box(label: Label, position: str) -> _Box:
    up, across = (_SIDES[side] for side in position.split())
    width = CHARACTER * len(html.unescape(re.sub(r"<[^>]*>", "", label.text)))
    away = label.size / 2 + _GAP
    x = label.x * WIDTH + across * (away + width / 2)
    y = label.y * HEIGHT + up * (away + LINE / 2)
    return _Box(x - width / 2, y - LINE / 2, x + width / 2, y + LINE / 2)


def _mark(x: float, y: float, size: float) -> _Box:
    half = size / 2
    return _Box(x * WIDTH - half, y * HEIGHT - half, x * WIDTH + half, y * HEIGHT + half)
