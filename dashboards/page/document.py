"""One HTML file that needs nothing else: style, data, Plotly and a policy that forbids everything foreign."""

from __future__ import annotations

import base64
import hashlib
import json
from importlib import resources

import plotly.graph_objects as go
from plotly.offline import get_plotlyjs

from dashboards.figures import palette
from dashboards.page.html import Html, join, tag


def document(title: str, header: Html, navigation: Html, body: Html, figures: dict[str, go.Figure]) -> str:
    """The whole page. Scripts run only if their digest stands in the policy; nothing may be fetched.

    Plotly sets the style of its elements, so inline style is allowed; pictures come as data or, when a
    reader saves a plot, as blob.
    """
    library, program = get_plotlyjs(), _asset("page.js")
    scripts = " ".join(_digest(source) for source in (library, program))
    policy = (
        f"default-src 'none'; script-src {scripts}; style-src 'unsafe-inline'; img-src data: blob:; "
        "base-uri 'none'; form-action 'none'"
    )
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", http_equiv="Content-Security-Policy", content=policy),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name="color-scheme", content="light dark"),
        tag("meta", name="referrer", content="no-referrer"),
        tag("title", title),
        tag("style", Html(_asset("style.css"))),
    )
    page = tag(
        "body",
        header,
        navigation,
        tag(
            "main",
            tag("noscript", tag("p", "The plots need JavaScript; all tables are here.", class_="notice")),
            body,
        ),
        tag("footer", tag("p", "Written by autotune. Everything in this file is local; it loads nothing.")),
        _data("dark-colours", palette.DARK),
        _data("figures", {name: figure.to_plotly_json() for name, figure in figures.items()}),
        tag("script", Html(library)),
        tag("script", Html(program)),
    )
    return f"<!doctype html>\n{tag('html', head, page, lang='en')}\n"


def _data(element: str, value: object) -> Html:
    """JSON in a block that is not executed. `<` is written as an escape, so no text can end the block."""
    text = json.dumps(value, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return tag("script", Html(text.replace("<", "\\u003c")), type="application/json", id=element)


def _digest(source: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(source.encode()).digest()).decode()}'"


def _asset(name: str) -> str:
    return resources.files("dashboards.page").joinpath(name).read_text(encoding="utf-8")


def contents(entries: dict[str, str]) -> Html:
    """Links to the sections."""
    links = join(tag("a", name, href=f"#{anchor}") for anchor, name in entries.items())
    return tag("nav", tag("div", links), aria_label="Sections")
