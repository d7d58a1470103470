"""From the entries of `search.warm_start` to what the search is told."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

import numpy as np
import optuna

from autotune import pareto
from autotune.config import StudyConfig
from autotune.errors import DataError, Infeasible, did_you_mean
from autotune.keys import COST_METRICS, WORST, MetricKey
from autotune.layers import Inspection
from autotune.recipe import NONE, Recipe
from autotune.search.opening import make_techniques
from autotune.search.prepare import Prepared
from autotune.search.space import Variable
from autotune.search.warm.earlier import Earlier, matching, read_earlier
from autotune.search.warm.places import blamed_on, place_of, read_recipe
from autotune.search.warm.tables import CostTable, DamageTable, cost_table, damage_table, whole_costs, whole_damage
from autotune.search.warm.translation import translate
from autotune.store import Store
from autotune.trial import Trial
from hwprofiles.fingerprint import Fingerprint

PROPOSER = "warm start"  # of trials that begin with a recipe of an earlier study
RECIPES = 6  # of one earlier study: its best and some along its front
_COMPARED = 2  # earlier models that are built here to see whether their bytes are the same


@dataclass(frozen=True)
class Expected:
    """What the earlier studies let one expect of trials here, kept to be compared with what is measured.

    `costs`: metric key -> contributions, as shares of the original's; `damage`: contributions per slice.
    """

    costs: Mapping[str, CostTable] = field(default_factory=dict)
    damage: DamageTable = field(default_factory=dict)


@dataclass(frozen=True)
class Warm:
    """What a search is told before it begins.

    `trials` are facts for the sampler's memory: damage, drop and size of models that were judged before, without
    their costs here. `guess` is objective -> parameter -> choice -> contribution, `damage_guess` parameter -> choice ->
    slice -> damage: neither is certain. `recipes` are to be the first trials. `notes` say what was used and what not.
    """

    trials: tuple[optuna.trial.FrozenTrial, ...] = ()
    guess: Mapping[int, CostTable] = field(default_factory=dict)
    damage_guess: DamageTable = field(default_factory=dict)
    recipes: tuple[Recipe, ...] = ()
    notes: tuple[str, ...] = ()
    expected: Expected = field(default_factory=Expected)


def check(config: StudyConfig, inspection: Inspection, store: Store) -> None:
    """Are all entries of `search.warm_start` there and about this model? Costs nothing, so it is asked first.

    Raises what `knowledge` raises.
    """
    if not config.search.warm_start:
        return
    graph_wide = [name for name, technique in make_techniques(config).items() if technique.scope == "graph"]
    for entry in config.search.warm_start:
        with blamed_on(entry):
            place = place_of(entry)
            if place.recipe is not None:
                _same_layers(read_recipe(place.recipe), graph_wide, inspection)
            else:
                assert place.store is not None  # one of the two is set
                matching(read_earlier(place.store, place.study, store), inspection)


def knowledge(config: StudyConfig, prepared: Prepared, store: Store, objectives: Sequence[MetricKey]) -> Warm:
    """Read every entry of `search.warm_start`, the first one first: what an earlier entry says counts.

    The original of this study (trial 0) must be finished. Nothing is measured. Raises `DataError` for an entry that is
    not there, cannot be read, or is about another model, and what opening a store raises; the entry is named.
    """
    gathered = _Gathered(config, prepared, store, tuple(objectives))
    for entry in config.search.warm_start:
        with blamed_on(entry):
            place = place_of(entry)
            if place.recipe is not None:
                gathered.add_recipe(entry, read_recipe(place.recipe))
            else:
                assert place.store is not None  # one of the two is set
                gathered.add_study(read_earlier(place.store, place.study, store))
    return gathered.warm()


class _Gathered:
    """Collects what the entries give."""

    def __init__(
        self, config: StudyConfig, prepared: Prepared, store: Store, objectives: tuple[MetricKey, ...]
    ) -> None:
        self._config, self._prepared, self._store, self._objectives = config, prepared, store, objectives
        self._space = prepared.space
        self._original = store.trial(0)
        self._slices = {
            key.partition("/")[2]
            for key in self._original.metrics
            if key.startswith("drop/") and key != f"drop/{WORST}" and "@" not in key
        } | {"all"}
        self._told: dict[Recipe, optuna.trial.FrozenTrial] = {}
        self._recipes: dict[Recipe, None] = {}
        self._costs: dict[str, CostTable] = {}
        self._damage: DamageTable = {}
        self._damage_guess: DamageTable = {}
        self._notes: list[str] = []

    def warm(self) -> Warm:
        guess = {}
        for index, key in enumerate(self._objectives):
            known = self._original.metrics.get(str(key))
            table = self._costs.get(str(key))
            if table and known is not None:
                guess[index] = whole_costs(table, self._space.variables, known.value)
        return Warm(
            trials=tuple(self._told.values()),
            guess=guess,
            damage_guess=whole_damage(self._damage_guess, self._space.variables),
            recipes=tuple(self._recipes),
            notes=tuple(self._notes),
            expected=Expected(self._costs, self._damage),
        )

    # -- a recipe

    def add_recipe(self, entry: str, recipe: Recipe) -> None:
        _same_layers(recipe, tuple(self._space.fixed), self._prepared.ingested.inspection)
        said = self._begin_with([recipe])
        names = [layer.name for layer in self._prepared.ingested.inspection.layers]
        unknown = sorted(_asked(recipe, tuple(self._space.fixed)) - set(names))
        if unknown:
            rest = f" (and {len(unknown) - 1} more)" if len(unknown) > 1 else ""
            said += f"; layer {unknown[0]!r}{rest} is not in this model: {did_you_mean(unknown[0], names)}"
        self._notes.append(f"recipe {entry}: {said}")

    def _begin_with(self, recipes: Sequence[Recipe]) -> str:
        """Make recipes the first trials, as far as this space has them; what became of them, in words."""
        taken, adapted, refused = 0, 0, 0
        for recipe in recipes:
            found = translate(self._space, recipe)
            if not found.decisions:
                continue  # decided for the whole graph alone, as every recipe here is
            if not found.usable:
                refused += 1
                continue
            taken += 1
            adapted += found.lost > 0
            self._recipes.setdefault(self._space.recipe(found.params))
        said = f"{taken} of {taken + refused} recipes begin the search"
        if adapted:
            said += f", {adapted} without the decisions that are no choice here"
        if refused:
            said += f", {refused} {'is' if refused == 1 else 'are'} not in this space"
        return said

    # -- a study

    def add_study(self, earlier: Earlier) -> None:
        layers = matching(earlier, self._prepared.ingested.inspection)
        total = len(self._prepared.ingested.inspection.layers)
        same_model = earlier.source_digest == self._prepared.ingested.source_digest
        kind = "the same model" if same_model else f"a sibling, {len(layers)} of {total} layers alike"
        variables = [v for v in self._space.variables if set(v.layers) <= set(layers)]
        notes = [f"{earlier.place}: {kind}, {len(earlier.compressed)} trials"]
        notes += self._costs_from(earlier, variables)
        notes += self._damage_from(earlier, variables, same_model=same_model)
        notes.append(self._begin_with(self._best_of(earlier)))
        unknown = _unknown_choices(earlier, variables)
        if unknown:
            notes.append(f"it never tried {', '.join(unknown)}")
        self._notes.append("; ".join(notes))

    def _costs_from(self, earlier: Earlier, variables: Sequence[Variable]) -> list[str]:
        said: dict[tuple[str, int], list[str]] = {}
        for key in self._objectives:
            if key.name not in COST_METRICS or key.target is None or str(key) in self._costs:
                continue
            source = self._nearest(earlier, key.target)
            there = MetricKey(key.name, target=source)
            table, used = cost_table(earlier, str(there), variables)
            if used:
                self._costs[str(key)] = table
                said.setdefault((source, used), []).append(str(key))
        return [
            f"{' and '.join(keys)} guessed from its {used} trials on {source}" for (source, used), keys in said.items()
        ]

    def _nearest(self, earlier: Earlier, target: str) -> str:
        """The earlier study's target that is most like ours: of the same name, or the same processor, or the first."""
        timed = pareto.timed_targets(earlier.trials, earlier.config.targets) or earlier.config.targets
        if target in timed:
            return target
        mine = self._prepared.devices[target].fingerprint
        return max(timed, key=lambda name: _likeness(mine, earlier.fingerprint(name)))

    def _damage_from(self, earlier: Earlier, variables: Sequence[Variable], *, same_model: bool) -> list[str]:
        table, rows = damage_table(earlier, variables, self._space, self._slices)
        shared = sorted({name for row in table.values() for cell in row.values() for name in cell})
        if rows and not self._damage:
            self._damage = table
        why = self._why_no_facts(earlier, same_model=same_model)
        if not why:
            return [self._tell(earlier)]
        if not rows:
            return [f"nothing about damage ({why}, and it kept none)"]
        if not self._damage_guess:
            self._damage_guess = table
        return [f"damage in {len(shared)} of {len(self._slices)} slices guessed from {rows} models ({why})"]

    def _why_no_facts(self, earlier: Earlier, *, same_model: bool) -> str:
        """Why what was judged there is no fact here; "" where it is one."""
        if not same_model:
            return "other weights"
        if earlier.workload_digest != self._store.workload_digest:
            return "other data or another metric"
        mine, theirs = self._prepared.judge_device.fingerprint, earlier.judge
        if theirs is None or _judging(mine) != _judging(theirs):
            return "judged by another runtime or processor"
        if self._config.several:
            return "judged in one of several runtime families"
        if not self._same_bytes(earlier):
            return "its models are built in another way"
        return ""

    def _same_bytes(self, earlier: Earlier) -> bool:
        """Whether the same recipe gives the same file here: calibration and versions may differ."""
        tried = [t for t in earlier.compressed if t.artifact and self._space.params(Recipe(t.recipe)) is not None]
        step = max(1, len(tried) // _COMPARED)
        for trial in tried[::step][:_COMPARED]:
            built = hashlib.sha256(self._prepared.assembler.assemble(Recipe(trial.recipe))).hexdigest()
            if trial.artifact is None or built != trial.artifact.digest:
                return False
        return bool(tried)

    def _tell(self, earlier: Earlier) -> str:
        """Facts about models that this study may build, too, as trials that are known in part."""
        keys = [str(key) for key in self._objectives]
        count = 0
        for trial in earlier.compressed:
            recipe = Recipe(trial.recipe)
            params = self._space.params(recipe)
            drop = {
                name: value.value
                for key, value in trial.metrics.items()
                if key.startswith("drop/") and (name := key.partition("/")[2]) in self._slices
            }
            damage = {n: v for n, v in earlier.damage.get(trial.number, {}).items() if n in self._slices}
            if params is None or recipe in self._told or not (drop or damage):
                continue
            size = trial.metrics.get("size_bytes")
            exact = {str(keys.index("size_bytes")): size.value} if size and "size_bytes" in keys else {}
            self._told[recipe] = optuna.trial.create_trial(
                state=optuna.trial.TrialState.PRUNED,
                params=params,
                distributions=self._space.distributions(),
                user_attrs={"observed": exact, "damage": damage, "drop": drop},
            )
            count += 1
        return f"damage and drop of {count} models are known from there"

    def _best_of(self, earlier: Earlier) -> list[Recipe]:
        """Its recommended recipe by this study's limit on the drop, and some along its front."""
        complete = [
            t.model_copy(update={"metrics": {**t.metrics, **t.final}})
            for t in earlier.trials
            if t.state == "complete" and t.number
        ]
        keys = earlier.config.objective_keys
        limit = self._config.limits[f"drop/{WORST}"]
        chosen: list[Trial] = []
        with suppress(Infeasible):  # nothing there is good enough here: its front is all there is to begin with
            chosen.append(pareto.best(complete, {f"drop/{WORST}": limit}, keys))
        front = pareto.front(complete, keys)
        good = [t for t in front if _value(t, f"drop/{WORST}", np.inf) <= limit] or front
        good.sort(key=lambda t: (_value(t, "size_bytes", np.inf), t.number))
        places = np.linspace(0, len(good) - 1, min(RECIPES - len(chosen), len(good))).round().astype(int)
        chosen += [good[int(i)] for i in places]
        return list(dict.fromkeys(Recipe(t.recipe) for t in chosen))


def _same_layers(recipe: Recipe, graph_wide: Sequence[str], inspection: Inspection) -> None:
    """Raises `DataError` unless some layer of the recipe is in this model; `graph_wide` techniques have no layers."""
    names = {layer.name for layer in inspection.layers}
    asked = _asked(recipe, graph_wide)
    if asked and not asked & names:
        first = min(asked)
        raise DataError(
            f"none of its {len(asked)} layers is in this model, not {first!r} for example; it is a recipe of another "
            f"one, or has its names wrong ({did_you_mean(first, names)})"
        )


def _asked(recipe: Recipe, graph_wide: Sequence[str]) -> set[str]:
    """The layers that a recipe speaks of."""
    return {layer for technique in recipe if technique not in graph_wide for layer in recipe[technique]}


def _unknown_choices(earlier: Earlier, variables: Sequence[Variable]) -> list[str]:
    tried = {c for t in earlier.trials for table in t.recipe.values() for c in table.values()}
    offered = dict.fromkeys(c for v in variables for c in v.choices if c != NONE)
    return [choice for choice in offered if choice not in tried]


def _value(trial: Trial, key: str, default: float) -> float:
    return trial.metrics[key].value if key in trial.metrics else default


def _judging(found: Fingerprint) -> tuple[object, ...]:
    """What answers depend on: the same file may answer differently on another processor."""
    return found.machine, found.isa, found.runtime, found.runtime_version, found.provider


def _likeness(mine: Fingerprint, other: Fingerprint | None) -> int:
    if other is None:
        return -1
    return 4 * (mine.machine == other.machine) + 2 * (mine.cpu_model == other.cpu_model) + (mine.isa == other.isa)
