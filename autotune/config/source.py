"""Where in a study file something stands, so that what is wrong with it can be told with file, line and key."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from autotune.config.positions import Positions
from autotune.errors import AutotuneError, ConfigError
from hwprofiles.errors import HardwareError

Location = Sequence[str | int]


class Placing(Protocol):
    """Knows the place of a key, in a file or on the command line."""

    def error(self, path: Location, problem: str) -> AutotuneError:
        """What is wrong with the key at `path`, in one line that begins with its place."""


@dataclass(frozen=True)
class Source:
    """The text of a study file, to say where in it something is wrong."""

    file: Path
    text: str

    def error(self, path: Location, problem: str) -> ConfigError:
        """An error of the form FILE:LINE: KEY: PROBLEM."""
        line = Positions(self.text).line(path)
        place = f"{self.file}:{line}" if line is not None else f"{self.file}"
        return ConfigError(f"{place}: {key_text(path)}: {problem}")


def key_text(path: Location) -> str:
    """`("groups", 0, "name")` as a person writes it: groups[0].name."""
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else (f".{part}" if text else part)
    return text


class at:
    """Says where in the study file an error of another room comes from."""

    def __init__(self, source: Placing, path: Location) -> None:
        self._source = source
        self._path = path

    def __enter__(self) -> None:
        return None

    def __exit__(self, _type: object, error: BaseException | None, _traceback: object) -> None:
        if isinstance(error, AutotuneError | HardwareError) and not isinstance(error, ConfigError):
            raise self._source.error(self._path, str(error)) from error
