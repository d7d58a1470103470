"""What a comparison holds: every measurement, what it costs, and who may be called better than whom."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from hwprofiles.fingerprint import Fingerprint
from hwprofiles.measurement import Estimate, Measurement, ShapeResult
from hwprofiles.scenario import Scenario
from hwprofiles.target import Provenance

Metric = Literal["latency", "cost", "energy", "memory", "size"]
Verdict = Literal["less", "more", "tie", "undecided"]

METRICS: tuple[Metric, ...] = ("latency", "cost", "energy", "memory", "size")


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Subject(_Record):
    """A model that takes part. `name` is unique in the comparison; `path` is what the user gave."""

    name: str
    path: str
    sha256: str
    size_bytes: int


class Place(_Record):
    """A target that takes part. `price` is what an hour of it costs, in the user's currency."""

    name: str
    description: str = ""
    provenance: Provenance
    label: str = ""
    price: float | None = None
    fingerprint: Fingerprint | None = None  # None: it could not be opened


class Row(_Record):
    """One model on one target: the measurement (which may be a failure of the model), or why there is none.

    `cost` has the price of a million inferences for each shape, where the target has a price.
    """

    model: str
    target: str
    measurement: Measurement | None = None
    unavailable: str | None = None
    cost: dict[str, Estimate] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _one_of_both(self) -> Self:
        if (self.measurement is None) == (self.unavailable is None):
            raise ValueError("a row has either a measurement or the reason why there is none")
        return self

    @property
    def side(self) -> Side:
        return Side(model=self.model, target=self.target)

    @property
    def ranked(self) -> bool:
        """May its numbers enter a ranking? Only what was measured, and on hardware."""
        return self.measurement is not None and self.measurement.failure is None and not self.stand_in

    @property
    def stand_in(self) -> bool:
        """True where something else than the hardware answered: an emulator, a simulator."""
        return self.measurement is not None and self.measurement.provenance != "hardware"

    @property
    def problem(self) -> str | None:
        """In one line why there are no numbers; None if there are."""
        if self.measurement is None:
            return self.unavailable
        return self.measurement.failure.message if self.measurement.failure is not None else None

    def shape(self, label: str) -> ShapeResult | None:
        """The answer for one shape; "" where the scenario names none. None if it was not measured."""
        record = self.measurement
        if record is None or record.latency is None:
            return None
        if label:
            return next((found for found in record.by_shape if found.label == label), None)
        return ShapeResult(
            label="",
            shapes={},
            latency=record.latency,
            baseline_latency=record.baseline_latency,
            ratio=record.ratio,
        )


class Side(_Record):
    """A row's identity, as one side of a pairing. `target` is "" for what is the same everywhere."""

    model: str
    target: str = ""

    def __str__(self) -> str:
        return f"{self.model} on {self.target}" if self.target else self.model


class Pairing(_Record):
    """`a` against `b`: ratio a / b with its interval and what may be said of it.

    "less" and "more" are claims that the data carry; "tie" is one, too: the difference, with its whole interval, is too
    small to matter; "undecided" means that the data carry neither, and `more_pairs` is about how many more pairs would
    settle it. `paired`: both were timed against the same model on the same target, in turns. `interval` is False for
    what is a single number (memory, size): `low` and `high` of the ratio then only repeat its value.
    """

    a: Side
    b: Side
    ratio: Estimate
    verdict: Verdict
    paired: bool
    interval: bool = True
    more_pairs: int | None = None


class Ranking(_Record):
    """The sides from the best (least) to the worst in one metric, and each pair of them.

    `target` is None across targets; `shape` is "" where the scenario names none or it does not matter. The intervals
    of `pairings` are widened for the number of sides, so that what is said of the first against all the others holds
    as a whole with 95 %.
    """

    metric: Metric
    target: str | None
    shape: str
    order: tuple[Side, ...]
    pairings: tuple[Pairing, ...]

    def pairing(self, a: Side, b: Side) -> Pairing:
        """The pairing of two of its sides, `a` being the one that stands earlier in `order`. Raises `KeyError`."""
        for found in self.pairings:
            if (found.a, found.b) == (a, b):
                return found
        raise KeyError(f"{a} was not ranked before {b}")

    def against_first(self, verdict: Verdict) -> tuple[Side, ...]:
        """Those of whom this is said when the first is held against them ("less": the first is better)."""
        first = self.order[0]
        return tuple(pair.b for pair in self.pairings if pair.a == first and pair.verdict == verdict)

    @property
    def winner(self) -> Side | None:
        """The one that is better than every other; None where somebody ties with it or it is not known."""
        return self.order[0] if len(self.against_first("less")) == len(self.order) - 1 else None

    @property
    def contenders(self) -> tuple[Side, ...]:
        """The first and all that it is not known to beat."""
        beaten = set(self.against_first("less"))
        return tuple(side for side in self.order if side not in beaten)


class Comparison(_Record):
    """Models by targets. `shapes` are the labels of the scenario's shapes, or ("",).

    `rankings` holds what can be said: latency, energy and memory per target, latency and cost over all targets, the
    size of the files. `currency` is that of the prices, whatever it is.
    """

    format: int = 1
    models: tuple[Subject, ...]
    targets: tuple[Place, ...]
    scenario: Scenario
    shapes: tuple[str, ...]
    currency: str = ""
    rows: tuple[Row, ...]
    rankings: tuple[Ranking, ...]
    started_at: str  # UTC, ISO 8601
    seconds: float  # how long it all took

    def row(self, model: str, target: str) -> Row:
        """Raises `KeyError` for names that took no part."""
        for row in self.rows:
            if (row.model, row.target) == (model, target):
                return row
        raise KeyError(f"{model!r} on {target!r} took no part")

    def ranking(self, metric: Metric, target: str | None = None, shape: str = "") -> Ranking | None:
        """None where fewer than two sides have this number."""
        for found in self.rankings:
            if (found.metric, found.target, found.shape) == (metric, target, shape):
                return found
        return None

    def reference(self, target: str) -> str | None:
        """The model that the others were paired with on this target: the first one that runs there."""
        return next((row.model for row in self.rows if row.target == target and row.problem is None), None)
