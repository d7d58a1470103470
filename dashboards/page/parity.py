"""The page of a parity report: who agrees, where the first difference is, and the distance along the layers."""

from __future__ import annotations

from pathlib import Path

import plotly.graph_objects as go

from autotune.parity.report import Divergence, OutputParity, ParityReport, TargetParity
from autotune.parity.words import amount, share
from dashboards.figures.parity import layers_figure
from dashboards.info import units
from dashboards.info.parity import Curve, Step, curves, outstanding
from dashboards.page.document import contents, document
from dashboards.page.html import Html, join, table, tag
from dashboards.page.writing import write_whole

_TONES = {"agree": "tag", "disagree": "tag warn", "not compared": "tag warn"}
_VERDICTS = {
    True: ("the same answers", "good"),
    False: ("different answers", "bad"),
    None: ("not all compared", "warn"),
}
_JUDGED = {"argmax": "largest class", "numbers": "distance", "exact": "equality"}
_ROWS = 12


def write_parity(report: ParityReport, path: Path, *, title: str | None = None) -> Path:
    """Write the page of `report` to `path` and return it. The file appears whole or not at all.

    Raises `DiskError` where the file cannot be written.
    """
    return write_whole(render_parity(report, title=title), Path(path), what="page")


def render_parity(report: ParityReport, *, title: str | None = None) -> str:
    """The page as text: one file that loads nothing."""
    found = curves(report)
    sections = [_result(report)]
    anchors = {"result": "Result"}
    figures: dict[str, go.Figure] = {}
    if found:
        figures["chart-layers"] = layers_figure(found, report.tolerance.layer)
        sections += [_layers(report), _numbers(found)]
        anchors |= {"layers": "Along the layers", "numbers": "Nodes"}
    name = title or f"{report.name}: the same on every target?"
    samples = "1 sample" if report.samples == 1 else f"{report.samples} samples"
    kicker = f"{samples} on {len(report.targets)} targets, against {report.reference}"
    header = tag("header", tag("div", tag("p", kicker, class_="kicker"), tag("h1", name)))
    return document(name, header, contents(anchors), join(sections), figures)


def _result(report: ParityReport) -> Html:
    word, tone = _VERDICTS[report.agrees]
    rows = [row for target in report.targets for row in _rows(target)]
    head = (
        "target",
        "answers",
        "output",
        "judged by",
        "equal",
        "interval",
        "distance",
        "worst sample",
        "largest error",
    )
    pairs = [
        (
            f"{pair.one} and {pair.other}",
            "the same bits" if pair.equal else "different bits",
            "" if pair.distance is None else amount(pair.distance),
            "" if pair.agreement is None else share(pair.agreement),
        )
        for pair in report.pairs
    ]
    return tag(
        "section",
        tag("h2", "Result"),
        tag("div", word, class_=f"verdict {tone}"),
        tag("p", report.sentence, class_="headline"),
        tag("p", report.reference_note, class_="notice") if report.reference_note else None,
        table(head, rows, numeric=(4, 5, 6, 7, 8)),
        *(_target(target) for target in report.targets),
        join((tag("h3", "Targets against each other"), table(("targets", "outputs", "distance", "equal classes"), pairs,
              numeric=(2, 3)))) if pairs else None,
        id="result",
    )  # fmt: skip


def _rows(target: TargetParity) -> list[tuple[object, ...]]:
    trusted = target.provenance == "hardware"
    name = join(
        (target.target, "" if trusted else " ", None if trusted else tag("span", target.provenance, class_="tag"))
    )
    verdict = tag("span", target.verdict, class_=_TONES[target.verdict])
    if not target.outputs:
        return [(name, verdict, *[""] * 7)]
    return [
        (name if index == 0 else "", verdict if index == 0 else "", *_cells(output))
        for index, output in enumerate(target.outputs)
    ]


def _cells(output: OutputParity) -> tuple[object, ...]:
    found = output.agreement
    return (
        tag("code", output.output),
        _JUDGED[output.kind],
        f"{round(found.value * output.rows):,} of {output.rows:,}" if found is not None else "",
        f"{share(found.low)} to {share(found.high)}" if found is not None else "",
        output.mismatch if output.distance is None else amount(output.distance),
        f"#{output.worst_sample}",
        "" if output.max_abs is None else f"{output.max_abs:.2g}",
    )


def _target(target: TargetParity) -> Html:
    parts: list[Html | None] = [tag("h3", target.target), tag("p", target.sentence)]
    if target.first is not None:
        parts += _divergence(target.first)
    elif target.layers:
        parts.append(
            tag("p", f"None of {len(target.layers)} intermediate results is beyond its tolerance.", class_="muted")
        )
    parts += [tag("p", f"Note: {note}.", class_="muted") for note in target.notes]
    return join(parts)


def _divergence(first: Divergence) -> list[Html | None]:
    where = first.where
    what = "only when fused" if first.only_when_fused else "a wrong kernel" if first.cause == "operator" else "rounding"
    layer = tag("span", f" (layer {where.layer})") if where.layer not in ("", where.node) else None
    rows = [
        (tag("code", one.tensor), one.mismatch or amount(one.distance))
        for one in first.inputs
    ]  # fmt: skip
    return [
        tag("p", "First layer that diverges: ", tag("code", f"{where.op} {where.node}"), layer, " ",
            tag("span", what, class_="tag warn")),
        tag("p", first.explanation),
        table(("goes into it", "distance"), rows, numeric=(1,)) if rows else None,
    ]  # fmt: skip


def _layers(report: ParityReport) -> Html:
    traced = "; ".join(
        f"{target.target} on sample {target.traced_sample}"
        for target in report.targets
        if target.traced_sample is not None
    )
    return tag(
        "section",
        tag("h2", "Along the layers"),
        tag(
            "p",
            "Lines: how far each intermediate result is from the reference's own run, with all that was carried there. "
            "Points: the error of that node alone, computed again from the target's own inputs. Where a line rises and "
            "the points stay low, rounding is carried on; where a point stands out, an error is born. Each target is "
            f"shown on the sample that differs most: {traced}.",
            class_="lead",
        ),
        tag("figure", tag("div", tag("div", id="chart-layers", class_="plot", style="min-width:560px"), class_="wide")),
        id="layers",
    )


def _numbers(found: tuple[Curve, ...]) -> Html:
    rows = [
        (
            curve.target,
            step.place,
            f"{step.layer.op} {units.shorten(step.layer.node, 40)}",
            units.shorten(step.layer.layer, 40),
            *_distances(step),
        )
        for curve in found
        for step in outstanding(curve, _ROWS)
    ]
    head = ("target", "place", "node", "layer", "distance", "own error", "elements", "")
    return tag(
        "section",
        tag("h2", "Nodes"),
        tag(
            "p",
            f"The {_ROWS} results of each target with the largest own errors; of integers, the share that differs.",
            class_="lead",
        ),
        table(head, rows, numeric=(1, 4, 5, 6)),
        id="numbers",
    )


def _distances(step: Step) -> tuple[object, ...]:
    layer = step.layer
    flag = "wrong by itself" if layer.wrong else "beyond" if layer.diverges else ""
    return (
        layer.mismatch or amount(layer.distance),
        "" if layer.own is None else amount(layer.own),
        "" if layer.kind == "float" else share(layer.flipped),
        tag("span", flag, class_="tag warn") if flag else "",
    )
