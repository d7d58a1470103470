"""Scenarios by name, or from a TOML file with the fields of `Scenario`.

phase = "final"
batch = 1
max_seconds = 120

[shapes.line]      # a label, then input -> dimensions
x = [1, 3, 48, 320]
"""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Iterable
from pathlib import Path

from pydantic import ValidationError

from hwprofiles.errors import BadScenario
from hwprofiles.scenario import FINAL, SEARCH, Scenario

# For a first look: as many pairs as any decision needs, but of short blocks. A slow model does not get them all in this
# time; its measurement is then `short`, and no winner is named.
QUICK = Scenario(
    warmup_seconds=0.1,
    block_seconds=0.02,
    min_pairs=20,
    max_pairs=20,
    generation_pairs=4,
    precision=0.03,
    max_seconds=15.0,
)
SCENARIOS = {"quick": QUICK, "search": SEARCH, "final": FINAL}

_MAX_BYTES = 1 << 20  # a scenario is a page of text; anything larger is something else


def find_scenario(name_or_file: str | Path) -> Scenario:
    """A scenario that ships (`quick`, `search`, `final`), or one from a TOML file.

    Raises `BadScenario` with the nearest names, or with file and line.
    """
    shipped = SCENARIOS.get(str(name_or_file))
    if shipped is not None:
        return shipped
    path = Path(name_or_file)
    if path.suffix != ".toml" and not path.is_file():
        raise BadScenario(
            f"unknown scenario {str(name_or_file)!r}; {_nearest(str(name_or_file), SCENARIOS)} Or give a TOML file"
        )
    return load_scenario(path)


def load_scenario(file: Path) -> Scenario:
    """The scenario in a TOML file; what it leaves out is as in `search`. Raises `BadScenario` with file and line."""
    try:
        if file.stat().st_size > _MAX_BYTES:
            raise BadScenario(f"{file}: too large for a scenario; give the TOML file with its fields")
        text = file.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise BadScenario(f"{file}: cannot be read: {getattr(error, 'strerror', None) or error}") from error
    try:
        facts = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        line = re.search(r"at line (\d+)", str(error))
        raise BadScenario(f"{file}:{line[1] if line else 1}: not TOML: {error}") from error
    try:
        scenario = Scenario.model_validate(facts)
    except ValidationError as error:
        raise BadScenario(_explain(file, text, error)) from error
    for label, inputs in scenario.shapes.items():
        if not inputs or any(size < 1 for dims in inputs.values() for size in dims):
            raise BadScenario(
                f"{file}:{_line(text, label)}: shape {label!r} must name inputs with positive dimensions, "
                "such as x = [1, 3, 48, 320]"
            )
    if scenario.max_pairs < scenario.min_pairs:
        raise BadScenario(
            f"{file}:{_line(text, 'max_pairs')}: max_pairs {scenario.max_pairs} is less than min_pairs "
            f"{scenario.min_pairs}; raise it"
        )
    return scenario


def _explain(file: Path, text: str, error: ValidationError) -> str:
    """`FILE:LINE: key 'x': what is wrong`, for the first of the problems."""
    problem = error.errors()[0]
    path = [str(part) for part in problem["loc"]]
    if problem["type"] == "extra_forbidden":
        return f"{file}:{_line(text, path[0])}: unknown key {path[0]!r}; {_nearest(path[0], Scenario.model_fields)}"
    # An element of a list has no line of its own; its key has.
    words = [part for part in path if not part.isdecimal()]
    given = repr(problem["input"])
    shown = given if len(given) <= 60 else f"{given[:60]}..."
    return f"{file}:{_line(text, words[-1])}: key {'.'.join(path)!r}: {problem['msg']}, got {shown}"


def _line(text: str, key: str) -> int:
    """Number of the line that sets `key`, also as the end of a table's name; 1 if none is found."""
    quoted = rf"[\"']?{re.escape(key)}[\"']?"
    pattern = re.compile(rf"\s*({quoted}\s*[=.]|\[(.*\.)?\s*{quoted}\s*[\].])")
    return next((n for n, line in enumerate(text.splitlines(), 1) if pattern.match(line)), 1)


def _nearest(word: str, known: Iterable[str]) -> str:
    names = sorted(known)
    near = difflib.get_close_matches(word, names, n=3, cutoff=0.5)
    return f"did you mean {' or '.join(map(repr, near))}?" if near else f"known: {', '.join(names)}."
