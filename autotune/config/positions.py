"""Where a key stands in a TOML file. `tomllib` gives no positions, so table headers and keys are scanned
again.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator, Sequence

Path = tuple[str | int, ...]  # ("search", "trials"), ("groups", 0, "name")

_BARE_OR_QUOTED = r"""(?:[A-Za-z0-9_-]+|"(?:[^"\\]|\\.)*"|'[^']*')"""
_DOTTED = rf"{_BARE_OR_QUOTED}(?:\s*\.\s*{_BARE_OR_QUOTED})*"
_HEADER = re.compile(rf"^\s*(\[\[?)\s*({_DOTTED})\s*\]\]?")
_KEY = re.compile(rf"^\s*({_DOTTED})\s*=(.*)$")
_PART = re.compile(_BARE_OR_QUOTED)
_STRING = re.compile(r'"""|\'\'\'|"(?:[^"\\]|\\.)*"|\'[^\']*\'|#.*$|[\[\]{}]')


class Positions:
    """Line numbers (from 1) of the tables and keys of one TOML text that `tomllib` accepts."""

    def __init__(self, text: str) -> None:
        self._lines = dict(_scan(text.splitlines()))

    def line(self, path: Sequence[str | int]) -> int | None:
        """The line of the deepest part of `path` that has one; None when nothing of it is in the file."""
        for length in range(len(path), 0, -1):
            found = self._lines.get(tuple(path[:length]))
            if found is not None:
                return found
        return None


def _scan(lines: Sequence[str]) -> Iterator[tuple[Path, int]]:
    table: Path = ()
    counts: dict[Path, int] = {}
    state = _State()
    for number, line in enumerate(lines, start=1):
        if state.inside_value:
            state.read(line)
            continue
        if header := _HEADER.match(line):
            table = _resolve(_parts(header[2]), counts)
            if header[1] == "[[":
                counts[table] = counts.get(table, -1) + 1
                table = (*table, counts[table])
            yield table, number
        elif key := _KEY.match(line):
            path = (*table, *_parts(key[1]))
            yield path, number
            state.read(key[2])
            for name in re.findall(rf"[{{,]\s*({_BARE_OR_QUOTED})\s*=", key[2]):  # inline table
                yield (*path, *_parts(name)), number


def _resolve(parts: Path, counts: dict[Path, int]) -> Path:
    """The header's path, with the index of the current element where a part of it is an array of tables."""
    path: Path = ()
    for part in parts[:-1]:
        path = (*path, part)
        if path in counts:
            path = (*path, counts[path])
    return (*path, parts[-1])


def _parts(dotted: str) -> Path:
    return tuple(next(iter(tomllib.loads(f"{part} = 0"))) for part in _PART.findall(dotted))


class _State:
    """Whether the scan is inside a value that goes on over several lines (array or multi-line string)."""

    def __init__(self) -> None:
        self._depth = 0
        self._quote = ""

    @property
    def inside_value(self) -> bool:
        return bool(self._quote) or self._depth > 0

    def read(self, text: str) -> None:
        while text:
            if self._quote:
                _, closed, text = text.partition(self._quote)
                if not closed:
                    return
                self._quote = ""
                continue
            token = _STRING.search(text)
            if token is None:
                return
            if token[0] in ('"""', "'''"):
                self._quote = token[0]
            elif token[0] in "[{":
                self._depth += 1
            elif token[0] in "]}":
                self._depth -= 1
            text = text[token.end() :]
