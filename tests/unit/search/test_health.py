"""The sampler's health: kept batch by batch, and said in words when it turns."""

from __future__ import annotations

import math
from typing import Any

from autotune.keys import MetricKey
from autotune.search.memory import Memory
from autotune.search.surrogate import SurrogateSampler
from autotune.search.surrogate.health import Health


class Kept:
    """The part of a store that is needed here."""

    def __init__(self) -> None:
        self.kept: dict[str, Any] = {}
        self.trials_there = 3

    def meta(self, key: str) -> Any:
        return self.kept.get(key)

    def set_meta(self, key: str, value: Any) -> None:
        self.kept[key] = value

    def trials(self, *, details: bool) -> list[int]:
        return [0] * self.trials_there


class Told(SurrogateSampler):
    """A sampler whose health is given."""

    now: Health | None = None

    def health(self) -> Health | None:
        return self.now


def test_what_turns_bad_or_good_is_said_once_and_kept_by_trial() -> None:
    said: list[str] = []
    store, sampler = Kept(), Told(seed=0)
    memory = Memory.__new__(Memory)
    memory._store, memory._sampler, memory._say = store, sampler, said.append  # type: ignore[assignment]
    memory._objectives = (MetricKey("size_bytes"), MetricKey("drop", "worst"))
    memory._health, memory._good = None, True

    def batch(number: int, rank: float, good: bool) -> None:
        store.trials_there = number
        sampler.now = Health(5, (1.0, rank), (0.0, 0.31), good)
        memory._look_at_health()
        memory._look_at_health()  # the same batch again

    memory._look_at_health()
    assert "health" not in store.kept  # nothing was predicted yet
    batch(10, math.nan, good=True)
    batch(15, 0.12, good=False)
    batch(20, 0.2, good=False)
    batch(25, 0.9, good=True)
    assert [entry["trial"] for entry in store.kept["health"]] == [10, 15, 20, 25]
    assert store.kept["health"][0]["rank_correlation"] == {"size_bytes": 1.0, "drop/worst": None}
    assert len(said) == 2 and "drop/worst" in said[0] and "0.12" in said[0] and "31 %" in said[0]
    assert said[1] == "the search predicts its trials well again"
    batch(15, 0.5, good=True)  # a resumed run proposes the same batch again
    assert len(store.kept["health"]) == 4
