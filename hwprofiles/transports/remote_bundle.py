"""Brings a mobile bundle to a device that only runs commands: once, by digest.

Nothing but a POSIX shell, tar and gzip is needed there; Android's toybox has them.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable
from dataclasses import dataclass
from subprocess import CompletedProcess
from typing import IO

from hwprofiles.errors import TargetUnavailable
from hwprofiles.mobile.bundle import MANIFEST, Bundle
from hwprofiles.transports.remote_start import NotStarted

# Runs a shell command on the device: (command, its standard input, seconds it may take).
Run = Callable[[str, IO[bytes] | None, float], "CompletedProcess[bytes]"]

_MARK = "hw-autotune-bundle:"
_PLAIN = re.compile(r"/[A-Za-z0-9_./+@:,=-]*\Z")
_SLOWEST = 100e3  # bytes per second: a slower connection is given up


@dataclass(frozen=True)
class PlacedBundle:
    """`words` start its Python on the device; `folder` is the absolute folder there."""

    words: tuple[str, ...]
    folder: str


class BundlePlaces:
    """Which bundles lie on which devices, as far as this process has seen."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, ...], PlacedBundle] = {}
        self._lock = threading.Lock()

    def place(
        self, key: tuple[str, ...], bundle: Bundle, run: Run, folder: str, *, seconds: float, any_machine: bool
    ) -> PlacedBundle:
        """Where `bundle` lies on the device, sent if it was not there. `folder` "" is the device's usual one.

        `any_machine`: an emulator stands before it, the device's own processor does not matter. Raises
        `TargetUnavailable` without the target's name, and `NotStarted` if the device does not answer.
        """
        with self._lock:
            if key not in self._known:
                self._known[key] = _place(bundle, run, folder, seconds, any_machine)
            return self._known[key]

    def forget(self, key: tuple[str, ...]) -> None:
        """Look again next time: somebody may have removed it."""
        with self._lock:
            self._known.pop(key, None)


def _place(bundle: Bundle, run: Run, wanted: str, seconds: float, any_machine: bool) -> PlacedBundle:
    asked = wanted or "${XDG_CACHE_HOME:-$HOME/.cache}/hw-autotune"
    name = bundle.place("").strip("/")
    script = f"f={asked}; echo {_MARK} $f; echo {_MARK} $(uname -m); [ -f $f/{name}/{MANIFEST} ] && echo {_MARK} here"
    done = run(_posix(script), None, seconds)
    found = [line.partition(_MARK)[2].strip() for line in done.stdout.decode(errors="replace").splitlines()]
    found = [fact for fact in found if fact]
    if len(found) < 2:
        raise NotStarted("ended", f"exit code {done.returncode}", code=done.returncode, lines=_lines(done.stderr))
    folder, machine = found[0], found[1]
    if not _PLAIN.match(folder):
        raise TargetUnavailable(
            f"the device keeps its cache in {folder!r}; set option `folder` to an absolute path of plain letters"
        )
    if machine != bundle.manifest.machine and not any_machine:
        raise TargetUnavailable(
            f"the bundle {bundle.folder} is for {bundle.manifest.machine}, the device is {machine}; "
            "leave option `bundle` out and set `python` to an interpreter that the device has"
        )
    place = bundle.place(folder)
    if found[2:] != ["here"]:
        _send(bundle, run, folder, place, seconds)
    return PlacedBundle(tuple(bundle.command(place)), folder)


def _send(bundle: Bundle, run: Run, folder: str, place: str, seconds: float) -> None:
    archive = f"{place}.$$.tar.gz"
    # The shell's own number keeps two senders apart. It must reach the script unquoted, hence a name for it.
    unpack = bundle.unpack_script("ARCHIVE", place).replace("ARCHIVE", "$archive")
    script = (
        f"umask 077; mkdir -p {folder} && archive={archive} && {{ cat > $archive || {{ rm -f $archive; false; }}; }}"
    )
    with bundle.archive.open("rb") as file:
        done = run(_posix(f"{script} && {{ {unpack}; }}"), file, seconds + bundle.manifest.size / _SLOWEST)
    if done.returncode:
        lines = _lines(done.stderr)
        if done.returncode == 255:
            raise NotStarted("ended", "the connection broke while the bundle was sent", lines=lines)
        said = lines[-1] if lines else f"exit code {done.returncode}"
        raise TargetUnavailable(
            f"the bundle cannot be unpacked in {folder} ({said}); it needs {bundle.manifest.unpacked_size >> 20} MiB "
            "there: make room, or set option `folder` to another place"
        )


def _posix(script: str) -> str:
    """For a login shell of any kind. The script has nothing that is special between single quotes."""
    if set(script) & set("'\\!\n"):
        raise ValueError(f"{script!r} cannot stand between single quotes in every shell")
    return f"exec sh -c '{script}'"


def _lines(text: bytes) -> list[str]:
    return [line.strip() for line in text.decode(errors="replace").splitlines() if line.strip()][-20:]
