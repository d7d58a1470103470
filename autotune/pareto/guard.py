"""The guard of accelerators: a searched recipe has to beat the best uniform one, or it is not offered there.

On an accelerator one uniform format (float16) is what anybody runs without a search. A mixture of formats that is not
faster than that with certainty costs accuracy, time and trust for nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from autotune.config import StudyConfig
from autotune.keys import MetricKey, format_amount
from autotune.pareto.families import of_target
from autotune.pareto.limits import within
from autotune.trial import Trial, Value

_PROPOSED = "uniform "  # how the proposer of a uniform recipe begins
_WARM = "warm start"  # a recipe of an earlier study comes before the uniform ones


@dataclass(frozen=True)
class Guard:
    """The best uniform recipe of a guarded target: the fastest within the limits. None: there is none within them, so
    nothing is held back."""

    target: str
    choice: str
    uniform: Trial | None

    @property
    def name(self) -> str:
        """The best uniform recipe in words."""
        if self.uniform is None:
            return f"{self.choice} everywhere"
        label = self.uniform.proposer.removeprefix(_PROPOSED)
        return f"trial {self.uniform.number} ({label if label != self.uniform.proposer else self.choice} everywhere)"

    def refuses(self, trial: Trial) -> str:
        """Why `trial` is not offered on the target; "" where it is. Uniform recipes and the original always are.

        What was timed side by side counts; before that, whether the intervals of the two ratios to the original part.
        """
        if self.uniform is None or trial.number in (0, self.uniform.number) or is_uniform(trial, self.choice):
            return ""
        beside = trial.final.get(f"uniform_ratio@{self.target}")
        if beside is not None:
            return "" if beside.high < 1 else f"timed side by side it takes {_spell(beside)} of that one's time"
        key = f"latency_ratio@{self.target}"
        mine, theirs = _latest(trial, key), _latest(self.uniform, key)
        if mine is None or theirs is None or mine.high < theirs.low:
            return ""
        return f"its time ratio to the original is {_spell(mine)}, that of the uniform one {_spell(theirs)}"


def guards(trials: Sequence[Trial], config: StudyConfig, limits: Mapping[str, float]) -> dict[str, Guard]:
    """Guarded target -> its guard, by what is measured now; `limits` are what a model has to keep to be offered."""
    return {
        target: Guard(target, family.guard, _best(trials, family.guard, target, limits))
        for family in config.families
        if family.guard
        for target in family.targets
    }


def held_back(guard: Guard | None, trials: Sequence[Trial], own: Trial | None, common: Trial | None) -> str:
    """What a guard keeps from being offered on its target; "" where it changes nothing. `own` is the best model there,
    `common` the recommended one."""
    if guard is None or guard.uniform is None:
        return ""
    why = guard.refuses(common) if common is not None else ""
    if common is not None and why:
        return (
            f"on {guard.target} trial {common.number} is not offered, as it is not faster with certainty than the best "
            f"uniform recipe, {guard.name}: {why}"
        )
    refused = any(t.state == "complete" and guard.refuses(t) for t in trials)
    if own is not None and own.number == guard.uniform.number and refused:
        return f"on {guard.target} no searched recipe within the limits is faster with certainty than {guard.name}"
    return ""


def is_uniform(trial: Trial, choice: str) -> bool:
    """Whether it is what anybody would try without a search: proposed as such, or `choice` and nothing else."""
    formats = trial.recipe.get("quantize", {})
    if not formats:
        return False
    same = trial.proposer == _WARM and set(formats.values()) == {choice}
    return same or trial.proposer.startswith(_PROPOSED)


def _best(trials: Sequence[Trial], choice: str, target: str, limits: Mapping[str, float]) -> Trial | None:
    key = f"latency_ratio@{target}"
    latest = {t.number: t.model_copy(update={"metrics": {**t.metrics, **t.final}}) for t in trials}
    there = [t for t in trials if t.state == "complete" and key in latest[t.number].metrics and is_uniform(t, choice)]
    known = {text for t in latest.values() for text in t.metrics}
    mine = {text: limit for text, limit in of_target(limits, target, known).items() if text in known}
    inside = {t.number for t in within([latest[t.number] for t in there], mine)} if there else set()
    shippable = [trial for trial in there if trial.number in inside]
    return min(shippable, key=lambda t: (latest[t.number].metrics[key].value, t.number), default=None)


def _latest(trial: Trial, key: str) -> Value | None:
    return trial.final.get(key, trial.metrics.get(key))


def _spell(value: Value) -> str:
    key = MetricKey("latency_ratio")
    return f"{format_amount(value.value, key)} [{value.low:.3f}, {value.high:.3f}]"
