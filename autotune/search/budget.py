"""A budget: what the search solves for within it, what of it cannot be met or does nothing, and which trial is best.

What is made best within a budget:

- the worst drop, where only costs are limited (the most accurate model of at most 10 MB);
- a time, where only what is judged is limited (the fastest model that loses at most one point), else another cost;
- of a budget with limits of both kinds a cost that it leaves open, a time first; the worst drop where it leaves none.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from autotune import pareto
from autotune.config import StudyConfig, idle, tightest
from autotune.errors import Infeasible, UsageError, did_you_mean
from autotune.keys import COST_METRICS, JUDGED_METRICS, WORST, WORST_ANYWHERE, MetricKey, format_amount, parse_key
from autotune.trial import Trial, Value

K = TypeVar("K")

VAGUE = 0.5  # a drop whose interval is wider tells nothing
_DROP = MetricKey("drop", WORST)
_ANYWHERE = parse_key(WORST_ANYWHERE)
_TIMES = ("latency_ratio", "latency_p50", "latency_p90")  # three views of one cost, told apart by the original's own
_CERTAIN = 0.99  # a limit below this share of the smallest size is out of reach; the file around the weights varies


@dataclass(frozen=True)
class Aim:
    """A budget in terms of the objectives, for the sampler.

    `limits`: objective -> its largest value (smallest, when it is maximised). `slice_limits`: slice -> its largest
    drop. `minimise`: the objective to make best within them. `unsolved`: limits that no objective stands for; they
    still decide what ships. Everything is empty without a budget.
    """

    limits: Mapping[int, float] = field(default_factory=dict)
    minimise: int | None = None
    unsolved: tuple[str, ...] = ()
    slice_limits: Mapping[str, float] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return self.minimise is not None


def modelled(config: StudyConfig, objectives: Sequence[MetricKey]) -> tuple[MetricKey, ...]:
    """What the sampler learns: the objectives, then every other cost that the budget limits, such as memory.

    Such a cost is measured with every trial and learnt as a sum over the choices, like a latency; it is no axis of the
    front. A stock sampler knows nothing of limits, so it is given the objectives alone.
    """
    keys = list(objectives)
    if config.search.sampler == "surrogate":
        for key in map(parse_key, config.budget):
            if key.name in COST_METRICS and _objective(key, keys) is None:
                keys.append(key)
    return tuple(keys)


def filtered(config: StudyConfig, baseline: Mapping[str, Value]) -> list[str]:
    """One sentence on the limits of the budget that decide what ships, but are not searched for; none without any."""
    if config.budget and config.search.sampler != "surrogate":
        return [
            f"the budget is not solved for: sampler {config.search.sampler!r} knows no limits, so what was measured is "
            "filtered by them; the sampler 'surrogate' solves for them"
        ]
    wanted = aim(config, modelled(config, config.objective_keys), baseline)
    named = [text for text in wanted.unsolved if text in config.budget]
    if not named:
        return []
    it, are = ("it", "is") if len(named) == 1 else ("them", "are")
    return [
        f"{', '.join(named)} {are} not solved for, as no model of the search predicts {it}: what was measured is "
        f"filtered by {it}; to search for {it}, name {it} in [search] objectives"
    ]


def aim(config: StudyConfig, objectives: Sequence[MetricKey], baseline: Mapping[str, Value]) -> Aim:
    """Which objectives the budget limits, and which one to make best within it.

    Limits on other keys are translated where that is honest: one view of a target's time into another by the
    original's own times (which takes its spread for everybody's), the smallest metric of a slice into its largest drop
    by what the original reaches. `baseline` are the metrics of trial 0. The constraints of the study count too.
    """
    if not config.budget:
        return Aim()
    keys = list(objectives)
    asked = {parse_key(text): limit for text, limit in tightest(config.constraints, config.budget).items()}
    limits: dict[int, float] = {}
    slice_limits: dict[str, float] = {}
    unsolved: list[str] = []
    for key, limit in asked.items():
        place = _objective(key, keys)
        if place is not None and (translated := _translated(key, keys[place], limit, baseline)) is not None:
            _tighten(limits, place, translated, smaller=keys[place].smaller_is_better)
        elif drop_place(keys) is not None and (drop := _slice_drop(key, limit, baseline)) is not None:
            _tighten(slice_limits, drop[0], drop[1], smaller=True)
        else:
            unsolved.append(str(key))
    # A slice that is allowed more than the others counts in drop/worst by its share; so the model is told its drops.
    shares = config.drop_shares
    slice_limits = {name: limit * shares.get(name, 1.0) for name, limit in slice_limits.items()}
    minimise = _to_minimise(keys, limits, any(parse_key(text).name not in COST_METRICS for text in config.budget))
    lost = drop_place(keys)
    if lost is not None and lost != minimise:  # nothing ships that loses more
        _tighten(limits, lost, config.limits[str(_DROP)], smaller=True)
    return Aim(limits, minimise, tuple(unsolved), slice_limits)


def drop_place(objectives: Sequence[MetricKey]) -> int | None:
    """Which objective is the largest loss of any slice: of the first runtime family, or of all."""
    return next((i for i, key in enumerate(objectives) if key in (_DROP, _ANYWHERE)), None)


def _objective(key: MetricKey, objectives: Sequence[MetricKey]) -> int | None:
    """The objective that stands for `key`: itself, or another view of the same time."""
    if key in objectives:
        return objectives.index(key)
    if key == _DROP and _ANYWHERE in objectives:  # a limit without a target holds in every runtime family
        return objectives.index(_ANYWHERE)
    if key.name in _TIMES:
        views = [i for i, other in enumerate(objectives) if other.name in _TIMES and other.target == key.target]
        return views[0] if views else None
    return None


def _translated(key: MetricKey, into: MetricKey, limit: float, baseline: Mapping[str, Value]) -> float | None:
    if key == into or (key, into) == (_DROP, _ANYWHERE):
        return limit
    of_original = [1.0 if k.name == "latency_ratio" else _point(baseline, k) for k in (key, into)]
    return limit / of_original[0] * of_original[1] if all(value > 0 for value in of_original) else None


def _point(baseline: Mapping[str, Value], key: MetricKey) -> float:
    """The original's value; NaN where it is not known."""
    found = baseline.get(str(key))
    return found.value if found is not None else math.nan


def _slice_drop(key: MetricKey, limit: float, baseline: Mapping[str, Value]) -> tuple[str, float] | None:
    """(slice, its largest drop) that `key` comes to; None where it says something else, or where the slice is so small
    that its drops tell a model nothing.
    """
    if key.name in COST_METRICS or key.name == "flips" or key.slice in (None, WORST) or key.target is not None:
        return None
    drop = baseline.get(f"drop/{key.slice}")
    if drop is None or drop.high - drop.low > VAGUE:
        return None
    largest = limit if key.name == "drop" else _point(baseline, key) - limit
    return (str(key.slice), largest) if math.isfinite(largest) else None


def _tighten(limits: dict[K, float], key: K, limit: float, *, smaller: bool) -> None:
    harder = min if smaller else max
    limits[key] = harder(limits.get(key, limit), limit)


def _to_minimise(objectives: Sequence[MetricKey], limits: Mapping[int, float], limits_judged: bool) -> int | None:
    """See the module: the objective to make best. None without objectives."""
    costs = [i for i, key in enumerate(objectives) if key.name in COST_METRICS]
    judged = [i for i, key in enumerate(objectives) if key.name not in COST_METRICS]
    judged.sort(key=lambda i: objectives[i] not in (_DROP, _ANYWHERE))
    open_costs = sorted((i for i in costs if i not in limits), key=lambda i: objectives[i].name not in _TIMES)
    if limits_judged and open_costs:
        return open_costs[0]
    return next(iter([*judged, *open_costs, *costs]), None)


def best(trials: Sequence[Trial], config: StudyConfig, *, final: bool = False) -> Trial:
    """The trial to ship: what the budget asks to make best within all limits of the study.

    Of trials that its resolution cannot tell apart, and where the budget limits no cost, the cheapest wins: the least
    geometric mean of the costs, as `pareto.best` has it. Raises `Infeasible` as that does.
    """
    keys = config.objective_keys
    cheapest = pareto.best(trials, config.limits, keys, final=final)
    if not any(parse_key(text).name in COST_METRICS for text in config.budget):
        return cheapest
    baseline = next((trial for trial in trials if trial.number == 0), None)
    known_of_original = baseline.metrics if baseline is not None else {}
    wanted = aim(config, modelled(config, keys), known_of_original).minimise
    if wanted is None:
        return cheapest
    key = modelled(config, keys)[wanted]
    known = [
        (found.value if key.smaller_is_better else -found.value, trial)
        for trial in pareto.within(trials, config.limits, final=final)
        if (found := (trial.final if final else trial.metrics).get(str(key))) is not None
    ]
    if not known:
        return cheapest
    least = min(value for value, _ in known)
    near = [trial for value, trial in known if value <= least + pareto.epsilon(key, least)]
    return pareto.best(near, config.limits, keys, final=final)


# ---- before the search


def smallest_size(sizes: Mapping[str, Mapping[str, float]], original: float) -> float:
    """Bytes of the smallest model of the space: the original, with the smallest choice of every variable.

    `sizes`: variable -> choice -> its bytes, "none" first, as the weight bank knows them.
    """
    return original - sum(next(iter(choices.values())) - min(choices.values()) for choices in sizes.values())


def check_early(config: StudyConfig, metric: str, original_bytes: float, smallest_bytes: float | None) -> None:
    """What is wrong with a limit and can be told before the original is measured, which may take minutes.

    Raises `UsageError` for a limit on what the study does not measure, `Infeasible` for a size below the smallest.
    """
    measure = config.measure
    for text, limit in tightest(config.constraints, config.budget).items():
        key = parse_key(text, metric=metric)
        if key.name == "memory_peak" and not measure.memory_runs:
            raise UsageError(f"limit on {key}: memory is not measured here; set memory_runs in [measure] to 1 or more")
        if key.name == "energy_j" and not measure.energy_seconds:
            raise UsageError(f"limit on {key}: energy is not measured here; set energy_seconds in [measure]")
        if key.name == "size_bytes" and limit < original_bytes:
            _refuse_smaller(key, limit, smallest_bytes)


def _refuse_smaller(key: MetricKey, limit: float, smallest_bytes: float | None) -> None:
    if smallest_bytes is not None and limit < _CERTAIN * smallest_bytes:
        smallest = format_amount(smallest_bytes, key)
        raise Infeasible(f"the smallest possible model is {smallest}; {key} {format_amount(limit, key)} cannot be met")


def check_budget(config: StudyConfig, metric: str, baseline: Trial, smallest_bytes: float | None) -> list[str]:
    """What the baseline says of the budget and the constraints: one sentence for each limit that does nothing, or that
    hardly anything will meet.

    `metric` is the name of the workload's metric. `smallest_bytes` is the size of the smallest model of the space.
    Raises `UsageError` for a key that was not measured or judged on the baseline, `Infeasible` for a size below the
    smallest.
    """
    said = idle(config)
    for text, limit in tightest(config.constraints, config.budget).items():
        key = parse_key(text, metric=metric)
        if text not in baseline.metrics:
            raise UsageError(_not_known(key, baseline))
        original, asked = baseline.metrics[text].value, format_amount(limit, key)
        if key.name in COST_METRICS and limit >= original:
            said.append(f"{key} {asked} limits nothing: the original takes {format_amount(original, key)}")
        elif key.name == "size_bytes":
            _refuse_smaller(key, limit, smallest_bytes)
        elif key.name == "memory_peak" and smallest_bytes is not None:
            said += _tight_memory(key, limit, baseline, smallest_bytes)
        elif key.name not in (*COST_METRICS, *JUDGED_METRICS) and limit > original:
            said.append(f"{key} of at least {asked} is more than the original reaches: {format_amount(original, key)}")
    return said


def _tight_memory(key: MetricKey, limit: float, baseline: Trial, smallest: float) -> list[str]:
    """A limit below what the original takes beside its weights, with the smallest weights in their place.

    Not certain: a runtime may keep weights twice, or work in less memory on other kernels.
    """
    size = MetricKey("size_bytes")
    original, weights = baseline.metrics[str(key)].value, baseline.metrics[str(size)].value
    floor = max(smallest, original - weights + smallest)
    if limit >= floor:
        return []
    return [
        f"{key} {format_amount(limit, key)} will hardly be met: the original takes {format_amount(original, key)}, "
        f"{format_amount(weights, size)} of it for the model; the smallest possible one, "
        f"{format_amount(smallest, size)}, will take about {format_amount(floor, key)}"
    ]


def _not_known(key: MetricKey, baseline: Trial) -> str:
    """Why a limit cannot be held: what it is about was not measured or judged on the original."""
    if key.name == "latency_p90":
        return f"limit on {key}: too few inferences are timed for a 90th percentile; raise min_pairs in [measure]"
    if key.name == "energy_j":
        return f"limit on {key}: the target has no counter of energy that can be read; limit its latency instead"
    if key.name in COST_METRICS:
        return f"limit on {key}: it is not measured here; {did_you_mean(str(key), baseline.metrics)}"
    like = [text for text in baseline.metrics if text.partition("/")[0] == key.name]
    return f"limit on {key}: there is no such slice; {did_you_mean(str(key), like)}"
