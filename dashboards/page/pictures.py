"""Pictures as data URIs, so that the report is one file."""

from __future__ import annotations

import base64

# Only raster formats: an SVG could carry scripts and references.
SIGNATURES = {b"\x89PNG\r\n\x1a\n": "image/png", b"\xff\xd8\xff": "image/jpeg", b"GIF8": "image/gif"}
LARGEST = 1_000_000  # bytes; a page with a dozen larger pictures would no longer open quickly


def data_uri(picture: bytes) -> str | None:
    """None where the bytes are not a picture that browsers show, or too large for a page."""
    if len(picture) > LARGEST:
        return None
    kind = next((kind for start, kind in SIGNATURES.items() if picture.startswith(start)), None)
    return None if kind is None else f"data:{kind};base64,{base64.b64encode(picture).decode()}"
