"""What is said once is shown, however fast things are said."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from autotune.api.watch import ProgressView
from autotune.search.progress import Progress


@pytest.mark.parametrize("terminal", [False, True])
def test_news_is_never_left_out(terminal: bool) -> None:
    out = io.StringIO()
    with ProgressView(Console(file=out, force_terminal=terminal, width=80, color_system=None)) as view:
        view.update(Progress("search", "trial 1", 1, 5))
        for word in ("one", "two", "three"):
            view.update(Progress("search", f"note {word}", news=True))
            view.update(Progress("search", "still at it", 1, 5))
    shown = out.getvalue()
    assert [shown.count(f"note {word}") for word in ("one", "two", "three")] == [1, 1, 1]
    assert terminal or "still at it" not in shown, "the same step is not told again at once"
