"""`autotune targets add | remove | release`: targets of the user's own, and a device that somebody still holds."""

from __future__ import annotations

import contextlib
import tempfile
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from autotune.cli.output import JsonFlag, print_json, results, say, shown
from autotune.cli.targets_probe import FolderOption, NameArgument, probe_file
from autotune.errors import UsageError

if TYPE_CHECKING:
    from hwprofiles.target import Target


def add(
    name: Annotated[str, typer.Argument(metavar="NAME", help="What to call it: letters, digits, '.', '_', '-'.")],
    like: Annotated[
        str | None,
        typer.Option(
            "--like",
            metavar="TEMPLATE",
            help="The target to begin with; without it the one that has this name already, else local.",
        ),
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="A key of the profile, e.g. threads=2; repeatable."),
    ] = None,
    host: Annotated[
        str | None, typer.Option("--host", metavar="[USER@]HOST", help="Reach it by ssh under this name.")
    ] = None,
    serial: Annotated[
        str | None, typer.Option("--serial", metavar="S", help="Reach it by adb; `adb devices` shows its serial.")
    ] = None,
    bundle: Annotated[
        Path | None, typer.Option("--bundle", metavar="DIR", help="What `autotune targets bundle` has made.")
    ] = None,
    runner: Annotated[
        Path | None, typer.Option("--runner", metavar="FILE", help="A native runner of your own, see docs/runner.md.")
    ] = None,
    force: Annotated[
        bool,
        typer.Option(
            "--force", help="Change a target of yours that has this name; with --like write it anew from that one."
        ),
    ] = False,
    folder: FolderOption = None,
    as_json: JsonFlag = False,
) -> None:
    """Add a target of your own that begins as a copy of another one, or change one that you have.

    With --force and without --like everything that is not given stays as it is.
    """
    from autotune.cli.readiness import needs
    from hwprofiles.mobile.bundle import read_bundle
    from hwprofiles.registry import check_name, list_profiles, write_profile

    check_name(name)
    before = _own(name)
    template = _template(name, like, before, folder or [])
    facts = template.model_dump(mode="json", exclude_defaults=True) | {"name": name}
    options: dict[str, Any] = facts.setdefault("options", {})
    if host is not None:
        _reach(facts, "ssh")
        options["host"] = host
    if serial is not None:
        _reach(facts, "adb")
        options["serial"] = serial
    if bundle is not None:
        facts["label"] = read_bundle(bundle).label  # it says of the numbers what the template's no longer does
        options["bundle"] = str(bundle.expanduser().absolute())
        facts.pop("python", None)  # the bundle brings its own
    for setting in settings or []:
        _set(facts, setting)
    target = _checked(name, facts, runner)
    _check_options(target)
    shadows = [profile.origin for profile in list_profiles() if profile.name == name and profile.origin == "shipped"]
    path = write_profile(target, force=force)
    missing = needs(target)
    changed = None if before is None else changes(before, target)
    if as_json:
        print_json({**target.model_dump(mode="json"), "place": str(path), "needs": missing, "changed": changed})
        return
    results().print(f"{name}: {shown(path)}", markup=False, soft_wrap=True)
    if changed is not None:
        say(f"changed: {', '.join(changed)}" if changed else "nothing changed")
    if shadows:
        say(f"{name} goes before the one of this name that ships")
    for need in missing:
        say(f"it still needs {need}")
    if missing:
        say(f"to give it that: autotune targets add {name} --force ...; what you do not name stays as it is")
    say(f"next: autotune targets probe {name}" + (" says what to install where" if missing else ""))


def remove(name: NameArgument, as_json: JsonFlag = False) -> None:
    """Remove a target of your own. Those that ship stay."""
    from hwprofiles.registry import list_profiles, remove_profile

    path = remove_profile(name)
    with contextlib.suppress(OSError):  # what was probed of it; nothing is lost if it stays
        probe_file(name).unlink(missing_ok=True)
    ships = any(profile.name == name for profile in list_profiles())
    if as_json:
        print_json({"target": name, "removed": str(path), "ships": ships})
        return
    say(f"removed {shown(path)}")
    if ships:
        say(f"{name} is now the one that ships")


def release(
    name: NameArgument,
    force: Annotated[bool, typer.Option("--force", help="Take it away from a holder that still lives.")] = False,
    folder: FolderOption = None,
    as_json: JsonFlag = False,
) -> None:
    """Show who holds a target's device, and free it if it is stuck.

    A holder that has died frees the device by itself. With --force one that lives loses it: what it is measuring is
    thrown away, and it measures again when its turn comes.
    """
    from hwprofiles.device import open_keeper
    from hwprofiles.errors import TargetBusy
    from hwprofiles.registry import find_target

    target = find_target(name, folders=folder or [])
    with (
        tempfile.TemporaryDirectory(prefix="autotune-release-") as work,
        open_keeper(target, work=Path(work)) as keeper,
    ):
        holder = keeper.holder()
        if holder is not None and not force:
            raise TargetBusy(f"{name} is held by {holder}; wait for it or stop it, or take it away with --force")
        done = keeper.release(force)
    if as_json:
        print_json({"target": name, "holder": holder, "done": done})
    else:
        results().print(done, markup=False, soft_wrap=True)


def changes(before: Target, now: Target) -> list[str]:
    """What of a profile is another now, in words: `python (none -> /opt/bin/python)`."""
    left, right = (_flat(target.model_dump(mode="json")) for target in (before, now))
    found = []
    for key in dict.fromkeys([*left, *right]):
        old, new = left.get(key), right.get(key)
        if old != new:
            found.append(f"{key} ({_word(old)} -> {_word(new)})")
    return found


def _flat(facts: dict[str, Any]) -> dict[str, Any]:
    """Tables within as `table.key`."""
    flat: dict[str, Any] = {}
    for key, value in facts.items():
        flat |= {f"{key}.{name}": inner for name, inner in value.items()} if isinstance(value, dict) else {key: value}
    return flat


def _word(value: Any) -> str:
    if isinstance(value, list):
        return " ".join(str(item) for item in value) or "none"
    return "none" if value in (None, "") else str(value)


def _own(name: str) -> Target | None:
    """The user's target of this name. None where there is none, or one that cannot be read, which is no target."""
    from hwprofiles.registry import list_profiles

    return next((p.target for p in list_profiles() if p.name == name and p.origin == "user"), None)


def _template(name: str, like: str | None, own: Target | None, folders: Sequence[Path]) -> Target:
    """What a target begins with. Raises as `find_profile`; a file of the user's that cannot be read is no template."""
    from hwprofiles.errors import BadProfile, UnknownTarget
    from hwprofiles.registry import find_target

    if like is not None:
        return find_target(like, folders=folders)
    if own is not None:
        return own
    try:
        return find_target(name, folders=folders)
    except BadProfile as error:
        raise BadProfile(f"{error}; mend that, or write it anew with --like TEMPLATE --force") from error
    except UnknownTarget:
        return find_target("local")


def _reach(facts: dict[str, Any], transport: str) -> None:
    """Change how the device is reached. The interpreter of another machine is not that of this one."""
    if facts.get("transport", "local") != transport:
        facts["transport"] = transport
        facts.pop("python", None)
        facts.pop("label", None)  # it speaks of the template's way to the device
        if transport == "adb":
            facts["options"].pop("port", None)  # that of the template's sshd
    if transport == "ssh":
        facts.setdefault("python", "python3")


def _set(facts: dict[str, Any], setting: str) -> None:
    """`KEY=VALUE` or `TABLE.KEY=VALUE` into the facts; a value that is no TOML is a text."""
    key, equals, text = setting.partition("=")
    words = key.strip().split(".", 1)
    if not equals or not all(words):
        raise UsageError(f"--set {setting!r}: write KEY=VALUE, e.g. threads=2 or options.port=2222")
    if words == ["name"]:
        raise UsageError(f"--set {setting!r}: the name is the first argument")
    if not setting.isprintable():
        raise UsageError(f"--set {setting!r}: holds characters that cannot be printed")
    try:
        value = tomllib.loads(f"x = {text}")["x"]
    except tomllib.TOMLDecodeError:
        value = text
    if not isinstance(value, str | int | float | bool | list):
        value = text  # a date, say: nothing here is one
    if len(words) == 1:
        facts[words[0]] = value
        return
    table = facts.setdefault(words[0], {})
    if not isinstance(table, dict):
        raise UsageError(f"--set {setting!r}: {words[0]!r} is no table; write {words[0]}=VALUE")
    table[words[1]] = value
    if words[0] == "declares":
        facts.setdefault("sources", {})[words[1]] = "set by the user"


def _check_options(target: Target) -> None:
    """What its transport would refuse is refused before it is written. Raises `BadProfile`."""
    from importlib import metadata

    from hwprofiles.registry import TRANSPORTS, load_plugin

    if not metadata.entry_points(group=TRANSPORTS, name=target.transport):
        return  # `needs` tells of the missing package
    # One that somebody else has made may know of no check.
    check = getattr(load_plugin(TRANSPORTS, target.transport, target=target.name), "check", None)
    if check is not None:
        check(target)


def _checked(name: str, facts: dict[str, Any], runner: Path | None) -> Target:
    from hwprofiles.registry import make_target
    from hwprofiles.runtimes.runner import with_runner

    target = make_target(facts, f"target {name!r}")
    return with_runner(target, runner) if runner is not None else target
