"""What a finding means, in sentences for the person who will ship the model."""

from __future__ import annotations

from collections.abc import Sequence

from autotune.parity.report import FLOAT64, Divergence, LayerDistance, OutputParity, Pair, TargetParity
from hwprofiles.errors import Failure


def amount(distance: float | None) -> str:
    """A relative distance: "3.1 %", "2.4e-07", "0"."""
    if distance is None:
        return "no number can tell"
    if distance == 0:
        return "0"
    return f"{distance * 100:.2g} %" if 0.001 <= distance < 100 else f"{distance:.1e}"


def share(part: float) -> str:
    """A share of answers, never rounded up to all of them."""
    text = f"{part * 100:.1f}"
    return f"{'99.9' if text == '100.0' and part < 1 else text.removesuffix('.0')} %"


def place(layer: LayerDistance) -> str:
    """`Conv 'block.conv' (layer block)`."""
    same = layer.layer in ("", layer.node)
    return f"{layer.op} {layer.node!r}" + ("" if same else f" (layer {layer.layer})")


def of_operator(layer: LayerDistance, limit: float, inputs: Sequence[str]) -> str:
    """A node that computes something else."""
    return (
        f"{place(layer)} is the first node that is wrong by itself: computed again in float64 from this target's own "
        f"inputs its result is {_own(layer, limit)}. {_fed(inputs)}"
    )


def of_fusion(layer: LayerDistance, limit: float, nodes: Sequence[str]) -> str:
    """A group of nodes that computes something else only when the runtime makes one kernel of it."""
    group = ", ".join(nodes) if len(nodes) <= 4 else f"{nodes[0]}, ... {nodes[-1]} ({len(nodes)} nodes)"
    return (
        f"It appears only when fused: in the model as shipped the result {layer.tensor!r} of {group} is "
        f"{_own(layer, limit)}; with every intermediate result exposed, which stops fusions, no node is wrong."
    )


def permits(op: str) -> bool:
    """Whether an operator leaves some of its exactness to the runtime."""
    return op.endswith("MatMulNBits")


def of_rounding(layer: LayerDistance, worst_own: float, flipped: float) -> str:
    """A distance that was carried here and has grown."""
    crossed = layer.mismatch or (
        f"{share(layer.flipped)} of the elements differ"
        if layer.kind != "float"
        else f"distance {amount(layer.distance)}"
    )
    flips = (
        " In a quantised model rounding does not fade: a value next to the middle between two levels falls to one side "
        f"or the other, and every later layer carries that on; in the end {share(flipped)} of the levels of the most "
        "changed tensor differ."
        if flipped
        else ""
    )
    lax = " That operator permits the runtime to round what goes into it (accuracy_level)." if permits(layer.op) else ""
    return (
        f"No node is wrong by itself: computed again in float64 from this target's own inputs each is within rounding "
        f"(largest own error {amount(worst_own)}). Carried rounding is beyond the tolerance first at {place(layer)}: "
        f"{crossed}.{lax}{flips}"
    )


def of_agreement(reference: str, outputs: Sequence[OutputParity], target: str) -> str:
    """The sentence of a target whose answers agree."""
    if target == reference:
        return f"{target} stands in for the reference, as the others are compared with it."
    return f"{target} answers as {_called(reference)} does: {'; '.join(_output(o) for o in outputs)}."


def of_disagreement(reference: str, outputs: Sequence[OutputParity], target: str, first: Divergence | None) -> str:
    """The sentence of a target whose answers differ, and what follows from that."""
    bad = "; ".join(_output(o) for o in outputs if not o.agrees)
    if first is not None and first.cause == "operator":
        advice = "a kernel there computes something else: use another format for that layer or another runtime there"
    else:
        advice = "accuracy that was judged elsewhere does not hold here: judge it on this target before shipping"
    return f"{target} does not answer as {_called(reference)} does: {bad}; {advice}."


def of_failure(target: str, failure: Failure) -> str:
    return f"{target} was not compared ({failure.kind} in {failure.stage}): {failure.message}"


def of_report(targets: Sequence[TargetParity], pairs: Sequence[Pair], reference: str) -> str:
    """The sentence over everything."""
    bad = [t.target for t in targets if t.verdict == "disagree"]
    out = [t.target for t in targets if t.verdict == "not compared"]
    good = [t.target for t in targets if t.verdict == "agree"]
    parts = []
    if bad:
        rounded = all(t.first is None or t.first.cause == "rounding" for t in targets if t.verdict == "disagree")
        meaning = "rounding that grew, so judge it with that target's own answers" if rounded else "a kernel is wrong"
        parts.append(f"Answers differ from {_called(reference)} on {_listed(bad)}: {meaning}")
        parts.extend([f"{_listed(good)} {'agrees' if len(good) == 1 else 'agree'}"] if good else [])
    elif len(good) > 1:
        parts.append(f"Answers agree on {_listed(good)}: what was judged on one of them holds on all")
    elif good:
        parts.append(f"Answers of {good[0]} agree with {_called(reference)}")
    if pairs and all(pair.equal for pair in pairs):
        parts.append("all compared targets give the same bits")
    if out:
        parts.append(f"{_listed(out)} could not be compared")
    return "; ".join(parts) + "." if parts else "Nothing was compared."


def _own(layer: LayerDistance, limit: float) -> str:
    if layer.own is None:
        return f"{amount(layer.distance)} away while its inputs agree (tolerance {amount(limit)})"
    if layer.kind == "float":
        return f"{amount(layer.own)} away (tolerance {amount(limit)})"
    return f"different in {share(layer.own)} of the elements"


def _fed(inputs: Sequence[str]) -> str:
    return f"Its inputs: {', '.join(inputs)}." if inputs else "It reads the model's inputs."


def _output(output: OutputParity) -> str:
    name = f"output {output.output!r}"
    if output.mismatch:
        return f"{name}: {output.mismatch}"
    if output.kind == "numbers" or output.agreement is None:
        return f"{name} is {amount(output.distance)} away"
    equal = round(output.agreement.value * output.rows)
    what = "classes" if output.kind == "argmax" else "elements"
    away = f", distance {amount(output.distance)}" if output.kind == "argmax" else ""
    return f"{name} has {equal} of {output.rows} {what} equal ({share(output.agreement.value)}{away})"


def _called(reference: str) -> str:
    return "the float64 reference" if reference == FLOAT64 else reference


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
