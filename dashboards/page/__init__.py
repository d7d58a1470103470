"""The report: one self-contained HTML file about one study."""

from __future__ import annotations

from pathlib import Path

import plotly.graph_objects as go

from autotune.search.transfer import stored_transfer
from dashboards.info.flips import flip_info
from dashboards.info.front import front_info, winners_curse
from dashboards.info.headline import Headline, headline
from dashboards.info.layermap import layer_map
from dashboards.info.progress import prediction, progress
from dashboards.info.protocol import protocol
from dashboards.info.sensitivity import sensitivity
from dashboards.info.slicemap import slice_map
from dashboards.info.sparsity import sparsity
from dashboards.info.study import StudyStore, StudyView, read_study
from dashboards.info.targets import targets_info
from dashboards.page import cards, evidence, sections
from dashboards.page.agreement import agreement_section
from dashboards.page.document import contents, document
from dashboards.page.html import Html, join, tag
from dashboards.page.judgement import judgement_section
from dashboards.page.search import search_section
from dashboards.page.targets import targets_section, transfer_section
from dashboards.page.writing import write_whole
from dashboards.page.zeros import sparsity_section

__all__ = ["render", "write_report"]

SECTIONS = {
    "result": "Result",
    "front": "All trials",
    "targets": "Targets",
    "layers-map": "Layers",
    "slices": "Slices",
    "judgement": "Judgement",
    "flips": "Samples",
    "zeros": "Zeros",
    "progress-of-search": "Search",
    "protocol": "Protocol",
}
ROLES = {"original": "original", "recommended": "recommended", "finalist": "finalist", "front": "front"}


def write_report(store: StudyStore, path: Path, *, title: str | None = None) -> Path:
    """Write the report of the study in `store` to `path` and return it. The file appears whole or not at all.

    Raises `DataError` for a study without trials, `DiskError` where the file cannot be written.
    """
    return write_whole(render(store, title=title), Path(path), what="report")


def render(store: StudyStore, *, title: str | None = None) -> str:
    """The report as text. Raises `DataError` for a study without trials."""
    view = read_study(store)
    head = headline(view)
    chosen = head.trial.number if head.trial is not None else None
    roles = {**ROLES, "recommended": "nearest to the limits"} if head.tone == "bad" else ROLES
    figures: dict[str, go.Figure] = {}
    front, more = sections.front_section(
        [front_info(view, target, chosen) for target in view.timed], winners_curse(view), roles
    )
    figures.update(more)
    several, more = targets_section(targets_info(view, chosen if head.tone != "bad" else None))
    figures.update(more)
    layers, more = sections.layer_section(layer_map(view), chosen, verified=bool(view.finalists))
    figures.update(more)
    slices, more = sections.slice_section(slice_map(view, chosen), chosen)
    figures.update(more)
    judged, more = judgement_section(view, store, chosen)
    figures.update(more)
    search, more = search_section(progress(view), prediction(store))
    figures.update(more)
    flips = sections.flip_section(flip_info(view, store, chosen) if chosen is not None else None)
    zeros = sparsity_section(sparsity(store, view.targets))
    body = join(
        (
            cards.headline_section(head, sensitivity(view), view.name),
            front,
            several,
            layers,
            slices,
            judged,
            flips,
            zeros,
            search,
            transfer_section(stored_transfer(store)),
            evidence.protocol_section(protocol(view), view.notes, agreement_section(view)),
        )
    )
    missing = {anchor for anchor, part in (("targets", several), ("zeros", zeros)) if part is None}
    shown = {anchor: words for anchor, words in SECTIONS.items() if anchor not in missing}
    name = title or f"{view.name}: compression report"
    return document(name, _header(name, view, head), contents(shown), body, figures)


def _header(title: str, view: StudyView, head: Headline) -> Html:
    finished = max((trial.finished_at for trial in view.trials), default="")
    facts = [f"{head.tried} trials on {', '.join(view.targets)}"]
    if finished:
        facts.append(f"finished {finished[:16].replace('T', ' ')} UTC")
    return tag(
        "header",
        tag(
            "div",
            tag("p", " · ".join(facts), class_="kicker"),
            tag("h1", title),
            tag("p", view.description, class_="muted") if view.description else None,
        ),
    )
