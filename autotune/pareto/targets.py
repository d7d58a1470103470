"""Several targets, one model: each target's own front, its own best, and what the common model costs it instead."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from autotune.errors import Infeasible
from autotune.keys import COST_METRICS, WORST, MetricKey, format_amount
from autotune.pareto.choice import best
from autotune.pareto.dominance import front
from autotune.pareto.families import of_target, own_key
from autotune.pareto.guard import Guard, held_back
from autotune.pareto.limits import within
from autotune.pareto.points import epsilon, value_of
from autotune.trial import Trial, Value

_TIMED = {name for name, (_, _, placed) in COST_METRICS.items() if placed}  # costs that every target has for itself
_MORE = {  # kind of cost -> how more and less of it are called
    "size": ("larger", "smaller"),
    "latency": ("slower", "faster"),
    "memory": ("more memory", "less memory"),
    "energy": ("more energy", "less energy"),
}


@dataclass(frozen=True)
class Difference:
    """One metric of the common model against that of a target's own best."""

    key: MetricKey
    common: Value
    own: Value

    @property
    def change(self) -> Value:
        """Of costs as a share of the own best's (0.04: 4 % more), of judged metrics in their own unit.

        The interval is what the two 95 % intervals allow, so it holds zero exactly where they overlap.
        """
        one, other = self.common, self.own
        if self.key.name in COST_METRICS:
            return Value(value=one.value / other.value - 1, low=one.low / other.high - 1, high=one.high / other.low - 1)
        return Value(value=one.value - other.value, low=one.low - other.high, high=one.high - other.low)

    @property
    def tie(self) -> bool:
        """The measurements do not tell the two apart, or nobody would choose by the difference."""
        change = self.change
        overlap = change.low <= 0.0 <= change.high
        return overlap or abs(self.common.value - self.own.value) <= epsilon(self.key, self.own.value)

    def __str__(self) -> str:
        """ "4.1 % slower [2.0, 6.2]", "0.10 MB larger", "1.2 pt more drop [0.4, 2.0]"."""
        if self.key.name == "size_bytes":
            amount = format_amount(abs(self.common.value - self.own.value), self.key)
            return f"{amount} {_MORE['size'][self.change.value < 0]}"
        cost = self.key.name in COST_METRICS
        unit = "%" if cost or not self.key.smaller_is_better else "pt"
        change, less = self.change, self.change.value < 0
        # The bounds in the direction of the word: "2 % slower [-1, 5]" may also be 1 % faster.
        low, high = (-change.high, -change.low) if less else (change.low, change.high)
        kind = self.key.name.partition("_")[0]
        word = _MORE[kind][less] if cost else f"{'less' if less else 'more'} {self.key.name}"
        return f"{100 * abs(change.value):.1f} {unit} {word} [{100 * low:.1f}, {100 * high:.1f}]"


@dataclass(frozen=True)
class Served:
    """One target of several: `front` in its own costs, `own`, the best model for it alone, and the common one's price.

    `differences` compare the common model with `own`; they are empty where the two are one model, or one is missing.
    `reason` says why there is no own best, `guard` what is not offered on the target although it was found.
    """

    target: str
    keys: tuple[MetricKey, ...]
    front: tuple[Trial, ...]
    own: Trial | None
    common: Trial | None
    differences: tuple[Difference, ...] = ()
    reason: str = ""
    guard: str = ""

    @property
    def price(self) -> str:
        """What the common model costs this target, in one sentence without a full stop."""
        if self.own is None:
            return f"{self.target}: no model of its own to compare with: {self.reason}"
        name = "the original" if self.own.number == 0 else f"trial {self.own.number}"
        if self.common is None:
            return f"{self.target}: its own best is {name}"
        if self.common.number == self.own.number:
            return f"{self.target}: {name} is its own best"
        apart = [str(difference) for difference in self.differences if not difference.tie]
        tied = [_plain(difference.key) for difference in self.differences if difference.tie]
        said = " and ".join((", ".join(apart[:-1]), apart[-1]) if len(apart) > 1 else apart) or "a tie"
        against = f"{'with' if not apart else 'than'} its own best, {name}"
        return f"{self.target}: {said} {against}" + (f" ({', '.join(tied)}: tie)" if tied and apart else "")


def timed_targets(trials: Sequence[Trial], targets: Sequence[str]) -> tuple[str, ...]:
    """Those of `targets` on which something was timed: where costs count."""
    known = {key for trial in trials for key in trial.metrics}
    return tuple(target for target in targets if f"latency_ratio@{target}" in known)


def serve(
    trials: Sequence[Trial],
    target: str,
    keys: Sequence[MetricKey],
    limits: Mapping[str, float],
    common: Trial | None,
    *,
    shown: Mapping[str, float],
    guard: Guard | None = None,
) -> Served:
    """How `target` is served by the best model for it alone, and by `common`, the one for all.

    `keys` are the study's objectives, `limits` what a model must keep to be the best one, `shown` what it must keep to
    be on the front; where no trial does, the front is that of all. Of each only what concerns this target or none is
    used: what another target needs does not bind this one's own best. Without a cost on this target among the keys its
    latency ratio counts. What `guard` refuses may be on the front, and is never the best. Raises `UsageError` for a
    limit on a metric that no trial has.
    """
    known = {text for trial in trials for text in trial.metrics}
    mine = keys_of_target(keys, target, known)
    own_limits, own_shown = of_target(limits, target, known), of_target(shown, target, known)
    members = tuple(front(within(trials, own_shown) or trials, mine))
    own, reason = None, ""
    try:
        own = best([trial for trial in trials if not guard.refuses(trial)] if guard else trials, own_limits, mine)
    except Infeasible as error:
        reason = str(error)
    differences: tuple[Difference, ...] = ()
    if own is not None and common is not None and own.number != common.number:
        differences = tuple(_differences(common, own, mine))
    return Served(target, mine, members, own, common, differences, reason, held_back(guard, trials, own, common))


def keys_of_target(keys: Sequence[MetricKey], target: str, known: Collection[str] = ()) -> tuple[MetricKey, ...]:
    """The objectives that concern `target`: its own and those without a target, with a cost of its own in any case.

    `known` are all metrics: where its runtime family has sizes and judgements of its own, these are meant.
    """
    mine = list(dict.fromkeys(own_key(key, target, known) for key in keys if key.target in (None, WORST, target)))
    if not any(key.target == target and key.name in _TIMED for key in mine):
        place = next((i for i, key in enumerate(mine) if key.name not in COST_METRICS), len(mine))
        mine.insert(place, MetricKey("latency_ratio", target=target))
    if all(key.name in COST_METRICS for key in mine):
        mine.append(own_key(MetricKey("drop", WORST), target, known))
    return tuple(mine)


def _differences(common: Trial, own: Trial, keys: Sequence[MetricKey]) -> list[Difference]:
    found = []
    for key in keys:
        one, other = value_of(common, key, False), value_of(own, key, False)
        if one is not None and other is not None and (key.name not in COST_METRICS or other.low > 0):
            found.append(Difference(key, one, other))
    # What a person asks first: the costs of this target, then the others, then what is judged.
    return sorted(found, key=lambda d: (d.key.name not in COST_METRICS, d.key.name not in _TIMED))


def _plain(key: MetricKey) -> str:
    return {"size_bytes": "size"}.get(key.name, key.name.partition("_")[0])
