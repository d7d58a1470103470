"""Where targets come from: TOML profiles of the study, of the user, and those that ship. And their plug-ins.

A profile is a file `<name>.toml` whose keys are the fields of `Target`; `name` may be left out. The first
folder that has the name wins: the given ones (a study's), then `$XDG_CONFIG_HOME/hw-autotune/targets`, then
ours.
"""

from __future__ import annotations

import difflib
import os
import re
import tempfile
import tomllib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from importlib import metadata, resources
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any, Literal

from pydantic import ValidationError

from hwprofiles.errors import BadProfile, UnknownTarget
from hwprofiles.profile_text import as_toml
from hwprofiles.target import Target

RUNTIMES = "hwprofiles.runtimes"
TRANSPORTS = "hwprofiles.transports"

Origin = Literal["study", "user", "shipped"]

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


@dataclass(frozen=True)
class Profile:
    """One profile: where it lies, and its target or what is wrong with it. `shadowed`: another of its name wins."""

    name: str
    origin: Origin
    place: str
    target: Target | None
    problem: str = ""
    shadowed: bool = False


def find_target(name: str, *, folders: Sequence[Path] = ()) -> Target:
    """The target of this name.

    Raises `UnknownTarget` with the nearest names, `BadProfile` with file and line.
    """
    profile = find_profile(name, folders=folders)
    assert profile.target is not None  # find_profile raises for one that cannot be read
    return profile.target


def find_profile(name: str, *, folders: Sequence[Path] = ()) -> Profile:
    """The profile that `find_target` would take. Raises as it does."""
    for origin, folder in _places(folders):
        file = folder / f"{name}.toml"
        if _NAME.fullmatch(name) and file.is_file():
            return Profile(name, origin, str(file), _load(name, file))
    known = {found for _, folder in _places(folders) for found, _ in _profiles(folder)}
    raise UnknownTarget(f"unknown target {name!r}; {_nearest(name, known)}")


def list_profiles(folders: Sequence[Path] = ()) -> list[Profile]:
    """Every profile, also those that another one hides and those that cannot be read; by name, winners first."""
    found: list[Profile] = []
    seen: set[str] = set()
    for origin, folder in _places(folders):
        for name, file in sorted(_profiles(folder), key=lambda entry: entry[0]):
            try:
                target, problem = _load(name, file), ""
            except BadProfile as error:
                if origin == "study" and _is_something_else(file):
                    continue
                target, problem = None, str(error)
            found.append(Profile(name, origin, str(file), target, problem, name in seen))
        seen |= {profile.name for profile in found}
    return sorted(found, key=lambda profile: profile.name)  # stable: the winner stays in front


def list_targets(folders: Sequence[Path] = ()) -> list[Target]:
    """Every target that `find_target` would find, by name. Raises `BadProfile`."""
    found = []
    for profile in list_profiles(folders):
        if profile.target is None and not profile.shadowed:
            raise BadProfile(profile.problem)
        if profile.target is not None and not profile.shadowed:
            found.append(profile.target)
    return found


def make_target(facts: dict[str, Any], where: str) -> Target:
    """A target from the keys of a profile. Raises `BadProfile`, beginning with `where`."""
    try:
        return Target.model_validate(facts)
    except ValidationError as error:
        key, said = _explain(error)
        raise BadProfile(f"{where}: {said}" if key else f"{where}: {error}") from error


def check_name(name: str) -> None:
    """Raise `BadProfile` unless a target can be called so."""
    if not _NAME.fullmatch(name) or len(name) > 100:
        raise BadProfile(
            f"{name!r} is no name for a target; use letters, digits, '.', '_' and '-', at most 100, beginning with a "
            "letter or digit"
        )


def write_profile(target: Target, *, force: bool = False) -> Path:
    """Write `target` into the user's folder, whole or not at all; the file.

    Raises `BadProfile` if the user has one of that name (unless `force`) or the name fits no file, and `OSError`.
    """
    check_name(target.name)
    path = user_folder() / f"{target.name}.toml"
    if path.exists() and not force:
        raise BadProfile(f"you have a target {target.name!r} already ({path}); choose another name or give --force")
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, part = tempfile.mkstemp(dir=path.parent, suffix=".part")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(as_toml(target))
        Path(part).replace(path)
    except BaseException:
        Path(part).unlink(missing_ok=True)
        raise
    return path


def remove_profile(name: str) -> Path:
    """Remove a profile of the user's own; the file that is gone.

    Raises `UnknownTarget` if there is none, saying so where it is one that ships.
    """
    path = user_folder() / f"{name}.toml"
    if _NAME.fullmatch(name) and path.is_file():
        path.unlink()
        return path
    shipped = {found for origin, folder in _places(()) for found, _ in _profiles(folder) if origin == "shipped"}
    if name in shipped:
        raise UnknownTarget(
            f"target {name!r} ships with hw-autotune and is not yours to remove; one of that name in {user_folder()} "
            "goes before it"
        )
    own = [found for found, _ in _profiles(user_folder())]
    raise UnknownTarget(f"you have no target {name!r} in {user_folder()}; {_nearest(name, own)}")


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


def _places(folders: Sequence[Path]) -> Iterator[tuple[Origin, Traversable]]:
    yield from (("study", Path(folder)) for folder in folders)
    yield "user", user_folder()
    yield "shipped", resources.files("hwprofiles") / "profiles"


def _profiles(folder: Traversable) -> Iterator[tuple[str, Traversable]]:
    if not folder.is_dir():
        return
    for entry in folder.iterdir():
        if entry.name.endswith(".toml") and entry.is_file():
            yield entry.name.removesuffix(".toml"), entry


def _is_something_else(file: Traversable) -> bool:
    """A study's folder holds its study.toml too, and a pyproject.toml maybe: TOML that sets nothing of a target."""
    try:
        facts = tomllib.loads(file.read_text("utf-8"))
    except (OSError, ValueError):
        return False
    return not set(facts) & (set(Target.model_fields) - {"name", "description"})


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
        key, said = _explain(error)
        raise BadProfile(f"{profile}:{_line(text, key)}: {said}") from error


def _explain(error: ValidationError) -> tuple[str, str]:
    """(the top key, "key 'x': what is wrong") of the first of the problems."""
    problem = error.errors()[0]
    key = str(problem["loc"][0]) if problem["loc"] else ""
    where = ".".join(str(part) for part in problem["loc"])
    if problem["type"] == "extra_forbidden":
        inner = Target.model_fields.get(key) if len(problem["loc"]) > 1 else None
        fields = getattr(inner.annotation, "model_fields", {}) if inner is not None else Target.model_fields
        return key, f"unknown key {where!r}; {_nearest(where.rpartition('.')[2], fields)}"
    return key, f"key {where!r}: {problem['msg'].removeprefix('Value error, ')}, got {problem['input']!r}"


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
