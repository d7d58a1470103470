"""Which targets a study begins with, and goes on with: those that are there, unless it has measured on another already.

What one target cannot run is no choice for any, so the targets of a study are settled before its first trial.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

from autotune.config import StudyConfig, without
from autotune.config.leaving_out import announced
from autotune.search.opening import Opened, Opener, as_hardware_error, reason
from autotune.search.progress import Progress, Watcher
from autotune.store import Store
from hwprofiles.errors import TargetUnavailable
from hwprofiles.target import Target


@dataclass(frozen=True)
class Attendance:
    """The targets that take part, open, and the study as it is with these. `new`: one is left out now, not before."""

    config: StudyConfig
    targets: tuple[Target, ...]
    opened: Opened
    new: bool


def attend(config: StudyConfig, targets: Sequence[Target], opener: Opener, store: Store, watch: Watcher) -> Attendance:
    """Open all targets. One that is not there, or cannot run the original, is left out, which is told in a line, and
    so is one that the study was begun without.

    Raises what a target lacks (`TargetUnavailable`, `DeviceFailure`, `DataError`) where the study insists on all of
    them or has trials that were measured on it, where no target is left, and where too little is left without it.
    """
    before = _left_out(store)
    outside = [target for target in targets if target.name in before]
    wanted = [target for target in targets if target.name not in before]
    if not wanted:
        raise TargetUnavailable(
            f"study {config.name!r} in {store.place} was begun without {' and '.join(t.name for t in targets)}: "
            f"{_how_to_begin_with_all(config, store)}"
        )
    opened = opener.open(wanted)
    absent = {name: reason(error, name) for name, error in opened.absent.items()}
    if opened.absent:
        first = next(iter(opened.absent.values()))
        if len(targets) == 1 or not opened.devices:
            raise first
        if config.all_targets:
            raise as_hardware_error(
                first, "all_targets: this study starts when all of its targets are there"
            ) from first
        if any(trial.number for trial in store.trials(details=False)):
            name = next(iter(opened.absent))
            raise as_hardware_error(
                first,
                f"study {config.name!r} has trials that were measured on {name}, so it waits for it: the same command "
                "goes on when it is back; without it, begin another one: --target for each of the others, "
                f"{_anew(store)}",
            ) from first
    for target in outside:
        missing = opener.missing(target)
        absent[target.name] = before[target.name] if missing is None else reason(missing, target.name)
        if config.all_targets:
            why = "" if missing is None else f", and it is not there now: {absent[target.name]}"
            raise TargetUnavailable(
                f"study {config.name!r} in {store.place} was begun without {target.name}, and all_targets insists on "
                f"it{why}; {_how_to_begin_with_all(config, store)}"
            )
        if missing is None:
            said = (
                f"target {target.name} is there now, but this study was begun without it: it stays left out; "
                f"{_how_to_begin_with_all(config, store)}"
            )
        else:
            said = f"target {target.name} stays left out, as at the beginning of this study: {absent[target.name]}"
        watch(Progress("targets", said, news=True))
    if not absent:
        return Attendance(config, tuple(targets), opened, new=False)
    changed = without(config, targets, absent)
    for left in changed.left_out:
        if left.target in opened.absent:
            for line in announced(left, changed, targets):
                watch(Progress("targets", line, news=True))
    there = tuple(target for target in targets if target.name not in absent)
    return Attendance(changed, there, opened, new=bool(opened.absent))


def _left_out(store: Store) -> dict[str, str]:
    """Targets that the study in this store was begun without, with the reason: those of its last run, once the
    original was measured."""
    if not store.exists() or all(trial.state != "complete" for trial in store.trials(details=False)):
        return {}
    recorded = json.loads(store.config_json or "{}")
    return {each["target"]: each["why"] for each in recorded.get("left_out", ())}


def _how_to_begin_with_all(config: StudyConfig, store: Store) -> str:
    return f"for one with all targets, begin another: `autotune run {config.name} {_anew(store)}`"


def _anew(store: Store) -> str:
    return f"--store FOLDER/store.db --warm-start {store.place}"
