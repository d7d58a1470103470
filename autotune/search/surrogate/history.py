"""What a study has measured so far, as arrays. Everything the surrogate knows comes from here."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Any

import numpy as np
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from autotune.search.surrogate.space import Floats, Ints, Space

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


def signs(directions: Sequence[StudyDirection]) -> Floats:
    """+1 for a minimised objective, -1 for a maximised one."""
    return np.array([-1.0 if d == StudyDirection.MAXIMIZE else 1.0 for d in directions])


class Ledger:
    """Reads the trials of one study, each finished one once."""

    def __init__(self, space: Space, sign: Floats, *, damage_attr: str, drop_attr: str) -> None:
        self._space, self._sign = space, sign
        self._attrs = (damage_attr, drop_attr)
        self._rows: dict[int, tuple[Ints, list[float], Mapping[str, Any], Mapping[str, Any]]] = {}
        self._keys: dict[int, bytes | None] = {}

    def read(self, trials: Sequence[FrozenTrial]) -> dict[int, bytes]:
        """Trial number -> key of its configuration, for all trials, in whatever state, with one in the space."""
        keys = {}
        for trial in trials:
            if trial.number in self._keys:
                key = self._keys[trial.number]
            else:
                config = self._space.encode(trial.params)
                key = None if config is None else config.tobytes()
                if trial.state.is_finished():
                    self._keys[trial.number] = key
                    self._record(trial, config)
            if key is not None:
                keys[trial.number] = key
        return dict(sorted(keys.items()))

    def history(self) -> History:
        """Everything that was measured in what has been read."""
        rows = [self._rows[number] for number in sorted(self._rows)]
        n, objectives = len(rows), len(self._sign)
        slices = tuple(dict.fromkeys(name for row in rows for table in row[2:] for name in table))
        return History(
            configs=np.array([row[0] for row in rows], np.int64).reshape(n, len(self._space)),
            values=np.array([row[1] for row in rows], float).reshape(n, objectives) * self._sign,
            damage=_columns([row[2] for row in rows], slices),
            drop=_columns([row[3] for row in rows], slices),
            slices=slices,
            numbers=np.array(sorted(self._rows), np.int64),
        )

    def _record(self, trial: FrozenTrial, config: Ints | None) -> None:
        if config is not None and trial.state in INFORMATIVE:
            damage, drop = (_table(trial, attr) for attr in self._attrs)
            self._rows[trial.number] = config, _values(trial, len(self._sign)), damage, drop
            read = self._attrs if trial.state == TrialState.COMPLETE else (*self._attrs, OBSERVED)
            for problem in _problems(trial, read):
                warnings.warn(f"trial {trial.number}: {problem}; it is left out", stacklevel=2)


def _values(trial: FrozenTrial, count: int) -> list[float]:
    if trial.state == TrialState.COMPLETE and trial.values is not None:
        return [_finite(v) for v in trial.values]
    observed = trial.user_attrs.get(OBSERVED)
    observed = observed if isinstance(observed, Mapping) else {}
    return [_finite(observed.get(str(m))) for m in range(count)]


def _table(trial: FrozenTrial, attr: str) -> Mapping[str, Any]:
    value = trial.user_attrs.get(attr)
    return value if isinstance(value, Mapping) else {}


def _problems(trial: FrozenTrial, attrs: Sequence[str]) -> Iterator[str]:
    """What is told and cannot be read. None and NaN are no mistake: they mean that something is not known."""
    for attr in attrs:
        told = trial.user_attrs.get(attr, {})
        if not isinstance(told, Mapping):
            yield f"the user attribute {attr!r} is {told!r} and no mapping to numbers"
            continue
        for name, value in told.items():
            if value is not None and not isinstance(value, Real):
                yield f"the user attribute {attr!r} says {value!r} of {name!r}, which is no number"


def _columns(tables: Sequence[Mapping[str, Any]], slices: Sequence[str]) -> Floats:
    return np.array([[_finite(table.get(s)) for s in slices] for table in tables]).reshape(len(tables), len(slices))


def _finite(value: Any) -> float:
    if isinstance(value, Real) and math.isfinite(value):
        return float(value)
    return math.nan
