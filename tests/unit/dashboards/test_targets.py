"""The section on several targets, and the one on what a warm start brought."""

from __future__ import annotations

from typing import Any

from autotune.config import StudyConfig
from autotune.search.transfer import Expectation, Transfer
from autotune.trial import Trial, Value
from dashboards.figures.targets import targets_figure
from dashboards.info.headline import headline
from dashboards.info.study import read_study
from dashboards.info.targets import targets_info
from dashboards.page import render

LIMIT = {"drop/worst": 0.01}


def trial(number: int, size: float, pi: float, x86: float, drop: float) -> Trial:
    def around(value: float, half: float = 0.01) -> Value:
        return Value(value=value, low=value * (1 - half), high=value * (1 + half))

    metrics = {
        "size_bytes": Value.exact(size),
        "latency_ratio@pi": around(pi),
        "latency_ratio@x86": around(x86),
        "latency_p50@pi": around(pi / 10),
        "latency_p50@x86": around(x86 / 100),
        "drop/worst": Value(value=drop, low=drop - 0.002, high=drop + 0.002),
    }
    recipe = {"quantize": {"fc": f"choice-{number}"}} if number else {}
    return Trial(number=number, recipe=recipe, state="complete", metrics=metrics)


STUDY = [
    trial(0, 4e6, 1.0, 1.0, 0.0),
    trial(1, 1.0e6, 0.50, 0.90, 0.004),
    trial(2, 1.0e6, 0.90, 0.505, 0.004),
    trial(3, 1.05e6, 0.54, 0.51, 0.003),
]


def store(make_store: Any, targets: tuple[str, ...] = ("pi", "x86"), **meta: object) -> Any:
    return make_store(STUDY, StudyConfig(name="two", targets=targets).model_dump_json(), meta)


def test_the_price_of_one_model_on_each_target(make_store: Any) -> None:
    view = read_study(store(make_store))
    chosen = headline(view).trial
    assert chosen is not None and chosen.number == 3
    info = targets_info(view, 3)
    assert info is not None and info.common == 3
    pi, x86 = info.rows
    assert (pi.target, pi.own, pi.tie) == ("pi", 1, False) and (x86.target, x86.own, x86.tie) == ("x86", 2, True)
    assert pi.change is not None and round(pi.change.value, 3) == 0.08
    assert not pi.verified and pi.size_own == 1e6 and pi.size_common == 1.05e6
    assert targets_info(view, None) is None
    assert targets_info(read_study(store(make_store, ("pi",))), 3) is None


def test_the_figure_says_it_in_words(make_store: Any) -> None:
    info = targets_info(read_study(store(make_store)), 3)
    assert info is not None
    figure = targets_figure(info)
    words = [text.strip() for trace in figure.data for text in (trace.text or ())]
    assert words == ["8.0 % slower than #1", "a tie with #2"]
    names = {trace.name for trace in figure.data if trace.name}
    assert names >= {"best for this target alone", "trial 3, the one model for all"}
    assert list(figure.layout.yaxis.ticktext) == ["pi", "x86"]


def test_the_section_is_there_for_several_targets_only(make_store: Any) -> None:
    page = render(store(make_store))
    for text in (
        "One model for all targets",
        'href="#targets"',
        "8.0 % slower",
        "As searched, not measured again: #1, #2",
    ):
        assert text in page
    alone = render(store(make_store, ("pi",)))
    assert "One model for all targets" not in alone and 'href="#targets"' not in alone


def test_what_a_warm_start_brought(make_store: Any) -> None:
    found = Transfer(
        sources=("study 'a<b>' in store.db: the same model, 40 trials",),
        expectations=(
            Expectation(key="latency_ratio@pi", n=31, rank_correlation=0.912, median_error=0.043),
            Expectation(key="drop/worst", n=2, rank_correlation=None, median_error=None),
        ),
        facts=40,
        recipes=6,
        recipes_on_front=3,
        front=9,
    )
    page = render(store(make_store, transfer=found.model_dump(mode="json")))
    for text in (
        "What the warm start brought",
        "study &#x27;a&lt;b&gt;&#x27;",
        "0.91",
        "4.3 %",
        "too few trials",
        "3 of the 9",
    ):
        assert text in page
    assert "What the warm start brought" not in render(store(make_store))
    assert found.sentence == (
        "warm start: latency_ratio@pi was expected with rank correlation 0.91, median error 4 % (31 trials); 3 of the "
        "9 compressed trials of the front began as earlier recipes (6 tried)"
    )
