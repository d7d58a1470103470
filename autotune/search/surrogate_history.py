"""What a study has measured so far, as arrays. Everything the surrogate knows comes from here."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from autotune.search.surrogate_space import Floats, Ints, Space

OBSERVED = "observed"  # user attribute of a pruned trial: {str(objective index): value}
INFORMATIVE = (TrialState.COMPLETE, TrialState.PRUNED)


@dataclass(frozen=True)
class History:
    """`n` finished trials that carry information; NaN marks what was not measured.

    `configs` (n, L); `values` (n, M), every objective minimised; `damage` and `drop` (n, S), one column per slice;
    `numbers` (n,) Optuna's trial numbers, increasing.
    """

    configs: Ints
    values: Floats
    damage: Floats
    drop: Floats
    slices: tuple[str, ...]
    numbers: Ints

    def __len__(self) -> int:
        return len(self.configs)

    def before(self, number: int) -> History:
        """Only what was asked before trial `number`."""
        keep = self.numbers < number
        return History(self.configs[keep], self.values[keep], self.damage[keep], self.drop[keep], self.slices,
                       self.numbers[keep])  # fmt: skip

    def last(self, n: int) -> History:
        return self if len(self) <= n else self.before_index(slice(len(self) - n, None))

    def before_index(self, rows: slice) -> History:
        return History(self.configs[rows], self.values[rows], self.damage[rows], self.drop[rows], self.slices,
                       self.numbers[rows])  # fmt: skip


def signs(directions: Sequence[StudyDirection]) -> Floats:
    """+1 for a minimised objective, -1 for a maximised one."""
    return np.array([-1.0 if d == StudyDirection.MAXIMIZE else 1.0 for d in directions])


def read_history(
    trials: Sequence[FrozenTrial], space: Space, sign: Floats, *, damage_attr: str, drop_attr: str
) -> History:
    """Arrays of all complete and pruned trials whose parameters lie in `space`."""
    rows = []
    for trial in trials:
        if trial.state in INFORMATIVE:
            config = space.encode(trial.params)
            if config is not None:
                rows.append((trial, config))
    slices = tuple(dict.fromkeys(
        name for trial, _ in rows for attr in (damage_attr, drop_attr) for name in _table(trial, attr)
    ))  # fmt: skip
    n = len(rows)
    return History(
        configs=np.array([config for _, config in rows], np.int64).reshape(n, len(space)),
        values=np.array([_values(t, len(sign)) for t, _ in rows]).reshape(n, len(sign)) * sign,
        damage=_columns([_table(t, damage_attr) for t, _ in rows], slices),
        drop=_columns([_table(t, drop_attr) for t, _ in rows], slices),
        slices=slices,
        numbers=np.array([t.number for t, _ in rows], np.int64),
    )


def taken(trials: Sequence[FrozenTrial], space: Space) -> set[bytes]:
    """Keys of all configurations in the study, in whatever state: they are not proposed again."""
    found = set()
    for trial in trials:
        config = space.encode(trial.params)
        if config is not None:
            found.add(config.tobytes())
    return found


def _values(trial: FrozenTrial, count: int) -> list[float]:
    if trial.state == TrialState.COMPLETE and trial.values is not None:
        return [_finite(v) for v in trial.values]
    observed = trial.user_attrs.get(OBSERVED)
    observed = observed if isinstance(observed, Mapping) else {}
    return [_finite(observed.get(str(m))) for m in range(count)]


def _table(trial: FrozenTrial, attr: str) -> Mapping[str, Any]:
    value = trial.user_attrs.get(attr)
    return value if isinstance(value, Mapping) else {}


def _columns(tables: Sequence[Mapping[str, Any]], slices: Sequence[str]) -> Floats:
    return np.array([[_finite(table.get(s)) for s in slices] for table in tables]).reshape(len(tables), len(slices))


def _finite(value: Any) -> float:
    if isinstance(value, (int, float)) and math.isfinite(value):
        return float(value)
    return math.nan
