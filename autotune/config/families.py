"""Runtime families: which targets of a study run the same file in the same way, and so answer alike.

A family is a dialect with what runs it. Its targets share one artifact, which one of them judges for all.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from pydantic import BaseModel, ConfigDict, Field

from autotune.errors import UsageError
from autotune.keys import COST_METRICS, WORST, MetricKey, parse_key
from hwprofiles.target import Target

# Dialects of accelerators, with the choice whose uniform recipe is what anybody runs there today. A searched recipe has
# to be faster than that with certainty, or it is not offered.
GUARDS = {"tensorrt": "float16", "ort-cuda": "float16"}


class Family(BaseModel):
    """Targets of one dialect, runtime and provider, in the order of the study. The first of them judges."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    dialect: str
    runtime: str
    provider: str
    targets: tuple[str, ...] = Field(min_length=1)
    guard: str = ""  # choice whose uniform recipe a searched one has to beat; "": none

    @property
    def judge(self) -> str:
        """The target whose answers are judged for all of the family."""
        return self.targets[0]


class LeftOut(BaseModel):
    """A target that a study was begun without, because it was not there, or could not run the original."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    target: str
    why: str  # one line, with what to do
    keys: tuple[str, ...] = ()  # objectives and limits about it, which went with it

    @property
    def sentence(self) -> str:
        """For whoever reads the study's results."""
        gone = f"; with it went {', '.join(self.keys)}" if self.keys else ""
        return f"target {self.target} was left out of this study: {self.why}{gone}"


def families_of(targets: Sequence[Target]) -> tuple[Family, ...]:
    """The families of a study's targets, that of the first target first. Raises `UsageError` for a target that has the
    name of something else."""
    found: dict[tuple[str, str, str], list[str]] = {}
    for target in targets:
        found.setdefault((target.dialect, target.runtime, target.provider), []).append(target.name)
    if len(found) > 1 and any(target.name == WORST for target in targets):
        raise UsageError(
            f"a target cannot be called {WORST!r} where a study has several runtime families: drop/worst@{WORST} is "
            "the largest of them all; give it another name"
        )
    return tuple(
        Family(dialect=dialect, runtime=runtime, provider=provider, targets=tuple(names), guard=GUARDS.get(dialect, ""))
        for (dialect, runtime, provider), names in found.items()
    )


def worth_telling(families: Sequence[Family]) -> tuple[Family, ...]:
    """The families of a study where they decide something: there are several, or one is guarded. Else none."""
    return tuple(families) if len(families) > 1 or any(family.guard for family in families) else ()


def belongs_to_a_family(key: MetricKey) -> bool:
    """Whether a metric has one value for each runtime family: sizes, and everything that is judged."""
    return key.name not in COST_METRICS or not COST_METRICS[key.name][2]


def check_shared(text: str, families: Sequence[Family]) -> None:
    """Raises `UsageError` for a size that names a target where all of them have the same file."""
    key = parse_key(text)
    if len(families) < 2 and key.target is not None and key.name in COST_METRICS and not COST_METRICS[key.name][2]:
        raise UsageError(f"metric key {text!r}: {key.name} is the same on every target; drop '@{key.target}'")


def at(key: MetricKey, target: str) -> MetricKey:
    """The same metric of another target."""
    return replace(key, target=target)
