"""The transport through the OpenSSH client: the user's configuration, keys, agent and jump hosts work.

Options of the target:
- `host`: name, address or alias of ~/.ssh/config, with `user@` before it if you like. The only one that there must be.
- `port`, `user`, `identity` (a private key), `jump` (as `ssh -J`), `config` (as `ssh -F`), `connect_timeout` (15 s).
- `prefix` (a list): put before `python` on the device, e.g. ["sudo", "-n", "-u", "bench"].
- `folder`: where program, models and bundle lie there; default `$XDG_CACHE_HOME/hw-autotune` or `~/.cache/hw-autotune`.
- `bundle`: folder of a mobile bundle on this machine; it is sent once and used instead of the device's Python.
- `share` (default true): later sessions go through one private connection, which ends with this process.

Nothing is ever asked (BatchMode), and host keys are checked as the user's configuration says.
"""

from __future__ import annotations

import contextlib
import math
import os
import re
import shutil
import signal
import subprocess
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from hwprofiles.errors import BadProfile, TargetUnavailable
from hwprofiles.mobile.bundle import Bundle, read_bundle
from hwprofiles.target import Target
from hwprofiles.transports.protocol import Ending
from hwprofiles.transports.remote_bundle import BundlePlaces, PlacedBundle
from hwprofiles.transports.remote_capture import TooMuchText, run_captured
from hwprofiles.transports.remote_channel import RemoteChannel, spell
from hwprofiles.transports.remote_options import Options
from hwprofiles.transports.remote_start import (
    NotStarted,
    Place,
    checked_folder,
    checked_word,
    shell_command,
    start_remotely,
)
from hwprofiles.transports.remote_words import why_not_started
from hwprofiles.transports.ssh_sharing import Sharing
from hwprofiles.transports.ssh_words import explain

_KNOWN = (
    *("host", "port", "user", "identity", "jump", "config", "connect_timeout"),
    *("prefix", "folder", "bundle", "share"),
)

# Host and user reach ProxyCommand, which a shell reads: nothing that is special to it, and no leading dash.
_HOST = re.compile(r"[A-Za-z0-9_:\[][A-Za-z0-9_.:%\[\]-]*\Z")
_USER = re.compile(r"[A-Za-z0-9_.][A-Za-z0-9_.+@=-]*\Z")

# No terminal, no forwarding, nothing asked, and nothing of the user's configuration that is meant for interactive
# sessions.
_SETTINGS = (
    *("-T", "-a", "-x", "-o", "BatchMode=yes", "-o", "LogLevel=INFO", "-o", "RemoteCommand=none"),
    *("-o", "ClearAllForwardings=yes", "-o", "ServerAliveCountMax=3"),
)
_LOG = 64 << 10  # bytes of ssh's own words that are read
_OWN = 255  # the exit status of ssh for its own failures; the bootstrap lets no program end with it


@dataclass(frozen=True)
class _Link:
    """A target's options, checked. `base` is ssh with what leads to `host`."""

    host: str
    base: tuple[str, ...]
    python: str
    prefix: tuple[str, ...]
    folder: str
    bundle: Bundle | None
    share: bool
    seconds: float  # until the program must have begun


class SshTransport:
    """`hwprofiles.transports.protocol.Transport` through `ssh`."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._sharing: dict[tuple[object, ...], Sharing] = {}
        self._bundles = BundlePlaces()

    def check(self, target: Target) -> None:
        _checked(target)

    def start(self, target: Target, program: bytes, work: Path) -> RemoteChannel:
        link = _link(target)
        sharing = self._shared(link)
        ending = _SshEnding(sharing.new_log(), link.host)
        command = [*link.base, *sharing.options(), "-E", str(ending.log), "--", link.host]
        key = (*link.base, link.host, link.folder, link.bundle.digest if link.bundle else "")
        words: tuple[str, ...] = (link.python,)
        folder = link.folder
        try:
            if link.bundle is not None:
                placed = self._place(key, link, link.bundle, command)
                words, folder = placed.words, placed.folder
            channel = start_remotely(
                [*command, shell_command([*link.prefix, *words])],
                program,
                Place(target.memory_limit, folder, link.seconds),
                read_ending=ending,
            )
        except NotStarted as error:
            self._bundles.forget(key)
            raise TargetUnavailable(f"target {target.name!r}: {_why(error, ending, link, words[0])}") from error
        except TargetUnavailable as error:
            raise TargetUnavailable(f"target {target.name!r}: {error}") from error
        sharing.ensure()
        return channel

    def _shared(self, link: _Link) -> Sharing:
        key = (*link.base, link.host, link.share)
        with self._lock:
            if key not in self._sharing:
                self._sharing[key] = Sharing(link.base, link.host, wanted=link.share)
            return self._sharing[key]

    def _place(self, key: tuple[str, ...], link: _Link, bundle: Bundle, command: Sequence[str]) -> PlacedBundle:
        def run(script: str, source: IO[bytes] | None, seconds: float) -> subprocess.CompletedProcess[bytes]:
            try:
                return run_captured([*command, script], source=source, seconds=seconds)
            except subprocess.TimeoutExpired as error:
                raise NotStarted("silent", f"no answer within {seconds:g} s") from error
            except TooMuchText as error:
                raise NotStarted("noisy", str(error)) from error

        any_machine = bool(link.prefix)
        return self._bundles.place(key, bundle, run, link.folder, seconds=link.seconds, any_machine=any_machine)


class _SshEnding:
    """Tells the program's ending from that of the connection, by ssh's own words: they go to a file of their own."""

    def __init__(self, log: Path, host: str) -> None:
        self.log = log
        self._host = host

    def __call__(self, status: int) -> Ending:
        lines = self.take()
        if status == _OWN:
            said = explain(lines, self._host).removeprefix("ssh: ") or f"{self._host} closed the connection"
            return Ending(None, f"ssh: {said}")
        if status < 0:
            return Ending(None, f"ssh: the client was ended by {signal.Signals(-status).name}")
        return spell(status)

    def take(self) -> list[str]:
        """The lines of the log, which is removed."""
        try:
            with self.log.open("rb") as file:
                file.seek(max(0, file.seek(0, os.SEEK_END) - _LOG))
                text = file.read(_LOG).decode(errors="replace")
        except OSError:
            return []
        with contextlib.suppress(OSError):
            self.log.unlink()
        return [line.strip() for line in text.splitlines() if line.strip()]


def _why(error: NotStarted, ending: _SshEnding, link: _Link, python: str) -> str:
    if error.why == "ended" and error.code in (None, _OWN):
        # The words of a jump host come through standard error.
        said = explain([*error.lines, *ending.take()], link.host) or str(error)
        return f"cannot reach {link.host} by ssh: {said.removeprefix('ssh: ')}"
    return why_not_started(error, python)


def _checked(target: Target) -> Options:
    """What is there is as it must be; files and what is missing are looked at when it is used. Raises `BadProfile`."""
    options = Options(target, _KNOWN)
    if "host" in target.options:
        _checked_host(options, "host", options.text("host"))
    if jump := options.text("jump"):
        for each in jump.split(","):
            _checked_host(options, "jump", each)
    if (user := options.text("user")) and not _USER.match(user):
        raise options.wrong("user", "a user's name on the device")
    if "port" in target.options:
        options.number("port", 22, least=1, most=65535, whole=True)
    options.number("connect_timeout", 15, least=1, most=3600)
    for name in ("config", "identity"):
        options.text(name)
    options.flag("share", True)
    if options.text("bundle") and target.python is not None:
        raise BadProfile(f"target {target.name!r}: `python` and option `bundle` exclude each other; remove one")
    folder = checked_folder(options.text("folder"), target=target.name)
    if options.text("bundle") and folder:
        checked_word(folder, what="folder", target=target.name)
    for word in options.words("prefix"):
        checked_word(word, what="prefix", target=target.name)
    if target.python is not None:
        checked_word(target.python, what="python", target=target.name)
    return options


def _link(target: Target) -> _Link:
    """Raises `BadProfile`, and `TargetUnavailable` if there is no ssh here."""
    options = _checked(target)
    ssh = shutil.which("ssh")
    if ssh is None:
        raise TargetUnavailable(f"target {target.name!r}: there is no `ssh` here; install the OpenSSH client")
    # A connection that has gone silent is noticed within 20 seconds, and before a request runs out of time: otherwise
    # the model would be blamed.
    silence = max(1, min(5, int(target.timeout / 6)))
    seconds = options.number("connect_timeout", 15, least=1, most=3600)
    base = [ssh, *_SETTINGS, "-o", f"ServerAliveInterval={silence}", "-o", f"ConnectTimeout={math.ceil(seconds)}"]
    if "port" in target.options:
        base += ["-p", str(target.options["port"])]
    if user := options.text("user"):
        base += ["-l", user]
    if config := options.text("config"):
        base += ["-F", str(_file(options, "config", config))]
    if identity := options.text("identity"):
        base += ["-i", str(_file(options, "identity", identity)).replace("%", "%%"), "-o", "IdentitiesOnly=yes"]
    if jump := options.text("jump"):
        base += ["-J", jump]
    bundle = options.text("bundle")
    return _Link(
        host=_checked_host(options, "host", options.text("host")),
        base=tuple(base),
        python="python3" if target.python is None else target.python,
        prefix=options.words("prefix"),
        folder=options.text("folder"),
        bundle=read_bundle(bundle) if bundle else None,
        share=options.flag("share", True),
        seconds=seconds + target.timeout,
    )


def _checked_host(options: Options, name: str, text: str) -> str:
    user, at, host = text.rpartition("@")
    if not _HOST.match(host) or (at and not _USER.match(user)):
        raise options.wrong(name, "a host's name or address, or user@host; anything else belongs into ~/.ssh/config")
    return text


def _file(options: Options, name: str, text: str) -> Path:
    path = Path(text).expanduser().absolute()
    if not os.access(path, os.R_OK) or not path.is_file():
        raise options.wrong(name, "a file on this machine that can be read")
    return path
