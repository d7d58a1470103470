"""The decision that the command line and `Result` share: which trials are the front, and which one to ship."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from autotune import pareto
from autotune.config import StudyConfig
from autotune.errors import Infeasible
from autotune.keys import MetricKey
from autotune.trial import Trial


@dataclass(frozen=True)
class Choice:
    """The front and the trial to ship. `explanation` is there when limits were asked for that no trial meets.

    `reason` says why nothing is recommended. Finalists count with what was measured last, on held-out data.
    """

    front: list[Trial]
    recommended: Trial | None
    reason: str = ""
    explanation: pareto.Explanation | None = None


def choose(
    trials: Sequence[Trial],
    config: StudyConfig,
    *,
    keys: Sequence[MetricKey] = (),
    limits: Mapping[str, float] | None = None,
) -> Choice:
    """The front in `keys` (default: the study's objectives) of the trials within `limits` (default: its
    constraints).

    Recommended is the best finalist within the limits, judged by its final numbers; before there are
    finalists, the best of the search. Raises `UsageError` for a limit on a metric that no trial has.
    """
    known = [_latest(trial) for trial in trials]
    wanted = dict(config.constraints) if limits is None else dict(limits)
    explanation = None
    inside = known
    if wanted and any(trial.state == "complete" for trial in known):
        inside = pareto.within(known, wanted)
        if not inside:
            explanation = _explain(known, wanted)
            inside = [] if limits is not None else known  # a study's own front is shown even so
    members = pareto.front(inside, keys or config.objective_keys)
    originals = {trial.number: trial for trial in trials}
    front = [originals[member.number] for member in members]
    recommended, reason = _recommend(known, config, {} if limits is None else wanted)
    return Choice(front, originals[recommended.number] if recommended else None, reason, explanation)


def _latest(trial: Trial) -> Trial:
    return trial.model_copy(update={"metrics": {**trial.metrics, **trial.final}}) if trial.final else trial


def _explain(trials: Sequence[Trial], limits: Mapping[str, float]) -> pareto.Explanation | None:
    try:
        return pareto.explain_infeasible(trials, limits)
    except Infeasible:  # no complete trial has these metrics: nothing to be near to
        return None


def _recommend(trials: Sequence[Trial], config: StudyConfig, limits: Mapping[str, float]) -> tuple[Trial | None, str]:
    """The best finalist (or, without finalists, trial) within the limits, unless the original is as good."""
    compressed = [trial for trial in trials if trial.number != 0 and trial.state == "complete"]
    if not compressed:
        return None, "no compressed trial is complete"
    pool = [trial for trial in compressed if trial.final] or compressed
    original = [trial for trial in trials if trial.number == 0 and trial.state == "complete"]
    try:
        found = pareto.best([*original, *pool], {**config.limits, **limits}, config.objective_keys)
    except Infeasible as error:
        return None, str(error)
    if found.number == 0:
        return None, "of all that keep the limits the original is the best"
    return found, ""
