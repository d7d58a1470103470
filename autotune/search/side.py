"""A study in one runtime family: how it judges there, and what is known of the original there."""

from __future__ import annotations

from dataclasses import dataclass

from autotune.config import Family
from autotune.search.judging import Judged, Judging
from autotune.search.stages import Stages


@dataclass
class Side:
    """`search` and `stages` are there once the original has been judged on the search data."""

    judging: Judging
    search: Judged | None = None
    stages: Stages | None = None

    @property
    def family(self) -> Family:
        """The family it is about."""
        return self.judging.family

    def judged_search(self) -> Judged:
        """Raises `RuntimeError` before the original has been judged."""
        if self.search is None:
            raise RuntimeError("the original has not been judged yet")
        return self.search
