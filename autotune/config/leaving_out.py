"""A study without some of its targets: what goes with them, and whether what is left is still a study."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from autotune.config.families import LeftOut, belongs_to_a_family, families_of, worth_telling
from autotune.config.tables import StudyConfig, tightest
from autotune.keys import COST_METRICS, WORST_ANYWHERE, MetricKey, parse_key
from hwprofiles.errors import HardwareError, TargetUnavailable
from hwprofiles.registry import find_target
from hwprofiles.target import Target

_CLAUSE = 160  # characters of a reason that are said in passing


def without(config: StudyConfig, targets: Sequence[Target], absent: Mapping[str, str]) -> StudyConfig:
    """The study without the targets in `absent` (name -> why, in one line). `targets` are all that it names, in order.

    Objectives, constraints and budgets about them go with them, as `StudyConfig.left_out` says. Where one runtime
    family is left, keys of that family lose their `@target`, as they do in any study of one family. Raises
    `TargetUnavailable` where too little is left: no target, none that can be timed, the first objective, or no
    objective that is a cost.
    """
    left = [target for target in targets if target.name not in absent]
    problem = _too_little(config, targets, left, absent)
    if problem:
        raise TargetUnavailable(f"{'; '.join(absent.values())}; the study does not go on without it: {problem}")
    alone = len(families_of(targets)) > 1 and len(families_of(left)) == 1
    gone: dict[str, list[str]] = {name: [] for name in absent}
    for kind, texts in (
        ("objective", config.search.objectives),
        ("constraint", config.constraints),
        ("budget", config.budget),
    ):
        for text in texts:
            if (name := parse_key(text).target) in gone:
                gone[name].append(f"{kind} {text}")
    objectives = dict.fromkeys(_kept(text, alone) for text in _others(config.search.objectives, absent))
    told = [LeftOut(target=name, why=why, keys=tuple(gone[name])) for name, why in absent.items()]
    changed = config.model_copy(
        update={
            "targets": tuple(target.name for target in left),
            "search": config.search.model_copy(update={"objectives": tuple(objectives)}),
            "constraints": _limits(config.constraints, absent, alone),
            "budget": _limits(config.budget, absent, alone),
            "left_out": (*(each for each in config.left_out if each.target not in absent), *told),
        }
    )
    return changed.with_families(worth_telling(families_of(left)))


def announced(left: LeftOut, config: StudyConfig, targets: Sequence[Target]) -> tuple[str, ...]:
    """What a run says when it leaves a target out, line by line: which and why, what goes with it, what to do.

    `config` is the study without it, `targets` are all that it named, in order. The first clause of the reason is
    enough here: the whole of it is recorded, and probing says it again.
    """
    lines = [
        f"target {left.target} is LEFT OUT of this study: {in_short(left.why)}; it goes on with "
        f"{' and '.join(config.targets)}"
    ]
    gone = [f"with it go {', '.join(left.keys)}"] if left.keys else []
    if left.target == targets[0].name:
        gone.append(f"answers and sizes without @target are those of {config.targets[0]}")
    if gone:
        lines.append(f"  {'; '.join(gone)}")
    target = next(target for target in targets if target.name == left.target)
    return (
        *lines,
        f"  what it lacks: `{probing(target)}`; to have it in, end this, mend that, and begin with another --store; "
        "--all-targets insists on all",
    )


def in_short(why: str) -> str:
    """The first clause of a reason, which says what is missing; what to do about it stands behind that."""
    return textwrap.shorten(why.partition("; ")[0], _CLAUSE, placeholder=" ...")


def probing(target: Target) -> str:
    """The command that says all of what a target lacks; its profile may lie in the study's folder only."""
    try:
        known = find_target(target.name) == target
    except HardwareError:
        known = False
    return f"autotune targets probe {target.name}" + ("" if known else " --folder FOLDER-OF-THE-STUDY")


def _too_little(
    config: StudyConfig, targets: Sequence[Target], left: Sequence[Target], absent: Mapping[str, str]
) -> str:
    if not left:
        return "it has no other target"
    timed = [target.name for target in targets if target.provenance == "hardware"]
    if timed and not any(target.provenance == "hardware" for target in left):
        return f"{' and '.join(target.name for target in left)} cannot be timed"
    before = config.search.objectives
    kept = _others(before, absent)
    if before and (not kept or before[0] != kept[0]):
        return f"its first objective is {before[0]}"
    if any(_is_cost(text) for text in before) and not any(_is_cost(text) for text in kept):
        return f"no objective that is a cost is left ({', '.join(kept)})"
    return ""


def _is_cost(text: str) -> bool:
    return parse_key(text).name in COST_METRICS


def _others(texts: Iterable[str], absent: Mapping[str, str]) -> list[str]:
    return [text for text in texts if parse_key(text).target not in absent]


def _kept(text: str, alone: bool) -> str:
    """The key where one runtime family is left of several."""
    key = parse_key(text)
    if alone and (text == WORST_ANYWHERE or (key.target is not None and belongs_to_a_family(key))):
        return str(_of_the_family(key))
    return text


def _of_the_family(key: MetricKey) -> MetricKey:
    return replace(key, target=None)


def _limits(limits: Mapping[str, float], absent: Mapping[str, str], alone: bool) -> dict[str, float]:
    """The limits that are left. One of a family counts instead of the general one, that on the worst beside it."""
    found = {text: limits[text] for text in _others(limits, absent) if _kept(text, alone) == text}
    for text in _others(limits, absent):
        kept = _kept(text, alone)
        if text == WORST_ANYWHERE and alone:
            found = tightest(found, {kept: limits[text]})
        elif kept != text:
            found[kept] = limits[text]
    return found
