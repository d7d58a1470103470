"""`autotune targets probe`: what is really there, held against what is declared, and what it can run."""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich import box
from rich.table import Table

from autotune.cli.output import JsonFlag, print_json, results, say, shown
from autotune.cli.targets_open import opened
from autotune.errors import UsageError

if TYPE_CHECKING:
    from autotune.compress.capabilities import Probed
    from hwprofiles.device import Device
    from hwprofiles.fingerprint import Check, Fingerprint
    from hwprofiles.target import Target

FolderOption = Annotated[
    list[Path] | None,
    typer.Option("--folder", metavar="DIR", help="Look for profiles here, too, e.g. in a study's folder; repeatable."),
]
NameArgument = Annotated[str, typer.Argument(metavar="T", help="A target's name, e.g. local.")]

OptionalName = Annotated[
    str | None, typer.Argument(metavar="T", help="A target's name, e.g. local; without it all of yours in a table.")
]

_PATIENCE = 30.0  # seconds to wait for a device that is timing something, before capabilities are left out


def probe(
    name: OptionalName = None,
    every: Annotated[
        bool, typer.Option("--all", help="Without a name: those that ship, too, and not only your own.")
    ] = False,
    folder: FolderOption = None,
    as_json: JsonFlag = False,
) -> None:
    """Start the agent on a target; print what is really there and which choices really run, and keep it.

    Without a name: which of your targets (and of those in --folder) are there, and what the others lack, in a table.
    """
    from hwprofiles.fingerprint import check_declared
    from hwprofiles.registry import find_target

    if name is None:
        from autotune.cli.targets_survey import survey

        survey(folder or [], every=every, as_json=as_json)
        return
    if every:
        raise UsageError(f"--all goes over all targets, and {name} is one; leave one of the two out")
    target = find_target(name, folders=folder or [])
    target = target.model_copy(update={"options": {"lease_wait": _PATIENCE, **target.options}})
    say(f"probing {target.name} over the transport {target.transport}")
    with tempfile.TemporaryDirectory(prefix="autotune-probe-") as work, opened(target, Path(work)) as device:
        fingerprint = device.fingerprint
        checks = check_declared(target, fingerprint)
        probed, problem = _capabilities(device, target, Path(work))
    record = _record(target, fingerprint, checks, probed, problem)
    kept = _keep(record, probe_file(target.name))
    if as_json:
        print_json(record)
        return
    _print_fingerprint(target, fingerprint)
    _print_checks(target, checks)
    _print_capabilities(probed, problem)
    if target.threads > fingerprint.cores:
        say(f"{target.name} asks for {target.threads} threads and may use {fingerprint.cores} cores: they take turns")
    say(f"kept in {shown(probe_file(target.name))}" if kept else f"not kept: {probe_file(target.name)} is not writable")


def probe_file(name: str) -> Path:
    """Where what was found on a target is kept."""
    from autotune.compress.capabilities import cache_folder

    return cache_folder() / "probes" / f"{name}.json"


def _capabilities(device: Device, target: Target, work: Path) -> tuple[Probed | None, str]:
    """What runs there, or why that was not found out."""
    from autotune import plugins
    from autotune.compress import capabilities
    from hwprofiles.errors import TargetBusy

    dialect = plugins.load("hw_autotune.dialects", target.dialect)()
    try:
        return capabilities.probe(device, dialect, device.fingerprint.key, work / "probe"), ""
    except TargetBusy as error:
        return None, str(error)


def _record(
    target: Target, found: Fingerprint, checks: Sequence[Check], probed: Probed | None, problem: str
) -> dict[str, Any]:
    facts = found.model_dump(mode="json")
    return {
        "target": target.name,
        "provenance": target.provenance,
        "label": target.label,
        "probed_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "key": found.key,
        **facts,
        "declared": [vars(check) for check in checks],
        "capabilities": None
        if probed is None
        else {"dialect": target.dialect, "kernels": dict(probed.kernels), "refused": dict(probed.refused)},
        "capabilities_problem": problem or None,
    }


def _keep(record: Mapping[str, Any], path: Path) -> bool:
    """Write the record, whole or not at all; False where it cannot be."""
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, part = tempfile.mkstemp(dir=path.parent, suffix=".part")
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            json.dump(record, file, indent=1)
        Path(part).replace(path)
        return True
    return False


def _print_fingerprint(target: Target, found: Fingerprint) -> None:
    """Sections of `name: value`; what the device does not tell is left out, and said once."""
    now = dict(found.environment)

    def take(name: str, scale: float = 1.0, unit: str = "") -> str:
        value = now.pop(name, None)
        if value is None or isinstance(value, str):
            return value or ""
        return f"{value / scale:.4g}{unit}"

    low, high = take("frequency_min_hz", 1e9, " GHz"), take("frequency_max_hz", 1e9, " GHz")
    temperature, zone = take("temperature_c", 1, " °C"), take("temperature_zone")
    quota = "" if found.cpu_quota is None else f"{found.cpu_quota:g} CPUs on average"
    virtual = {True: "yes", False: "no", None: ""}[found.virtual]
    sections: dict[str, dict[str, str]] = {
        "machine": {
            "board": found.board,
            "system": f"{found.system}, {found.machine}, {found.libc}",
            "virtual": virtual,
            "boot id": found.boot_id or "",
        },
        "processor": {
            "model": found.cpu_model,
            "kinds of cores": "; ".join(found.clusters),
            "instruction sets": " ".join(found.isa),
            "cores": f"{found.cores} for this process of {take('cores_online') or '?'} online"
            + ("" if found.smt is None else f", {found.smt} thread(s) per core"),
            "quota of the cgroup": quota,
            "caches": ", ".join(f"{name} {size // 1024} KiB" for name, size in found.caches.items()),
            "microcode": take("microcode"),
        },
        "memory": {
            "total": _gib(found.memory_total),
            "available": take("memory_available", 2**30, " GiB"),
            "limit of the cgroup": take("cgroup_memory_limit", 2**30, " GiB"),
            "guard of the agent": take("memory_guard"),
            "huge pages": take("huge_pages"),
        },
        "clocks and temperature": {
            "governor": take("governor"),
            "frequency": take("frequency_hz", 1e9, " GHz") + (f" (set to {low} to {high})" if low and high else ""),
            "turbo": take("turbo"),
            "hottest": f"{temperature} ({zone})" if temperature else "",
        },
        "runtime": {
            "runtime": f"{found.runtime} {found.runtime_version}",
            "build": found.runtime_build,
            "provider": f"{found.provider}, {found.threads} thread(s)",
            "providers there": " ".join(found.providers),
            "accelerator": found.accelerator,
            "sessions": ", ".join(f"{key} {value}" for key, value in found.session.items() if value is not None),
            "Python": f"{found.python} ({take('interpreter')}), numpy {found.numpy}",
        },
    }
    for name in ("cgroup_cpus", "swap_free"):
        now.pop(name, None)
    sections["now"] = {name: take(name) for name in list(now)}
    sections["identity"] = {
        "fingerprint": found.key,
        "numbers": f"{target.provenance} ({target.label})" if target.label else target.provenance,
    }
    untold = []
    for section, facts in sections.items():
        _say(f"{section}")
        for name, value in facts.items():
            if value:
                _say(f"  {name}: {value}")
            else:
                untold.append(name)
    if untold:
        _say(f"not told by this device: {', '.join(untold)}")


def _print_checks(target: Target, checks: Sequence[Check]) -> None:
    if not checks:
        return
    _say("declared by the profile")
    for check in checks:
        if check.agrees:
            _say(f"  {check.fact}: {check.declared}, as found")
        else:
            _say(f"  {check.fact}: DIFFERS: declared {check.declared}, found {check.found}")
    if not all(check.agrees for check in checks):
        say(f"{target.name} is not what its profile declares; measurements say what was really there")


def _print_capabilities(probed: Probed | None, problem: str) -> None:
    from autotune.techniques.quantize import ALL_CHOICES

    if probed is None:
        _say(f"capabilities: not found out: {problem}")
        return
    cells = {tuple(name.split(" ", 1)): kernels for name, kernels in probed.kernels.items()}
    ops = sorted({op for op, _ in cells})
    if ops:
        table = Table(title="capabilities: kernels that ran", title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
        for column in ("choice", *ops):
            table.add_column(column, overflow="fold")
        for choice in ALL_CHOICES:
            if any((op, choice) in cells for op in ops):
                table.add_row(choice, *(cells.get((op, choice), "") for op in ops))
        results().print(table)
    reasons: dict[tuple[str, str], list[str]] = {}
    for name, reason in probed.refused.items():
        op, _, choice = name.partition(" ")
        reasons.setdefault((reason, op), []).append(choice)
    for (reason, op), choices in reasons.items():
        _say(f"excluded: {op} {', '.join(choices)}: {reason}")


def _say(line: str) -> None:
    results().print(line, markup=False, soft_wrap=True)


def _gib(size: int) -> str:
    return f"{size / 2**30:.2f} GiB"
