"""Which openings count, when it is enough, and what is flagged. Simulated: no device, no clock."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest

from hwprofiles.agent.readings import Blocks
from hwprofiles.openings import Opening, Tally, median_of, pair_logs, ratio_of
from hwprofiles.scenario import FINAL, SEARCH, Scenario

NOISE = 0.002


def opening(
    number: int,
    pairs: int,
    random: np.random.Generator,
    *,
    labels: tuple[str, ...] = ("",),
    ratio: float = 1.0,
    noise: float = NOISE,
    disturbed: bool = False,
    clock: float | None = None,
) -> Opening:
    shapes = {}
    for label in labels:
        sides = {}
        for side, factor in (("a", ratio), ("b", 1.0)):
            medians = (0.001 * factor * np.exp(random.normal(0, noise, pairs))).tolist()
            clocks = [clock] * pairs if clock else []
            sides[side] = Blocks(medians, medians, medians, clocks, sum(medians), sum(medians))
        shapes[label] = sides
    return Opening(number, shapes, ("somebody else",) if disturbed else ())


def collect(
    scenario: Scenario, make: Callable[[int, int, list[str]], Opening], labels: tuple[str, ...] = ("",)
) -> Tally:
    tally = Tally(scenario, labels)
    while True:
        wanted, pairs = tally.wanted()
        if not wanted:
            return tally
        tally.add(make(len(tally.openings), pairs, wanted))
        assert len(tally.openings) < 200


def pairs_of(tally: Tally) -> int:
    return sum(len(one.shapes[tally.labels[0]]["a"].medians) for one in tally.openings)


@pytest.mark.parametrize(
    ("scenario", "pairs", "openings"),
    [(SEARCH, 21, 7), (FINAL, 50, 10), (SEARCH.model_copy(update={"min_pairs": 5}), 5, 5)],
)
def test_precise_pairs_end_at_the_first_look(scenario: Scenario, pairs: int, openings: int) -> None:
    random = np.random.default_rng(0)
    tally = collect(scenario, lambda number, pairs, _: opening(number, pairs, random))
    assert (pairs_of(tally), len(tally.openings)) == (pairs, openings)
    kept, flags = tally.settle()
    assert kept == tally.openings
    assert flags == ({"short"} if scenario.min_pairs == 5 else set())  # rule B8: no decision from fewer than 20


def test_openings_that_differ_go_on_to_the_last_look_and_no_further() -> None:
    random = np.random.default_rng(0)
    tally = collect(SEARCH, lambda n, pairs, _: opening(n, pairs, random, ratio=math.exp(random.normal(0, 0.1))))
    assert pairs_of(tally) == SEARCH.max_pairs
    assert tally.settle()[1] == set()


def test_a_final_measurement_of_few_pairs_is_short() -> None:
    """Rule B8: no published number from fewer than 50 pairs, whatever a scenario asks for."""
    random = np.random.default_rng(0)
    scenario = FINAL.model_copy(update={"min_pairs": 30, "max_pairs": 40})
    tally = collect(scenario, lambda number, pairs, _: opening(number, pairs, random))
    assert pairs_of(tally) == 30 and tally.settle()[1] == {"short"}


def test_one_opening_is_short_however_many_pairs_it_has() -> None:
    tally = Tally(SEARCH, ("",))
    tally.add(opening(0, 50, np.random.default_rng(0)))
    assert tally.wanted()[0] == [] and tally.settle()[1] == {"short"}


def test_disturbed_openings_are_replaced() -> None:
    random = np.random.default_rng(0)

    def make(number: int, pairs: int, _: list[str]) -> Opening:
        hit = number in (1, 4)
        return opening(number, pairs, random, ratio=1.5 if hit else 1.0, disturbed=hit)

    tally = collect(SEARCH, make)
    kept, flags = tally.settle()
    assert [one.number for one in kept] == [0, 2, 3, 5, 6, 7, 8] and flags == set()
    assert ratio_of(kept, "")[0] == pytest.approx(0, abs=0.01)


def test_a_machine_that_stays_busy_is_flagged_and_costs_no_more_than_half_again() -> None:
    random = np.random.default_rng(0)
    tally = collect(SEARCH, lambda n, pairs, _: opening(n, pairs, random, disturbed=True))
    kept, flags = tally.settle()
    assert kept == tally.openings and len(kept) <= 11 and flags == {"contended"}


def test_disturbed_openings_count_when_time_ran_out_before_they_were_replaced() -> None:
    random = np.random.default_rng(0)
    tally = Tally(SEARCH, ("",))
    for number in range(7):
        tally.add(opening(number, 3, random, disturbed=number == 3))
    kept, flags = tally.settle()
    assert len(kept) == 7 and flags == {"contended"}


def test_an_opening_at_another_clock_is_dropped_if_enough_remain() -> None:
    random = np.random.default_rng(0)

    def make(number: int, pairs: int, _: list[str]) -> Opening:
        return opening(number, pairs, random, noise=0.05, clock=2.0e9 if number == 2 else 3.0e9 + 1e7 * (number % 3))

    tally = collect(SEARCH, make)
    kept, flags = tally.settle()
    assert len(kept) == len(tally.openings) - 1 and 2 not in [one.number for one in kept] and flags == set()
    short = Tally(SEARCH, ("",))
    for number in range(7):
        short.add(make(number, 3, []))
    kept, flags = short.settle()
    assert len(kept) == 7 and flags == {"throttled"}


def test_a_shape_that_is_known_well_is_not_measured_further() -> None:
    random = np.random.default_rng(0)

    def make(number: int, pairs: int, labels: list[str]) -> Opening:
        made = opening(number, pairs, random, labels=("wild", "calm"))
        shift = math.exp(random.normal(0, 0.05))
        made.shapes["wild"]["a"].medians = [median * shift for median in made.shapes["wild"]["a"].medians]
        return Opening(number, {label: made.shapes[label] for label in labels})

    tally = collect(SEARCH, make, ("wild", "calm"))
    assert len(pair_logs(tally.openings, "calm")[0]) == 21
    assert len(pair_logs(tally.openings, "wild")[0]) == SEARCH.max_pairs


def test_the_median_has_an_interval_over_openings_too() -> None:
    """Blocks of one opening agree; the next opening is 2 % faster or slower: the interval must show that."""
    random = np.random.default_rng(0)
    made = [opening(n, 3, random, noise=1e-6) for n in range(6)]
    for one in made:
        shift = 1.02 if one.number % 2 else 0.98
        one.shapes[""]["a"].medians = [median * shift for median in one.shapes[""]["a"].medians]
    value, low, high = median_of(made, "", "a")
    assert math.exp(value) == pytest.approx(0.001, rel=0.001)
    assert high - low == pytest.approx(2 * 2.5706 * 0.0219 / math.sqrt(6), rel=0.01)
    assert pair_logs(made, "")[1] == [n for n in range(6) for _ in range(3)]
