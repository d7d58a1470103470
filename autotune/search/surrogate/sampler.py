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
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler
from optuna.search_space import IntersectionSearchSpace
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from autotune.errors import UsageError
from autotune.search.surrogate import answers, options
from autotune.search.surrogate.aim import Aim, aimed
from autotune.search.surrogate.designs import (
    anchor_choice,
    balanced_designs,
    design_count,
    given_anchors,
    uniform_anchors,
)
from autotune.search.surrogate.front import non_dominated
from autotune.search.surrogate.health import Health
from autotune.search.surrogate.history import History, Ledger
from autotune.search.surrogate.milp import quantities
from autotune.search.surrogate.model import Fitted, Model
from autotune.search.surrogate.options import DamageGuess, Guess
from autotune.search.surrogate.proposals import Proposer, untried
from autotune.search.surrogate.solution import Solution
from autotune.search.surrogate.space import Floats, Ints, Space, choices_of, distinct
from autotune.search.surrogate.state import Known, State

DISTRUST = 0.4  # exploration share while the health check is bad
AIMED = 0.5  # share of proposals for the aim, where there is one
AIMED_BADLY = 0.2  # the same while the health check is bad


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
    - `edges`: pairs of parameters between which data flow, where they are no chain; default: the chain.
    - `anchors`: configurations to begin with; default: the uniform ones.
    - `damage_attr`, `drop_attr`: user attributes of a trial with `{slice: value}`: a continuous signal of damage
      (a divergence of the outputs), and the measured drop. Set them before `tell`. Without them the worst objective
      itself is modelled. A pruned trial may carry what it knows as `observed`: `{str(objective index): value}`.
    - `worst_objective`: index of the (minimised) objective that is the largest drop over slices.
    - `batch`: proposals per fit. `explore`: share of proposals made to learn rather than to win.
    - `reference`: worst values of interest, one per objective: the corner of the hypervolume. Default: a little
      beyond the measured front. `limits`: objective index -> largest useful value (smallest, when maximised);
      overrides the reference there.
    - `aim`: objective index -> its largest value (smallest, when maximised), `aim_slices`: slice -> its largest drop.
      With either, about half of the proposals are for the best `aim_at` within them; the default of `aim_at` is the
      worst objective where that is free, else the first objective without a limit.
    - `guess`: objective index -> parameter -> choice -> guessed additive contribution, `damage_guess`: parameter ->
      choice -> slice -> guessed damage. Both are believed up to scale, as far as the measurements agree.
    - `outer`: parameter -> choice -> other parameter -> factor: what the other contributes to every cost is scaled by
      it (1 where nothing is said). For decisions about structure: what is cut to half costs half, in any format.

    `health`, `solve`, `predict` and `contributions` say what the model knows.
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
        aim: Mapping[int, float] | None = None,
        aim_at: int | None = None,
        aim_slices: Mapping[str, float] | None = None,
        guess: Guess | None = None,
        damage_guess: DamageGuess | None = None,
        edges: Sequence[tuple[str, str]] | None = None,
        outer: Mapping[str, Mapping[Any, Mapping[str, float]]] | None = None,
    ) -> None:
        if batch < 1:
            raise UsageError(f"batch must be at least 1, not {batch}")
        if not 0 <= explore < 1:
            raise UsageError(f"explore must be in [0, 1), not {explore}")
        options.check_anchors(anchors or ())
        self._seed = int(np.random.SeedSequence().generate_state(1)[0]) if seed is None else int(seed)
        self._given_space = dict(space) if space is not None else None
        self._exact, self._chain, self._given_anchors = exact, chain, anchors
        self._attrs = {"damage_attr": damage_attr, "drop_attr": drop_attr}
        self._worst, self._batch, self._explore = worst_objective, batch, explore
        self._reference, self._limits = reference, dict(limits or {})
        self._aim, self._aim_at, self._aim_slices = dict(aim or {}), aim_at, dict(aim_slices or {})
        for name, values in (("limits", self._limits), ("aim", self._aim), ("aim_slices", self._aim_slices)):
            options.check_limits(name, values)
        self._guess, self._damage_guess = dict(guess or {}), dict(damage_guess or {})
        self._edges = list(edges) if edges is not None else None
        self._outer = outer
        self._state: State | None = None
        self._study: Study | None = None
        self._intersection: tuple[str, IntersectionSearchSpace] | None = None
        self._lock = threading.Lock()

    # what the model knows ------------------------------------------------------------------------------------------
    def health(self) -> Health | None:
        """How well the last two batches were predicted before they were measured; None before there were any."""
        return None if self._state is None else self._state.health

    def learn(self, study: Study) -> None:
        """Read `study` without proposing anything, to ask a new sampler about a study that is there already."""
        space = self._space_of(study, None)
        if not space:
            raise UsageError(f"study {study.study_name!r} has no trial with parameters to learn from yet")
        with self._lock:
            self._study_state(study, space)

    def solve(
        self,
        limits: Mapping[int, float],
        *,
        minimise: int,
        slice_limits: Mapping[str, float] = MappingProxyType({}),
        seconds: float = 2.0,
    ) -> Solution:
        """The configuration that is predicted to be best within limits, by all that is measured by now.

        `limits`: objective index -> its largest value (smallest, when it is maximised); `slice_limits`: slice -> its
        largest drop. `minimise`: the objective to make best (largest, when it is maximised). Without a configuration
        within the limits `Solution.excess` says what each of them would have to give.

        Raises `UsageError` before anything is measured, and for an objective or a slice that is not there.
        """
        with self._lock:
            state, history = self._known()
            count = len(state.sign)
            options.check_limits("limits", {**limits, **slice_limits})
            options.check_index("limits", limits, count)
            options.check_index("minimise", [minimise], count)
            options.columns(limits, slice_limits, sign=state.sign, slices=history.slices)
            known = state.fit_all(history, slice_limits)
        columns = options.columns(limits, slice_limits, sign=state.sign, slices=known.slices)
        measured = history.configs[np.isfinite(history.values).all(1)]
        return answers.solution(known.fitted, state.sign, minimise, columns, known.slices, measured, seconds=seconds)

    def predict(self, params: Sequence[Mapping[str, Any]]) -> NDArray[np.float64]:
        """Predicted objectives (n, M) of `params`, in their own direction. Raises `UsageError` like `solve`."""
        with self._lock:
            state, history = self._known()
            configs = answers.encoded(state.space, params)
            return np.asarray(state.fit_all(history).fitted.predict(configs) * state.sign)

    def contributions(self, params: Mapping[str, Any]) -> dict[int, dict[str, float]]:
        """Objective index -> parameter -> what its choice adds, with half of the price of every switch it is part of.

        Only differences between the choices of a parameter can be learnt: except where an objective is `exact`, what
        all configurations have in common is in none of them. Raises `UsageError` like `solve`.
        """
        with self._lock:
            state, history = self._known()
            config = answers.encoded(state.space, [params])[0]
            return answers.contributions(state.fit_all(history).fitted, state.sign, config)

    def _known(self) -> tuple[State, History]:
        """The state with everything that is measured by now."""
        state = self._state
        if state is not None:
            if self._study is not None:
                state.read(self._study.get_trials(deepcopy=False))
            history = state.ledger.history()
            if np.isfinite(history.values).all(1).any():
                return state, history
        raise UsageError("nothing is measured yet: ask and tell some trials, or call learn(study) with a study that "
                         "has complete ones")  # fmt: skip

    # Optuna's interface --------------------------------------------------------------------------------------------
    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """All parameters that every finished trial has (or `space`); {} before anything is known."""
        return self._space_of(study, trial.number)

    def _space_of(self, study: Study, asking: int | None) -> dict[str, BaseDistribution]:
        if self._given_space is not None:
            return dict(self._given_space)
        if self._intersection is None or self._intersection[0] != study.study_name:
            self._intersection = study.study_name, IntersectionSearchSpace(include_pruned=True)
        common = self._intersection[1].calculate(study)
        others = [t for t in study.get_trials(deepcopy=False) if t.number != asking and t.distributions]
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
            keys = state.read([t for t in others if t.state != TrialState.WAITING])
            return state.space.decode(self._next(state, keys, trial.number))

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """Of the first trial, whose space is not known yet: the first anchor. Otherwise uniformly random."""
        choices = choices_of(param_name, param_distribution)
        if trial.number == 0:
            anchor = self._given_anchors[0] if self._given_anchors else {}
            return anchor_choice(anchor, param_name, choices)
        rng = np.random.default_rng([self._seed, trial.number, zlib.crc32(param_name.encode())])
        return choices[int(rng.integers(len(choices)))]

    def __getstate__(self) -> dict[str, Any]:
        return {k: v for k, v in self.__dict__.items() if k not in ("_lock", "_study", "_state")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._state = self._study = None  # read again from the study
        self._lock = threading.Lock()

    # proposals -----------------------------------------------------------------------------------------------------
    def _study_state(self, study: Study, search_space: dict[str, BaseDistribution]) -> State:
        state, self._study = self._state, study
        if state and state.study_name == study.study_name and state.space.distributions == search_space:
            return state
        aim_at = [] if self._aim_at is None else [self._aim_at]
        indexed = {"exact": list(self._exact or {}), "limits": list(self._limits), "aim": list(self._aim),
                   "aim_at": aim_at, "guess": list(self._guess)}  # fmt: skip
        sign = options.checked_signs(study.directions, indexed=indexed, reference=self._reference, worst=self._worst)
        if self._aim_slices and self._worst is None:
            raise UsageError("aim_slices limits drops: say which objective is the worst of them (worst_objective)")
        space = Space(search_space, chain=self._chain, exact=self._exact, edges=self._edges, outer=self._outer)
        options.check_guesses(space, self._guess, self._damage_guess)

        def make_model() -> Model:
            return Model(space, sign, worst=self._worst, guess=self._guess, damage_guess=self._damage_guess)

        make_model()  # refuses what does not fit now, not after the start
        anchors = uniform_anchors(space) if self._given_anchors is None else given_anchors(space, self._given_anchors)
        designs = balanced_designs(space, design_count(space), np.random.default_rng(self._seed))
        self._state = State(
            study_name=study.study_name, space=space, ledger=Ledger(space, sign, **self._attrs), sign=sign,
            initial=distinct(np.concatenate([anchors, designs])), anchors=len(distinct(anchors)),
            batch_size=self._batch, make_model=make_model,
            always=tuple(self._aim_slices),
        )  # fmt: skip
        return self._state

    def _next(self, state: State, keys: Mapping[int, bytes], number: int) -> Ints:
        seen = set(keys.values())
        for i, config in enumerate(state.initial):
            wanted = i < state.anchors or len(seen) < len(state.initial)
            if wanted and config.tobytes() not in seen:
                return np.asarray(config, np.int64)
        start = state.start(keys, number)
        first = start + (number - start) // self._batch * self._batch
        if state.batch is None or state.batch[0] != first:
            taken = {key for n, key in keys.items() if n < first}  # not what came later: a resume must agree
            state.batch = first, self._propose(state, state.ledger.history(), taken, start, first)
        rows = state.batch[1]
        offset = number - first
        for config in (*rows[offset : offset + 1], *rows[self._batch :]):
            if config.tobytes() not in seen:
                return np.asarray(config, np.int64)
        return untried(state.space, seen, np.random.default_rng([self._seed, number, 1]))

    def _propose(self, state: State, history: History, taken: set[bytes], start: int, first: int) -> Ints:
        now = history.before(first)
        complete = np.isfinite(now.values).all(1)
        if not complete.any():
            return np.empty((0, len(state.space)), np.int64)
        known = state.fit(history, start, first)
        state.check(history, start, first)
        allowed = complete & ~np.isin(now.numbers, list(state.broken))  # what breaks a constraint is no front
        measured = now.configs[allowed if allowed.any() else complete]
        rng = np.random.default_rng([self._seed, first])
        bad = state.health is not None and not state.health.good
        proposed = self._aimed(state, known, measured, taken, bad, rng)
        count = self._batch - len(proposed)
        share = max(self._explore, DISTRUST) if bad else self._explore
        explore = int(self._batch * share + rng.random()) if self._batch > 1 else int(rng.random() < share)
        taken = taken | {config.tobytes() for config in proposed}
        corner = self._corner(state, known.fitted, measured)
        if self._has_aim:
            aim = self._columns(state, known)
            corner = aim.corner(corner, quantities(known.fitted, measured))
        rest = Proposer(known.fitted, measured, corner, taken, rng).propose(count, explore=min(explore, count))
        return np.concatenate([proposed, rest])

    @property
    def _has_aim(self) -> bool:
        return bool(self._aim or self._aim_slices or self._aim_at is not None)

    def _columns(self, state: State, known: Known) -> Aim:
        limits = options.columns(self._aim, self._aim_slices, sign=state.sign, slices=known.slices)
        return Aim(options.to_minimise(self._aim, self._aim_at, self._worst, len(state.sign)), limits)

    def _aimed(
        self, state: State, known: Known, measured: Ints, taken: set[bytes], bad: bool, rng: np.random.Generator
    ) -> Ints:
        """The share of a batch that is for the aim."""
        count = int(self._batch * (AIMED_BADLY if bad else AIMED) + rng.random()) if self._has_aim else 0
        if not count:
            return np.empty((0, len(state.space)), np.int64)
        aim = self._columns(state, known)
        errors = state.typical_errors(len(known.slices), aim.limits, self._worst)
        return aimed(known.fitted, aim, errors, measured, taken, count, rng)

    def _corner(self, state: State, fitted: Fitted, measured: Ints) -> Floats:
        """Reference point (M,) of the hypervolume, minimised: given, or 10 % beyond the front."""
        if self._reference is not None:
            corner = np.asarray(state.sign * np.asarray(self._reference, float), float)
        else:
            predicted = fitted.predict(measured)
            front = predicted[non_dominated(predicted)]
            best, worst = predicted.min(0), front.max(0)
            spread = np.where(worst > best, worst - best, np.maximum(predicted.max(0) - best, 1e-9))
            corner = np.asarray(worst + 0.1 * spread, float)
        for index, limit in self._limits.items():
            corner[index] = state.sign[index] * limit
        return np.asarray(corner, float)
