"""Finalists on every target: do they answer the same, and where do they begin to differ?"""

from __future__ import annotations

from autotune.parity.report import ParityReport, TargetParity
from dashboards.info import units
from dashboards.info.study import StudyView
from dashboards.page.html import Html, join, table, tag

TONES = {"agree": "tag good", "disagree": "tag bad", "not compared": "tag warn"}


def agreement_section(view: StudyView) -> Html | None:
    """One row for each finalist and target; None where nothing was compared."""
    if not view.parity:
        return None
    reports = [(n, each) for n, first in view.parity.items() for each in (first, *view.elsewhere.get(n, ()))]
    rows = [(f"#{number}", *_target(parity, report)) for number, report in reports for parity in report.targets]
    samples = max(report.samples for report in view.parity.values())
    lead = (
        f"Each finalist on {samples} held-out samples, run on every target and, where that is possible, computed in "
        "float64 besides. The same file can answer differently on another processor."
    )
    head = ("trial", "target", "answers", "agreement", "distance", "first layer that differs", "what it means")
    return join(
        (
            tag("h3", "The same answers on every target?"),
            tag("p", lead, class_="muted"),
            table(head, rows, numeric=(3, 4)),
            *(tag("p", f"Trial {n}: {r.sentence}", class_="muted") for n, r in reports),
            *(tag("p", f"Trial {n}: {said}.", class_="muted") for n, every in view.across.items() for said in every),
        )
    )


def _target(parity: TargetParity, report: ParityReport) -> tuple[object, ...]:
    agreements = [output.agreement.value for output in parity.outputs if output.agreement is not None]
    distances = [output.distance for output in parity.outputs if output.distance is not None]
    first = parity.first
    against = "" if report.reference == parity.target else f" with {report.reference}"
    return (
        join((parity.target, " ", tag("span", parity.provenance, class_="tag"))),
        join((tag("span", parity.verdict, class_=TONES[parity.verdict]), against)),
        units.percent(min(agreements)) if agreements else "",
        units.number(max(distances), 2) if distances else "",
        join((tag("code", first.where.layer or first.where.node), f" ({first.where.op}), {first.cause}"))
        if first
        else "none",
        parity.failure.message if parity.failure is not None else parity.sentence,
    )
