"""Several targets: the front of each, the one model for all, and what it costs each of them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autotune import pareto
from autotune.api import Choice, choose
from autotune.api.several import as_json, common_text, marks, own_best, rows_of
from autotune.config import StudyConfig
from autotune.errors import Infeasible, UsageError
from autotune.keys import parse_key
from autotune.pareto import Difference, Served, serve
from autotune.recipe import Recipe
from autotune.store import open_store
from autotune.trial import Trial, Value
from tests.end_to_end.test_cli import autotune

CONFIG = StudyConfig(name="two", targets=("pi", "x86"))
KEYS = CONFIG.objective_keys
LIMITS = CONFIG.limits


def trial(
    number: int, size: float, pi: float, x86: float, drop: float, *, width: float = 0.004, final: bool = False
) -> Trial:
    def around(value: float) -> Value:
        return Value(value=value, low=value * (1 - width), high=value * (1 + width))

    metrics = {
        "size_bytes": Value.exact(size),
        "latency_ratio@pi": around(pi),
        "latency_ratio@x86": around(x86),
        "latency_p50@pi": around(pi / 10),
        "latency_p50@x86": around(x86 / 100),
        "drop/worst": Value(value=drop, low=drop - 0.002, high=drop + 0.002),
    }
    recipe = {"quantize": {"fc": f"choice-{number}"}} if number else {}
    return Trial(number=number, recipe=recipe, state="complete", metrics=metrics, final=metrics if final else {})


ORIGINAL = trial(0, 4e6, 1.0, 1.0, 0.0)
FAST_ON_PI = trial(1, 1.0e6, 0.50, 0.90, 0.005)
FAST_ON_X86 = trial(2, 1.0e6, 0.90, 0.50, 0.005)
COMMON = trial(3, 1.1e6, 0.52, 0.51, 0.004)
LOSSY = trial(4, 0.5e6, 0.40, 0.40, 0.200)
STUDY = [ORIGINAL, FAST_ON_PI, FAST_ON_X86, COMMON, LOSSY]


def chosen() -> Choice:
    return choose(STUDY, CONFIG)


def test_each_target_has_its_front_its_best_and_its_price() -> None:
    choice = chosen()
    assert choice.recommended is COMMON
    pi, x86 = choice.targets
    assert (pi.target, x86.target) == ("pi", "x86")
    assert [str(key) for key in pi.keys] == ["size_bytes", "latency_ratio@pi", "drop/worst"]
    assert {t.number for t in pi.front} == {4, 1, 3, 0} and {t.number for t in x86.front} == {4, 2, 3, 0}
    assert pi.own is FAST_ON_PI and x86.own is FAST_ON_X86
    assert pi.price == ("pi: 4.0 % slower [3.2, 4.8] and 100 kB larger than its own best, trial 1 (drop: tie)")
    assert x86.price == ("x86: 2.0 % slower [1.2, 2.8] and 100 kB larger than its own best, trial 2 (drop: tie)")
    assert common_text(choice, CONFIG).splitlines() == [
        "One model for all targets: trial 3",
        f"  {pi.price}",
        f"  {x86.price}",
    ]


def test_differences_within_the_intervals_are_ties() -> None:
    noisy = [trial(t.number, t.metrics["size_bytes"].value, t.metrics["latency_ratio@pi"].value,
                   t.metrics["latency_ratio@x86"].value, t.metrics["drop/worst"].value, width=0.03)
             for t in STUDY]  # fmt: skip
    pi, x86 = choose(noisy, CONFIG).targets
    assert pi.price == "pi: 100 kB larger than its own best, trial 1 (latency, drop: tie)"
    assert [d.tie for d in x86.differences] == [True, False, True]
    same_size = [t.model_copy(update={"metrics": t.metrics | {"size_bytes": Value.exact(1e6)}}) for t in noisy]
    assert choose(same_size, CONFIG).targets[0].price == "pi: a tie with its own best, trial 1"


def test_where_the_common_model_is_the_own_best() -> None:
    best = trial(9, 0.9e6, 0.45, 0.45, 0.003)
    choice = choose([*STUDY, best], CONFIG)
    assert [served.price for served in choice.targets] == [
        "pi: trial 9 is its own best",
        "x86: trial 9 is its own best",
    ]
    assert all(not served.differences for served in choice.targets)


def test_what_another_target_needs_does_not_bind_the_own_best() -> None:
    config = CONFIG.model_copy(update={"constraints": {"latency_p50@pi": 0.06}})
    choice = choose(STUDY, config)
    assert choice.recommended is COMMON
    assert choice.target("x86").own is FAST_ON_X86, "it is too slow on pi, which is no matter of x86"
    assert [t.number for t in choice.target("pi").front] == [4, 1, 3]
    assert [t.number for t in choice.target("x86").front] == [4, 2, 3, 0]


def test_a_target_that_nothing_serves() -> None:
    config = CONFIG.model_copy(update={"constraints": {"latency_p50@pi": 0.001}})
    choice = choose(STUDY, config)
    assert choice.recommended is None
    pi, x86 = choice.targets
    assert pi.own is None and "which misses 1 ms by" in pi.price
    assert x86.price == "x86: its own best is trial 2"
    assert common_text(choice, config).startswith("No one model serves all targets: nothing is within the limits")
    with pytest.raises(Infeasible, match="latency_p50@pi"):
        own_best(pi)


def test_the_original_may_be_the_best_of_one() -> None:
    slow = trial(5, 1e6, 4.5, 0.5, 0.001)
    pi, x86 = choose([ORIGINAL, slow], CONFIG).targets
    assert pi.own is ORIGINAL and x86.own is slow
    assert pi.price == (
        "pi: 350.0 % slower [346.4, 353.6] and 3 MB smaller than its own best, the original (drop: tie)"
    )
    with pytest.raises(Infeasible, match="of target pi the original is the best"):
        own_best(pi)


def test_finalists_count_with_what_was_measured_last_and_the_rest_is_marked() -> None:
    verified = trial(3, 1.1e6, 0.52, 0.51, 0.004, final=True)
    choice = choose([ORIGINAL, FAST_ON_PI, FAST_ON_X86, verified, LOSSY], CONFIG)
    assert choice.recommended is verified and choice.targets[0].own is FAST_ON_PI
    assert "as searched, not verified: 1, 2; `autotune export two best@pi DIR`" in common_text(choice, CONFIG)
    unlucky = FAST_ON_PI.model_copy(update={"final": dict(FAST_ON_PI.metrics) | {"drop/worst": Value.exact(0.09)}})
    again = choose([ORIGINAL, unlucky, FAST_ON_X86, verified, LOSSY], CONFIG)
    assert again.targets[0].own is verified, "what failed on held-out data is nobody's best"


def test_the_common_model_is_shown_even_where_it_is_beaten() -> None:
    config = CONFIG.model_copy(update={"constraints": {"latency_ratio@x86": 0.6}})
    beats = trial(6, 1.0e6, 0.45, 0.95, 0.001)
    choice = choose([ORIGINAL, beats, FAST_ON_X86, COMMON], config)
    pi = choice.target("pi")
    assert choice.recommended is COMMON and COMMON not in pi.front
    assert [t.number for t in rows_of(pi)] == [6, 3, 0]
    assert "On pi others are better than ★ in everything" in marks(choice.targets)


def test_a_study_of_one_target_has_no_such_thing() -> None:
    one = CONFIG.model_copy(update={"targets": ("pi",)})
    choice = choose(STUDY, one)
    assert choice.targets == () and common_text(choice, one) == ""
    with pytest.raises(UsageError, match="costs of one target only"):
        choice.target("pi")
    assert choose(STUDY, CONFIG, keys=[parse_key("size_bytes")]).targets == ()
    with pytest.raises(UsageError, match="did you mean 'pi'"):
        chosen().target("pie")


def test_other_objectives_still_give_each_target_its_own_cost() -> None:
    keys = [parse_key("size_bytes"), parse_key("memory_peak@x86")]
    served = serve(STUDY, "pi", keys, LIMITS, COMMON, shown={})
    assert [str(key) for key in served.keys] == ["size_bytes", "latency_ratio@pi", "drop/worst"]


def test_json_has_everything() -> None:
    told = json.loads(json.dumps(as_json(chosen().targets[0])))
    assert told["best"] == 1 and told["front"] == [4, 1, 3, 0] and not told["verified"]
    assert {row["key"]: row["tie"] for row in told["price"]} == {
        "latency_ratio@pi": False, "size_bytes": False, "drop/worst": True,
    }  # fmt: skip
    assert told["price"][0]["change"]["value"] == pytest.approx(0.04)


intervals = st.tuples(st.floats(0.1, 10), st.floats(0, 0.5), st.floats(0, 0.5)).map(
    lambda t: Value(value=t[0], low=t[0] * (1 - t[1]), high=t[0] * (1 + t[2]))
)


@settings(deadline=None)
@given(intervals, intervals)
def test_the_interval_of_a_change_holds_zero_exactly_where_the_intervals_overlap(one: Value, other: Value) -> None:
    overlap = one.low <= other.high and other.low <= one.high
    for key in ("latency_ratio@pi", "drop/worst"):
        change = Difference(parse_key(key), one, other).change
        assert change.low <= change.value <= change.high
        assert (change.low <= 1e-12 and change.high >= -1e-12) == overlap or abs(change.low * change.high) < 1e-9


values = st.floats(0.2, 2.0)


@settings(deadline=None, max_examples=50)
@given(st.lists(st.tuples(values, values, values, st.floats(0, 0.02)), min_size=1, max_size=12))
def test_nothing_within_the_limits_is_cheaper_than_the_own_best(rows: list[tuple[float, float, float, float]]) -> None:
    trials = [ORIGINAL, *(trial(n, size * 1e6, pi, x86, drop) for n, (size, pi, x86, drop) in enumerate(rows, 1))]
    for served in choose(trials, CONFIG).targets:
        assert served.own is not None
        alone = pareto.best(trials, LIMITS, served.keys)
        assert served.own.number == alone.number
        assert isinstance(served, Served) and served.price


@pytest.fixture
def recorded(tmp_path: Path) -> Path:
    """A folder with the study `two`, as a run leaves it."""
    with open_store(tmp_path / "autotune-runs" / "two" / "store.db", "two") as store:
        store.begin(CONFIG.model_dump_json(), "w" * 64)
        for made in STUDY:
            number = store.start_trial(Recipe(made.recipe), "surrogate")
            store.finish_trial(number, "complete", metrics=made.metrics)
    return tmp_path


def test_front_prints_one_front_per_target_and_the_price(recorded: Path) -> None:
    for columns in (80, 120):
        said = autotune("front", "two", folder=recorded, columns=columns).stdout
        assert "Front on pi: size_bytes, latency_ratio@pi, drop/worst" in said and "Front on x86" in said
        assert "★ 3" in said and "☆ 1" in said and "One model for all targets: trial 3" in said
        assert "pi: 4.0 % slower [3.2, 4.8] and 100 kB larger than its own best, trial 1 (drop: tie)" in said
        table = said[: said.index("★ the one")]
        assert max(map(len, table.splitlines())) <= columns
    only = autotune("front", "two", "--target", "x86", folder=recorded).stdout
    assert "Front on x86" in only and "Front on pi" not in only and "  pi:" not in only
    told = json.loads(autotune("front", "two", "--json", folder=recorded).stdout)
    assert told["recommended"] == 3 and set(told["targets"]) == {"pi", "x86"} and len(told["front"]) == 5
    told = json.loads(autotune("front", "two", "--target", "pi", "--json", folder=recorded).stdout)
    assert [point["trial"] for point in told["front"]] == [4, 1, 3, 0] and set(told["targets"]) == {"pi"}
    joint = autotune("front", "two", "--x", "size_bytes", "--y", "drop/worst", folder=recorded).stdout
    assert "Front on" not in joint


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("front", "two", "--target", "pj"), "target 'pj': nothing was timed there"),
        (("front", "two", "--target", "pi", "--x", "size_bytes", "--y", "drop/worst"), "give one of them"),
        (("export", "two", "best@pj", "bundle"), "target 'pj'"),
        (("export", "two", "beste", "bundle"), "write the number of a trial"),
    ],
)
def test_wrong_targets_are_one_clear_line(recorded: Path, words: tuple[str, ...], message: str) -> None:
    said = autotune(*words, folder=recorded, code=2).stderr
    assert message in said and len(said.splitlines()) == 1
