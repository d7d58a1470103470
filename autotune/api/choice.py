"""The decision that the command line and `Result` share: which trials are the front, and which one to ship; with
several targets also what that one costs each of them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from autotune import pareto
from autotune.config import StudyConfig
from autotune.errors import Infeasible, UsageError, did_you_mean
from autotune.keys import MetricKey
from autotune.search import budget
from autotune.trial import Trial


@dataclass(frozen=True)
class Choice:
    """The front and the trial to ship. `explanation` is there when limits were asked for that no trial meets.

    `reason` says why nothing is recommended. Finalists count with what was measured last, on held-out data. `targets`
    has an entry for each target whose costs were measured, where there are several: `recommended` is the one model for
    all of them. `guarded` says what is not offered on a target because a uniform recipe is as fast.
    """

    front: list[Trial]
    recommended: Trial | None
    reason: str = ""
    explanation: pareto.Explanation | None = None
    targets: tuple[pareto.Served, ...] = ()
    guarded: tuple[str, ...] = ()

    def target(self, name: str) -> pareto.Served:
        """How one target is served. Raises `UsageError` where nothing was measured on it, or there are no others."""
        known = [served.target for served in self.targets]
        if name not in known:
            if not known:
                raise UsageError(
                    f"target {name!r}: the study has costs of one target only; leave the target out: its front and "
                    "`best` are that target's"
                )
            raise UsageError(
                f"target {name!r}: nothing was timed there for a choice of its own; {did_you_mean(name, known)}"
            )
        return self.targets[known.index(name)]


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
    beside = {} if limits is None else wanted
    timed = pareto.timed_targets(trials, config.targets)
    needed = {**config.limits, **beside}
    guards = {name: guard for name, guard in pareto.guards(trials, config, needed).items() if name in timed}
    offered = [trial for trial in known if not _refused(trial, timed, guards)]
    recommended, reason = _recommend(offered, config, beside)
    served: list[pareto.Served] = []
    if len(timed) > 1 and not keys and any(trial.state == "complete" for trial in known):
        for target in timed:
            found = pareto.serve(
                known, target, config.objective_keys, needed, recommended, shown=wanted, guard=guards.get(target)
            )
            served.append(_original(found, originals))
    chosen = originals[recommended.number] if recommended else None
    said = [pareto.held_back(guard, known, chosen, chosen) for guard in guards.values()] if not served else []
    said += [each.guard for each in served]
    return Choice(front, chosen, reason, explanation, tuple(served), tuple(filter(None, said)))


def _refused(trial: Trial, timed: Sequence[str], guards: Mapping[str, pareto.Guard]) -> bool:
    """Whether no target of the study is offered this trial."""
    return bool(guards) and all(name in guards and guards[name].refuses(trial) for name in timed)


def _original(served: pareto.Served, originals: Mapping[int, Trial]) -> pareto.Served:
    """The same with the trials as they are recorded; their differences are those of what was measured last."""
    return dataclasses.replace(
        served,
        front=tuple(originals[trial.number] for trial in served.front),
        own=originals[served.own.number] if served.own else None,
        common=originals[served.common.number] if served.common else None,
    )


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
        if limits:
            found = pareto.best([*original, *pool], {**config.limits, **limits}, config.objective_keys)
        else:
            found = budget.best([*original, *pool], config)
    except Infeasible as error:
        return None, str(error)
    if found.number == 0:
        return None, "of all that keep the limits the original is the best"
    return found, ""
