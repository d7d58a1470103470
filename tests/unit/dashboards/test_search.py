"""What the report says about the search's own predictions."""

from __future__ import annotations

from typing import Any

import pytest

from autotune.errors import DataError
from dashboards.figures.progress import health_figure
from dashboards.info.progress import prediction, progress
from dashboards.info.study import read_study
from dashboards.page.search import search_section

HEALTH = [
    {"trial": 12, "n": 5, "rank_correlation": {"size_bytes": 1.0, "drop/worst": None},
     "relative_error": {"size_bytes": 0.0, "drop/worst": 0.4}, "good": True},
    {"trial": 17, "n": 10, "rank_correlation": {"size_bytes": 1.0, "drop/worst": 0.2},
     "relative_error": {"size_bytes": 0.0, "drop/worst": 2.5}, "good": False},
]  # fmt: skip
OUTLOOK = {
    "volumes": [[1, 0.2], [2, 0.3]],
    "forecast": {"trials": 20, "gain": 0.008, "low": 0.0, "high": 0.021},
    "stopped": "all 40 trials are done",
}


def test_health_and_outlook_are_read_and_shown(study: Any) -> None:
    store = study.store()
    store._meta |= {"health": HEALTH, "outlook": OUTLOOK}
    told = prediction(store)
    assert [batch.good for batch in told.batches] == [True, False]
    assert told.outlook == "20 more trials would bring about +0.8 % (0.0 to 2.1)"
    figure = health_figure(told)
    assert len(figure.data) == 5  # two lines for each objective, and where it was bad
    assert max(figure.data[3].y) == 1.0  # a large error stays in the picture
    section, figures = search_section(progress(read_study(store)), told)
    assert "all 40 trials are done" in str(section) and "+0.8 %" in str(section) and "health" in figures


def test_a_study_without_a_record_has_the_section_as_it_was(study: Any) -> None:
    store = study.store()
    told = prediction(store)
    assert told == ((), "", "")
    section, figures = search_section(progress(read_study(store)), told)
    assert "What the search knew" not in str(section) and "health" not in figures


@pytest.mark.parametrize("broken", [{"health": [{"trial": 1}]}, {"outlook": 3}, {"outlook": {"forecast": {"x": 1}}}])
def test_a_damaged_record_is_one_line(study: Any, broken: dict[str, Any]) -> None:
    store = study.store()
    store._meta |= broken
    with pytest.raises(DataError, match="cannot be read"):
        prediction(store)
