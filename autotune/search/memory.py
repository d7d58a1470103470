"""What the sampler remembers: an Optuna study in memory that is rebuilt from our store, and the sampler's health.

Our tables are the truth, Optuna's are memory: nothing of it is saved.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import optuna

from autotune.config import StudyConfig
from autotune.errors import TrialFailure
from autotune.keys import MetricKey
from autotune.recipe import Recipe
from autotune.search.knowledge import sampler_options
from autotune.search.prepare import Prepared
from autotune.search.recovery.starting import Starting
from autotune.search.runner import TrialRunner
from autotune.search.samplers import make_sampler
from autotune.search.shortfall import Predicted, ask_model
from autotune.search.surrogate import SurrogateSampler
from autotune.search.surrogate.health import Health
from autotune.search.values import slice_drops
from autotune.search.warm import Warm
from autotune.store import Store
from autotune.techniques.recover import searched
from autotune.trial import Trial
from hwprofiles.errors import DeviceFailure

_REDRAWS = 20  # asks in a row that may give a recipe which is there already, before a random one is taken
_HEALTH = "health"  # under this key the store keeps how well the sampler predicted, batch by batch


class Memory:
    """Asks the sampler and tells it what came out. `say` is called with a sentence when its health changes."""

    def __init__(
        self,
        config: StudyConfig,
        prepared: Prepared,
        store: Store,
        runner: TrialRunner,
        objectives: Sequence[MetricKey],  # what is learnt: see `budget.modelled`
        warm: Warm,
        starting: Starting,
        say: Callable[[str], None],
    ) -> None:
        self._config, self._prepared, self._store, self._runner = config, prepared, store, runner
        self._space, self._objectives, self._warm, self._say = prepared.space, tuple(objectives), warm, say
        self._starting = starting
        self._distributions = self._space.distributions()
        self._probes: list[optuna.trial.FrozenTrial] = []
        self._health: Health | None = None
        self._good = True
        self.rebuild()

    def rebuild(self) -> None:
        """A new sampler with what is known now, told everything that the store holds."""
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        options = sampler_options(self._config, self._prepared, self._store, self._objectives, self._warm)
        search = self._config.search
        self._sampler = make_sampler(search.sampler, seed=search.seed, options=options)
        smaller, larger = optuna.study.StudyDirection.MINIMIZE, optuna.study.StudyDirection.MAXIMIZE
        directions = [smaller if key.smaller_is_better else larger for key in self._objectives]
        self._study = optuna.create_study(directions=directions, sampler=self._sampler)
        if isinstance(self._sampler, SurrogateSampler):  # others do not tell what is only known in part
            for known in (*self._warm.trials, *self._probes):
                self._study.add_trial(known)
        for trial in self._store.trials(details=False):
            if trial.state != "running":
                self.remember(trial)

    # -- asking

    def propose(self) -> tuple[Recipe | None, optuna.Trial | None]:
        """The sampler's next recipe that has no trial yet, and what was asked for it; no recipe when there is none."""
        for _ in range(_REDRAWS):
            asked = self._study.ask(self._distributions)
            self._look_at_health()
            recipe = self._space.recipe(asked.params)
            known = self.find(recipe)
            if known is None:
                return recipe, asked
            self.remember(known, asked)  # a duplicate is told what is known and never measured again
        return self._untried(), None

    def _untried(self) -> Recipe | None:
        sampler = optuna.samplers.RandomSampler(seed=len(self._store.trials(details=False)))
        study = optuna.create_study(sampler=sampler)
        for _ in range(50 * _REDRAWS):
            recipe = self._space.recipe(study.ask(self._distributions).params)
            if self.find(recipe) is None:
                return recipe
        return None

    def find(self, recipe: Recipe) -> Trial | None:
        """The trial of what a search has decided, with the weights that its structure begins with."""
        return self._store.find_trial(self._starting.known(recipe))

    def about_budget(self) -> Predicted | None:
        """What the sampler's model says of the budget; None without one, and before there is anything to learn from."""
        if not any(trial.state == optuna.trial.TrialState.COMPLETE for trial in self._study.trials[1:]):
            return None
        baseline = self._store.trial(0).metrics
        return ask_model(self._sampler, self._study, self._config, self._objectives, baseline)

    # -- telling

    def remember(self, trial: Trial, asked: optuna.Trial | None = None) -> None:
        """Tell Optuna about a finished trial, all of it or what is known; `asked` is the trial it came from."""
        params = self._space.params(searched(Recipe(trial.recipe)))
        if params is None:
            return  # a recipe of an earlier space: it stays in the store
        guessed = trial.state == "rejected" and self._runner.gave_up(trial.number)
        observed = {
            str(i): trial.metrics[str(key)].value
            for i, key in enumerate(self._objectives)
            # Judged on a part of the data only: a bound, and no measurement of what all of it would give.
            if str(key) in trial.metrics and not (guessed and key.name == "drop")
        }
        complete = trial.state == "complete" and len(observed) == len(self._objectives)
        values = list(observed.values()) if complete else None
        partly = trial.state in ("rejected", "complete")  # complete, but recorded when less was measured
        unfinished = optuna.trial.TrialState.PRUNED if partly else optuna.trial.TrialState.FAIL
        state = optuna.trial.TrialState.COMPLETE if complete else unfinished
        attributes = self._known(trial, guessed) | ({} if complete else {"observed": observed})
        constraints = {
            key: trial.metrics[key].value - limit if self._runner.smaller[key] else limit - trial.metrics[key].value
            for key, limit in self._config.bounds.items()
            if key in trial.metrics
        }
        if asked is None:
            self._study.add_trial(
                optuna.trial.create_trial(
                    state=state,
                    params=params,
                    distributions=self._distributions,
                    values=values,
                    user_attrs=attributes,
                    constraints=constraints,
                )
            )
            return
        for name, value in attributes.items():
            asked.set_user_attr(name, value)
        for name, value in constraints.items():
            asked.set_constraint(name, value)
        self._study.tell(asked, values, state=state)

    def remember_probe(self, params: Mapping[str, str]) -> str:
        """Find out the damage of a configuration that is not a trial, and tell it; why that failed, or "".

        Raises `TargetPaused`.
        """
        try:
            damage = self._runner.probing.sensitivity(self._space.recipe(params))
        except (TrialFailure, DeviceFailure) as error:
            # Not a trial, so nothing is recorded; a trial that makes this choice fails and keeps the cause.
            return f"a layer alone could not be tried: {error}"
        probe = optuna.trial.create_trial(
            state=optuna.trial.TrialState.PRUNED,
            params=dict(params),
            distributions=self._distributions,
            user_attrs={"damage": damage, "observed": {}},
        )
        self._probes.append(probe)
        self._study.add_trial(probe)
        return ""

    def _known(self, trial: Trial, guessed: bool) -> dict[str, object]:
        """What a structured sampler reads beside the objectives: damage and drop per slice.

        Of drops that a part of the data has shown (`guessed`) only those that are certain: the others are noise.
        """
        known: dict[str, object] = {}
        damage = self._runner.probing.of(trial.number)
        if damage:
            known["damage"] = damage
        shares = self._config.drop_shares
        drops: dict[str, float] = {}
        for name, value in slice_drops(trial.metrics):
            if not (guessed and value.low <= 0 < value.high):
                drop = value.value * shares.get(name, 1.0)
                drops[name] = max(drop, drops.get(name, drop))
        return known | ({"drop": drops} if drops else {})

    # -- health

    def _look_at_health(self) -> None:
        """Keep the record of a batch, and say so when the sampler starts or stops to predict well."""
        health = self._sampler.health() if isinstance(self._sampler, SurrogateSampler) else None
        if health is None or health is self._health:
            return
        self._health = health
        number = len(self._store.trials(details=False))  # of the next trial
        entry = {
            "trial": number,
            "n": health.n,
            "rank_correlation": self._by_key(health.rank_correlation),
            "relative_error": self._by_key(health.relative_error),
            "good": health.good,
        }
        kept = [each for each in self._store.meta(_HEALTH) or [] if each["trial"] != number]
        self._store.set_meta(_HEALTH, sorted([*kept, entry], key=lambda each: int(each["trial"])))
        if health.good != self._good:
            self._good = health.good
            self._say(self._words(health))

    def _by_key(self, values: Sequence[float]) -> dict[str, float | None]:
        """None where it is not known: JSON has no NaN."""
        pairs = zip(self._objectives, values, strict=True)
        return {str(key): value if math.isfinite(value) else None for key, value in pairs}

    def _words(self, health: Health) -> str:
        if health.good:
            return "the search predicts its trials well again"
        told = zip(self._objectives, health.rank_correlation, health.relative_error, strict=True)
        known = [(rank, key, error) for key, rank, error in told if math.isfinite(rank)]
        rank, key, error = min(known, key=lambda each: each[0])
        return (
            f"the search predicts its trials badly and explores more: of the last {health.n}, {key} was predicted with "
            f"a rank correlation of {rank:.2f} and an error of {100 * error:.0f} %"
        )
