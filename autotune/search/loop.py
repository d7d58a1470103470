"""The search loop around Optuna's ask and tell. Our tables are the truth, Optuna's are memory."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import optuna

from autotune import pareto
from autotune.config import StudyConfig
from autotune.errors import Infeasible, TrialFailure
from autotune.keys import COST_METRICS, MetricKey
from autotune.recipe import Recipe
from autotune.search.effort import Effort
from autotune.search.prepare import Prepared
from autotune.search.progress import Progress, Watcher
from autotune.search.runner import TrialRunner, Waiting
from autotune.search.samplers import make_sampler
from autotune.search.targets import Stopped, TargetPaused
from autotune.store import Store
from autotune.trial import Trial
from hwprofiles.errors import DeviceFailure

_REDRAWS = 20  # asks in a row that may give a recipe which is there already, before a random one is taken
_LEAST_UNIFORM = 4
SENSITIVITY_SHARE = 0.2  # of the search time that is left after the uniform recipes
_USEFUL_DROPS = 5.0  # a drop beyond this many limits is never wanted
FINALIST_FACTOR = 4.0  # a finalist costs about this many search trials


@dataclass(frozen=True)
class Waiter:
    """A trial that waits for one of `targets`, and what was asked for it."""

    recipe: Recipe
    asked: optuna.Trial | None
    targets: frozenset[str]


class SearchLoop:
    """Asks for recipes, runs them, tells what came out. State is rebuilt from the store: nothing of it is saved."""

    def __init__(
        self,
        config: StudyConfig,
        prepared: Prepared,
        store: Store,
        runner: TrialRunner,
        objectives: Sequence[MetricKey],
        limits: Mapping[str, float],
        watch: Watcher,
    ) -> None:
        self._config, self._space, self._store, self._runner = config, prepared.space, store, runner
        self._objectives, self._limits, self._watch = tuple(objectives), limits, watch
        self._distributions = self._space.distributions()
        self._sampler = self._make_sampler(prepared)
        self._memory = self._rebuild()
        self._seconds: list[float] = []
        self._targets = runner.targets
        self._waiting: dict[int, Waiter] = {}  # trial -> what it waits for, the oldest first

    def run(self, effort: Effort) -> None:
        """Until the effort is spent or the space exhausted, and every trial that waited for a target has ended.

        Raises `Stopped` when the user asks to stop, `Waiting` when trials are left whose targets do not come back.
        """
        unfinished = [t for t in self._store.trials(details=False) if t.state == "running" and t.number]
        for trial in unfinished:
            self._make_room(effort)
            self._run(trial.number, Recipe(trial.recipe), effort)
        for label, recipe in self._anchors():
            self._make_room(effort)
            if not self._spent(effort) and self._store.find_trial(recipe) is None:
                self._run(self._store.start_trial(recipe, f"uniform {label}"), recipe, effort)
        self._find_sensitive_layers(effort)
        while self._space.variables:
            self._make_room(effort)
            if self._spent(effort):
                break
            proposed, asked = self._propose()
            if proposed is None:
                self._tell_watcher("every recipe of the space has been tried", effort, None)
                break
            number = self._store.start_trial(proposed, self._config.search.sampler)
            self._run(number, proposed, effort, asked)
        self._finish_waiting(effort)

    # -- trials that wait for a target

    def _spent(self, effort: Effort) -> bool:
        return effort.spent(self._count() + len(self._waiting))

    def _make_room(self, effort: Effort) -> None:
        """Work off what waits for targets that are back; wait while too much waits, or nothing is there to work on."""
        patience = self._targets.patience
        begun = time.monotonic()
        while True:
            self._work_off(effort)
            if self._spent(effort) or (len(self._waiting) < patience.waiting and self._targets.any_there()):
                return
            left = patience.seconds - (time.monotonic() - begun)
            if left <= 0 and not self._targets.hopeful(self._targets.paused):
                self._give_up()
            self._tell_watcher("waiting for a target", effort, None)
            self._targets.wait(max(left, 0.0) if left > 0 else float("inf"))

    def _work_off(self, effort: Effort) -> None:
        self._targets.retry()
        for number, waiter in list(self._waiting.items()):
            if not waiter.targets <= self._targets.paused:
                del self._waiting[number]
                self._run(number, waiter.recipe, effort, waiter.asked)

    def _finish_waiting(self, effort: Effort) -> None:
        """The effort is spent: what waits gets its measurements if its target comes back."""
        while self._waiting:
            if not self._targets.outlast({name for waiter in self._waiting.values() for name in waiter.targets}):
                self._give_up()
            self._work_off(effort)

    def _give_up(self) -> None:
        gone = self._targets.state()
        raise Waiting(frozenset(gone), "; ".join(f"target {name} is {how}" for name, how in gone.items()))

    def _find_sensitive_layers(self, effort: Effort) -> None:
        """Which layers are to blame where a uniform recipe loses too much: each takes the choice alone.

        Needs neither the clock of the target nor labels, only the outputs on the probe samples, so it costs a fraction
        of a trial; it ends when its share of the time is spent.
        """
        if self._runner.damage is None or not self._seconds:
            return
        share = SENSITIVITY_SHARE * effort.seconds_left(self._count(), sum(self._seconds) / len(self._seconds))
        end = time.monotonic() + share
        nothing = {v.name: v.choices[0] for v in self._space.variables}
        for label, recipe in self._anchors():
            params = self._space.params(recipe)
            if params is None or not self._is_lossy(recipe):
                continue
            for index, (name, choice) in enumerate(params.items()):
                if self._runner.stop.is_set():
                    raise Stopped
                if choice == nothing[name] or time.monotonic() > end:
                    continue
                self._tell_watcher(f"how much {label} costs in layer {index + 1} of {len(params)}", effort, None)
                try:
                    self._remember_probe(nothing | {name: choice})
                except TargetPaused:
                    return  # a help, not a need: the search does without it

    def _is_lossy(self, recipe: Recipe) -> bool:
        trial = self._store.find_trial(recipe)
        if trial is None or trial.state not in ("complete", "rejected"):
            return False
        drop = trial.metrics.get("drop/worst")
        return drop is None or drop.value > self._config.judge.limit

    def _remember_probe(self, params: Mapping[str, str]) -> None:
        try:
            damage = self._runner.sensitivity(self._space.recipe(params))
        except (TrialFailure, DeviceFailure) as error:
            # Not a trial, so nothing is recorded; a trial that makes this choice fails and keeps the cause.
            self._watch(Progress("search", f"a layer alone could not be tried: {error}"))
            return
        self._memory.add_trial(
            optuna.trial.create_trial(
                state=optuna.trial.TrialState.PRUNED,
                params=dict(params),
                distributions=self._distributions,
                user_attrs={"damage": damage, "observed": {}},
            )
        )

    # -- one trial

    def _run(self, number: int, recipe: Recipe, effort: Effort, asked: optuna.Trial | None = None) -> None:
        if self._runner.stop.is_set():
            raise Stopped
        self._tell_watcher(f"trial {number}", effort, None)
        begun = time.monotonic()
        try:
            trial = self._runner.run(number, recipe)
        except Waiting as waiting:
            self._waiting[number] = Waiter(recipe, asked, waiting.targets)
            self._tell_watcher(f"trial {number} waits for {', '.join(sorted(waiting.targets))}", effort, None)
            return
        self._seconds.append(time.monotonic() - begun)
        self._remember(trial, asked)
        self._tell_watcher(_headline(trial), effort, trial)

    def _propose(self) -> tuple[Recipe | None, optuna.Trial | None]:
        """The sampler's next recipe that has no trial yet, and what was asked for it; no recipe when there is none."""
        for _ in range(_REDRAWS):
            asked = self._memory.ask(self._distributions)
            recipe = self._space.recipe(asked.params)
            known = self._store.find_trial(recipe)
            if known is None:
                return recipe, asked
            self._remember(known, asked)  # a duplicate is told what is known and never measured again
        return self._untried(), None

    def _untried(self) -> Recipe | None:
        sampler = optuna.samplers.RandomSampler(seed=self._count())
        memory = optuna.create_study(sampler=sampler)
        for _ in range(50 * _REDRAWS):
            recipe = self._space.recipe(memory.ask(self._distributions).params)
            if self._store.find_trial(recipe) is None:
                return recipe
        return None

    def _count(self) -> int:
        return sum(1 for t in self._store.trials(details=False) if t.state != "running" and t.number)

    # -- what the sampler knows

    def _anchors(self) -> tuple[tuple[str, Recipe], ...]:
        """Uniform recipes, the most promising ones: a small budget is not spent on them alone."""
        room = max(_LEAST_UNIFORM, self._config.search.trials // 3)
        return self._space.uniform[:room]

    def _make_sampler(self, prepared: Prepared) -> optuna.samplers.BaseSampler:
        options: dict[str, object] = dict(self._config.search.sampler_options)
        if self._config.search.sampler == "surrogate":
            keys = [str(key) for key in self._objectives]
            if "size_bytes" in keys:
                options["exact"] = {keys.index("size_bytes"): self._sizes(prepared)}
            if "drop/worst" in keys:
                options["worst_objective"] = keys.index("drop/worst")
            options["space"] = self._distributions
            options["limits"] = self._useful(keys)
            options["anchors"] = [p for _, r in self._anchors() if (p := self._space.params(r)) is not None]
        return make_sampler(self._config.search.sampler, seed=self._config.search.seed, options=options)

    def _useful(self, keys: Sequence[str]) -> dict[int, float]:
        """Objective -> the largest value worth finding: no larger or slower than the original, no worse than a bound.

        What lies beyond is no use to anybody, so the sampler need not cover it.
        """
        original = self._store.trial(0).metrics
        bounds: dict[str, float] = {
            "drop/worst": _USEFUL_DROPS * self._config.judge.limit,
            **{key: original[key].value for key in keys if key in original and key.split("@")[0] in COST_METRICS},
            **self._config.constraints,
        }
        return {i: bounds[key] for i, key in enumerate(keys) if key in bounds}

    def _sizes(self, prepared: Prepared) -> dict[str, dict[str, float]]:
        """Bytes of every choice of every variable: known exactly before anything is tried."""
        assembler = prepared.assembler
        layers = assembler.source.layers
        return {
            v.name: {
                choice: float(sum(assembler.weight_bytes(layers[name], choice) for name in v.layers))
                for choice in v.choices
            }
            for v in self._space.variables
            if v.technique == "quantize"
        }

    def _rebuild(self) -> optuna.Study:
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        smaller, larger = optuna.study.StudyDirection.MINIMIZE, optuna.study.StudyDirection.MAXIMIZE
        directions = [smaller if key.smaller_is_better else larger for key in self._objectives]
        self._memory = optuna.create_study(directions=directions, sampler=self._sampler)
        for trial in self._store.trials(details=False):
            if trial.state != "running":
                self._remember(trial)
        return self._memory

    def _remember(self, trial: Trial, asked: optuna.Trial | None = None) -> None:
        """Tell Optuna about a finished trial, all of it or what is known; `asked` is the trial it came from."""
        params = self._space.params(Recipe(trial.recipe))
        if params is None:
            return  # a recipe of an earlier space: it stays in the store
        observed = {
            str(i): trial.metrics[str(key)].value for i, key in enumerate(self._objectives) if str(key) in trial.metrics
        }
        complete = trial.state == "complete" and len(observed) == len(self._objectives)
        values = list(observed.values()) if complete else None
        unfinished = optuna.trial.TrialState.PRUNED if trial.state == "rejected" else optuna.trial.TrialState.FAIL
        state = optuna.trial.TrialState.COMPLETE if complete else unfinished
        attributes = self._known(trial) | ({} if complete else {"observed": observed})
        constraints = {
            key: trial.metrics[key].value - limit if self._runner.smaller[key] else limit - trial.metrics[key].value
            for key, limit in self._config.constraints.items()
            if key in trial.metrics
        }
        if asked is None:
            self._memory.add_trial(
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
        self._memory.tell(asked, values, state=state)

    def _known(self, trial: Trial) -> dict[str, object]:
        """What a structured sampler reads beside the objectives: damage and drop per slice."""
        known: dict[str, object] = {}
        damage = self._runner.damage_of(trial.number)
        if damage:
            known["damage"] = damage
        drops = {
            key.partition("/")[2]: value.value
            for key, value in trial.metrics.items()
            if key.startswith("drop/") and key != "drop/worst"
        }
        return known | ({"drop": drops} if drops else {})

    # -- telling

    def _tell_watcher(self, message: str, effort: Effort, trial: Trial | None) -> None:
        done = self._count()
        recent = self._seconds[-10:]
        left = None
        if recent:
            each = sum(recent) / len(recent)
            left = effort.seconds_left(done, each) + self._config.finalists.count * each * FINALIST_FACTOR
        paused = self._targets.state()
        self._watch(Progress("search", message, done, self._config.search.trials, left, self._best(), trial, paused))

    def _best(self) -> Trial | None:
        try:
            return pareto.best(self._store.trials(details=False), self._limits, self._objectives)
        except Infeasible:
            return None


def _headline(trial: Trial) -> str:
    if trial.state == "failed" and trial.failure is not None:
        return f"trial {trial.number} failed: {trial.failure.message}"
    if trial.state == "rejected":
        return f"trial {trial.number} rejected: {trial.reason}"
    return f"trial {trial.number} complete"
