"""What a study's choices mean must not change while it is continued."""

from __future__ import annotations

from pathlib import Path

import pytest

from autotune.errors import UsageError
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
        with pytest.raises(
            UsageError, match=r"'mine' was begun with other options \(route was 'graph' and is 'torch-pr"
        ):
            keep_meanings(store, {"prune": Prune(route="torch-pruning")})
        moved = Prune()
        moved.suit({"gpu": Liked(64, "a card")})
        with pytest.raises(UsageError, match=r"round_to was '8 or less' and is '64 or less'.*another --store"):
            keep_meanings(store, {"prune": moved})
        keep_meanings(store, {"prune": Prune()})
