"""`autotune targets`: what can be measured on, and what is really there."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Annotated

import typer
from rich import box
from rich.table import Table

from autotune.cli.output import JsonFlag, print_json, results, say
from autotune.keys import format_amount, parse_key

targets = typer.Typer(
    help="List, show and probe the targets.",
    no_args_is_help=True,
    epilog="Example: [bold]autotune targets probe local[/bold]",
)

FolderOption = Annotated[
    list[Path] | None,
    typer.Option("--folder", metavar="DIR", help="Look for profiles here, too, e.g. in a study's folder; repeatable."),
]
NameArgument = Annotated[str, typer.Argument(metavar="T", help="A target's name, e.g. local.")]


@targets.command("list", epilog="Example: [bold]autotune targets list --json[/bold]")
def list_all(folder: FolderOption = None, as_json: JsonFlag = False) -> None:
    """List the known targets."""
    from hwprofiles.registry import list_targets

    found = list_targets(folders=folder or [])
    if as_json:
        print_json({"targets": [target.model_dump(mode="json") for target in found]})
        return
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in ("target", "runtime", "provider", "dialect", "transport", "threads", "description"):
        table.add_column(column, overflow="fold", justify="right" if column == "threads" else "left")
    for target in found:
        provider = target.provider.removesuffix("ExecutionProvider")
        table.add_row(
            target.name,
            target.runtime,
            provider,
            target.dialect,
            target.transport,
            str(target.threads),
            target.description,
        )
    results().print(table)


@targets.command("show", epilog="Example: [bold]autotune targets show local[/bold]")
def show_one(name: NameArgument, folder: FolderOption = None, as_json: JsonFlag = False) -> None:
    """Show a target's profile. Touches no device."""
    from hwprofiles.registry import find_target

    target = find_target(name, folders=folder or [])
    if as_json:
        print_json(target)
        return
    for key, value in target.model_dump(mode="json").items():
        if value not in (None, "", {}):
            results().print(f"{key}: {value}", markup=False, soft_wrap=True)


@targets.command("probe", epilog="Example: [bold]autotune targets probe local --json[/bold]")
def probe(name: NameArgument, folder: FolderOption = None, as_json: JsonFlag = False) -> None:
    """Start the agent on a target and print what is really there."""
    from hwprofiles.device import open_device
    from hwprofiles.registry import find_target

    target = find_target(name, folders=folder or [])
    say(f"probing {target.name} over the transport {target.transport}")
    with (
        tempfile.TemporaryDirectory(prefix="autotune-probe-") as work,
        open_device(target, work=Path(work)) as device,
    ):
        fingerprint = device.fingerprint
    if as_json:
        print_json({**fingerprint.model_dump(mode="json"), "key": fingerprint.key})
        return
    console = results()
    for key, value in fingerprint.model_dump(mode="json").items():
        if key == "memory_total":
            value = format_amount(value, parse_key("memory_peak@t"))
        if key == "isa":
            value = " ".join(value)
        if key == "environment":
            value = ", ".join(f"{name} {fact}" for name, fact in value.items())
        console.print(f"{key}: {value}", markup=False, soft_wrap=True)
    console.print(f"key: {fingerprint.key}", markup=False)
