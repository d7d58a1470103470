"""`autotune targets`: what can be measured on, what is declared of it, and what is really there."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import typer
from rich import box
from rich.table import Table

from autotune.cli.bundles import bundle
from autotune.cli.output import JsonFlag, print_json, results, shown
from autotune.cli.targets_change import add, release, remove
from autotune.cli.targets_probe import FolderOption, NameArgument, probe

if TYPE_CHECKING:
    from hwprofiles.registry import Profile
    from hwprofiles.target import Target

targets = typer.Typer(
    help="List, show, probe, add and remove the targets; free one that is stuck.",
    no_args_is_help=True,
    epilog="Example: [bold]autotune targets probe local[/bold]",
)


@targets.command("list", epilog="Example: [bold]autotune targets list --json[/bold]")
def list_all(folder: FolderOption = None, as_json: JsonFlag = False) -> None:
    """List the known targets: those that can be used now, and templates that need something first."""
    from autotune.cli.readiness import needs
    from hwprofiles.registry import list_profiles

    profiles = list_profiles(folder or [])
    found = [profile for profile in profiles if profile.target is not None and not profile.shadowed]
    missing = {profile.name: needs(profile.target) for profile in found if profile.target is not None}
    hidden = [profile for profile in profiles if profile.shadowed]
    broken = [profile for profile in profiles if profile.target is None and not profile.shadowed]
    if as_json:
        print_json(
            {
                "targets": [_facts(profile, missing[profile.name]) for profile in found],
                "shadowed": [_place(profile) for profile in hidden],
                "unreadable": [{**_place(profile), "problem": profile.problem} for profile in broken],
            }
        )
        return
    _print_usable([profile for profile in found if not missing[profile.name]])
    _print_templates([profile for profile in found if missing[profile.name]], missing)
    console = results()
    for profile in hidden:
        console.print(f"shadowed: {profile.name} ({profile.origin}): {profile.place}", markup=False, soft_wrap=True)
    for profile in broken:
        console.print(f"unreadable: {profile.problem}", markup=False, soft_wrap=True)


@targets.command("show", epilog="Example: [bold]autotune targets show rpi5[/bold]")
def show_one(name: NameArgument, folder: FolderOption = None, as_json: JsonFlag = False) -> None:
    """Show a target's profile and the source of every fact that it declares. Touches no device."""
    from autotune.cli.readiness import needs
    from hwprofiles.registry import find_profile

    profile = find_profile(name, folders=folder or [])
    assert profile.target is not None  # find_profile raises for one that cannot be read
    missing = needs(profile.target)
    if as_json:
        print_json(_facts(profile, missing))
        return
    _print_profile(profile, profile.target, missing)


targets.command("probe", epilog="Example: [bold]autotune targets probe local --json[/bold]")(probe)
targets.command(
    "add", epilog="Example: [bold]autotune targets add my-pi --like rpi5 --host pi@192.168.1.20 --set threads=2[/bold]"
)(add)
targets.command("remove", epilog="Example: [bold]autotune targets remove my-pi[/bold]")(remove)
targets.command("release", epilog="Example: [bold]autotune targets release my-pi --force[/bold]")(release)
targets.command("bundle", epilog="Example: [bold]autotune targets bundle android-bundle[/bold]")(bundle)


def numbers(target: Target) -> str:
    """What kind of numbers a target gives: its provenance and, if it has one, its label."""
    return f"{target.provenance} ({target.label})" if target.label else target.provenance


def _place(profile: Profile) -> dict[str, Any]:
    return {"name": profile.name, "origin": profile.origin, "place": profile.place}


def _facts(profile: Profile, missing: Sequence[str]) -> dict[str, Any]:
    assert profile.target is not None
    return {**profile.target.model_dump(mode="json"), **_place(profile), "needs": list(missing)}


def _print_usable(profiles: Sequence[Profile]) -> None:
    table = Table(title="usable now", title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    for column in ("target", "from", "runtime", "provider", "transport", "threads", "numbers", "description"):
        table.add_column(column, overflow="fold", justify="right" if column == "threads" else "left")
    for profile in profiles:
        target = profile.target
        if target is not None:
            provider = target.provider.removesuffix("ExecutionProvider")
            where = (target.transport, str(target.threads), numbers(target), target.description)
            table.add_row(target.name, profile.origin, target.runtime, provider, *where)
    results().print(table)


def _print_templates(profiles: Sequence[Profile], missing: dict[str, list[str]]) -> None:
    if not profiles:
        return
    title = "templates: autotune targets add NAME --like TEMPLATE ..."
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    for column in ("template", "from", "numbers", "needs"):
        table.add_column(column, overflow="fold")
    for profile in profiles:
        if profile.target is not None:
            needed = "; ".join(missing[profile.name])
            table.add_row(profile.name, profile.origin, numbers(profile.target), needed)
    results().print(table)


def _print_profile(profile: Profile, target: Target, missing: Sequence[str]) -> None:
    lines = [f"{target.name} ({profile.origin}: {shown(profile.place)})", f"description: {target.description}"]
    lines.append(f"numbers: {numbers(target)}")
    skipped = ("name", "description", "provenance", "label", "declares", "sources", "source", "policy", "options")
    facts = target.model_dump(mode="json")
    lines += [
        f"{key}: {_text(value)}" for key, value in facts.items() if key not in skipped and value not in (None, "")
    ]
    lines.append(f"source: {target.source or 'none is given'}")
    declared = target.declares.model_dump(mode="json", exclude_defaults=True)
    for fact, value in declared.items():
        lines.append(f"declares {fact}: {_text(value)} [{target.sources.get(fact, target.source) or 'no source'}]")
    lines += [
        f"policy {key}: {_text(value)}" for key, value in facts["policy"].items() if value not in (None, 0.0, False)
    ]
    lines += [f"option {key}: {_text(value)}" for key, value in facts["options"].items()]
    lines += [f"needs: {need}" for need in missing]
    for line in lines:
        results().print(line, markup=False, soft_wrap=True)


def _text(value: Any) -> str:
    if isinstance(value, list):
        return " ".join(str(item) for item in value)
    if isinstance(value, int) and not isinstance(value, bool) and value >= 1 << 20:  # only memory is that large
        return f"{value / 2**30:g} GiB"
    return str(value)
