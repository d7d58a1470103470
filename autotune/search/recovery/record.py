"""What is known of the training of one recipe: kept in the store, so that nothing is trained twice."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from autotune.errors import DataError
from autotune.recipe import Recipe
from autotune.store import Store
from hwprofiles.errors import Failure

_KEY = "recovery/"


class Kept(BaseModel):
    """A checkpoint that is on disk; see `recover.Checkpoint`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    step: int
    seconds: float
    validation: float


class Record(BaseModel):
    """The training of one trial. `settings` names everything that the result depends on: another value begins anew.

    `start` is the validation loss before the first step, or after the last of several cuts. `checkpoints` improved one
    after the other; the last is the best. `cuts` are the weights after each of several cuts, before the structure was
    the recipe's. `why` says in words how it ended, `failure` what broke it.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    trial: int
    settings: str
    state: Literal["training", "done", "failed"] = "training"
    step: int = 0
    seconds: float = 0.0
    start: float | None = None
    cuts: tuple[Kept, ...] = ()
    checkpoints: tuple[Kept, ...] = ()
    why: str = ""
    failure: Failure | None = None

    def better(self) -> tuple[Kept, ...]:
        """The checkpoints that are better than the start; the start is one itself where it came of several cuts."""
        return tuple(each for each in self.checkpoints if self.start is None or each.validation < self.start)


def read(store: Store, recipe: Recipe) -> Record | None:
    """What `write` kept of this recipe's training. Raises `DataError` for something else."""
    kept = store.meta(_KEY + recipe.digest)
    if kept is None:
        return None
    try:
        return Record.model_validate(kept)
    except ValidationError as error:
        raise DataError("the store's saved 'recovery' cannot be read; it is damaged or of another version") from error


def write(store: Store, recipe: Recipe, record: Record) -> None:
    """Keep it in place of what was known."""
    store.set_meta(_KEY + recipe.digest, record.model_dump(mode="json"))


def thinned(checkpoints: Sequence[Kept], most: int) -> tuple[Kept, ...]:
    """At most `most` of them: the last one, which is the best, and some spread evenly over the steps before it."""
    *early, last = checkpoints
    chosen: list[Kept] = []
    for part in range(1, most):
        left = [each for each in early if each not in chosen]
        if left:
            wanted = last.step * part / most
            chosen.append(min(left, key=lambda each: (abs(each.step - wanted), each.step)))
    return (*sorted(chosen, key=lambda each: each.step), last)


def dropped(before: Iterable[Kept], after: Iterable[Kept]) -> set[str]:
    """Names of checkpoints that are needed no more."""
    return {each.name for each in before} - {each.name for each in after}
