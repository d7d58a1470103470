"""How wide a text is in a figure, without a browser: the page's font is the reader's, so a wide sans is assumed."""

from __future__ import annotations

import html
import re

# Widths in em of DejaVu Sans, wider than the other system fonts of the page; everything else counts as a digit does.
_WIDTHS = {
    **dict.fromkeys("ijl|'", 0.28), **dict.fromkeys(" .,:;/\\", 0.34), **dict.fromkeys("ft-()[]", 0.39),
    **dict.fromkeys("r", 0.42), **dict.fromkeys("scz_", 0.55), **dict.fromkeys("+=<>~wW#M", 0.84),
    **dict.fromkeys("m%…&@★⚠", 1.0), **dict.fromkeys("ABCDEFGHKNOPQRSTUVXYZ", 0.72),
}  # fmt: skip
_OTHER = 0.64
_BOLD = 1.12  # a bold letter against a plain one


def text_width(text: str, size: float) -> float:
    """Pixels of one line of Plotly's text (tags and entities are read as it does) of `size` pixels."""
    shown = html.unescape(re.sub(r"<[^>]*>", "", text))
    return sum(_WIDTHS.get(letter, _OTHER) for letter in shown) * size * (_BOLD if "<b>" in text else 1.0)
