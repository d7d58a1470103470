"""Where targets come from: TOML profiles of the study, of the user, and those that ship. And their plug-ins.

A profile is a file `<name>.toml` whose keys are the fields of `Target`; `name` may be left out. The first
folder that has the name wins: the given ones (a study's), then `$XDG_CONFIG_HOME/hw-autotune/targets`, then
ours.
"""

from __future__ import annotations

import difflib
import os
import re
import tomllib
from collections.abc import Iterable, Iterator, Sequence
from importlib import metadata, resources
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from hwprofiles.errors import BadProfile, UnknownTarget
from hwprofiles.target import Target

RUNTIMES = "hwprofiles.runtimes"
TRANSPORTS = "hwprofiles.transports"


def find_target(name: str, *, folders: Sequence[Path] = ()) -> Target:
    """The target of this name.

    Raises `UnknownTarget` with the nearest names, `BadProfile` with file and line.
    """
    for folder in _places(folders):
        profile = folder / f"{name}.toml"
        if re.fullmatch(r"[\w.-]+", name) and profile.is_file():
            return _load(name, profile)
    known = {found for folder in _places(folders) for found, _ in _profiles(folder)}
    raise UnknownTarget(f"unknown target {name!r}; {_nearest(name, known)}")


def list_targets(folders: Sequence[Path] = ()) -> list[Target]:
    """Every target that `find_target` would find, by name. Raises `BadProfile`."""
    found: dict[str, Target] = {}
    for folder in _places(folders):
        for name, profile in _profiles(folder):
            if name not in found:
                found[name] = _load(name, profile)
    return [found[name] for name in sorted(found)]


def user_folder() -> Path:
    """Where the user's own profiles live (it need not exist)."""
    base = os.environ.get("XDG_CONFIG_HOME") or str(Path.home() / ".config")
    return Path(base) / "hw-autotune" / "targets"


def load_plugin(group: str, name: str, *, target: str) -> Any:
    """A new instance of the class registered as `name`.

    Raises `BadProfile` naming the target that wants it.
    """
    known = {entry.name: entry for entry in metadata.entry_points(group=group)}
    kind = group.rpartition(".")[2].removesuffix("s")
    if name not in known:
        raise BadProfile(f"target {target!r}: unknown {kind} {name!r}; {_nearest(name, known)}")
    return known[name].load()()


def _places(folders: Sequence[Path]) -> Iterator[Traversable]:
    yield from (Path(folder) for folder in folders)
    yield user_folder()
    yield resources.files("hwprofiles") / "profiles"


def _profiles(folder: Traversable) -> Iterator[tuple[str, Traversable]]:
    if not folder.is_dir():
        return
    for entry in folder.iterdir():
        if entry.name.endswith(".toml") and entry.is_file():
            yield entry.name.removesuffix(".toml"), entry


def _load(name: str, profile: Traversable) -> Target:
    try:
        text = profile.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise BadProfile(f"{profile}: cannot be read: {error}") from error
    try:
        facts = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise BadProfile(f"{profile}: not TOML: {error}") from error
    if facts.setdefault("name", name) != name:
        raise BadProfile(
            f"{profile}:{_line(text, 'name')}: name {facts['name']!r} differs from the file's; rename one of them"
        )
    try:
        return Target.model_validate(facts)
    except ValidationError as error:
        raise BadProfile(_explain(profile, text, error)) from error


def _explain(profile: Traversable, text: str, error: ValidationError) -> str:
    """`FILE:LINE: key 'x': what is wrong`, for the first of the problems."""
    problem = error.errors()[0]
    key = str(problem["loc"][0]) if problem["loc"] else "?"
    where = ".".join(str(part) for part in problem["loc"])
    if problem["type"] == "extra_forbidden":
        said = f"unknown key {key!r}; {_nearest(key, Target.model_fields)}"
    else:
        said = f"key {where!r}: {problem['msg']}, got {problem['input']!r}"
    return f"{profile}:{_line(text, key)}: {said}"


def _line(text: str, key: str) -> int:
    """Number of the line that sets `key` (best effort: TOML has several spellings); 1 if none is found."""
    pattern = re.compile(rf"\s*(\[\s*)?[\"']?{re.escape(key)}[\"']?\s*[\]=.]")
    return next((n for n, line in enumerate(text.splitlines(), 1) if pattern.match(line)), 1)


def _nearest(word: str, known: Iterable[str]) -> str:
    names = sorted(known)
    near = difflib.get_close_matches(word, names, n=3, cutoff=0.5)
    if near:
        return f"did you mean {' or '.join(repr(n) for n in near)}?"
    return f"known: {', '.join(names)}" if names else "none is known"
