"""The inputs of a request: those that came with it, and those that an earlier one has put into the cache.

Runs on the device; Python 3.9.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from hwprofiles.agent import frames
from hwprofiles.agent.timing import Feed


class Stored:
    """The last set of inputs that was read from the cache."""

    def __init__(self) -> None:
        self._key = ""
        self._feeds: list[Feed] = []

    def read(self, stored: Mapping[str, Any], count: int, blob: Callable[[str], str]) -> list[Feed]:
        """`count` inputs out of the file that `stored` describes; `blob` knows the path of a file by its digest.
        Raises ArrayError and OSError."""
        key = json.dumps(stored, sort_keys=True)
        if key != self._key:
            self._key, self._feeds = "", []  # two sets at once would take twice the memory
            data = _read(Path(blob(stored["digest"])))
            frames.check_arrays(stored["arrays"], len(data))
            self._key, self._feeds = key, unpack(count, frames.unpack_arrays(stored["arrays"], data))
        return self._feeds


def unpack(count: int, arrays: Mapping[str, Any]) -> list[Feed]:
    """Arrays are named `<number of the feed>/<input>`."""
    feeds: list[Feed] = [{} for _ in range(count)]
    for name, value in arrays.items():
        number, _, name = name.partition("/")
        feeds[int(number)][name] = value
    return feeds


def _read(path: Path) -> bytearray:
    """The file's bytes, without a second copy of them on the way: it would count as memory of the model."""
    with path.open("rb", buffering=0) as file:
        data = bytearray(path.stat().st_size)
        view, got = memoryview(data), 0
        while got < len(data):
            count = file.readinto(view[got:])
            if not count:
                raise OSError(f"{path} became shorter while it was read")
            got += count
    return data
