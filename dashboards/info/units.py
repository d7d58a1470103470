"""SI numbers as people read them. The only place where a number becomes text."""

from __future__ import annotations

from autotune.trial import Value
from hwprofiles.measurement import Estimate

Interval = Value | Estimate
MINUS = "\u2212"  # a real minus sign lines up with digits, a hyphen does not
_CONTROLS = [*range(0x09), *range(0x0B, 0x20), *range(0x7F, 0xA0)]
_DIRECTIONS = [0x061C, 0x200E, 0x200F, *range(0x202A, 0x202F), *range(0x2066, 0x206A)]
_UNPRINTABLE = dict.fromkeys([*_CONTROLS, *_DIRECTIONS], "\ufffd")


def number(value: float, digits: int = 3) -> str:
    """`digits` significant digits, without an exponent in the range people meet here."""
    if value == 0:
        return "0"
    text = f"{value:.{digits}g}"
    if "e" in text:
        text = f"{float(text):.0f}" if abs(value) >= 1 else f"{float(text):.6f}".rstrip("0")
    return text.replace("-", MINUS)


def size(bytes_: float) -> str:
    """Decimal units, as disks and downloads are labelled: 1 MB = 1,000,000 bytes."""
    for unit, scale in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if abs(bytes_) >= scale:
            return f"{number(bytes_ / scale)} {unit}"
    return f"{number(bytes_)} B"


def time(seconds: float) -> str:
    """A latency: picks µs, ms or s."""
    for unit, scale in (("s", 1.0), ("ms", 1e-3)):
        if abs(seconds) >= scale:
            return f"{number(seconds / scale)} {unit}"
    return f"{number(seconds * 1e6)} µs"


def duration(seconds: float) -> str:
    """Working time: 42 s, 3 min 20 s, 2 h 5 min."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def points(fraction: float, *, sign: bool = False) -> str:
    """Percentage points of a fraction, one decimal: 0.013 -> "1.3"."""
    text = f"{fraction * 100:+.1f}" if sign else f"{fraction * 100:.1f}"
    return "0.0" if float(text) == 0 else text.replace("-", MINUS)


def percent(fraction: float) -> str:
    """0.236 -> "24 %"; one decimal below 10 %."""
    value = fraction * 100
    text = f"{value:.1f}" if 0 < abs(value) < 9.95 else f"{value:.0f}"
    return f"{text.replace('-', MINUS)} %"


def factor(ratio: float) -> str:
    """2.871 -> "2.87×"."""
    return f"{ratio:.2f}×"


def interval(value: Interval, scale: float = 1.0, decimals: int = 2) -> str:
    """The bounds only: "0.74 to 0.78"."""
    return f"{value.low * scale:.{decimals}f} to {value.high * scale:.{decimals}f}".replace("-", MINUS)


def exact(value: Interval) -> bool:
    """True for a number without uncertainty, such as a file size."""
    return value.low == value.high


def printable(text: object) -> str:
    """Control characters and those that turn the direction of writing become visible: a name may not reorder a page."""
    return str(text).translate(_UNPRINTABLE)


def shorten(text: str, width: int) -> str:
    """At most `width` characters; the middle goes, because layer names differ at their ends."""
    if len(text) <= width:
        return text
    head = (width - 1) // 3
    return f"{text[:head]}…{text[len(text) - (width - 1 - head) :]}"
