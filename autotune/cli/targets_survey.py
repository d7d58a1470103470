"""`autotune targets probe` without a name: which targets are there, and what the others lack."""

from __future__ import annotations

import queue
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rich import box
from rich.table import Table
from rich.text import Text

from autotune.cli.output import print_json, results, say
from autotune.cli.targets_open import opened

if TYPE_CHECKING:
    from hwprofiles.registry import Profile
    from hwprofiles.target import Target

REQUEST = 45.0  # seconds for a single request of a target's agent, of which there are two
PATIENCE = 60.0  # seconds for all of one target, whatever hangs there
_AT_ONCE = 4  # targets that are opened side by side


@dataclass(frozen=True)
class Look:
    """What was seen of one target. `problem`: one line, with what to do; "" where it is there."""

    name: str
    origin: str
    runtime: str
    problem: str = ""
    found: str = ""  # what runs there, and on what
    differs: tuple[str, ...] = ()  # from what its profile declares

    @property
    def there(self) -> bool:
        return not self.problem

    @property
    def missing(self) -> str:
        """The first thing that it lacks."""
        return self.problem.partition("; ")[0]

    @property
    def remedy(self) -> str:
        """What to do about that, and what else it lacks."""
        return self.problem.partition("; ")[2]


def survey(folders: Sequence[Path], *, every: bool, as_json: bool) -> None:
    """Print a table of the user's targets, those in `folders`, and with `every` those that ship.

    Nothing that one of them does stops the others: each is given up after `PATIENCE` seconds. No capabilities are
    probed, and nothing is kept.
    """
    from hwprofiles.registry import list_profiles

    chosen = [p for p in list_profiles(folders) if not p.shadowed and (every or p.origin != "shipped")]
    if chosen and not as_json:
        say(f"opening {len(chosen)} targets" if len(chosen) > 1 else "opening 1 target")
    with tempfile.TemporaryDirectory(prefix="autotune-probe-", ignore_cleanup_errors=True) as work:
        looks = sorted(_looks(chosen, Path(work)), key=lambda look: look.name)
    if as_json:
        print_json({"targets": [vars(look) | {"there": look.there, "missing": look.missing} for look in looks]})
        return
    if not chosen:
        say("you have no targets of your own: `autotune targets add` makes one, --all goes over those that ship")
        return
    _print(looks)


def _print(looks: Sequence[Look]) -> None:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in ("target", "from", "runtime", "there", "what is there, or missing first"):
        table.add_column(column, overflow="fold")
    for look in looks:
        said = "; ".join([look.found, *look.differs]) if look.there else look.missing
        cells = (look.name, look.origin, look.runtime, "yes" if look.there else "no", said)
        table.add_row(*map(Text, cells))  # what devices say is no markup
    results().print(table)
    alike: dict[str, list[str]] = {}
    for look in looks:
        if look.remedy:
            alike.setdefault(look.remedy, []).append(look.name)
    for remedy, names in alike.items():
        results().print(f"{', '.join(names)}: {remedy}", markup=False, soft_wrap=True)
    say("`autotune targets probe T` says all of one of them, and what it can run")


def _looks(profiles: Sequence[Profile], work: Path) -> Iterator[Look]:
    """One for each profile, a few at a time. What hangs is left behind in its thread, which ends with this process."""
    waiting = list(profiles)
    began: dict[str, float] = {}
    done: queue.SimpleQueue[Look] = queue.SimpleQueue()
    left = {profile.name: profile for profile in profiles}
    while left:
        while waiting and len(began) < _AT_ONCE:
            profile = waiting.pop(0)
            began[profile.name] = time.monotonic()
            threading.Thread(target=_look_into, args=(profile, work, done), daemon=True).start()
        try:
            look = done.get(timeout=max(0.0, min(began.values()) + PATIENCE - time.monotonic()))
        except queue.Empty:
            name = min(began, key=lambda each: began[each])
            longer = f"`autotune targets probe {name}` waits longer"
            look = _unusable(left[name], f"no answer within {PATIENCE:g} s; {longer}")
        if left.pop(look.name, None) is not None:  # what was given up may still answer
            del began[look.name]
            yield look


def _look_into(profile: Profile, work: Path, done: queue.SimpleQueue[Look]) -> None:
    try:
        done.put(_look(profile, work / profile.name))
    except Exception as error:  # noqa: BLE001 a plug-in may raise anything: that is said of its target
        done.put(_unusable(profile, f"{type(error).__name__}: {error}; `autotune targets probe {profile.name}`"))


def _look(profile: Profile, work: Path) -> Look:
    from hwprofiles.errors import DeviceFailure, HardwareError
    from hwprofiles.fingerprint import check_declared

    if profile.target is None:
        return _unusable(profile, f"cannot be read; {profile.problem}")
    target = profile.target.model_copy(update={"timeout": min(profile.target.timeout, REQUEST)})
    try:
        with opened(target, work) as device:
            found = device.fingerprint
            checks = check_declared(profile.target, found)
    except DeviceFailure as error:
        return _unusable(profile, error.failure.message)
    except (HardwareError, OSError) as error:
        return _unusable(profile, str(error))
    there = f"{found.runtime} {found.runtime_version}, {found.provider}, {found.accelerator or found.cpu_model}"
    differs = [f"{check.fact} DIFFERS from its profile" for check in checks if not check.agrees]
    return Look(profile.name, profile.origin, _runtime(profile.target), found=there, differs=tuple(differs))


def _unusable(profile: Profile, problem: str) -> Look:
    line = " ".join(problem.removeprefix(f"target {profile.name!r}: ").split())
    return Look(profile.name, profile.origin, _runtime(profile.target), problem=line or "no reason was given")


def _runtime(target: Target | None) -> str:
    return "" if target is None else target.runtime
