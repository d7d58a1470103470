"""Cheap knowledge: what the sampler is told before a trial of its own.

Sizes are exact. What is worth finding comes from the original and the constraints, what to aim at from the budget. Once
the uniform recipes have run, the profile that was taken of each says what every choice gains in every layer, and swaps
of blocks what it gains in the model (`swaps`): a guess of the latency, believed as far as measurements agree.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

from scipy.stats import spearmanr

from autotune.config import StudyConfig
from autotune.keys import COST_METRICS, WORST, WORST_ANYWHERE, MetricKey, parse_key
from autotune.recipe import NONE, Recipe
from autotune.search.budget import aim, smallest_size
from autotune.search.prepare import Prepared
from autotune.search.space import Space
from autotune.search.stages import USEFUL_DROPS, useful_drop
from autotune.search.surrogate import SurrogateSampler
from autotune.search.swap_table import better_guesses
from autotune.search.warm import Warm
from autotune.store import Store
from autotune.trial import Trial

CostTable = Mapping[str, Mapping[str, float]]  # parameter -> choice -> contribution
_LEAST_UNIFORM = 4
_WORST_DROP = ("drop", WORST)


def anchors(config: StudyConfig, space: Space) -> tuple[tuple[str, Recipe], ...]:
    """Uniform recipes, the most promising ones: a small budget is not spent on them alone. First come those that a
    searched recipe has to beat on a guarded target."""
    guards = {family.guard for family in config.families}
    ordered = sorted(space.uniform, key=lambda idea: idea[0] not in guards)  # a stable order
    return tuple(ordered[: max(_LEAST_UNIFORM, config.search.trials // 3)])


def sampler_options(
    config: StudyConfig, prepared: Prepared, store: Store, objectives: Sequence[MetricKey], warm: Warm
) -> dict[str, Any]:
    """Arguments for the study's sampler; only ours is told anything beyond `search.sampler_options`.

    The baseline must be in the store. Raises `UsageError` where the budget contradicts itself.
    """
    options: dict[str, Any] = dict(config.search.sampler_options)
    if config.search.sampler != "surrogate":
        return options
    space, keys = prepared.space, [str(key) for key in objectives]
    if any(v.technique == "quantize" for v in space.variables):
        exact = {i: sizes(prepared, key.target) for i, key in enumerate(objectives) if key.name == "size_bytes"}
        options |= {"exact": exact} if exact else {}
    worst = next((i for i, key in enumerate(keys) if key in (WORST_ANYWHERE, f"drop/{WORST}")), None)
    options |= {"worst_objective": worst} if worst is not None else {}
    options["space"] = space.distributions()
    if prepared.structure.factors:
        options["outer"] = prepared.structure.factors
    options["limits"] = useful(config, store.trial(0), keys)
    options["anchors"] = [params for _, r in anchors(config, space) if (params := space.params(r)) is not None]
    told: dict[str, Any] = {
        "guess": _guesses(store, space, keys, (warm.guess, _latencies(store, prepared, keys))),
        "damage_guess": dict(warm.damage_guess),
    }
    wanted = aim(config, objectives, store.trial(0).metrics)
    if wanted:
        told |= {"aim": wanted.limits, "aim_at": wanted.minimise, "aim_slices": wanted.slice_limits}
    known = inspect.signature(SurrogateSampler.__init__).parameters
    return options | {name: value for name, value in told.items() if value not in ({}, None) and name in known}


def smallest(prepared: Prepared, original: Trial) -> float | None:
    """Bytes of the smallest model of the space; None where not only the weights of layers decide that."""
    if any(v.technique != "quantize" for v in prepared.space.variables):
        return None
    return smallest_size(sizes(prepared), original.metrics["size_bytes"].value)


def useful(config: StudyConfig, original: Trial, keys: Sequence[str]) -> dict[int, float]:
    """Objective -> the largest value worth finding: no larger or slower than the original, no worse than a bound.

    What lies beyond is no use to anybody, so the sampler need not cover it.
    """
    bounds: dict[str, float] = {
        **{key: original.metrics[key].value for key in keys if key in original.metrics and _is_cost(key)},
        **config.bounds,
        **{str(key): useful_drop(config, key) for key in map(parse_key, keys) if (key.name, key.slice) == _WORST_DROP},
    }
    for key in {*keys} - {*map(str, config.objective_keys)} & {*config.budget}:  # no objective: anything within will do
        bounds[key] = max(bounds.get(key, 0.0), config.budget[key])
    return {i: bounds[key] for i, key in enumerate(keys) if key in bounds}


def corner(config: StudyConfig, original: Trial, objectives: Sequence[MetricKey]) -> tuple[list[float], list[float]]:
    """(corner, scale) of the hypervolume, one per objective in its own direction: what is useful, or for what is judged
    otherwise a loss of five limits. The scale is the side of a box that is as large as what can be won."""
    known = useful(config, original, [str(key) for key in objectives])
    width = USEFUL_DROPS * config.judge.limit
    corners, scales = [], []
    for index, key in enumerate(objectives):
        start = original.metrics[str(key)].value
        end = known.get(index, start + width if key.smaller_is_better else start - width)
        corners.append(end)
        scales.append(abs(end) if key.name in COST_METRICS else max(abs(end - start), width))
    return corners, [scale or 1.0 for scale in scales]


def sizes(prepared: Prepared, target: str | None = None) -> dict[str, dict[str, float]]:
    """Bytes of every choice of every variable in the artifact of `target` (None: of the first one), known exactly
    before anything is tried. What a structural choice does to layers that have a variable of formats is a factor of
    theirs instead (`structure`)."""
    assembler = prepared.assembler if target is None else prepared.assembler_of(target)
    layers = assembler.source.layers
    return {name: dict(table) for name, table in prepared.structure.own.items() if table} | {
        v.name: {
            choice: float(sum(assembler.weight_bytes(layers[name], choice) for name in v.layers))
            for choice in v.choices
        }
        for v in prepared.space.variables
        if v.technique == "quantize"
    }


def _latencies(store: Store, prepared: Prepared, keys: Sequence[str]) -> dict[int, dict[str, dict[str, float]]]:
    """From profiles, or from measured swaps of blocks where these come nearer to what trials took."""
    return better_guesses(store, prepared, keys, latency_guesses(store, prepared, keys))


def latency_guesses(store: Store, prepared: Prepared, keys: Sequence[str]) -> dict[int, dict[str, dict[str, float]]]:
    """Objective -> parameter -> choice -> what it adds, for the latencies on the target whose profiles were taken.

    The kernels of a uniform recipe's layer against those of the same layer where it is left alone, as a share of the
    original's latency. A profile knows neither fusions across layers nor conversions between them.
    """
    target = prepared.judge_target
    guesses = {}
    table = layer_times(store, prepared.space)
    original = store.trial(0).metrics
    latency = original.get(f"latency_p50@{target}")
    if not table or latency is None or not latency.value > 0:
        return {}
    for index, key in enumerate(keys):
        name, _, at = key.partition("@")
        if at != target or name not in ("latency_ratio", "latency_p50", "latency_p90") or key not in original:
            continue
        # Profiling slows small kernels down: where they take longer than the model does, only their shares count.
        unit = original[key].value / max(latency.value, sum(before(store, prepared.space).values()))
        guesses[index] = {
            parameter: {choice: seconds * unit for choice, seconds in row.items()} for parameter, row in table.items()
        }
    return guesses


def layer_times(store: Store, space: Space) -> dict[str, dict[str, float]]:
    """Parameter -> choice -> seconds that it adds to its layers, from the profiles of the uniform recipes."""
    plain = before(store, space)
    table: dict[str, dict[str, float]] = {}
    for _, recipe in space.uniform:
        trial, params = store.find_trial(recipe), space.params(recipe)
        if trial is None or params is None or not trial.layers or recipe == space.fixed:
            continue
        after = {outcome.layer: outcome.seconds for outcome in trial.layers}
        techniques = {v.technique for v in space.variables if params[v.name] != NONE}
        if len(techniques) != 1:
            continue  # whose gain would it be?
        for variable in space.variables:
            choice = params[variable.name]
            there = [name for name in variable.layers if name in plain and name in after]
            if choice != NONE and len(there) == len(variable.layers):
                gained = sum(after[name] - plain[name] for name in there)
                table.setdefault(variable.name, {}).setdefault(choice, gained)
    return {v.name: _filled(table[v.name], v.choices) for v in space.variables if v.name in table}


def _filled(known: Mapping[str, float], choices: Sequence[str]) -> dict[str, float]:
    """A value for every choice: one whose uniform recipe has not run gains what the others do in the mean."""
    middle = sum(known.values()) / len(known)
    return {choice: 0.0 if choice == NONE else known.get(choice, middle) for choice in choices}


def _guesses(
    store: Store, space: Space, keys: Sequence[str], offered: Sequence[Mapping[int, CostTable]]
) -> dict[int, CostTable]:
    """Objective -> its guess; of several the one that ranks what has been measured best, the first of equals."""
    trials = [(t, p) for t in store.trials(details=False) if (p := space.params(Recipe(t.recipe))) is not None]
    found: dict[int, CostTable] = {}
    for index, key in enumerate(keys):
        measured = [(params, trial.metrics[key].value) for trial, params in trials if key in trial.metrics]
        tables = [guesses[index] for guesses in offered if index in guesses]
        if tables:
            found[index] = max(tables, key=lambda table: _agreement(table, measured))
    return found


def _agreement(table: CostTable, measured: Sequence[tuple[Mapping[str, str], float]]) -> float:
    """Rank correlation of what a guess adds up to with what was measured; 0 where that cannot be said."""
    guessed = [sum(table.get(name, {}).get(choice, 0.0) for name, choice in params.items()) for params, _ in measured]
    values = [value for _, value in measured]
    if len(set(guessed)) < 2 or len(set(values)) < 2:
        return 0.0
    return float(spearmanr(guessed, values).statistic)


def before(store: Store, space: Space) -> dict[str, float]:
    """Layer -> seconds where it is left alone, in the graph that recipes start from."""
    plain = store.find_trial(space.fixed) or store.trial(0)
    return {outcome.layer: outcome.seconds for outcome in plain.layers}


def _is_cost(key: str) -> bool:
    return key.split("@")[0] in COST_METRICS
