"""Which trials are the front, which one ships, and how that is said."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence

import pytest
from rich.console import Console

from autotune.api import choose
from autotune.api.tables import (
    as_text,
    front_html,
    front_table,
    legend,
    slices_table,
    value_text,
    verdict_data,
    with_recommended,
)
from autotune.api.watch import ProgressView, best_text, clock
from autotune.cli.front import point
from autotune.cli.judged import verdict_table
from autotune.config import StudyConfig
from autotune.errors import UsageError
from autotune.evaluation import Evaluation, SliceResult
from autotune.keys import MetricKey, parse_key
from autotune.search.progress import Progress
from autotune.trial import Trial, Value
from hwprofiles.measurement import Estimate
from tests.unit.search.test_drift import measurement

LOCAL = {"target": "local"}
CONFIG = StudyConfig(name="small")


def trial(number: int, size: float, ratio: float, drop: float, *, final_drop: float | None = None) -> Trial:
    def values(loss: float) -> dict[str, Value]:
        return {
            "size_bytes": Value.exact(size),
            "latency_p50@local": Value(value=ratio / 100, low=ratio / 101, high=ratio / 99),
            "latency_ratio@local": Value(value=ratio, low=ratio - 0.01, high=ratio + 0.01),
            "drop/worst": Value(value=loss, low=loss - 0.005, high=loss + 0.005),
        }

    final = {} if final_drop is None else values(final_drop)
    recipe = {"quantize": {"fc": f"choice-{number}"}} if number else {}
    return Trial(number=number, recipe=recipe, state="complete", metrics=values(drop), final=final)


ORIGINAL = trial(0, 1000, 1.0, 0.0)
SMALL = trial(1, 250, 0.8, 0.005)
TINY = trial(2, 120, 0.7, 0.08)
DOMINATED = trial(3, 300, 0.9, 0.006)
BROKEN = Trial(number=4, recipe={"quantize": {"fc": "x"}}, state="failed")


def test_the_front_and_the_one_to_ship() -> None:
    choice = choose([ORIGINAL, SMALL, TINY, DOMINATED, BROKEN], CONFIG)
    assert [t.number for t in choice.front] == [2, 1, 0]
    assert choice.recommended is SMALL  # TINY loses more than judge.limit
    assert choice.explanation is None and not choice.reason


def test_finalists_count_with_what_was_measured_last() -> None:
    lucky = trial(1, 250, 0.8, 0.005, final_drop=0.03)
    solid = trial(5, 400, 0.9, 0.004, final_drop=0.004)
    choice = choose([ORIGINAL, lucky, solid], CONFIG)
    assert choice.recommended is solid
    assert [t.number for t in choose([ORIGINAL, lucky, solid], CONFIG, limits={"drop/worst": 0.01}).front] == [5, 0]


def test_limits_that_nothing_meets() -> None:
    choice = choose([ORIGINAL, SMALL, TINY], CONFIG, limits={"size_bytes": 100})
    assert choice.front == [] and choice.recommended is None
    assert choice.explanation is not None
    assert (choice.explanation.constraint, choice.explanation.nearest.number) == ("size_bytes", 2)


def test_a_study_shows_its_front_even_where_its_constraints_are_not_met() -> None:
    config = CONFIG.model_copy(update={"constraints": {"size_bytes": 100.0}})
    choice = choose([ORIGINAL, SMALL, TINY], config)
    assert [t.number for t in choice.front] == [2, 1, 0]
    assert choice.explanation is not None and choice.recommended is None


def test_the_original_is_no_recommendation() -> None:
    choice = choose([ORIGINAL, TINY], CONFIG)
    assert choice.recommended is None and "original" in choice.reason
    assert choose([ORIGINAL, BROKEN], CONFIG).recommended is None
    assert choose([], CONFIG).front == []


def test_a_limit_on_nothing_we_know() -> None:
    with pytest.raises(UsageError, match="did you mean 'drop/worst'"):
        choose([ORIGINAL, SMALL], CONFIG, limits={"drop/wurst": 0.1})


@pytest.mark.parametrize("columns", [80, 120])
def test_the_table_says_it_all_within_its_width(columns: int) -> None:
    trials = [ORIGINAL, SMALL, TINY]
    text = as_text(front_table([SMALL, ORIGINAL], trials, CONFIG, SMALL, columns=columns), columns)
    assert max(map(len, text.splitlines())) <= columns
    for part in ("★ 1", "250 B", "4.00x", "0.800x", "[0.790, 0.810]", "8 ms", "original"):
        assert part in text
    assert "recommended" in legend([SMALL], SMALL, trials, CONFIG)


def test_what_is_recommended_stands_in_the_table() -> None:
    searched, verified = trial(1, 400, 0.5, 0.004), trial(2, 400, 0.5, 0.0, final_drop=0.006)
    big = trial(3, 700, 0.4, 0.0)
    choice = choose([ORIGINAL, searched, verified, big], CONFIG)
    assert choice.recommended is not None and choice.recommended.number == 2
    assert 2 not in [each.number for each in choice.front]
    rows = with_recommended(choice.front, choice.recommended)
    assert [each.number for each in rows] == [1, 2, 3]
    assert "★ 2" in as_text(front_table(rows, rows, CONFIG, choice.recommended, columns=110), 110)
    assert with_recommended(rows, verified) == rows and with_recommended(rows, None) == rows


def judged_trial(number: int, *verdicts: str, heldout: Sequence[str] = ()) -> Trial:
    def evaluation(dataset: str, words: Sequence[str]) -> Evaluation:
        at = Estimate(value=0.0, low=-0.01, high=0.01)
        rows = [
            SliceResult(
                name=f"s{i}", n=300, original=at, candidate=at, drop=at, shrunk_drop=0.0, flips_worse=0,
                flips_better=0, verdict=word,
            )
            for i, word in enumerate(words)
        ]  # fmt: skip
        return Evaluation(
            artifact="a", dataset=dataset, dataset_digest="d", metric="accuracy", target="local", n=300,
            slices=tuple(rows), worst_slice="s0", worst_drop=at, limit=0.01,
        )  # fmt: skip

    seen = [evaluation("search", verdicts), *([evaluation("heldout", heldout)] if heldout else [])]
    return trial(number, 250, 0.8, 0.005).model_copy(update={"evaluations": tuple(seen)})


def test_what_no_held_out_data_confirmed_is_no_pass() -> None:
    """A recipe that passes on the data it was chosen by may be undecided on others."""
    searched, confirmed = judged_trial(1, "pass", "pass"), judged_trial(2, "pass", heldout=["pass", "pass"])
    lucky, lossy = judged_trial(3, "pass", "pass", heldout=["pass", "undecided"]), judged_trial(4, "fail", "pass")
    vague = judged_trial(5, "pass", "undecided")
    for each, word, data in (
        (searched, "looks like pass", "search"),
        (confirmed, "pass", "heldout"),
        (lucky, "undecided", "heldout"),
        (lossy, "looks like fail", "search"),
        (vague, "undecided", "search"),
    ):
        assert verdict_data(each) == {"verdict": word, "judged_on": data}
        assert point(each)["verdict"] == word
    assert verdict_data(judged_trial(0, "pass")) == {"verdict": "original", "judged_on": None}
    assert verdict_data(ORIGINAL.model_copy(update={"number": 9})) == {"verdict": "complete", "judged_on": None}
    for columns, shown in ((80, "looks like"), (120, "looks like pass")):
        text = as_text(front_table([searched], [ORIGINAL, searched], CONFIG, None, columns=columns), columns)
        assert shown in text and max(map(len, text.splitlines())) <= columns
    assert "ooks like: by the search data alone" in legend([searched], None, [ORIGINAL, searched], CONFIG)
    assert "looks like" not in legend([confirmed], None, [ORIGINAL, confirmed], CONFIG).lower()
    table = as_text(verdict_table(searched.evaluations[0], columns=120, looks=True), 120)
    assert table.count("looks like pass") == 2
    assert "looks like" not in as_text(verdict_table(searched.evaluations[0], columns=120), 120), "as `judge` has it"
    assert "looks like pass" in as_text(slices_table(searched.evaluations[0], columns=120), 120)


def test_a_tie_is_called_a_tie() -> None:
    same = trial(7, 200, 1.005, 0.004)
    text = as_text(front_table([same, SMALL, ORIGINAL], [ORIGINAL, SMALL, same], CONFIG, None, columns=120), 120)
    assert "1.005x tie [0.995, 1.015]" in text and text.count(" tie") == 1
    assert "Tie: the interval of the time ratio holds 1" in legend([same], None, [ORIGINAL, same], CONFIG)
    assert "tie" not in legend([SMALL], None, [ORIGINAL, SMALL], CONFIG).lower()


def test_trials_that_cannot_be_told_apart_are_named() -> None:
    twin = trial(9, 250.5, 0.805, 0.006)
    said = legend([SMALL], None, [ORIGINAL, SMALL, TINY, twin], CONFIG)
    assert "easured as equal in every objective: 1 and 9" in said
    other = trial(9, 250.5, 0.85, 0.006)
    assert "equal" not in legend([SMALL], None, [ORIGINAL, SMALL, TINY, other], CONFIG)


def test_times_of_before_a_drift_are_marked() -> None:
    early = [measurement(n, 0.010) for n in range(6)]
    late = [measurement(10 + n, 0.011) for n in range(6)]
    trials = [
        trial(n, 1000 - n, 0.8 + n / 100, 0.005).model_copy(update={"measurements": (m.model_copy(update=LOCAL),)})
        for n, m in enumerate([*early, *late])
    ]
    shown = [trials[1], trials[11]]
    text = as_text(front_table(shown, trials, CONFIG, None, columns=120), 120)
    assert "8.1 ms~" in text and "9.1 ms~" not in text and "9.1 ms" in text
    assert "~ target local has become 10.0% slower" in legend(shown, None, trials, CONFIG)
    assert "~" not in legend(shown[1:], None, trials, CONFIG), "none of those shown is stale"
    assert "10.0% slower" in legend(shown[1:], None, trials, CONFIG)


@pytest.mark.parametrize("columns", [80, 120])
def test_two_targets_fit(columns: int) -> None:
    config = StudyConfig(name="small", targets=("local", "rpi5"))
    values = {**SMALL.metrics, **{k.replace("@local", "@rpi5"): v for k, v in SMALL.metrics.items() if "@" in k}}
    both = SMALL.model_copy(update={"metrics": values})
    text = as_text(front_table([both], [ORIGINAL, both], config, both, columns=columns), columns)
    assert max(map(len, text.splitlines())) <= columns and "…" not in text
    assert text.count("8 ms") == 2 and text.count("[0.790, 0.810]") == 2
    said = best_text(both)
    assert "0.800x time on local" in said and "0.800x time on rpi5" in said


def test_a_target_that_is_gone_is_news_at_once() -> None:
    out = io.StringIO()
    gone = {"pi": "paused, next try in 10 s: no route to host"}
    with ProgressView(Console(file=out, width=200)) as view:
        view.update(Progress("search", "trial 1", 1, 40))
        view.update(Progress("targets", "target pi is paused", paused=gone))
        view.update(Progress("search", "trial 1 waits for pi", 1, 40, paused=gone))
        view.update(Progress("search", "trial 2", 1, 40, paused=gone))
    assert out.getvalue().splitlines() == [
        "search 1/40  trial 1",
        "targets  target pi is paused",
        "search 1/40  trial 1 waits for pi  target pi paused, next try in 10 s: no route to host",
    ]


def test_html_is_escaped() -> None:
    nasty = SMALL.model_copy(update={"state": "complete", "metrics": {**SMALL.metrics}})
    page = front_html([nasty], [ORIGINAL, nasty], CONFIG, nasty)
    assert "<td>★ 1</td>" in page and "<script" not in page


@pytest.mark.parametrize(
    ("value", "key", "text"),
    [
        (Value(value=0.83, low=0.82, high=0.84), "latency_ratio@t", "0.830x [0.820, 0.840]"),
        (Value(value=0.0104, low=-0.001, high=0.02), "drop/worst", "1.0 pt [-0.1, 2.0]"),
        (Value(value=0.0012, low=0.0008, high=0.0013), "latency_p50@t", "1.2 ms [800 µs, 1.3 ms]"),
        (Value.exact(3.06e6), "size_bytes", "3.06 MB"),
    ],
)
def test_numbers_with_intervals(value: Value, key: str, text: str) -> None:
    assert value_text(value, parse_key(key)) == text


def test_a_table_for_several_targets_names_them() -> None:
    config = StudyConfig(name="small", targets=("local", "rpi5"))
    header = as_text(front_table([SMALL], [ORIGINAL, SMALL], config, None, columns=160), 160)
    assert "@local" in header and "@rpi5" in header
    assert [str(key) for key in config.objective_keys] == [
        "size_bytes", "latency_ratio@local", "latency_ratio@rpi5", "drop/worst",
    ]  # fmt: skip


def test_progress_without_a_terminal_is_one_line_per_step() -> None:
    out = io.StringIO()
    with ProgressView(Console(file=out, width=200)) as view:
        view.update(Progress("prepare", "reading the model"))
        for done in (1, 1, 2):
            view.update(Progress("search", f"trial {done}", done, 40, 125.0, SMALL))
    assert out.getvalue().splitlines() == [
        "prepare  reading the model",
        "search 1/40  trial 1  2:05 left  best: trial 1, 250 B, 0.800x time, worst drop 0.5 pt",
        "search 2/40  trial 2  2:05 left  best: trial 1, 250 B, 0.800x time, worst drop 0.5 pt",
    ]


@pytest.mark.parametrize("columns", [60, 120])
def test_progress_on_a_terminal_fits_it(columns: int) -> None:
    out = io.StringIO()
    console = Console(file=out, force_terminal=True, width=columns, color_system=None)
    with ProgressView(console) as view:
        view.update(Progress("search", "trial 7 rejected: " + "a long reason " * 20, 7, 40, 125.0, SMALL))
    shown = out.getvalue()
    assert "7/40 2:05 left" in shown and "best: trial 1, 250 B, 0.800x time" in shown
    assert max(len(re.sub(r"\x1b\[[^A-Za-z]*[A-Za-z]", "", line)) for line in re.split(r"[\r\n]", shown)) <= columns


def test_words_for_time_and_the_best() -> None:
    assert [clock(s) for s in (0, 65, 3725)] == ["0:00", "1:05", "1:02:05"]
    assert best_text(SMALL) == "best: trial 1, 250 B, 0.800x time, worst drop 0.5 pt"
    assert MetricKey("drop", "worst").smaller_is_better
