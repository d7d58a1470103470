"""A sampler for mixed-precision search: a structured model of every objective instead of a black box.

`SurrogateSampler` works in any Optuna 5 study over categorical and int parameters with one or several objectives::

    sampler = SurrogateSampler(seed=0, reference=[1.0, 1.0])
    study = optuna.create_study(directions=["minimize", "minimize"], sampler=sampler)
    study.optimize(lambda t: cost([t.suggest_categorical(f"layer{i}", ["fp16", "int8"]) for i in range(40)]), 150)

It starts with the uniform configurations and balanced designs, then fits additive models (`model`), solves
weighted sums of the objectives exactly over the chain of layers, and measures what promises most hypervolume.
"""

from __future__ import annotations

import threading
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler
from optuna.search_space import IntersectionSearchSpace
from optuna.study import Study, StudyDirection
from optuna.trial import FrozenTrial, TrialState

from autotune.errors import UsageError
from autotune.search.surrogate.designs import balanced_designs, design_count, given_anchors, uniform_anchors
from autotune.search.surrogate.front import non_dominated
from autotune.search.surrogate.health import Health, check_health
from autotune.search.surrogate.history import History, Ledger, signs
from autotune.search.surrogate.model import Fitted, Model
from autotune.search.surrogate.proposals import Proposer, untried
from autotune.search.surrogate.space import Floats, Ints, Space, choices_of

RELEARN = 25  # measurements between two choices of the prior scales
RELEARN_LATE = 100  # the same after LATE measurements: they hardly move any more
LATE = 300
DISTRUST = 0.4  # exploration share while the health check is bad


@dataclass
class _State:
    """What belongs to one study: rebuilt from its trials, so a resumed search needs no pickles."""

    study_name: str
    space: Space
    ledger: Ledger
    sign: Floats
    initial: Ints
    anchors: int
    model: Model
    learnt_at: tuple[int, int] | None = None
    batch: tuple[int, Ints] | None = None


class SurrogateSampler(BaseSampler):
    """Proposes configurations of a compressed network, or of anything of that structure: many discrete decisions
    whose costs add up over a chain, with a price for switching between neighbours.

    Parameters, all optional:

    - `seed`: with the same seed and the same finished trials, the same proposals.
    - `space`: the search space, where it is known before the first trial; otherwise read from the trials.
    - `exact`: objective index -> parameter -> choice -> its additive contribution, for objectives that are known
      exactly (a file size); `{CONSTANT: {CONSTANT: value}}` beside the parameters adds a constant, which is read off
      the measurements where it is missing.
    - `chain`: parameter names in the order of the data flow; default: the order of the search space.
    - `anchors`: configurations to begin with; default: the uniform ones.
    - `damage_attr`, `drop_attr`: user attributes of a trial with `{slice: value}`: a continuous signal of damage
      (a divergence of the outputs), and the measured drop. Set them before `tell`. Without them the worst objective
      itself is modelled. A pruned trial may carry what it knows as `observed`: `{str(objective index): value}`.
    - `worst_objective`: index of the (minimised) objective that is the largest drop over slices.
    - `batch`: proposals per fit. `explore`: share of proposals made to learn rather than to win.
    - `reference`: worst values of interest, one per objective: the corner of the hypervolume. Default: a little
      beyond the measured front. `limits`: objective index -> largest useful value (smallest, when maximised);
      overrides the reference there.

    Only complete and pruned trials inform the model; configurations of failed and running ones are not proposed
    again either, as long as there are others.
    Raises `UsageError` for float parameters and for arguments that do not fit the study.
    """

    def __init__(
        self,
        *,
        seed: int | None = None,
        space: Mapping[str, BaseDistribution] | None = None,
        exact: Mapping[int, Mapping[str, Mapping[Any, float]]] | None = None,
        chain: Sequence[str] | None = None,
        anchors: Sequence[Mapping[str, Any]] | None = None,
        damage_attr: str = "damage",
        drop_attr: str = "drop",
        worst_objective: int | None = None,
        batch: int = 5,
        explore: float = 0.1,
        reference: Sequence[float] | None = None,
        limits: Mapping[int, float] | None = None,
    ) -> None:
        if batch < 1:
            raise UsageError(f"batch must be at least 1, not {batch}")
        if not 0 <= explore < 1:
            raise UsageError(f"explore must be in [0, 1), not {explore}")
        self._seed = int(np.random.SeedSequence().generate_state(1)[0]) if seed is None else int(seed)
        self._given_space = dict(space) if space is not None else None
        self._exact, self._chain, self._given_anchors = exact, chain, anchors
        self._attrs = {"damage_attr": damage_attr, "drop_attr": drop_attr}
        self._worst, self._batch, self._explore = worst_objective, batch, explore
        self._reference, self._limits = reference, dict(limits or {})
        self._state: _State | None = None
        self._fits: dict[int, Fitted] = {}
        self._health: Health | None = None
        self._intersection: tuple[str, IntersectionSearchSpace] | None = None
        self._lock = threading.Lock()

    def health(self) -> Health | None:
        """How well the last two batches were predicted before they were measured; None before there were any."""
        return self._health

    # Optuna's interface --------------------------------------------------------------------------------------------
    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """All parameters that every finished trial has (or `space`); {} before anything is known."""
        if self._given_space is not None:
            return dict(self._given_space)
        if self._intersection is None or self._intersection[0] != study.study_name:
            self._intersection = study.study_name, IntersectionSearchSpace(include_pruned=True)
        common = self._intersection[1].calculate(study)
        others = [t for t in study.get_trials(deepcopy=False) if t.number != trial.number and t.distributions]
        if not common:  # nothing has finished well: believe the trial that got farthest
            longest = max(others, key=lambda t: len(t.distributions), default=None)
            return {} if longest is None else dict(longest.distributions)
        like = next(t for t in others if set(common) <= set(t.distributions))
        return {name: common[name] for name in like.distributions if name in common}

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        if not search_space:
            return {}
        with self._lock:
            state = self._study_state(study, search_space)
            others = [t for t in study.get_trials(deepcopy=False) if t.number != trial.number]
            keys = state.ledger.read([t for t in others if t.state != TrialState.WAITING])
            return state.space.decode(self._next(state, keys, trial.number))

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """Of the first trial, whose space is not known yet: the first anchor. Otherwise uniformly random."""
        choices = choices_of(param_name, param_distribution)
        if trial.number == 0:
            anchor = self._given_anchors[0] if self._given_anchors else {}
            return anchor.get(param_name, choices[0])
        rng = np.random.default_rng([self._seed, trial.number, zlib.crc32(param_name.encode())])
        return choices[int(rng.integers(len(choices)))]

    def __getstate__(self) -> dict[str, Any]:
        return {k: v for k, v in self.__dict__.items() if k != "_lock"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._lock = threading.Lock()

    # proposals -----------------------------------------------------------------------------------------------------
    def _study_state(self, study: Study, search_space: dict[str, BaseDistribution]) -> _State:
        state = self._state
        if state and state.study_name == study.study_name and state.space.distributions == search_space:
            return state
        sign = self._checked_signs(study.directions)
        space = Space(search_space, chain=self._chain, exact=self._exact)
        anchors = uniform_anchors(space) if self._given_anchors is None else given_anchors(space, self._given_anchors)
        designs = balanced_designs(space, design_count(space), np.random.default_rng(self._seed))
        self._fits, self._health = {}, None
        self._state = _State(
            study_name=study.study_name, space=space, ledger=Ledger(space, sign, **self._attrs), sign=sign,
            initial=_distinct(np.concatenate([anchors, designs])), anchors=len(_distinct(anchors)),
            model=Model(space, sign, worst=self._worst),
        )  # fmt: skip
        return self._state

    def _checked_signs(self, directions: Sequence[StudyDirection]) -> Floats:
        count = len(directions)
        for name, indices in (("exact", self._exact or {}), ("limits", self._limits)):
            for index in indices:
                if not 0 <= index < count:
                    raise UsageError(f"{name}: objective {index} does not exist; the study has {count}, from 0")
        if self._reference is not None and len(self._reference) != count:
            raise UsageError(f"reference has {len(self._reference)} values; the study has {count} objectives")
        if self._worst is not None:
            if not 0 <= self._worst < count:
                raise UsageError(f"worst_objective {self._worst} does not exist; the study has {count}, from 0")
            if directions[self._worst] == StudyDirection.MAXIMIZE:
                raise UsageError(f"worst_objective {self._worst} must be minimised: it is the largest drop")
        return signs(directions)

    def _next(self, state: _State, keys: Mapping[int, bytes], number: int) -> Ints:
        seen = set(keys.values())
        for i, config in enumerate(state.initial):
            wanted = i < state.anchors or len(seen) < len(state.initial)
            if wanted and config.tobytes() not in seen:
                return np.asarray(config, np.int64)
        start = _end_of_start(keys, state.initial, number)
        first = start + (number - start) // self._batch * self._batch
        history = state.ledger.history()
        if state.batch is None or state.batch[0] != first:
            taken = {key for n, key in keys.items() if n < first}  # not what came later: a resume must agree
            state.batch = first, self._propose(state, history.before(first), taken, start, first)
        rows = state.batch[1]
        offset = number - first
        for config in (*rows[offset : offset + 1], *rows[self._batch :]):
            if config.tobytes() not in seen:
                return np.asarray(config, np.int64)
        return untried(state.space, seen, np.random.default_rng([self._seed, number, 1]))

    def _propose(self, state: _State, history: History, taken: set[bytes], start: int, first: int) -> Ints:
        complete = np.isfinite(history.values).all(1)
        if not complete.any():
            return np.empty((0, len(state.space)), np.int64)
        fitted = self._fit_at(state, history, start, first)
        self._health = check_health(self._recent(state, history, start, first), state.sign)
        self._fits = {n: f for n, f in self._fits.items() if n >= first - 2 * self._batch}
        rng = np.random.default_rng([self._seed, first])
        share = self._explore
        if self._health is not None and not self._health.good:
            share = max(share, DISTRUST)
        explore = int(self._batch * share + rng.random()) if self._batch > 1 else int(rng.random() < share)
        measured = history.configs[complete]
        predicted = fitted.predict(measured)
        proposer = Proposer(fitted, measured, self._corner(state, predicted), taken, rng)
        return proposer.propose(self._batch, explore=explore)

    def _fit_at(self, state: _State, history: History, start: int, first: int) -> Fitted:
        """The model as of trial `first`. A function of the trials before it alone."""
        spacing = RELEARN if first < LATE else RELEARN_LATE
        spacing = max(spacing // self._batch, 1) * self._batch
        learn_at = start + (first - start) // spacing * spacing
        earlier = history.before(learn_at)
        if state.learnt_at != (learn_at, len(earlier)):
            fitted = state.model.fit(earlier, learn=True)
            state.learnt_at = learn_at, len(earlier)
            if learn_at == first:
                self._fits[first] = fitted
                return fitted
        self._fits[first] = state.model.fit(history.before(first), learn=False)
        return self._fits[first]

    def _recent(self, state: _State, history: History, start: int, first: int) -> list[tuple[Floats, Floats]]:
        """(predicted, measured) of the last two batches; after a resume their models are fitted again."""
        pairs = []
        for batch in (first - 2 * self._batch, first - self._batch):
            if batch < start:
                continue
            rows = (history.numbers >= batch) & (history.numbers < batch + self._batch)
            if not rows.any() or not len(history.before(batch)):
                continue
            if batch not in self._fits:
                self._refit(state, history, start, batch)
            pairs.append((self._fits[batch].predict(history.configs[rows]), history.values[rows]))
        return pairs

    def _refit(self, state: _State, history: History, start: int, batch: int) -> None:
        """A model of the past, with a model of its own: the present one must not learn from it."""
        past = _State(state.study_name, state.space, state.ledger, state.sign, state.initial, state.anchors,
                      Model(state.space, state.sign, worst=self._worst))  # fmt: skip
        self._fit_at(past, history, start, batch)

    def _corner(self, state: _State, predicted: Floats) -> Floats:
        """Reference point (M,) of the hypervolume, minimised: given, or 10 % beyond the front."""
        if self._reference is not None:
            corner = np.asarray(state.sign * np.asarray(self._reference, float), float)
        else:
            front = predicted[non_dominated(predicted)]
            best, worst = predicted.min(0), front.max(0)
            spread = np.where(worst > best, worst - best, np.maximum(predicted.max(0) - best, 1e-9))
            corner = np.asarray(worst + 0.1 * spread, float)
        for index, limit in self._limits.items():
            corner[index] = state.sign[index] * limit
        return np.asarray(corner, float)


def _end_of_start(keys: Mapping[int, bytes], initial: Ints, number: int) -> int:
    """The trial number from which on the model proposes: as many configurations as the start has were asked for."""
    seen: set[bytes] = set()
    for n, key in keys.items():
        if n >= number:
            break
        seen.add(key)
        if len(seen) >= len(initial):
            return n + 1
    return number


def _distinct(configs: Ints) -> Ints:
    _, first = np.unique(configs, axis=0, return_index=True)
    return configs[np.sort(first)]
