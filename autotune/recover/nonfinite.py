"""A loss that is NaN or infinite, and the words of the failure that comes of it. Imports no torch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from autotune.errors import TrialFailure
from autotune.recover.settings import Settings
from hwprofiles.errors import Failure

What = Literal["loss", "validation loss", "workload's own loss"]

_NAMED = 3  # samples
TRYING = "a try of how large steps may be"


class NotFinite(Exception):
    """`what` became `value`. The workload's own loss is named where the outputs that it was given were finite;
    `unanswered` are the ids of samples to which the original itself gives no finite answer."""

    def __init__(self, what: What, value: float, unanswered: Sequence[str] = ()) -> None:
        super().__init__(f"the {what} is {value}")
        self.what, self.value, self.unanswered = what, value, tuple(unanswered)


def failure_of(broken: NotFinite, settings: Settings, step: int, *, before: int = 0, during: str = "") -> TrialFailure:
    """What a training ends with that broke at `step`, after `before` steps of earlier trainings; `during` says what
    kind of steps these were."""
    verb = "is" if broken.what == "workload's own loss" else "became"
    place = f"step {before + step}" + (f" ({during})" if during else "")
    message = f"recover: the {broken.what} {verb} {broken.value} at {place}; {_advice(broken, settings, step)}"
    return TrialFailure(Failure(kind="nonfinite", stage="recover", message=message))


def _advice(broken: NotFinite, settings: Settings, step: int) -> str:
    what, unanswered = broken.what, broken.unanswered
    if unanswered:
        more = f" and {len(unanswered) - _NAMED} more" if len(unanswered) > _NAMED else ""
        named = ", ".join(map(repr, unanswered[:_NAMED]))
        return f"the original's own answer to {named}{more} is not finite, so mend the inputs of Workload.train"
    if what == "workload's own loss":
        return "the model's outputs were finite, so make Workload.loss finite for every sample"
    if step == 0:
        return "the compressed model gives no finite answers before training; recover a milder recipe"
    if step == 1 and what == "loss":
        return "no weight has changed by then, so the answers to training samples are not finite; check these"
    name = "relative_rate" if settings.learning_rate is None else "learning_rate"
    given = settings.learning_rate or settings.relative_rate
    return f"set a low {name}" if given is None else f"lower {name} (now {given:g})"
