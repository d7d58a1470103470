"""What a study's choices mean must not change while it is continued."""

from __future__ import annotations

from pathlib import Path

import pytest

from autotune.errors import UsageError
from autotune.recipe import Recipe
from autotune.search.suiting import keep_meanings
from autotune.store import open_store
from autotune.techniques.multiples import Liked
from autotune.techniques.prune import Prune
from autotune.techniques.quantize import Quantize


def test_another_route_or_multiple_is_refused(tmp_path: Path) -> None:
    with open_store(tmp_path / "s.db", "mine") as store:
        store.begin("{}", "d")
        keep_meanings(store, {"prune": Prune(), "quantize": Quantize()})
        keep_meanings(store, {"prune": Prune()})
        store.start_trial(Recipe(), "original")
        store.start_trial(Recipe({"prune": {"a": "cut-50%"}}), "uniform")
        with pytest.raises(
            UsageError, match=r"'mine' was begun with other options \(route was 'graph' and is 'torch-pr"
        ):
            keep_meanings(store, {"prune": Prune(route="torch-pruning")})
        moved = Prune()
        moved.suit({"gpu": Liked(64, "a card")})
        with pytest.raises(UsageError, match=r"round_to was '8 or less' and is '64 or less'.*another --store"):
            keep_meanings(store, {"prune": moved})
        keep_meanings(store, {"prune": Prune()})


def test_options_may_change_until_there_is_a_trial(tmp_path: Path) -> None:
    with open_store(tmp_path / "s.db", "mine") as store:
        store.begin("{}", "d")
        keep_meanings(store, {"prune": Prune()})
        store.start_trial(Recipe(), "original")
        keep_meanings(store, {"prune": Prune(route="torch-pruning")})
        store.start_trial(Recipe({"prune": {"a": "cut-50%"}}), "uniform")
        with pytest.raises(UsageError, match="route was 'torch-pruning' and is 'graph'"):
            keep_meanings(store, {"prune": Prune()})


def test_other_rounding_is_refused(tmp_path: Path) -> None:
    """The same recipe has other weights then, which would be taken for those that were judged."""
    with open_store(tmp_path / "s.db", "mine") as store:
        store.begin("{}", "d")
        keep_meanings(store, {"quantize": Quantize()})
        store.start_trial(Recipe(), "original")
        store.start_trial(Recipe({"quantize": {"a": "w4-b32"}}), "uniform")
        keep_meanings(store, {"quantize": Quantize(choices=["w4-b32"], rounding="nearest")})
        with pytest.raises(UsageError, match="rounding was 'nearest' and is 'gptq'"):
            keep_meanings(store, {"quantize": Quantize(rounding="gptq")})
        with pytest.raises(UsageError, match="bias_correction was 'false' and is 'true'"):
            keep_meanings(store, {"quantize": Quantize(bias_correction=True)})
