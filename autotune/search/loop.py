"""The search loop: recipes of earlier studies, uniform recipes, sensitive layers, then what the sampler proposes."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

import optuna

from autotune.config import StudyConfig
from autotune.errors import Infeasible
from autotune.keys import WORST_ANYWHERE, MetricKey
from autotune.recipe import Recipe
from autotune.search import budget, warm
from autotune.search.effort import Effort, before_the_end
from autotune.search.knowledge import anchors, smallest
from autotune.search.memory import Memory
from autotune.search.outlook import Outlook
from autotune.search.prepare import Prepared
from autotune.search.progress import Progress, Watcher
from autotune.search.recovery.starting import Starting
from autotune.search.runner import TrialRunner, Waiting
from autotune.search.shortfall import keep_predicted
from autotune.search.swaps import Swaps
from autotune.search.targets import Stopped, TargetPaused
from autotune.search.transfer import keep_transfer
from autotune.store import Store
from autotune.trial import Trial

SENSITIVITY_SHARE = 0.2  # of the search time that is left after the uniform recipes
_FORESEEN = 20  # trials that the forecast is told for, or as many as are left
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
        watch: Watcher,
    ) -> None:
        self._config, self._space, self._store, self._runner = config, prepared.space, store, runner
        self._prepared = prepared
        self._objectives, self._watch = tuple(objectives), watch
        self._warm = warm.knowledge(config, prepared, store, objectives)
        self._starting = Starting(config, prepared, store)
        learnt = budget.modelled(config, objectives)
        self._memory = Memory(config, prepared, store, runner, learnt, self._warm, self._starting, self._say)
        self._outlook = Outlook(config, store, objectives)
        self._seconds: list[float] = []
        self._targets = runner.targets
        self._waiting: dict[int, Waiter] = {}  # trial -> what it waits for, the oldest first

    def run(self, effort: Effort) -> None:
        """Until the effort is spent or the space exhausted, and every trial that waited for a target has ended.

        Raises `Stopped` when the user asks to stop, `Waiting` when trials are left whose targets do not come back.
        """
        effort = replace(effort, until_stable=self._config.search.until_stable)
        original = self._store.trial(0)
        metric, least = self._prepared.workload.metric_name, smallest(self._prepared, original)
        notes = [*budget.check_budget(self._config, metric, original, least), *before_the_end(self._config.search)]
        for note in (*notes, *budget.filtered(self._config, original.metrics), *self._warm.notes):
            self._say(note)
        unfinished = [t for t in self._store.trials(details=False) if t.state == "running" and t.number]
        for trial in unfinished:
            self._make_room(effort)
            self._run(trial.number, Recipe(trial.recipe), effort)
        begin = [(warm.PROPOSER, recipe) for recipe in self._warm.recipes]
        begin += [(f"uniform {label}", recipe) for label, recipe in anchors(self._config, self._space)]
        for proposer, recipe in begin:
            self._make_room(effort)
            if not self._spent(effort) and self._memory.find(recipe) is None:
                self._try(recipe, proposer, effort)
        self._measure_swaps(effort)
        self._memory.rebuild()  # with the profiles of the uniform recipes, and the swaps
        self._find_sensitive_layers(effort)
        why = "the space is one recipe large"
        while self._space.variables:
            self._make_room(effort)
            why = self._why_spent(effort)
            if why:
                break
            proposed, asked = self._memory.propose()
            if proposed is None:
                why = "every recipe of the space has been tried"
                break
            self._try(proposed, self._config.search.sampler, effort, asked)
        self._finish_waiting(effort)
        self._conclude(effort, why)

    def _conclude(self, effort: Effort, why: str) -> None:
        """What can be said of the search as a whole is kept for the report, and said."""
        self._outlook.keep(_FORESEEN, why)
        prediction = self._memory.about_budget()
        if prediction is not None:
            keep_predicted(self._store, prediction)
        helped = keep_transfer(self._store, self._warm, self._space, self._objectives)
        self._say(helped.sentence if helped is not None else "")
        self._say(f"the search ends: {why}")

    # -- trials that wait for a target

    def _spent(self, effort: Effort) -> bool:
        return bool(self._why_spent(effort))

    def _why_spent(self, effort: Effort) -> str:
        soon = self._outlook.soon() if effort.until_stable else None
        return effort.why_spent(self._count() + len(self._waiting), soon)

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

    def _measure_swaps(self, effort: Effort) -> None:
        """What a choice gains in one block of layers, on the targets: see `swaps`."""
        search = self._config.search
        if not search.swaps or search.sampler != "surrogate" or not self._seconds:
            return
        seconds = search.swaps * effort.seconds_left(self._count(), sum(self._seconds) / len(self._seconds))
        swaps = Swaps(self._config, self._prepared, self._store, self._runner)
        begun = time.monotonic()
        count = swaps.run(seconds, lambda told: self._tell_watcher(told, effort, None), self._say)
        if count:
            taken = time.monotonic() - begun
            self._say(f"{count} choices were timed in one block of layers alone, in {taken:.0f} s of the search time")

    def _find_sensitive_layers(self, effort: Effort) -> None:
        """Which layers are to blame where a uniform recipe loses too much: each takes the choice alone.

        Needs neither the clock of the target nor labels, only the outputs on the probe samples, so it costs a fraction
        of a trial; it ends when its share of the time is spent.
        """
        if not self._runner.probing.active or not self._seconds:
            return
        share = SENSITIVITY_SHARE * effort.seconds_left(self._count(), sum(self._seconds) / len(self._seconds))
        end = time.monotonic() + share
        nothing = {v.name: v.choices[0] for v in self._space.variables}
        # What a structure costs before it has been trained says nothing of what it costs after.
        untold = set(self._prepared.structure.factors) if self._starting.active else set()
        for label, recipe in anchors(self._config, self._space):
            params = self._space.params(recipe)
            if params is None or not self._is_lossy(recipe):
                continue
            for index, (name, choice) in enumerate(params.items()):
                if self._runner.stop.is_set():
                    raise Stopped
                if choice == nothing[name] or name in untold or time.monotonic() > end:
                    continue
                where = self._runner.probing.where
                told = f"how much {label} costs in layer {index + 1} of {len(params)}, {where}"
                self._tell_watcher(told, effort, None)
                try:
                    self._say(self._memory.remember_probe(nothing | {name: choice}))
                except TargetPaused:
                    return  # a help, not a need: the search does without it

    def _is_lossy(self, recipe: Recipe) -> bool:
        trial = self._memory.find(recipe)
        if trial is None or trial.state not in ("complete", "rejected"):
            return False
        drop = trial.metrics.get(WORST_ANYWHERE, trial.metrics.get("drop/worst"))
        return drop is None or drop.value > self._config.judge.limit

    # -- one trial

    def _try(self, recipe: Recipe, proposer: str, effort: Effort, asked: optuna.Trial | None = None) -> None:
        """Begin a trial and run it; what it takes to train its structure before is part of its time."""
        if self._runner.stop.is_set():
            raise Stopped
        begun = time.monotonic()
        recipe = self._starting.train(recipe, lambda told: self._tell_watcher(told, effort, None), self._say)
        self._run(self._store.start_trial(recipe, proposer), recipe, effort, asked, since=begun)

    def _run(
        self,
        number: int,
        recipe: Recipe,
        effort: Effort,
        asked: optuna.Trial | None = None,
        *,
        since: float | None = None,
    ) -> None:
        if self._runner.stop.is_set():
            raise Stopped
        self._tell_watcher(f"trial {number}", effort, None)
        begun = time.monotonic() if since is None else since
        try:
            trial = self._runner.run(number, recipe)
        except Waiting as waiting:
            self._waiting[number] = Waiter(recipe, asked, waiting.targets)
            self._tell_watcher(f"trial {number} waits for {', '.join(sorted(waiting.targets))}", effort, None)
            return
        self._seconds.append(time.monotonic() - begun)
        self._memory.remember(trial, asked)
        if not trial.recovered:
            self._outlook.add(trial)
        self._outlook.keep(self._ahead(effort))
        self._tell_watcher(_headline(trial), effort, trial)

    def _count(self) -> int:
        trials = self._store.trials(details=False)
        return sum(1 for t in trials if t.state != "running" and t.number and not t.recovered)

    # -- telling

    def _say(self, message: str) -> None:
        if message:
            self._watch(Progress("search", message, news=True))

    def _tell_watcher(self, message: str, effort: Effort, trial: Trial | None) -> None:
        done, total = self._count(), self._config.search.trials
        left, outlook = None, ""
        each = self._seconds_each()
        if each:
            finalists = self._config.finalists.count
            again = (finalists + 1) * each * FINALIST_FACTOR if finalists else 0.0  # the original is measured again too
            left = effort.seconds_left(done, each) + again
        if trial is not None:
            outlook = str(self._outlook.next(self._ahead(effort)) or "")
        paused = self._targets.state()
        self._watch(Progress("search", message, done, total, left, self._best(), trial, paused, outlook))

    def _ahead(self, effort: Effort) -> int:
        """For how many trials the forecast is told: those that are left, at most 20; 20 where none is left."""
        return min(_FORESEEN, effort.trials_left(self._count(), self._seconds_each())) or _FORESEEN

    def _seconds_each(self) -> float:
        recent = self._seconds[-10:]
        return sum(recent) / len(recent) if recent else 0.0

    def _best(self) -> Trial | None:
        try:
            return budget.best(self._store.trials(details=False), self._config)
        except Infeasible:
            return None


def _headline(trial: Trial) -> str:
    if trial.state == "failed" and trial.failure is not None:
        return f"trial {trial.number} failed: {trial.failure.message}"
    if trial.state == "rejected":
        return f"trial {trial.number} rejected: {trial.reason}"
    return f"trial {trial.number} complete"
