"""Several targets in words: the front of each, the one model for all of them, and what it costs each."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from autotune.api.choice import Choice
from autotune.api.tables import OWN, RECOMMENDED
from autotune.config import StudyConfig
from autotune.errors import Infeasible
from autotune.pareto import Difference, Served
from autotune.trial import Trial


def own_best(served: Served) -> Trial:
    """The trial to ship to one target alone. Raises `Infeasible` where it is the original, or there is none."""
    if served.own is None:
        raise Infeasible(served.reason)
    if served.own.number == 0:
        raise Infeasible(f"of all that keep the limits of target {served.target} the original is the best")
    return served.own


def rows_of(served: Served) -> list[Trial]:
    """The front of one target, with the common model in its place by size where it is not on it."""
    rows = list(served.front)
    if served.common is not None and served.common.number not in {trial.number for trial in rows}:
        rows.append(served.common)
    return sorted(rows, key=lambda t: (_size(t), t.number)) if len(rows) > len(served.front) else rows


def union(targets: Sequence[Served]) -> list[Trial]:
    """Every trial that is shown for some target, once."""
    return list({trial.number: trial for served in targets for trial in rows_of(served)}.values())


def title(served: Served) -> str:
    """What the front of a target weighs against each other."""
    return f"Front on {served.target}: {', '.join(map(str, served.keys))}"


def marks(targets: Sequence[Served]) -> str:
    """What the marks of the tables of single targets mean; "" where there is none."""
    said = []
    if any(served.common is not None for served in targets):
        said.append(f"{RECOMMENDED} the one model for all targets")
    if any(served.own is not None for served in targets):
        said.append(f"{OWN} the best for this target alone")
    beaten = [s.target for s in targets if s.common and s.common.number not in {t.number for t in s.front}]
    if beaten:
        said.append(f"on {' and '.join(beaten)} others are better than {RECOMMENDED} in everything")
    return ". ".join(part[0].upper() + part[1:] for part in said) + "." if said else ""


def common_text(choice: Choice, config: StudyConfig) -> str:
    """The one model for all targets and its price on each, one line a target; with a single target only what is not
    offered there, "" where everything is."""
    if not choice.targets:
        return "\n".join(choice.guarded)
    head = (
        f"One model for all targets: trial {choice.recommended.number}"
        if choice.recommended is not None
        else "No one model serves all targets"
    )
    lines = [head + ("" if choice.recommended is not None or not choice.reason else f": {choice.reason}")]
    lines += [f"  {served.price}" for served in choice.targets]
    lines += [f"  {said}" for said in choice.guarded]
    searched = [s for s in choice.targets if _unverified(s)]
    if searched and any(trial.final for served in choice.targets for trial in (served.common,) if trial):
        numbers = ", ".join(dict.fromkeys(str(s.own.number) for s in searched if s.own is not None))
        lines.append(
            f"  as searched, not verified: {numbers}; `autotune export {config.name} best@{searched[0].target} DIR` "
            "measures and judges it again"
        )
    return "\n".join(lines)


def as_json(served: Served) -> dict[str, Any]:
    """One target for machines. Changes of costs are shares (0.04: 4 % more), of judged metrics differences."""
    return {
        "keys": [str(key) for key in served.keys],
        "front": [trial.number for trial in served.front],
        "best": served.own.number if served.own is not None else None,
        "verified": bool(served.own is not None and served.own.final),
        "reason": served.reason,
        "price": [_difference(difference) for difference in served.differences],
        "text": served.price,
        "guard": served.guard,
    }


def _difference(difference: Difference) -> dict[str, Any]:
    return {
        "key": str(difference.key),
        "common": difference.common.model_dump(),
        "own": difference.own.model_dump(),
        "change": difference.change.model_dump(),
        "tie": difference.tie,
    }


def _unverified(served: Served) -> bool:
    own, common = served.own, served.common
    return own is not None and own.number != 0 and not own.final and (common is None or own.number != common.number)


def _size(trial: Trial) -> float:
    value = trial.metrics.get("size_bytes")
    return value.value if value is not None else float("inf")
