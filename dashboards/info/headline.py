"""The one thing to know: which trial to take, what it gains and costs, or why nothing is good enough."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

from autotune.errors import Infeasible
from autotune.evaluation import Evaluation, SliceResult
from autotune.keys import parse_key
from autotune.pareto import best, held_back, within
from autotune.pareto import guards as guards_of
from autotune.parity.report import ParityReport
from autotune.recipe import NONE
from autotune.trial import Trial, Value
from dashboards.info.study import StudyView, best_known, evaluation_of, keys_of

Tone = Literal["good", "uncertain", "bad", "plain"]


class Gap(NamedTuple):
    """One limit that a trial breaks, in the unit of the key."""

    key: str
    value: float
    limit: float

    @property
    def relative(self) -> float:
        """How far beyond the limit, as a share of it (of one where the limit is zero)."""
        return abs(self.value - self.limit) / (abs(self.limit) or 1.0)


class Kept(NamedTuple):
    """A large layer that the recipe leaves as it is. `parameter_share` is of all searchable parameters."""

    layer: str
    parameter_share: float


class Speed(NamedTuple):
    """What the choice costs on one target, and what the original costs there. None: not measured."""

    target: str
    ratio: Value | None
    latency: Value | None
    memory: Value | None
    original_latency: Value | None
    original_memory: Value | None


class Headline(NamedTuple):
    """`trial` is the choice to take, or with `tone` "bad" the one that comes nearest to the limits.

    "good": every limit holds, and the whole interval of the worst drop lies within its limit.
    "uncertain": the values are within the limits, the interval of the worst drop is not.
    "bad": some limit is broken (`gaps`). "plain": nothing was compressed successfully; there is no trial.
    `verified` is True when the numbers were measured again and judged on data that the search never saw.
    """

    tone: Tone
    trial: Trial | None
    verified: bool
    original: Trial | None
    size: Value | None
    speeds: tuple[Speed, ...]  # one per target whose costs count
    drop: Value | None
    judged: Evaluation | None  # what `drop` comes from
    limit: float
    gaps: tuple[Gap, ...]
    failing: tuple[SliceResult, ...]  # slices whose loss is above the limit, largest first
    undecided: tuple[SliceResult, ...]  # slices whose data do not decide, largest loss first
    kept: tuple[Kept, ...]  # what keeps the model large, largest first
    tried: int  # trials besides the original
    feasible: int  # of them, those that keep every limit
    unmeasured: tuple[str, ...]  # limits on metrics that no trial has
    parity: ParityReport | None  # of `trial`: does it answer the same on every target?


def headline(view: StudyView) -> Headline:
    """Finalists first: only they were confirmed. The choice is that of `autotune.pareto.best`.

    Where the original itself is the best of all that keep the limits, or nothing keeps them, there is no choice but a
    nearest miss.
    """
    judged = [_merged(trial) for trial in view.judged]
    pool = [trial for trial in judged if trial.final] or judged
    known = {key for trial in pool for key in trial.metrics}
    bounds = {key: limit for key, limit in limits(view).items() if key in known}
    chosen = _choose(view, pool, bounds)
    tone: Tone = "good"
    if chosen is None:
        chosen = min(pool, key=lambda trial: (_missed(view, trial), trial.number), default=None)
        tone = "bad" if chosen else "plain"
    drop = chosen.metrics.get(view.keys.drop) if chosen else None
    if tone == "good" and (drop is None or drop.high > view.limit):
        tone = "uncertain"
    evaluation = evaluation_of(chosen, view.targets[0]) if chosen else None
    metrics = chosen.metrics if chosen else {}
    return Headline(
        tone=tone,
        trial=next((trial for trial in view.trials if chosen and trial.number == chosen.number), None),
        verified=bool(chosen and chosen.final),
        original=view.baseline,
        size=metrics.get(view.keys.size),
        speeds=_speeds(view, metrics) if chosen else (),
        drop=drop,
        judged=evaluation,
        limit=view.limit,
        gaps=gaps(view, chosen) if chosen else (),
        failing=_failing(evaluation, view.limit),
        undecided=_undecided(evaluation),
        kept=_kept(view, chosen) if chosen else (),
        tried=len(view.trials) - (view.baseline is not None),
        feasible=len(within(judged, bounds)),
        unmeasured=tuple(sorted(set(limits(view)) - known)) if pool else (),
        parity=view.parity.get(chosen.number) if chosen else None,
    )


def _speeds(view: StudyView, metrics: Mapping[str, Value]) -> tuple[Speed, ...]:
    original = view.baseline.metrics if view.baseline else {}
    found = []
    for target in view.timed:
        keys = keys_of(view.trials, target)
        found.append(
            Speed(
                target,
                *(metrics.get(key) for key in (keys.ratio, keys.latency, keys.memory)),
                *(original.get(key) for key in (keys.latency, keys.memory)),
            )
        )
    return tuple(found)


def limits(view: StudyView) -> dict[str, float]:
    """What a trial must keep to be recommended: the study's constraints, and the largest loss of any slice."""
    return dict(view.config.limits) if view.config else {view.keys.drop: view.limit}


def _choose(view: StudyView, pool: Sequence[Trial], bounds: dict[str, float]) -> Trial | None:
    original = [_merged(view.baseline)] if view.baseline and view.baseline.state == "complete" else []
    config = view.config
    guards = guards_of(view.trials, config, bounds) if config is not None else {}
    if guards and all(name in guards for name in view.timed):  # what no target is offered is no choice
        pool = [trial for trial in pool if not all(guards[name].refuses(trial) for name in view.timed)]
    try:
        found = best([*original, *pool], bounds, view.config.objective_keys if view.config else ())
    except Infeasible:
        return None
    return found if found.number != 0 else None


def guarded(view: StudyView, chosen: Trial | None) -> tuple[str, ...]:
    """What is not offered on a target because a uniform recipe is as fast there, in sentences."""
    if view.config is None:
        return ()
    known = {key for trial in view.trials for key in trial.metrics}
    bounds = {key: limit for key, limit in limits(view).items() if key in known}
    found = guards_of(view.trials, view.config, bounds).values()
    return tuple(filter(None, (held_back(guard, view.trials, chosen, chosen) for guard in found)))


def _missed(view: StudyView, trial: Trial) -> float:
    return max((gap.relative for gap in gaps(view, trial)), default=0.0)


def gaps(view: StudyView, trial: Trial, *, final: bool = True) -> tuple[Gap, ...]:
    """Limits that `trial` breaks, the worst first.

    `final` takes the confirmed values where there are some; otherwise only those of the search count.
    """
    broken = []
    for text, limit in limits(view).items():
        value = best_known(trial, text) if final else trial.metrics.get(text)
        if value is None:
            continue
        beyond = value.value - limit if parse_key(text).smaller_is_better else limit - value.value
        if beyond > 0:
            broken.append(Gap(text, value.value, limit))
    return tuple(sorted(broken, key=lambda gap: -gap.relative))


def _merged(trial: Trial) -> Trial:
    """The same trial with its confirmed values in place of those of the search."""
    return trial.model_copy(update={"metrics": {**trial.metrics, **trial.final}})


def _failing(evaluation: Evaluation | None, limit: float) -> tuple[SliceResult, ...]:
    slices = evaluation.slices if evaluation else ()
    bad = [s for s in slices if s.verdict == "fail" or (s.verdict == "undecided" and s.shrunk_drop > limit)]
    return tuple(sorted(bad, key=lambda s: -s.shrunk_drop))


def _undecided(evaluation: Evaluation | None) -> tuple[SliceResult, ...]:
    slices = evaluation.slices if evaluation else ()
    some = [s for s in slices if s.verdict in ("undecided", "insufficient")]
    return tuple(sorted(some, key=lambda s: -s.shrunk_drop))


def _kept(view: StudyView, trial: Trial, most: int = 5) -> tuple[Kept, ...]:
    """Layers left as they are although the study had choices for them."""
    changed = {name for table in trial.recipe.values() for name, choice in table.items() if choice != NONE}
    total = sum(layer.parameters or 0 for layer in view.layers)
    shares = [
        Kept(layer.name, layer.parameters / total)
        for layer in view.layers
        if layer.parameters and layer.name not in changed
    ]
    return tuple(sorted(shares, key=lambda kept: -kept.parameter_share)[:most])
