"""One study as the sampler sees it: what was measured, and the models of it, now and before the last batches.

Everything here is a function of the study's trials, so a resumed search needs no pickles.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from optuna.trial import FrozenTrial

from autotune.errors import UsageError
from autotune.search.surrogate.health import Health, check_health
from autotune.search.surrogate.history import History, Ledger
from autotune.search.surrogate.model import MOST_SLICES, Fitted, Model
from autotune.search.surrogate.space import Floats, Ints, Space
from autotune.search.surrogate.thinning import thinned, with_slices

RELEARN = 25  # measurements between two choices of the prior scales
RELEARN_LATE = 100  # the same after LATE measurements: they hardly move any more
LATE = 300
MOST_ROWS = 600  # measurements that a model is fitted to: time and memory per proposal are bounded by them
KEPT_MODELS = 3
UNKNOWN_ERROR = 0.05  # of a limit: the error of what has not been predicted yet


class Known(NamedTuple):
    """A fit, and the names of the slices that it models, in the order of its drops."""

    fitted: Fitted
    slices: tuple[str, ...]


@dataclass
class State:
    """Fits are by the trial number that they are made for: they know the trials before it alone."""

    study_name: str
    space: Space
    ledger: Ledger
    sign: Floats
    initial: Ints
    anchors: int
    batch_size: int
    make_model: Callable[[], Model]
    always: tuple[str, ...] = ()  # slices that are modelled though others drop more
    batch: tuple[int, Ints] | None = None
    health: Health | None = None
    errors: Floats | None = None  # (M,) typical |predicted - measured| of the last two batches; NaN where unknown
    broken: set[int] = field(default_factory=set)  # numbers of trials that broke a constraint of Optuna's
    _read: set[int] = field(default_factory=set)
    _models: OrderedDict[tuple[int, int], Model] = field(default_factory=OrderedDict)
    _fits: dict[int, Known] = field(default_factory=dict)

    def read(self, trials: Sequence[FrozenTrial]) -> dict[int, bytes]:
        """Trial number -> key of its configuration, as `Ledger.read`; each finished trial is read once."""
        for trial in trials:
            if trial.number not in self._read and trial.state.is_finished():
                self._read.add(trial.number)
                if any(value > 0 for value in trial.constraints.values()):
                    self.broken.add(trial.number)
        return self.ledger.read(trials)

    def start(self, keys: Mapping[int, bytes], number: int) -> int:
        """The trial number from which on the model proposes: as many configurations as the start has were asked for."""
        seen: set[bytes] = set()
        for n, key in keys.items():
            if n >= number:
                break
            seen.add(key)
            if len(seen) >= len(self.initial):
                return n + 1
        return number

    def fit(self, history: History, start: int, first: int) -> Known:
        """The model as of trial `first`, kept as it was when it was first asked for."""
        if first not in self._fits:
            self._fits[first] = self.fit_now(history, start, first)
        return self._fits[first]

    def fit_now(self, history: History, start: int, first: int) -> Known:
        """The model as of trial `first`, from all that `history` knows by now of the trials before it."""
        history = with_slices(history, self.always, MOST_SLICES) if self.always else history
        learn_at = self._learn_at(start, first)
        earlier = history.before(learn_at)
        key = learn_at, len(earlier)
        if key not in self._models:
            self._models[key] = self.make_model()
            learnt = self._models[key].fit(thinned(earlier, MOST_ROWS), learn=True)
            while len(self._models) > KEPT_MODELS:
                self._models.popitem(last=False)
            if learn_at == first:
                return Known(learnt, _modelled(self._models[key], history))
        fitted = self._models[key].fit(thinned(history.before(first), MOST_ROWS), learn=False)
        return Known(fitted, _modelled(self._models[key], history))

    def fit_all(self, history: History, slices: Collection[str] = ()) -> Known:
        """A fit of everything that is measured, which models `slices`. Raises `UsageError` where it cannot."""
        first = int(history.numbers[-1]) + 1
        keys = dict(zip(history.numbers.tolist(), (config.tobytes() for config in history.configs), strict=True))
        known = self.fit_now(history, self.start(keys, first), first)
        if set(slices) <= set(known.slices):
            return known
        few, model = with_slices(history, slices, MOST_SLICES), self.make_model()
        known = Known(model.fit(thinned(few, MOST_ROWS), learn=True), _modelled(model, few))
        if not set(slices) <= set(known.slices):
            raise UsageError(f"at most {MOST_SLICES} slices, and only those of measured drops, can be limited at once")
        return known

    def typical_errors(self, slices: int, limits: Mapping[int, float], worst: int | None) -> Floats:
        """(M + S,) errors of the quantities: recent ones, else a share of the limit; a slice has the worst one's."""
        count = len(self.sign)
        errors = np.zeros(count + slices)
        for column, limit in limits.items():
            errors[column] = UNKNOWN_ERROR * abs(limit)
        if self.errors is not None:
            known = np.isfinite(self.errors)
            errors[:count][known] = self.errors[known]
            if worst is not None and known[worst]:
                errors[count:] = self.errors[worst]
        return errors

    def _learn_at(self, start: int, first: int) -> int:
        spacing = RELEARN if first < LATE else RELEARN_LATE
        spacing = max(spacing // self.batch_size, 1) * self.batch_size
        return start + (first - start) // spacing * spacing

    def check(self, history: History, start: int, first: int) -> None:
        """Health and errors: the last two batches as they were predicted before they were measured. After a resume
        their models are fitted again."""
        pairs = []
        for batch in (first - 2 * self.batch_size, first - self.batch_size):
            rows = (history.numbers >= batch) & (history.numbers < batch + self.batch_size)
            if batch < start or not rows.any() or not len(history.before(batch)):
                continue
            pairs.append((self.fit(history, start, batch).fitted.predict(history.configs[rows]), history.values[rows]))
        self._fits = {n: f for n, f in self._fits.items() if n >= first - 2 * self.batch_size}
        self.health = check_health(pairs, self.sign, history.before(first).values)
        self.errors = None
        if pairs:
            missed = np.abs(np.concatenate([p - m for p, m in pairs]))
            known = np.isfinite(missed)
            typical = [np.median(m[k]) if k.any() else np.nan for m, k in zip(missed.T, known.T, strict=True)]
            self.errors = np.array(typical)


def _modelled(model: Model, history: History) -> tuple[str, ...]:
    """Names of the slices in the order of the fit's drops; () where the worst objective itself is modelled."""
    if model.damage is None or not (model.damage.relative or np.isfinite(history.drop).any()):
        return ()
    return tuple(history.slices[i] for i in model._slices)
