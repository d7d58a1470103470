"""HTML as a value. Text becomes markup only by being escaped; only `Html` goes in unchanged."""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence

from dashboards.info.units import printable

VOID = {"img", "meta", "br", "hr"}


class Html(str):
    """Markup that is already safe. Made by `tag`, `join` and by nothing that has seen a user's text."""

    __slots__ = ()


def text(value: object) -> Html:
    """`value` as escaped text; quotes too, so that it may stand in an attribute."""
    return value if isinstance(value, Html) else Html(html.escape(printable(value), quote=True))


def tag(name: str, /, *children: object, **attributes: str | int | bool | None) -> Html:
    """One element. Children that are not `Html` are escaped, None is left out.

    Attributes: a trailing underscore is dropped (`class_`), other underscores become hyphens; True gives a
    bare attribute, None and False give none.
    """
    shown = []
    for key, value in attributes.items():
        label = key.rstrip("_").replace("_", "-")
        if value is True:
            shown.append(f" {label}")
        elif value is not None and value is not False:
            shown.append(f' {label}="{text(value)}"')
    start = f"<{name}{''.join(shown)}>"
    return Html(start if name in VOID else f"{start}{join(children)}</{name}>")


def join(children: Iterable[object]) -> Html:
    """Children after each other, escaped where they are not `Html`."""
    return Html("".join(text(child) for child in children if child is not None))


def table(
    head: Sequence[object],
    rows: Sequence[Sequence[object]],
    *,
    numeric: Iterable[int] = (),
    empty: str = "none",
) -> Html:
    """A table that scrolls sideways on narrow screens. `numeric` are the columns that are aligned right."""
    if not rows:
        return tag("p", empty, class_="muted")
    right = set(numeric)
    titles = [tag("th", cell, scope="col", class_="num" if i in right else None) for i, cell in enumerate(head)]
    body = [
        tag("tr", *(tag("td", cell, class_="num" if i in right else None) for i, cell in enumerate(row)))
        for row in rows
    ]
    inner = tag("table", tag("thead", tag("tr", *titles)), tag("tbody", *body))
    return tag("div", inner, class_="scroll", tabindex=0)
