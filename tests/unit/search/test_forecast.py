"""What more trials would bring, on histories whose end is known."""

from __future__ import annotations

import time

import numpy as np
import pytest

from autotune.config import SearchTable
from autotune.search.effort import Effort, before_the_end
from autotune.search.forecast import AHEAD, LEAST, SMALL, Forecast, duration, forecast, normalised


def closing(trials: int, constant: float, seed: int) -> list[float]:
    """Two of five trials take an exponentially distributed share of what is left to win."""
    rng = np.random.default_rng(seed)
    volume, history = 0.3, []
    for _ in range(trials):
        if rng.random() < 0.4:
            volume = min(1.0, volume + (1 - volume) * rng.exponential(1 / constant) / 0.4)
        history.append(volume)
    return history


def steady(trials: int, seed: int) -> list[float]:
    """0.5 % more with every trial, in the mean, for ever."""
    rng = np.random.default_rng(seed)
    return list(0.3 * np.exp(np.cumsum(0.005 * rng.exponential(1, trials) * (rng.random(trials) < 0.3) / 0.3)))


def stop_of(history: list[float], step: int = 5) -> int | None:
    for count in range(LEAST + 1, len(history) - AHEAD, step):
        told = forecast(history[:count], AHEAD)
        if told is not None and told.stable:
            return count
    return None


def test_a_search_that_improves_is_not_stable() -> None:
    assert [stop_of(steady(150, seed)) for seed in range(10)] == [None] * 10


def test_it_stops_on_a_plateau() -> None:
    for seed in range(10):
        history = closing(60, 15, seed)
        stop = stop_of(history + [history[-1]] * 140)
        assert stop is not None and stop <= 130


def test_what_it_stops_at_is_hardly_ever_still_moving() -> None:
    wrong = 0
    for seed in range(40):
        history = closing(220, 20, seed)
        stop = stop_of(history)
        if stop is not None:
            wrong += history[stop - 1 + AHEAD] / history[stop - 1] - 1 >= SMALL
    assert wrong <= 4


def test_most_intervals_hold_what_came() -> None:
    held, told_ = 0, 0
    for seed in range(20):
        for history in (closing(200, 30, seed), steady(200, seed)):
            for count in range(LEAST + 1, 180, 12):
                told = forecast(history[:count], 20)
                assert told is not None and 0 <= told.low <= told.gain <= told.high
                came = history[count + 19] / history[count - 1] - 1
                held += told.low - 1e-9 <= came <= told.high + 1e-9
                told_ += 1
    assert held / told_ >= 0.75  # of nominal 90 %: the gains of a search are not independent


def test_it_says_nothing_before_it_knows_enough() -> None:
    assert forecast([0.1] * LEAST, 10) is None
    assert forecast([0.0] * 20 + [0.1] * LEAST, 10) is None
    told = forecast([0.1] * (LEAST + 1), 10)
    assert told is not None and told.stable and told.high == 0.0


def test_the_same_history_gives_the_same_forecast() -> None:
    history = closing(80, 15, 1)
    assert forecast(history, 20) == forecast(history, 20)


def test_words() -> None:
    assert str(Forecast(20, 0.008, 0.0, 0.021, 0.7)) == "20 more trials would bring about +0.8 % (0.0 to 2.1)"
    timed = str(Forecast(20, 0.008, 0.0, 0.021, 0.7, 360.0))
    assert timed == "20 more trials (about 6 min) would bring about +0.8 % (0.0 to 2.1)"
    told = forecast([0.1] * (LEAST + 1), 10, seconds_each=4.0)
    assert told is not None and told.seconds == 40.0
    assert [duration(seconds) for seconds in (40, 360, 7500)] == ["40 s", "6 min", "2 h 5 min"]
    assert normalised(6.0, [2.0, 3.0, 2.0]) == pytest.approx(0.5)


def test_why_a_search_ends() -> None:
    still, moving = Forecast(10, 0.001, 0.0, 0.004, 0.99), Forecast(10, 0.02, 0.0, 0.04, 0.3)
    begun = time.monotonic()
    patient = Effort(40, None, begun)
    assert patient.why_spent(39, still) == "" and "40 trials" in patient.why_spent(40)
    stable = Effort(40, None, begun, until_stable=True)
    assert not stable.spent(35, moving) and not stable.spent(35, None)
    assert "stopped moving: 10 more trials would bring about +0.1 %" in stable.why_spent(35, still)
    late = Effort(40, 1.0, begun - 3601)
    assert late.why_spent(3) == "the time of 1 h is over" and late.trials_left(3, 10.0) == 0
    assert Effort(40, 1.0, begun - 3500).trials_left(3, 10.0) in (9, 10)
    assert patient.trials_left(3, 10.0) == 37 and patient.trials_left(50, 0.0) == 0


def test_a_search_that_ends_before_anything_can_be_foreseen_says_so() -> None:
    (said,) = before_the_end(SearchTable(trials=24, until_stable=True))
    assert "looks back on 31 trials" in said and "this study has 24 in all; it needs at least 32" in said
    assert before_the_end(SearchTable(trials=24)) == [] == before_the_end(SearchTable(trials=32, until_stable=True))
    flat = [0.1] * 31
    for trials, ends in ((31, False), (32, True)):  # what is said is true: 31 are the first that can end a search
        effort = Effort(trials, None, time.monotonic(), until_stable=True)
        early = [n for n in range(trials) if effort.spent(n, forecast(flat[:n], AHEAD))]
        assert (early != []) == ends == (before_the_end(SearchTable(trials=trials, until_stable=True)) == [])
