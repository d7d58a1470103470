"""Do the artifacts of one recipe in several dialects answer alike? Compared where each family judges, and kept.

They are different files, so equal numbers are not expected: an 8-bit layer rounds in one dialect otherwise than in
another. Every family is judged on what it answers itself; this tells how far the answers lie apart.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import TypeAdapter, ValidationError

from autotune.errors import DataError
from autotune.parity.report import Pair
from autotune.search.agreement import Feed, Notes, Watched

if TYPE_CHECKING:
    from autotune.config import FinalistsTable
    from autotune.search.targets import Targets
    from autotune.store import Store
    from autotune.trial import Trial
    from hwprofiles.device import Device

_PAIRS = TypeAdapter(tuple[Pair, ...])


def stored_across(store: Notes, trial: Trial) -> tuple[Pair, ...]:
    """Pairs of targets with other artifacts of this trial; none where nothing was compared. Raises `DataError`."""
    kept = store.meta(_key(trial))
    if kept is None:
        return ()
    try:
        return _PAIRS.validate_python(kept, strict=False)
    except ValidationError as error:
        raise DataError(
            f"what artifacts of trial {trial.number} answer was kept in a way that cannot be read; upgrade, or run the "
            "study again"
        ) from error


def has_across(store: Notes, trial: Trial, targets: Sequence[str]) -> bool:
    """Whether all of `targets` were compared."""
    named = {name for pair in stored_across(store, trial) for name in (pair.one, pair.other)}
    return named >= set(targets)


def keep_across(
    store: Store,
    trial: Trial,
    inputs: Sequence[Feed],
    asked: Mapping[str, tuple[Path, Device]],
    targets: Targets,
    table: FinalistsTable,
) -> None:
    """Run each target's own artifact on `inputs` and keep how far the answers lie apart. No further sample is begun
    after `table.parity_seconds`. Raises `TargetPaused`, and what a device raises."""
    from autotune.parity.check import Answering, compare_answers  # slow to import

    end = time.monotonic() + table.parity_seconds
    answering = {name: Answering(path, Watched(name, device, targets)) for name, (path, device) in asked.items()}
    pairs = compare_answers(answering, inputs, until=lambda: time.monotonic() > end)
    store.set_meta(_key(trial), _PAIRS.dump_python(pairs, mode="json"))


def words(pairs: Sequence[Pair]) -> list[str]:
    """One sentence a pair, without a full stop."""
    said = []
    for pair in pairs:
        classes = "" if pair.agreement is None else f"{pair.agreement:.1%} of the largest entries are the same"
        apart = "" if pair.distance is None else f"the distance is {pair.distance:.2g}"
        how = (
            "the same answers, bit for bit"
            if pair.equal
            else ", ".join(filter(None, (classes, apart))) or "they differ"
        )
        said.append(f"{pair.one} against {pair.other}, each with its own artifact: {how}")
    return said


def _key(trial: Trial) -> str:
    digests = " ".join(sorted(artifact.digest for artifact in trial.artifacts))
    return f"across/{hashlib.sha256(digests.encode()).hexdigest()}"
