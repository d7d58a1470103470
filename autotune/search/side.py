"""A study in one runtime family: how it judges there, and what is known of the original there.

With several families, metrics and failures say which of them they are about; a study with one need not.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from autotune.config import Family
from autotune.errors import TrialFailure
from autotune.search.judging import Judged, Judging
from autotune.search.stages import Stages
from autotune.search.values import at_targets
from autotune.trial import Value
from hwprofiles.errors import DeviceFailure, Failure


@dataclass
class Side:
    """`search` and `stages` are there once the original has been judged on the search data."""

    judging: Judging
    search: Judged | None = None
    stages: Stages | None = None

    @property
    def family(self) -> Family:
        """The family it is about."""
        return self.judging.family

    def judged_search(self) -> Judged:
        """Raises `RuntimeError` before the original has been judged."""
        if self.search is None:
            raise RuntimeError("the original has not been judged yet")
        return self.search


def side_of(sides: Sequence[Side], target: str) -> Side:
    """The side of the family that a target belongs to."""
    return next(side for side in sides if target in side.family.targets)


def judges(sides: Sequence[Side]) -> tuple[str, ...]:
    """The target of each family that judges."""
    return tuple(side.family.judge for side in sides)


def by_family(sides: Sequence[Side], side: Side, metrics: Mapping[str, Value]) -> dict[str, Value]:
    """What was judged in a family, as metrics of the trial: with several families under the names of its targets, and
    those of the first one also without a name."""
    if len(sides) == 1:
        return dict(metrics)
    return {**(metrics if side is sides[0] else {}), **at_targets(metrics, side.family.targets)}


@contextmanager
def about(sides: Sequence[Side], dialect: str, target: str = "") -> Iterator[None]:
    """A failure in one of several dialects names the target it is about."""
    try:
        yield
    except (TrialFailure, DeviceFailure) as error:
        if len(sides) == 1:
            raise
        judge = target or next(side.family.judge for side in sides if side.family.dialect == dialect)
        failure = named(sides, error.failure, f"target {judge} (dialect {dialect})")
        if isinstance(error, DeviceFailure):
            raise DeviceFailure(failure, advised=error.advised) from error
        raise TrialFailure(failure) from error


def named(sides: Sequence[Side], failure: Failure, where: str) -> Failure:
    """The failure with its place in front, where there is more than one."""
    if len(sides) == 1:
        return failure
    return failure.model_copy(update={"message": f"{where}: {failure.message}"})
