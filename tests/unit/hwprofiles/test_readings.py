"""The stop watch on sessions that are not models, and what is made of its answers."""

from __future__ import annotations

import gc
from typing import Any

import numpy as np
import pytest

from hwprofiles.agent import timing
from hwprofiles.agent.frames import FrameError
from hwprofiles.agent.readings import Blocks, add_blocks, disturbances, unread


class Counting:
    """A model that notes which input it was given."""

    def __init__(self) -> None:
        self.seen: list[Any] = []

    def run(self, feed: dict[str, Any]) -> list[Any]:
        self.seen.append(feed["x"])
        return [feed["x"]]


class Elsewhere(Counting):
    """A model in another process, whose own clock counts."""

    def time_block(self, feeds: list[dict[str, Any]], count: int) -> dict[str, Any]:
        return {
            "wall": [0.5] * count,
            "cpu": 0.1 * count,
            "thread_cpu": 0.1 * count,
            "first": 2.0,
            "load": 1,
            "cold": 4,
        }


FEEDS = [{"x": 1}, {"x": 2}, {"x": 3}]


def test_warm_up_stops_when_it_is_settled_or_at_its_cap() -> None:
    session = Counting()
    told = timing.warm_up(session, FEEDS, seconds=0.0, iterations=12, cap=30.0)
    assert len(told["samples"]) >= 12 and told["first"] == told["samples"][0]
    told = timing.warm_up(session, FEEDS, seconds=60.0, iterations=10**9, cap=0.0)
    assert len(told["samples"]) == 1 and not told["stable"]


def test_pairs_use_every_input_equally_and_both_sides_in_random_order() -> None:
    sessions = {"a": Counting(), "b": Counting()}
    blocks = timing.time_pairs(sessions, FEEDS, {"a": 6, "b": 3}, pairs=20, seed=1, budget=60.0)
    assert [sessions["a"].seen.count(number) for number in (1, 2, 3)] == [40, 40, 40]
    firsts = [block["side"] for block in blocks[::2]]
    assert len(blocks) == 40 and 4 < firsts.count("a") < 16
    assert {block["side"] for block in blocks[:2]} == {"a", "b"} and "clock_hz" in blocks[0]
    one = timing.time_pairs(sessions, FEEDS, {"a": 3, "b": 3}, pairs=20, seed=1, budget=0.0)
    assert len(one) == 2


def test_what_checks_between_pairs_ends_the_timing() -> None:
    session, calls = Counting(), []

    def check() -> None:
        calls.append(len(session.seen))
        if len(calls) == 3:
            raise InterruptedError

    with pytest.raises(InterruptedError):
        timing.time_pairs({"a": session}, FEEDS, {"a": 6}, pairs=20, seed=1, budget=60.0, check=check)
    assert calls == [0, 6, 12] and gc.isenabled()


def test_a_model_elsewhere_is_timed_by_its_own_clock() -> None:
    block = timing.time_block(Elsewhere(), FEEDS, 4)
    assert block == {"count": 4, "inferences": 4, "wall": [0.5] * 4, "cpu": 0.4, "thread_cpu": 0.4}
    told = timing.warm_up(Elsewhere(), FEEDS, seconds=1.0, iterations=5, cap=10.0)
    assert told == {"samples": [0.5] * 5, "first": 2.0, "stable": True}


def block(side: str, count: int = 2, **more: Any) -> dict[str, Any]:
    return {"side": side, "count": count, "cpu": 0.002, "thread_cpu": 0.002, **more}


def test_blocks_are_put_in_order() -> None:
    blocks = {"a": Blocks(), "b": Blocks()}
    told = [block("b", clock_hz=3e9), block("a", clock_hz=None), block("a"), block("b")]
    assert add_blocks(blocks, told, np.array([2, 2, 1, 1, 1, 3, 2, 2.0])) == 2
    assert blocks["a"].medians == [1, 2] and blocks["b"].medians == [2, 2]
    assert blocks["b"].clocks == [3e9] and blocks["a"].clocks == []
    assert blocks["a"].off_cpu == pytest.approx(6 / 0.004)


@pytest.mark.parametrize(
    ("told", "wall"),
    [
        ([block("a"), block("b")], [1.0, 1, 1]),
        ([block("a"), block("b")], [1.0, 1, 1, float("nan")]),
        ([block("a"), block("b")], [1.0, 1, 1, 0]),
        ([block("a"), block("a")], [1.0, 1, 1, 1]),
        ([block("a", clock_hz=-1), block("b")], [1.0, 1, 1, 1]),
        ([], []),
    ],
    ids=["too few", "not a number", "zero", "unpaired", "clock", "nothing"],
)
def test_numbers_that_no_clock_gives_are_garbage(told: list[dict[str, Any]], wall: list[float]) -> None:
    with pytest.raises((ValueError, FrameError)):
        add_blocks({"a": Blocks(), "b": Blocks()}, told, np.array(wall))


def test_pressure_and_steal_disturb() -> None:
    rest = {"clock": 10.0, "psi_total": 1.0, "steal_total": 5.0}
    assert disturbances(rest, {"clock": 12.0, "psi_total": 1.05, "steal_total": 5.01}) == []
    assert disturbances(rest, {"clock": 12.0, "psi_total": 1.2, "steal_total": 5.0}) == ["tasks waited for a CPU"]
    assert disturbances(rest, {"clock": 12.0, "psi_total": 1.0, "steal_total": 5.1}) == ["the hypervisor took CPU time"]
    blind = {"clock": 10.0, "psi_total": None, "steal_total": None}
    assert disturbances(blind, {**blind, "clock": 12.0}) == []


def test_what_could_not_be_read_is_told() -> None:
    facts = {"governor": "performance", "frequency_hz": 3e9, "temperature_c": None, "throttle_count": 0}
    assert unread(facts) == ["temperature", "pressure", "steal", "energy", "cgroup peak"]
