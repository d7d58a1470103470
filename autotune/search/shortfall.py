"""How a study stands to its budget: the best trial within it with its margins, or what keeps there from being one.

Read from recorded trials alone, so `run`, `front` and the report say the same. What the model of the search predicted
(by how much each limit would have to give) is kept in the store at the end of a search.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import optuna

from autotune import pareto
from autotune.config import StudyConfig
from autotune.errors import Infeasible
from autotune.keys import COST_METRICS, WORST, MetricKey, format_amount, parse_key
from autotune.search.budget import Aim, aim, best, modelled
from autotune.search.surrogate import SurrogateSampler
from autotune.search.surrogate.solution import Solution
from autotune.search.timeshare import TimeShare, time_share
from autotune.store import Store
from autotune.trial import Trial, Value

_META = "budget"
_TIMES = ("latency_p50", "latency_p90", "latency_ratio", "energy_j")  # with such a limit the time by layer is told


@dataclass(frozen=True)
class Predicted:
    """What the model that was fitted to all trials says: by how much each limit would have to give for all others to be
    met (objective or drop/SLICE -> amount, in its unit; None where that alone is not enough; empty when it knows a
    recipe within all of them), and the objectives that it predicts for that recipe.
    """

    excess: Mapping[str, float | None] = field(default_factory=dict)
    values: Mapping[str, float] = field(default_factory=dict)
    feasible: bool = False

    def __str__(self) -> str:
        return self.words(())

    def words(self, unsolved: Sequence[str]) -> str:
        """One sentence; `unsolved` are limits that the model knows nothing of, so that it cannot promise them."""
        if self.feasible:
            values = ", ".join(f"{text} {format_amount(v, parse_key(text))}" for text, v in self.values.items())
            if unsolved:
                return (
                    f"the model of the search predicts a recipe within the other limits ({values}), but nothing of "
                    f"{' and '.join(unsolved)}"
                )
            return f"the model of the search predicts a recipe within the limits ({values}); more trials may find it"
        gives = [f"{text} by {format_amount(by, parse_key(text))}" for text, by in self.excess.items() if by]
        if not gives:
            return "by the model of the search no limit alone stands in the way: several would have to give"
        return f"by the model of the search one limit would have to give: {' or '.join(gives)}"


@dataclass(frozen=True)
class Margin:
    """One limit and what the best trial has. `certain`: the bad end of the 95 % interval is inside, too."""

    key: MetricKey
    limit: float
    value: float
    low: float
    high: float

    @property
    def certain(self) -> bool:
        return self.high <= self.limit if self.key.smaller_is_better else self.low >= self.limit

    @property
    def spare(self) -> float:
        """How far inside the value is, in the unit of the key."""
        return self.limit - self.value if self.key.smaller_is_better else self.value - self.limit

    def __str__(self) -> str:
        most = "at most" if self.key.smaller_is_better else "at least"
        text = f"{self.key} {format_amount(self.value, self.key)}, {most} {format_amount(self.limit, self.key)}"
        if self.low == self.high:
            return f"{text}: {format_amount(self.spare, self.key)} to spare"
        ends = f"{format_amount(self.low, self.key)} to {format_amount(self.high, self.key)}"
        return f"{text}: {'certain' if self.certain else 'not certain'}, the interval is {ends}"


@dataclass(frozen=True)
class Within:
    """The best trial in the budget, what it was chosen for ("" where it is the cheapest), and every limit."""

    trial: Trial
    made_best: str
    margins: tuple[Margin, ...]
    unsolved: tuple[str, ...] = ()

    @property
    def lines(self) -> list[str]:
        chosen = f"with the best {self.made_best}" if self.made_best else "the cheapest"
        head = f"best in the budget: trial {self.trial.number}, {chosen} of all that are within it"
        looks = [] if self.trial.final else ["  as searched: held-out data, which did not choose it, may say otherwise"]
        return [head, *(f"  {margin}" for margin in self.margins), *looks]

    def __str__(self) -> str:
        return "\n".join(self.lines)

    def as_json(self) -> dict[str, Any]:
        margins = [{**asdict(m), "key": str(m.key), "spare": m.spare, "certain": m.certain} for m in self.margins]
        confirmed = bool(self.trial.final)
        return {
            "met": True,
            "trial": self.trial.number,
            "confirmed": confirmed,
            "made_best": self.made_best,
            "limits": margins,
        }


@dataclass(frozen=True)
class Shortfall:
    """Why nothing meets the budget: the limit that binds, by how much it would have to give (measured, and by the
    model), the nearest trial with every other limit that it breaks, and where its time goes. `line` is one sentence,
    `str()` all of it.
    """

    explanation: pareto.Explanation
    prediction: Predicted | None
    times: TimeShare | None
    unsolved: tuple[str, ...] = ()
    source: str = ""  # where the limit of drop/worst comes from, if not from the budget
    also: tuple[Margin, ...] = ()  # the other limits that the nearest trial breaks

    @property
    def line(self) -> str:
        found = self.explanation
        key = parse_key(found.constraint)
        first = self._broken(key, found.value, found.limit, found.missing_by)
        others = [self._broken(m.key, m.value, m.limit, -m.spare) for m in self.also]
        return (
            f"nothing is within the budget: {found.cause}; nearest is trial {found.nearest.number}: "
            f"{', and '.join([first, *others])}"
        )

    def _broken(self, key: MetricKey, value: float, limit: float, by: float) -> str:
        source = self.source if (key.name, key.slice) == ("drop", WORST) else ""
        return (
            f"its {key} is {format_amount(value, key)}, so the limit of {format_amount(limit, key)}{source} would have "
            f"to give by {format_amount(by, key)}"
        )

    @property
    def lines(self) -> list[str]:
        seen = [
            f"  {text} {format_amount(value, parse_key(text))} (trial {number})"
            for text, (value, number) in self.explanation.best.items()
        ]
        lines = [self.line, "best seen of each limit:", *seen]
        if self.prediction is not None:
            lines.append(self.prediction.words(self.unsolved))
        if self.unsolved:
            nearest = self.explanation.nearest
            known = [(text, nearest.metrics.get(text)) for text in self.unsolved]
            has = [f"{text} {format_amount(v.value, parse_key(text))}" for text, v in known if v is not None]
            of_nearest = f"; nearest trial {nearest.number} has {', '.join(has)}" if has else ""
            named = ", ".join(self.unsolved)
            lines.append(f"not solved for, only filtered by, as no model predicts it: {named}{of_nearest}")
        limited = [parse_key(text) for text in self.explanation.best]
        timed = [key.target for key in limited if key.name in _TIMES]
        if self.times is not None and timed:
            lines += self.times.lines
            elsewhere = [target for target in timed if target is not None and target != self.times.target]
            if elsewhere:
                others = " or ".join(dict.fromkeys(elsewhere))
                lines.append(f"  (kernels are timed on {self.times.target} alone, not on {others})")
        return lines

    def __str__(self) -> str:
        return "\n".join(self.lines)

    def as_json(self) -> dict[str, Any]:
        found = self.explanation
        return {
            "met": False,
            "message": self.line,
            "constraint": found.constraint,
            "limit": found.limit,
            "missing_by": found.missing_by,
            "value": found.value,
            "nearest": found.nearest.number,
            "also_broken": [
                {"constraint": str(m.key), "limit": m.limit, "missing_by": -m.spare, "value": m.value}
                for m in self.also
            ],
            "unreachable": list(found.unreachable),
            "best_seen": {text: {"value": v, "trial": number} for text, (v, number) in found.best.items()},
            "predicted": asdict(self.prediction) if self.prediction is not None else None,
            "unsolved": list(self.unsolved),
            "time": asdict(self.times) if self.times is not None else None,
        }


def outcome(
    trials: Sequence[Trial], config: StudyConfig, prediction: Predicted | None = None
) -> Within | Shortfall | None:
    """How the study stands to its budget; None without one, and before a compressed trial is complete.

    `trials` with their layers, as the store returns them; finalists count with what was measured last.
    """
    compressed = [_latest(trial) for trial in trials if trial.number != 0 and trial.state == "complete"]
    if not config.budget or not compressed:
        return None
    original = [_latest(trial) for trial in trials if trial.number == 0]
    baseline = original[0].metrics if original else {}
    wanted = aim(config, learnt := modelled(config, config.objective_keys), baseline)
    finalists = [trial for trial in compressed if trial.final]
    for pool in (finalists, compressed):
        if pareto.within(pool, config.limits):
            costs = any(parse_key(text).name in COST_METRICS for text in config.budget)
            named = str(learnt[wanted.minimise]) if costs and wanted.minimise is not None else ""
            found = best([*original, *pool], config)
            return Within(found, named, _margins(found, config), wanted.unsolved)
    return explain(trials, config, wanted, prediction)


def explain(
    trials: Sequence[Trial], config: StudyConfig, wanted: Aim, prediction: Predicted | None = None
) -> Shortfall | None:
    """What keeps there from being a trial within the limits; None where no complete trial has the metrics they are on.

    Raises `ValueError` when a trial is within them.
    """
    compressed = [_latest(trial) for trial in trials if trial.number != 0 and trial.state == "complete"]
    try:
        found = pareto.explain_infeasible(compressed, config.limits)
    except Infeasible:  # nothing is complete that could be near
        return None
    times = time_share(found.nearest, trials, config.targets[0])
    also = tuple(m for m in _margins(found.nearest, config) if m.spare < 0 and str(m.key) != found.constraint)
    worst = {text for text in (found.constraint, *(str(m.key) for m in also)) if _on_worst_drop(text)}
    implied = not {f"drop/{WORST}", *worst} & {*config.budget, *config.constraints}
    return Shortfall(found, prediction, times, wanted.unsolved, " ([judge] limit)" if implied else "", also)


def _on_worst_drop(text: str) -> bool:
    key = parse_key(text)
    return (key.name, key.slice) == ("drop", WORST)


def _margins(trial: Trial, config: StudyConfig) -> tuple[Margin, ...]:
    margins = []
    for text, limit in config.limits.items():
        value = trial.metrics[text]
        margins.append(Margin(parse_key(text), limit, value.value, value.low, value.high))
    return tuple(margins)


def _latest(trial: Trial) -> Trial:
    return trial.model_copy(update={"metrics": {**trial.metrics, **trial.final}}) if trial.final else trial


# ---- what the model of the search says


def predicted(solution: Solution, objectives: Sequence[MetricKey]) -> Predicted:
    """What a solver found, in metric keys; it names objectives by their index."""
    names = {str(i): str(key) for i, key in enumerate(objectives)}
    excess = {names.get(name, name): float(by) if math.isfinite(by) else None for name, by in solution.excess.items()}
    values = {str(key): float(v) for key, v in zip(objectives, solution.values, strict=bool(solution.values))}
    return Predicted(excess, values, solution.params is not None)


def ask_model(
    sampler: optuna.samplers.BaseSampler,
    study: optuna.Study,
    config: StudyConfig,
    objectives: Sequence[MetricKey],
    baseline: Mapping[str, Value],
) -> Predicted | None:
    """What the sampler's model says of the budget by all that it was told in `study`; None without a budget, and for
    other samplers, which have no such model.
    """
    wanted = aim(config, objectives, baseline)
    if wanted.minimise is None or not isinstance(sampler, SurrogateSampler):
        return None
    sampler.learn(study)
    told = {name for trial in study.get_trials(deepcopy=False) for name in trial.user_attrs.get("drop", {})}
    slices = {name: limit for name, limit in wanted.slice_limits.items() if name in told}
    solution = sampler.solve(wanted.limits, minimise=wanted.minimise, slice_limits=slices)
    real = {f"drop/{name}": 1 / share for name, share in config.drop_shares.items()}  # the model knows shares of drops
    excess = {name: by * real.get(name, 1.0) for name, by in solution.excess.items()}
    return predicted(dataclasses.replace(solution, excess=excess), objectives)


def keep_predicted(store: Store, prediction: Predicted) -> None:
    """Keep it beside the trials, for whoever reads the study later."""
    store.set_meta(_META, asdict(prediction))


def kept_predicted(store: Store) -> Predicted | None:
    """What `keep_predicted` kept last; None before a search with a budget has ended."""
    kept = store.meta(_META)
    return Predicted(**kept) if isinstance(kept, Mapping) else None
