"""Names beside points, so that none lies on another: where there is no room, a point is named in its hover only."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from dashboards.figures.textwidth import text_width

# Pixels of a plot: its width is between that on a narrow page and that of the only plot of a row, its height is given.
WIDTHS, HEIGHT = (320.0, 720.0), 380.0
SIZE, LINE = 12.0, 15.0  # pixels, of a letter and of a line of a name
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
    """Bound to a point that moves with the size of the plot, at a distance in pixels that does not."""

    x: float
    y: float
    across: float
    up: float
    half_width: float
    half_height: float

    def meets(self, other: _Box) -> bool:
        """Whether the two overlap at any width of the plot."""
        if abs((self.y - other.y) * HEIGHT + self.up - other.up) >= self.half_height + other.half_height:
            return False
        apart = [(self.x - other.x) * width + self.across - other.across for width in WIDTHS]
        reach = self.half_width + other.half_width
        return min(apart) < reach and max(apart) > -reach

    def inside(self) -> bool:
        """Whether it lies in the plot at every width."""
        middle = self.y * HEIGHT + self.up
        return self.half_height <= middle <= HEIGHT - self.half_height and all(
            self.half_width <= self.x * width + self.across <= width - self.half_width for width in WIDTHS
        )


def positions(labels: Sequence[Label], marks: Sequence[tuple[float, float, float]]) -> list[str | None]:
    """Plotly's `textposition` of each label, None where it is left out; the first labels choose first.

    `marks`: (x, y, size) of all points. A label that is not needed lies on none of them and on no other label; one that
    is needed takes the place where it covers least, labels before points.
    """
    points = [_Box(x, y, 0.0, 0.0, size / 2, size / 2) for x, y, size in marks]
    taken: list[_Box] = []
    found: list[str | None] = []
    for label in labels:
        costs = []
        for order, position in enumerate(POSITIONS):
            box = _box(label, position)
            meeting = sum(box.meets(other) for other in taken) + (not box.inside())
            costs.append((meeting, sum(box.meets(point) for point in points), order, position, box))
        meeting, covered, _, position, box = min(costs)
        if (meeting or covered) and not label.needed:
            found.append(None)
            continue
        taken.append(box)
        found.append(position)
    return found


def _box(label: Label, position: str) -> _Box:
    up, across = (_SIDES[side] for side in position.split())
    width = text_width(label.text, SIZE)
    away = label.size / 2 + _GAP
    return _Box(label.x, label.y, across * (away + width / 2), up * (away + LINE / 2), width / 2, LINE / 2)
