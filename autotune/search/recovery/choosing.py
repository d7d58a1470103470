"""Which trials to train: those from which training promises most."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from autotune import pareto
from autotune.config import StudyConfig
from autotune.keys import COST_METRICS, WORST, MetricKey, format_amount, parse_key
from autotune.search.knowledge import corner
from autotune.trial import Trial, Value

LEFT = 0.15  # share of a loss that is taken to be left after training
_WIDER = 1.1  # than the dearest trial: a model that is no faster than the original may be worth its size
_DROP = MetricKey("drop", WORST)


def candidates(
    trials: Sequence[Trial], config: StudyConfig, objectives: Sequence[MetricKey], count: int
) -> list[Trial]:
    """At most `count` complete trials, the most promising first; the original (trial 0) must be among `trials`.

    Promising is what would add most to the front if training left 15 % of what it loses: small and fast recipes that
    lose too much, up to six limits or so, and those that already ship. Volumes are taken up to what may ship, one
    candidate after the other, so that two that are alike are not both chosen. What breaks a limit that training cannot
    change, and what was trained already, is left out.
    """
    original = next(trial for trial in trials if trial.number == 0)
    keys = list(objectives)
    if all(key.name in COST_METRICS for key in keys):
        keys.append(_DROP)
    searched = _searched(trials, keys)
    hopeful = {t.number: t for t in _affordable(searched, _fixed(config))}
    corners, scales = corner(config, original, keys)
    for place, key in enumerate(keys):
        if key == _DROP:
            corners[place] = config.limits[str(_DROP)]
        elif key.name in COST_METRICS:
            corners[place] = _WIDER * max(t.metrics[str(key)].value for t in (original, *hopeful.values()))
    smallest = 1e-9
    for scale in scales:
        smallest *= scale
    # Beside each other the trained ones are compared with trials as they are: a trial is worth training for what it
    # adds to them, itself included.
    front = pareto.front(searched, keys)
    waiting = pareto.front([_trained(t, original, keys) for t in hopeful.values()], keys)
    chosen: list[Trial] = []
    while waiting and len(chosen) < count:
        before = pareto.hypervolume(front, keys, corners)
        gains = [pareto.hypervolume([*front, t], keys, corners) - before for t in waiting]
        best = max(range(len(waiting)), key=lambda i: (gains[i], -waiting[i].number))
        if gains[best] <= smallest:
            break
        front.append(waiting[best])
        chosen.append(hopeful[waiting.pop(best).number])
    return chosen


def why_none(trials: Sequence[Trial], config: StudyConfig) -> str:
    """Where `candidates` gives none: why that is, and what would change it."""
    searched, fixed = _searched(trials, [_DROP]), _fixed(config)
    if not searched:
        return _without_complete([t for t in trials if t.number and not t.recovered])
    affordable = _affordable(searched, fixed)
    if not affordable:
        near = pareto.explain_infeasible(searched, fixed)
        key = parse_key(near.constraint)
        value, allowed = (format_amount(amount, key) for amount in (near.value, near.limit))
        return (
            f"training changes neither size nor time, and {near.cause}; nearest is trial {near.nearest.number} with "
            f"{key} {value} where {allowed} is allowed, so relax that limit, allow stronger choices in [techniques], "
            "or raise search.trials"
        )
    losing = [trial for trial in affordable if _loss(trial) > 0]
    if not losing:
        return "no trial loses anything, so there is nothing to win back; allow stronger choices in [techniques]"
    limit, mildest = config.limits[str(_DROP)], min(losing, key=_loss)
    if LEFT * _loss(mildest) > limit:
        loss, most, limited = (format_amount(amount, _DROP) for amount in (_loss(mildest), limit / LEFT, limit))
        return (
            f"trial {mildest.number} loses least, {loss}, and what loses more than {most} is not expected to come back "
            f"within the limit of {limited}; allow milder choices in [techniques], raise search.trials, or raise the "
            f"limit of {_DROP}"
        )
    return (
        f"those that may come within the limit of {format_amount(limit, _DROP)} are no better than trials that are "
        "within it; allow stronger choices in [techniques], or raise search.trials"
    )


def _without_complete(trials: Sequence[Trial]) -> str:
    """The same, where no trial of the search has been measured and judged."""
    rejected = [t for t in trials if t.state == "rejected"]
    if rejected:
        last = rejected[-1]
        return f"no trial is complete (trial {last.number}: {last.reason}); allow milder choices in [techniques]"
    failed = [(t.number, t.failure.message) for t in trials if t.state == "failed" and t.failure is not None]
    if failed:
        number, message = failed[-1]
        return f"no trial is complete (trial {number}: {message}); `autotune show STUDY NUMBER` tells of the others"
    return "no trial is complete; raise search.trials"


def _loss(trial: Trial) -> float:
    return trial.metrics[str(_DROP)].value


def _searched(trials: Sequence[Trial], keys: Sequence[MetricKey]) -> list[Trial]:
    """The complete trials of the search that have the metrics `keys`."""
    found = [t for t in trials if t.number and t.state == "complete" and not t.recovered]
    return [t for t in found if all(str(key) in t.metrics for key in keys)]


def _fixed(config: StudyConfig) -> dict[str, float]:
    """The limits that training cannot change."""
    return {text: limit for text, limit in config.limits.items() if parse_key(text).name in COST_METRICS}


def _affordable(trials: list[Trial], fixed: Mapping[str, float]) -> list[Trial]:
    return pareto.within(trials, fixed) if fixed else trials


def _trained(trial: Trial, original: Trial, keys: Sequence[MetricKey]) -> Trial:
    """The trial as it is hoped to be after training."""
    metrics = dict(trial.metrics)
    for key in keys:
        here, there = metrics[str(key)].value, original.metrics[str(key)].value
        worse = here > there if key.smaller_is_better else here < there
        if key.name not in COST_METRICS and worse:
            metrics[str(key)] = Value.exact(there + LEFT * (here - there))
    return trial.model_copy(update={"metrics": metrics})
