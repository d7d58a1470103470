"""What a parity check finds: plain records that can be stored as JSON.

Distances are relative L2 distances `|a - b| / |b|` over all elements, where b is the reference. A value that no
number can tell (NaN against a number, another shape) is a `mismatch` in words and has no distance.
"""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from hwprofiles.errors import Failure
from hwprofiles.measurement import Estimate
from hwprofiles.target import Provenance

FLOAT64 = "float64"  # name of the reference, unless a target has to stand in for it

Kind = Literal["argmax", "numbers", "exact"]
Cause = Literal["operator", "rounding"]
Verdict = Literal["agree", "disagree", "not compared"]


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Tolerance(_Record):
    """From where on answers and layers count as different."""

    agreement: float = Field(default=1.0, ge=0, le=1)  # share of rows with the same largest entry
    distance: float = Field(default=1e-3, gt=0)  # relative L2 distance of outputs that are no classes
    layer: float = Field(default=1e-4, gt=0)  # relative L2 distance of one layer's output in float32
    levels: float = Field(default=1e-3, gt=0)  # share of a quantised tensor's levels that may be off by one


class OutputParity(_Record):
    """One output over all samples, against the reference."""

    output: str
    kind: Kind  # how it is judged: "argmax" (class scores in the last axis), "numbers", "exact" (integers, text)
    rows: int  # of the last axis: what `agreement` is a share of (elements, for "exact")
    agreement: Estimate | None  # share of rows with an equal argmax, or of equal elements, with its Wilson interval
    distance: float | None  # relative L2 distance over all samples
    worst_distance: float | None  # of the worst sample
    worst_sample: int  # index of the sample that differs most
    max_abs: float | None  # largest absolute difference of one element
    mismatch: str = ""  # "3 elements are NaN or infinite in one only", "shape [1, 4] against [1, 5]"
    agrees: bool


class TensorDistance(_Record):
    """How far one tensor is from the reference."""

    tensor: str
    distance: float | None
    mismatch: str = ""


class LayerDistance(_Record):
    """The output of one node on one sample, in execution order."""

    index: int  # of the node in the graph
    node: str
    op: str
    layer: str  # name of the layer that the node belongs to
    tensor: str
    kind: Literal["float", "levels", "exact"]
    distance: float | None  # from the reference's own run: what was born here and what was carried here
    own: float | None  # error of this node alone: the reference computes it from the target's own inputs
    flipped: float = 0.0  # share of elements that are not equal, where `kind` is not "float"
    mismatch: str = ""
    diverges: bool = False  # `distance` (or flips, or mismatch) is beyond the tolerance
    wrong: bool = False  # `own` is beyond the tolerance: the node computes something else


class Divergence(_Record):
    """The first layer that diverges, with what goes into it.

    `cause`: "operator" if the node's output is wrong although it is given the right inputs; "rounding" if each node by
    itself is right, and the difference is rounding that was carried and grew.
    """

    where: LayerDistance
    inputs: tuple[TensorDistance, ...]
    cause: Cause
    only_when_fused: bool = False  # seen in the model as shipped, gone when every intermediate output is exposed
    nodes: tuple[str, ...] = ()  # fused: the nodes between what could be seen, last one is `where`
    tolerance: float  # what `where.own` (or `where.distance`) was held against
    explanation: str  # one or two sentences for a person


class TargetParity(_Record):
    """One target against the reference."""

    target: str
    provenance: Provenance = "hardware"
    verdict: Verdict
    failure: Failure | None = None  # why it was not compared
    outputs: tuple[OutputParity, ...] = ()
    first: Divergence | None = None  # None: no layer is beyond the tolerance
    layers: tuple[LayerDistance, ...] = ()  # along the model, for `traced_sample`
    traced_sample: int | None = None  # the sample that differs most
    exposed_equal: bool | None = None  # outputs of the model with all intermediates exposed equal the shipped ones
    notes: tuple[str, ...] = ()
    sentence: str  # what it means for the user


class Pair(_Record):
    """Two targets against each other. `equal` is bit for bit, over all outputs and samples."""

    one: str
    other: str
    equal: bool
    distance: float | None  # largest relative L2 distance of an output
    agreement: float | None  # smallest share of equal argmax rows of an output, where there are such outputs


class ParityReport(_Record):
    """The answer to: does this model say the same on every target?"""

    model: str  # sha256 of the file
    name: str  # of the file
    samples: int
    reference: str  # FLOAT64, or the name of the target that stands in for it
    reference_note: str = ""  # why there is no float64 reference, e.g. "no float64 reference: op acme.ops.Mystery"
    tolerance: Tolerance
    targets: tuple[TargetParity, ...]
    pairs: tuple[Pair, ...] = ()
    sentence: str

    @property
    def agrees(self) -> bool | None:
        """False if a target disagrees, None if none does but some could not be compared, else True."""
        verdicts = {target.verdict for target in self.targets}
        if "disagree" in verdicts:
            return False
        return None if "not compared" in verdicts or not verdicts else True

    @property
    def differing(self) -> tuple[Pair, ...]:
        """Pairs of targets whose answers differ from each other, whatever the reference says."""
        return tuple(pair for pair in self.pairs if not self._alike(pair))

    @property
    def same_everywhere(self) -> bool | None:
        """False if two targets differ from each other, None if one could not be compared, else True.

        What was judged on one target then holds on all, even if all are as far from the reference as rounding takes
        them.
        """
        if self.differing:
            return False
        return None if any(target.verdict == "not compared" for target in self.targets) else True

    @property
    def doubt(self) -> str:
        """Why what was judged on one target may not hold on another; "" if nothing speaks against it."""
        if self.same_everywhere:
            return ""
        told = [f"{pair.one} and {pair.other} ({_spell(pair)})" for pair in self.differing]
        if told:
            return f"does not answer the same on {'; '.join(told)}: what was judged on the first target may not hold"
        missing = ", ".join(target.target for target in self.targets if target.verdict == "not compared")
        return f"could not be compared on {missing}: what was judged on the first target may not hold there"

    def _alike(self, pair: Pair) -> bool:
        if pair.equal:
            return True
        if pair.agreement is not None:
            return pair.agreement >= self.tolerance.agreement
        return pair.distance is not None and pair.distance <= self.tolerance.distance


def _spell(pair: Pair) -> str:
    classes = "" if pair.agreement is None else f"{pair.agreement:.1%} of the classes equal, "
    return f"{classes}distance {pair.distance:.2g}" if pair.distance is not None else f"{classes}no distance"
