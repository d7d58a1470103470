"""The section on the search: its trials, how well it knew beforehand what it measured, and what more would bring."""

from __future__ import annotations

from dashboards.figures.progress import health_figure
from dashboards.info.progress import Prediction, Progress
from dashboards.page.html import Html, join, tag
from dashboards.page.sections import Figures, progress_section


def search_section(info: Progress, told: Prediction) -> tuple[Html, Figures]:
    """As `progress_section`, and below it the sampler's health and the outlook, where they were recorded."""
    section, figures = progress_section(info)
    parts: list[Html] = []
    if told.batches:
        figures["health"] = health_figure(told)
        caption = tag("figcaption", "How well trials were predicted before they were measured")
        plot = tag("div", tag("div", id="health", class_="plot"), class_="wide")
        parts.append(tag("figure", caption, plot))
    said = [f"The search ended because {told.stopped}." if told.stopped else "", _sentence(told.outlook)]
    if any(said):
        parts.append(tag("p", " ".join(part for part in said if part), class_="muted"))
    if not parts:
        return section, figures
    return join((section, tag("section", tag("h3", "What the search knew"), *parts, id="search-health"))), figures


def _sentence(outlook: str) -> str:
    if not outlook:
        return ""
    return f"{outlook} of the volume between front and corner, by its history so far (90 % interval)."
