"""A Trial: one row of a study, with everything that is known about it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from autotune.evaluation import Evaluation
from hwprofiles.errors import Failure
from hwprofiles.measurement import Measurement

TrialState = Literal["running", "complete", "rejected", "failed"]


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Value(_Record):
    """A metric's value with its 95 % interval. An exact number has `low == value == high`."""

    value: float
    low: float
    high: float

    @classmethod
    def exact(cls, value: float) -> Value:
        return cls(value=value, low=value, high=value)


class Artifact(_Record):
    """One ONNX file in one dialect. `digest` is the sha256 of its bytes."""

    digest: str
    size_bytes: int
    dialect: str


class LayerOutcome(_Record):
    """What was asked for and what ran, for one layer on one target."""

    layer: str
    asked: str  # the recipe's choice, "none" where the recipe is silent
    ran: str  # e.g. "QLinearConv", "MatMulNBits 4 bit", "Conv float32"
    honoured: bool | None  # the kernels that ran are those of the choice; None: the runtime does not tell it apart
    seconds: float  # time of this layer's kernels in one profiled inference
    note: str = ""


class Elsewhere(_Record):
    """A trial in a further runtime family of its study: the same recipe in that family's dialect, judged there.

    `targets` are those of the family, the one that judges first. `layers` are what ran on the first target of the
    dialect.
    """

    targets: tuple[str, ...]
    artifact: Artifact
    layers: tuple[LayerOutcome, ...] = ()
    evaluations: tuple[Evaluation, ...] = ()


class Trial(_Record):
    """One recipe, built, measured and judged. `number` 0 is the empty recipe: the baseline.

    `metrics` are those of the search phase; `final` those of a finalist, measured again and judged on held-out data.
    `artifact`, `layers` and `evaluations` are those of the first target's runtime family, `elsewhere` has those of
    further ones.
    """

    number: int
    recipe: dict[str, dict[str, str]]
    state: TrialState
    proposer: str = ""  # "baseline", "uniform", "surrogate", "user", ...
    artifact: Artifact | None = None
    metrics: Mapping[str, Value] = Field(default_factory=dict)
    final: Mapping[str, Value] = Field(default_factory=dict)
    layers: tuple[LayerOutcome, ...] = ()
    measurements: tuple[Measurement, ...] = ()
    evaluations: tuple[Evaluation, ...] = ()
    elsewhere: tuple[Elsewhere, ...] = ()
    failure: Failure | None = None
    reason: str = ""  # why it was rejected: which constraint, by how much
    durations: Mapping[str, float] = Field(default_factory=dict)  # stage -> seconds
    started_at: str = ""
    finished_at: str = ""

    def artifact_for(self, target: str) -> Artifact | None:
        """What runs on a target; None before it is built."""
        return next((other.artifact for other in self.elsewhere if target in other.targets), self.artifact)

    def on(self, target: str) -> Trial:
        """The trial as a target of a further runtime family has it: artifact, layers, judgements and sizes are those of
        that family. Itself for a target of the first one."""
        other = next((each for each in self.elsewhere if target in each.targets), None)
        if other is None:
            return self
        return self.model_copy(
            update={
                "artifact": other.artifact,
                "layers": other.layers,
                "evaluations": other.evaluations,
                "metrics": _seen_from(target, self.metrics),
                "final": _seen_from(target, self.final),
            }
        )

    @property
    def artifacts(self) -> tuple[Artifact, ...]:
        """Everything that the recipe was built into, the first target's first; equal bytes are there once."""
        built = [self.artifact, *(other.artifact for other in self.elsewhere)]
        return tuple({each.digest: each for each in built if each is not None}.values())

    @property
    def recovered(self) -> bool:
        """Whether it was trained further after the search: no point of the search space."""
        return "weights" in self.recipe.get("recover", {})


def _seen_from(target: str, values: Mapping[str, Value]) -> dict[str, Value]:
    """With what the target's family has under the keys that name no target."""
    named = {key.removesuffix(f"@{target}"): value for key, value in values.items() if key.endswith(f"@{target}")}
    return {**values, **{key: value for key, value in named.items() if key in values}}
