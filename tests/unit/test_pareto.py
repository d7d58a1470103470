"""The front, its limits, and the choice from it."""

from __future__ import annotations

import itertools
import math
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autotune.errors import Infeasible, UsageError
from autotune.keys import MetricKey, parse_key
from autotune.pareto import (
    best,
    epsilon,
    explain_infeasible,
    front,
    hypervolume,
    ties,
    within,
)
from autotune.trial import Trial, TrialState, Value

SIZE, SPEED, DROP = (parse_key(key) for key in ("size_bytes", "latency_ratio@local", "drop/worst"))
ACCURACY = parse_key("accuracy/worst")
KEYS = (SIZE, SPEED, DROP)


def trial(
    number: int, size: float, speed: float, drop: float, *, width: float = 0.0, state: TrialState = "complete"
) -> Trial:
    """`width` is the half width of the intervals, relative for costs."""
    metrics = {
        str(SIZE): Value.exact(size),
        str(SPEED): Value(value=speed, low=speed * (1 - width), high=speed * (1 + width)),
        str(DROP): Value(value=drop, low=drop - width, high=drop + width),
        str(ACCURACY): Value(value=1 - drop, low=1 - drop - width, high=1 - drop + width),
    }
    return Trial(number=number, recipe={}, state=state, metrics=metrics)


def numbers(trials: list[Trial]) -> list[int]:
    return [trial.number for trial in trials]


BASELINE = trial(0, 1000, 1.0, 0.0)
STUDY = [
    BASELINE,
    trial(1, 500, 0.8, 0.002),
    trial(2, 250, 0.6, 0.05),
    trial(3, 600, 0.9, 0.003),  # worse than 1
    trial(4, 300, 0.7, 0.009),
    trial(5, 100, 0.5, 0.4, state="rejected"),
]


# ---- front


def test_front_is_ordered_by_the_first_key_and_has_no_dominated_or_unfinished_trials() -> None:
    assert numbers(front(STUDY, KEYS)) == [2, 4, 1, 0]
    assert numbers(front(STUDY, [DROP, SIZE])) == [0, 1, 4, 2]
    assert numbers(front(STUDY, [SIZE])) == [2]


def test_larger_is_better_for_the_metric_of_the_workload() -> None:
    assert numbers(front(STUDY, [ACCURACY, SIZE])) == [0, 1, 4, 2]
    assert numbers(front(STUDY, [ACCURACY])) == [0]


def test_trials_without_a_key_or_with_a_value_that_is_no_number_are_no_candidates() -> None:
    broken = trial(7, 1, 0.1, math.nan)
    infinite = trial(8, -math.inf, 0.1, 0.0)
    lacking = Trial(number=9, recipe={}, state="complete", metrics={str(SIZE): Value.exact(1)})
    assert numbers(front([*STUDY, broken, infinite, lacking], KEYS)) == [2, 4, 1, 0]
    assert front([], KEYS) == []
    with pytest.raises(UsageError, match="at least one metric key"):
        front(STUDY, [])


def test_final_values_make_their_own_front() -> None:
    finalists = [
        STUDY[1].model_copy(update={"final": {str(SIZE): Value.exact(500), str(DROP): Value.exact(0.03)}}),
        STUDY[4].model_copy(update={"final": {str(SIZE): Value.exact(300), str(DROP): Value.exact(0.02)}}),
    ]
    assert numbers(front([BASELINE, *finalists], [SIZE, DROP], final=True)) == [4]


def test_noise_does_not_flood_the_front() -> None:
    chance = random.Random(1)
    copies = [
        trial(number, 500 * (1 + chance.uniform(-0.001, 0.001)), 0.8 * (1 + chance.uniform(-0.004, 0.004)), 0.002)
        for number in range(50)
    ]
    assert len(front(copies, KEYS)) == 1
    assert len(front([trial(100 + n, 400 - 50 * n, 0.8 + 0.05 * n, 0.002) for n in range(5)], KEYS)) == 5


def test_a_tiny_gain_does_not_keep_a_much_worse_trial() -> None:
    assert numbers(front([trial(1, 500, 0.800, 0.01), trial(2, 499, 0.801, 0.30)], KEYS)) == [1]


def test_ties_are_what_intervals_cannot_tell_apart() -> None:
    members = [trial(1, 500, 0.80, 0.010, width=0.05), trial(2, 501, 0.84, 0.012, width=0.05)]
    assert ties(members, KEYS) == {1: (2,), 2: (1,)}
    assert ties([m for m in members if m.number == 1], KEYS, among=members) == {1: (2,)}
    sharp = [trial(1, 500, 0.80, 0.010), trial(2, 501, 0.84, 0.012)]
    assert ties(sharp, KEYS) == {}


values = st.floats(0.01, 1.0)
studies = st.lists(st.tuples(values, values, values), min_size=1, max_size=25)
coarse = st.lists(st.tuples(*[st.sampled_from([0.1, 0.1001, 0.1005, 0.101, 0.12, 0.2])] * 3), min_size=1, max_size=25)


@settings(deadline=None)
@given(st.one_of(studies, coarse), st.randoms())
def test_front_invariants(rows: list[tuple[float, float, float]], chance: random.Random) -> None:
    trials = [trial(number, *row) for number, row in enumerate(rows)]
    members = front(trials, KEYS)
    assert members, "there is always a front"
    costs = {t.number: [t.metrics[str(key)].value for key in KEYS] for t in trials}
    for member, other in itertools.product(members, trials):
        mine, theirs = costs[member.number], costs[other.number]
        dominated = all(b <= a for a, b in zip(mine, theirs, strict=True)) and mine != theirs
        assert not dominated, "no member is dominated"
    for other in trials:
        assert any(
            all(
                m <= o + 2 * epsilon(key, o)
                for key, m, o in zip(KEYS, costs[member.number], costs[other.number], strict=True)
            )
            for member in members
        ), "every trial is matched within the resolution by a member"
    shuffled = list(trials)
    chance.shuffle(shuffled)
    assert numbers(front(shuffled, KEYS)) == numbers(members), "the order of the trials does not matter"
    assert numbers(front(members, KEYS)) == numbers(members), "the front of the front is the front"


@settings(deadline=None)
@given(studies)
def test_a_dominated_trial_changes_nothing(rows: list[tuple[float, float, float]]) -> None:
    trials = [trial(number, *row) for number, row in enumerate(rows)]
    worse = trial(99, *(max(column) * 1.1 for column in zip(*rows, strict=True)))
    assert numbers(front([*trials, worse], KEYS)) == numbers(front(trials, KEYS))


# ---- limits


def test_within() -> None:
    assert numbers(within(STUDY, {"drop/worst": 0.01})) == [0, 1, 3, 4]
    assert numbers(within(STUDY, {"drop/worst": 0.009, "size_bytes": 300})) == [4]
    assert numbers(within(STUDY, {"accuracy/worst": 0.995})) == [0, 1, 3]
    assert numbers(within(STUDY, {})) == [0, 1, 2, 3, 4]
    assert within([], {"drop/worst": 1}) == []


def test_within_the_bad_end_of_the_interval() -> None:
    noisy = trial(1, 500, 0.8, 0.008, width=0.005)
    assert numbers(within([noisy], {"drop/worst": 0.01})) == [1]
    assert within([noisy], {"drop/worst": 0.01}, conservative=True) == []
    assert within([noisy], {"accuracy/worst": 0.99}, conservative=True) == []


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ("drop/wurst", "no trial has the metric 'drop/wurst'; did you mean 'drop/worst'"),
        ("latency_ratio@pi", "no trial has the metric"),
        ("latency_ratio", "needs a target"),
        ("///", "malformed"),
    ],
)
def test_limits_on_what_is_not_there(key: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        within(STUDY, {key: 1})


def test_explanation_names_the_constraint_and_the_nearest_trial() -> None:
    why = explain_infeasible(STUDY, {"drop/worst": 0.001, "size_bytes": 400})
    assert (why.nearest.number, why.constraint) == (1, "size_bytes")
    assert why.missing_by == 100
    assert why.best == {"drop/worst": (0.0, 0), "size_bytes": (250, 2)}
    assert why.unreachable == ()
    assert str(why) == (
        "nothing is within the limits: each limit is met by some trial, but never all at once; nearest is trial 1 with "
        "size_bytes 500 B, which misses 400 B by 100 B"
    )


def test_explanation_of_a_limit_that_nothing_reaches() -> None:
    why = explain_infeasible(STUDY, {"size_bytes": 200, "accuracy/worst": 0.9})
    assert why.unreachable == ("size_bytes",)
    assert (why.constraint, why.nearest.number, why.missing_by, why.value) == ("size_bytes", 2, 50, 250)
    assert "no trial reaches size_bytes" in str(why)


def test_nothing_to_explain() -> None:
    with pytest.raises(Infeasible, match="no complete trial with drop/worst yet"):
        explain_infeasible([STUDY[5]], {"drop/worst": 0.1})
    with pytest.raises(ValueError, match="feasible"):
        explain_infeasible(STUDY, {"drop/worst": 0.1})


# ---- choice


def test_best_is_the_cheapest_within_the_limits() -> None:
    assert best(STUDY, {"drop/worst": 0.01}).number == 4
    assert best(STUDY, {"drop/worst": 0.01}, KEYS).number == 4
    assert best(STUDY, {"drop/worst": 0.1}).number == 2
    assert best(STUDY, {"drop/worst": 0.0}).number == 0


def test_best_of_equally_cheap_ones_is_the_least_damaged() -> None:
    rivals = [trial(1, 500, 0.800, 0.009), trial(2, 502, 0.801, 0.001), trial(3, 600, 0.8, 0.0)]
    assert best(rivals, {"drop/worst": 0.01}).number == 2


def test_best_weighs_size_and_speed_alike_and_targets_among_themselves() -> None:
    def two(number: int, size: float, local: float, pi: float) -> Trial:
        metrics = {"size_bytes": size, "latency_ratio@local": local, "latency_ratio@pi": pi, "drop/worst": 0.0}
        exact = {key: Value.exact(value) for key, value in metrics.items()}
        return Trial(number=number, recipe={}, state="complete", metrics=exact)

    # 2 halves the size, 3 the latency on one of two targets only, 4 that on both
    trials = [two(1, 100, 1.0, 1.0), two(2, 50, 1.0, 1.0), two(3, 100, 0.5, 1.0), two(4, 100, 0.49, 0.49)]
    limits = {"drop/worst": 0.01}
    assert best(trials, limits).number == 4
    assert best(trials[:3], limits).number == 2
    assert best(trials, limits, [SIZE]).number == 2


def test_best_without_a_limit_on_quality_is_the_knee_not_the_wreck() -> None:
    wreck = trial(6, 90, 0.4, 1.0)
    assert best([*STUDY, wreck], {}).number == 2
    assert best([*STUDY, wreck], {"size_bytes": 500}).number in (2, 4)


def test_best_of_nothing_feasible_says_why() -> None:
    with pytest.raises(Infeasible, match="no trial reaches size_bytes; nearest is trial 2"):
        best(STUDY, {"drop/worst": 0.1, "size_bytes": 10})


# ---- hypervolume


def test_hypervolume_of_known_fronts() -> None:
    square = [trial(1, 1, 1, 0.0), trial(2, 2, 0.5, 0.0)]
    assert hypervolume(square, [SIZE, SPEED], [3, 2]) == pytest.approx(2 * 1 + 1 * 0.5)
    assert hypervolume([trial(1, 1, 1, 0.5)], KEYS, [3, 2, 1]) == pytest.approx(2 * 1 * 0.5)
    assert hypervolume(square, [SIZE, SPEED], [1, 1]) == 0, "nothing is better than the reference"
    assert hypervolume([trial(1, 1, 1, 0.25)], [SIZE, ACCURACY], [2, 0.5]) == pytest.approx(0.25)
    with pytest.raises(ValueError, match="2 keys need 2 reference values"):
        hypervolume(square, [SIZE, SPEED], [1])


@settings(deadline=None)
@given(st.lists(st.tuples(*[st.integers(1, 6)] * 4), min_size=1, max_size=8), st.integers(2, 4))
def test_hypervolume_counts_the_dominated_cells(rows: list[tuple[int, ...]], dimensions: int) -> None:
    keys = [MetricKey("energy_j", target=f"t{axis}") for axis in range(dimensions)]
    trials = [
        Trial(
            number=number,
            recipe={},
            state="complete",
            metrics={str(key): Value.exact(x) for key, x in zip(keys, row, strict=False)},
        )
        for number, row in enumerate(rows)
    ]
    cells = sum(
        any(all(x <= cell for x, cell in zip(row, corner, strict=False)) for row in rows)
        for corner in itertools.product(range(1, 7), repeat=dimensions)
    )
    assert hypervolume(trials, keys, [7] * dimensions) == pytest.approx(cells)
