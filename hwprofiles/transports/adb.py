"""The transport to an Android device by adb.

Options of the target:
  serial   which device, as `adb devices` lists it; needed when there is more than one
  bundle   folder of a bundle made by `autotune targets bundle`; sent once, then found there by its digest
  folder   where our files lie on the device (default /data/local/tmp/hw-autotune)
  adb      HOST:PORT of the adb server (default: $ANDROID_ADB_SERVER_HOST and _PORT, else 127.0.0.1:5037)
  prefix   words in front of the interpreter's command, e.g. an emulator

Without a bundle, the profile's `python` names an interpreter on the device.
"""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import io
import secrets
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from hwprofiles.errors import BadProfile, TargetUnavailable
from hwprofiles.mobile.bundle import Bundle, read_bundle
from hwprofiles.target import Target
from hwprofiles.transports.adb_channel import AdbChannel, Result
from hwprofiles.transports.adb_devices import Server, check_address, check_serial
from hwprofiles.transports.remote_options import Options

FOLDER = "/data/local/tmp/hw-autotune"

_SENDING = 900.0  # seconds for the bundle; USB 2 takes two
_SPARE = 64 << 20  # bytes that must be left beside the bundle: models, and what Python compiles
# A second connection ends the program when the first cannot: adbd does not hand on that a connection is closed as long
# as something sent through it was not read. A line tells the guard that the program has ended by itself; the end of its
# input, and the hang-up that adbd sends to it when we are gone, tell it to end the program.
_GUARD = (
    "end() { kill -HUP $(cat NUMBER) 2>/dev/null; rm -f NUMBER; exit; }; trap end HUP; read word || end; rm -f NUMBER"
)
_KEPT = 30  # days that a program or bundle is kept which nobody starts
_NOT_MADE = 90  # exit codes of our own scripts


@dataclass(frozen=True)
class _Link:
    """A target's options, checked."""

    serial: str
    server: tuple[str, int]
    folder: str
    prefix: tuple[str, ...]
    bundle: Bundle | None
    python: str | None

    def command(self) -> list[str]:
        """The words that start Python on the device."""
        start = self.bundle.command(self.bundle.place(self.folder)) if self.bundle else [self.python or ""]
        return [*self.prefix, *start]


class AdbTransport:
    """`hwprofiles.transports.protocol.Transport` for Android devices."""

    def check(self, target: Target) -> None:
        _checked(target)

    def start(self, target: Target, program: bytes, work: Path) -> AdbChannel:
        options = _read_options(target)
        server = Server(options.server, f"target {target.name!r}")
        serial = server.choose(options.serial)
        path = f"{options.folder}/programs/{hashlib.sha256(program).hexdigest()}.pyz"
        _prepare(server, serial, options, path, program)
        words = [*options.command(), path, options.folder, str(target.memory_limit)]
        folder, number = shlex.quote(options.folder), shlex.quote(f"{options.folder}/tmp/{secrets.token_hex(8)}.pid")
        guard = server.stream(serial, _GUARD.replace("NUMBER", number))
        try:
            line = server.stream(
                serial, f"cd {folder} && export TMPDIR={folder}/tmp && echo $$ > {number} && exec {shlex.join(words)}"
            )
        except BaseException:
            guard.close()
            raise
        lost = f"the adb connection to device {serial} broke"
        return AdbChannel(line, guard, lost, lambda code: _explain(code, words[0]))


def _checked(target: Target) -> Options:
    """What is there is as it must be; the bundle's files are looked at when it is used. Raises `BadProfile`."""
    options = Options(target, ("serial", "bundle", "folder", "adb", "prefix"))
    if not options.text("folder", FOLDER).rstrip("/").startswith("/"):
        raise options.wrong("folder", "an absolute path on the device, other than /")
    if options.text("bundle") and target.python:
        raise BadProfile(
            f"target {target.name!r}: option 'bundle' and `python` both name an interpreter; keep one of them"
        )
    check_serial(options.text("serial"), options)
    if "adb" in target.options:
        check_address(options.text("adb"), options)
    options.words("prefix")
    return options


def _read_options(target: Target) -> _Link:
    options, who = _checked(target), f"target {target.name!r}"
    named = options.text("bundle")
    if not named and not target.python:
        raise BadProfile(
            f"{who}: an Android device has no Python of its own; make one (autotune targets bundle FOLDER) and name "
            "its folder in option 'bundle', or set `python` to an interpreter that is there"
        )
    return _Link(
        serial=check_serial(options.text("serial"), options),
        server=check_address(options.text("adb"), options),
        folder=options.text("folder", FOLDER).rstrip("/"),
        prefix=options.words("prefix"),
        bundle=read_bundle(named) if named else None,
        python=target.python,
    )


def _prepare(server: Server, serial: str, options: _Link, path: str, program: bytes) -> None:
    """Folders, bundle and program on the device, sent if they are not there. Raises `TargetUnavailable`."""
    folder, where = shlex.quote(options.folder), f"{server.who}: device {serial}"
    asked = [
        f"umask 077; mkdir -p {folder}/programs {folder}/tmp || exit {_NOT_MADE}",
        f'[ -w {folder} ] || {{ echo "not writable" >&2; exit {_NOT_MADE}; }}',
        "echo machine $(uname -m)",
        f"[ -f {shlex.quote(path)} ] && touch {shlex.quote(path)} && echo program yes",
        "command -v sha256sum >/dev/null && echo sums yes",
        f"echo free $(df -k {folder} | tail -n 1)",
    ]
    if options.bundle:
        place = options.bundle.place(options.folder)
        asked.append(f"{options.bundle.check_script(place)} && touch {shlex.quote(place)} && echo bundle yes")
    elif not options.prefix:
        asked.append(f"command -v {shlex.quote(options.python or '')} >/dev/null && echo python yes")
    found = server.shell(serial, "; ".join(asked))
    facts = dict(line.split(" ", 1) for line in found.stdout.splitlines() if " " in line)
    if "machine" not in facts:
        raise TargetUnavailable(
            f"{where}: {options.folder} cannot be used: {_reason(found)}; choose another with option 'folder'"
        )
    if options.bundle:
        machine = options.bundle.manifest.machine
        if facts["machine"] != machine and not options.prefix:
            raise TargetUnavailable(
                f"{where}: it is a {facts['machine']}, the bundle {options.bundle.folder} is for {machine}; only "
                "64-bit ARM devices can run it"
            )
        if "bundle" not in facts:
            _send_bundle(server, serial, options, options.bundle, facts)
    elif not options.prefix and "python" not in facts:
        raise TargetUnavailable(
            f"{where}: no interpreter {options.python!r}; set `python` in the profile to one that is there, or make a "
            "bundle: autotune targets bundle FOLDER"
        )
    if "program" not in facts:
        part = f"{path}.{secrets.token_hex(4)}.part"
        _send(server, serial, io.BytesIO(program), part, hashlib.sha256(program).hexdigest(), len(program), facts)
        # What nobody has used for a month goes, half-sent files as well.
        old = " ".join(f"{folder}/{each}" for each in ("programs/*", "tmp/*", "bundle-*"))
        tidy = f"find {old} -maxdepth 0 -mtime +{_KEPT} -exec rm -rf {{}} +"
        moved = server.shell(serial, f"mv {shlex.quote(part)} {shlex.quote(path)} || exit 1; {tidy} 2>/dev/null; true")
        if moved.code:
            raise TargetUnavailable(f"{where}: cannot keep the agent in {options.folder}: {_reason(moved)}")


def _send_bundle(server: Server, serial: str, options: _Link, bundle: Bundle, facts: dict[str, str]) -> None:
    """Send and unpack. A device whose tar knows no gzip gets it unpacked to a plain tar file."""
    where, place = f"{server.who}: device {serial}", bundle.place(options.folder)
    bundle.verify()
    needed = bundle.manifest.size + bundle.manifest.unpacked_size + _SPARE
    free = _free_bytes(facts.get("free", ""))
    if free is not None and free < needed:
        raise TargetUnavailable(
            f"{where}: {free >> 20} MiB are free in {options.folder}, the bundle needs {needed >> 20} MiB; free some"
        )
    archive = f"{place}.{secrets.token_hex(4)}.tar.gz"
    with bundle.archive.open("rb") as file:
        _send(server, serial, file, archive, bundle.manifest.archive_sha256, bundle.manifest.size, facts)
    done = server.shell(serial, bundle.unpack_script(archive, place), seconds=_SENDING)
    if done.code and "space" not in done.stderr.lower():
        with gzip.open(bundle.archive) as plain:
            _send(server, serial, plain, archive, bundle.digest, None, facts)  # type: ignore[arg-type]
        done = server.shell(serial, bundle.unpack_script(archive, place), seconds=_SENDING)
    if done.code:
        raise TargetUnavailable(
            f"{where}: the bundle cannot be unpacked in {options.folder}: {_reason(done)}; free space there, or choose "
            "another folder with option 'folder'"
        )


def _send(
    server: Server, serial: str, source: BinaryIO, path: str, digest: str, size: int | None, facts: dict[str, str]
) -> None:
    """`source` as file `path` on the device, held against its digest (its size where the device has no sha256sum)."""
    quoted, where = shlex.quote(path), f"{server.who}: device {serial}"
    check = f"sha256sum {quoted}" if "sums" in facts else f"wc -c < {quoted}"
    found = server.shell(serial, f"umask 077; cat > {quoted} && {check}", source=source, seconds=_SENDING)
    told = (found.stdout.split() or [""])[0]
    if found.code == 0 and told == (digest if "sums" in facts else str(size if size is not None else told)):
        return
    with contextlib.suppress(TargetUnavailable):  # the first error is the one to tell
        server.shell(serial, f"rm -f {quoted}")
    reason = _reason(found) if found.code else "it arrived damaged"
    raise TargetUnavailable(
        f"{where}: {path} cannot be written: {reason}; free space there, or choose another folder with option 'folder'"
    )


def _free_bytes(line: str) -> int | None:
    """Of a line of `df -k`: filesystem, total, used, available, in KiB; None if it looks different."""
    fields = line.split()
    return int(fields[3]) << 10 if len(fields) >= 4 and fields[3].isdecimal() else None


def _reason(found: Result) -> str:
    lines = [line.strip() for line in found.stderr.splitlines() if line.strip()]
    return lines[-1][:200] if lines else f"exit code {found.code}"


def _explain(code: int, word: str) -> str | None:
    """What the device's shell means by an exit code that the program does not use."""
    if code == 126:
        return f"exit code 126: the device refuses to run {word}; choose another folder with option 'folder'"
    if code == 127:
        return f"exit code 127: the device cannot start {word}"
    return None
