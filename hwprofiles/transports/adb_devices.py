"""Finds a device by way of the adb server, and runs commands on it."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, BinaryIO

from hwprofiles.errors import TargetUnavailable
from hwprofiles.transports.adb_channel import Result, converse
from hwprofiles.transports.remote_capture import TooMuchText, run_captured
from hwprofiles.transports.remote_options import Options

if TYPE_CHECKING:
    import adbutils

_SERIAL = re.compile(r"[A-Za-z0-9\[][A-Za-z0-9._:%\[\]-]*")
_CONNECT = 10.0  # seconds to answer for a server or a device in the network
_STARTING = 20.0
_OPEN = 30.0  # seconds until the device has taken a command
_QUICK = 30.0  # seconds for a command that only looks

# What adb calls a state, and what to do about it.
_ADVICE = {
    "offline": "plug it in again, or run: adb reconnect offline",
    "unauthorized": "unlock it and allow USB debugging for this computer",
    "authorizing": "unlock it and allow USB debugging for this computer",
    "connecting": "wait until it is there, then try again",
    "no": "this user may not open it: install the package android-sdk-platform-tools-common (udev rules)",
    "bootloader": "boot it into Android",
    "recovery": "boot it into Android",
    "sideload": "boot it into Android",
}
# Of a device that is listed twice (USB and network, an emulator and its port), the same answer comes twice.
_IDENTITY = (
    "cat /proc/sys/kernel/random/boot_id 2>/dev/null || getprop ro.serialno 2>/dev/null || "
    "getprop ro.boot.serialno 2>/dev/null || echo unknown"
)


@dataclass(frozen=True)
class Seen:
    """A device as adb lists it: one or more serials under which one machine can be reached."""

    serials: tuple[str, ...]
    state: str  # "device" when it can be used
    model: str = ""


class Server:
    """The adb server at `address`, started if it is a local one and not running.

    `who` begins every message. Raises `TargetUnavailable` with what to do.
    """

    def __init__(self, address: tuple[str, int], who: str) -> None:
        try:
            import adbutils as library
        except ImportError as error:
            raise TargetUnavailable(
                f"{who}: the transport adb needs adbutils ({error}); try: pip install 'hw-autotune[android]'"
            ) from error
        self.who = who
        host, port = address
        self.address = f"{host}:{port}"
        self._reach(host, port, library.adb_path)
        self._client = library.AdbClient(host=host, port=port)
        self._errors: tuple[type[Exception], ...] = (library.AdbError, OSError, EOFError, ValueError)

    def devices(self) -> list[Seen]:
        """All that are listed, each machine once. Asks the usable ones who they are."""
        found: dict[str, list[tuple[str, str, str]]] = {}
        for serial, state, model in self._listed():
            identity = serial
            if state == "device":
                told = self.shell(serial, _IDENTITY).stdout.strip()
                identity = serial if told in ("", "unknown") else told
            found.setdefault(identity, []).append((serial, state, model))
        return [
            Seen(tuple(serial for serial, _, _ in entries), entries[0][1], entries[0][2]) for entries in found.values()
        ]

    def choose(self, serial: str) -> str:
        """The serial to use: the given one if it can be used, else that of the only device."""
        if serial:
            return self._check(serial)
        listed = self._listed()
        if not listed:
            raise TargetUnavailable(
                f"{self.who}: adb ({self.address}) has no device; plug one in with USB debugging on, or run: "
                "adb connect HOST:PORT"
            )
        usable = [each for each in listed if each[1] == "device"]
        if len(usable) == 1 and len(listed) == 1:
            return usable[0][0]
        if not usable:
            self._refuse(listed[0][0], listed[0][1])
        machines = [seen for seen in self.devices() if seen.state == "device"]
        if len(machines) > 1:
            told = "; ".join(" = ".join(seen.serials) + (f" ({seen.model})" if seen.model else "") for seen in machines)
            raise TargetUnavailable(
                f"{self.who}: adb has {len(machines)} devices: {told}; write one of them into the profile as "
                "option 'serial'"
            )
        return machines[0].serials[0]

    def shell(self, serial: str, script: str, *, source: BinaryIO | None = None, seconds: float = _QUICK) -> Result:
        """Run a line of shell on the device, with `source` as its stdin."""
        with self._telling(serial), self._open(serial, script) as connection:
            return converse(connection.conn, source, seconds)

    def stream(self, serial: str, script: str) -> socket.socket:
        """Start a line of shell on the device; the connection, which speaks the shell protocol from here on."""
        with self._telling(serial):
            line: socket.socket = self._open(serial, script).conn
            return line

    def _open(self, serial: str, script: str) -> adbutils.AdbConnection:
        with self._request(f"host-serial:{serial}:features") as answer:
            if "shell_v2" not in answer.read_string_block().split(","):
                raise TargetUnavailable(
                    f"{self.who}: device {serial} does not keep output, errors and exit code apart (adb shell protocol "
                    "2); it needs Android 7 or newer"
                )
        return self._request(f"host:transport:{serial}", f"shell,v2,raw:{script}")

    def _request(self, *commands: str) -> adbutils.AdbConnection:
        """A connection on which the server, and then the device, has agreed to each of the commands."""
        # adbutils has this for a device as well, but leaves the connection open when the server does not agree.
        connection = self._client.make_connection(timeout=_OPEN)
        try:
            for command in commands:
                connection.send_command(command)
                connection.check_okay()
        except BaseException:
            connection.conn.close()
            raise
        return connection

    @contextmanager
    def _telling(self, serial: str) -> Iterator[None]:
        try:
            yield
        except self._errors as error:
            state = next((state for name, state, _ in self._listed() if name == serial), "gone")
            if state not in ("device", "gone"):
                self._refuse(serial, state)
            told = " ".join(str(error).split()) or type(error).__name__
            raise TargetUnavailable(
                f"{self.who}: adb cannot talk to device {serial}: {told}; look at: adb devices -l"
            ) from error

    def _listed(self) -> list[tuple[str, str, str]]:
        """(serial, state, model) as the server tells, those plugged in by cable first."""
        try:
            entries = self._client.list(extended=True)
        except self._errors as error:
            raise TargetUnavailable(
                f"{self.who}: the adb server at {self.address} does not answer as one: {error}; "
                "restart it: adb kill-server; adb start-server"
            ) from error
        found = [(entry.serial, entry.state, entry.tags.get("model", "")) for entry in entries]
        return sorted(found, key=lambda each: (":" in each[0], each[0].startswith("emulator-"), each[0]))

    def _check(self, serial: str) -> str:
        states = {name: state for name, state, _ in self._listed()}
        if states.get(serial) != "device" and ":" in serial:
            told = self._connect(serial, known=serial in states)
            states = {name: state for name, state, _ in self._listed()}
            if serial not in states:
                raise TargetUnavailable(
                    f"{self.who}: adb: {told}; is the device on, in this network, and is its debugging port open?"
                )
        if serial not in states:
            others = f"it has {', '.join(sorted(states))}" if states else "it has none"
            raise TargetUnavailable(
                f"{self.who}: adb ({self.address}) has no device {serial}; {others}; look at: adb devices -l"
            )
        if states[serial] != "device":
            self._refuse(serial, states[serial])
        return serial

    def _connect(self, serial: str, *, known: bool) -> str:
        """To a device in the network: one that was lost does not come back by itself. What the server said."""
        with self._telling(serial):
            if known:  # else the server finds that it has a connection, dead as it is
                self._client.disconnect(serial)
            told = str(self._client.connect(serial, timeout=_CONNECT)).strip()
        until = time.monotonic() + _CONNECT
        while ("offline" in (states := self._states(serial)) or "connecting" in states) and time.monotonic() < until:
            time.sleep(0.1)
        return told

    def _states(self, serial: str) -> list[str]:
        return [state for name, state, _ in self._listed() if name == serial]

    def _refuse(self, serial: str, state: str) -> None:
        advice = _ADVICE.get(state, "look at: adb devices -l")
        said = "no permissions" if state == "no" else state
        raise TargetUnavailable(f"{self.who}: device {serial} is {said}; {advice}")

    def _reach(self, host: str, port: int, find_client: object) -> None:
        if _answers(host, port):
            return
        told = f"{self.who}: no adb server answers at {host}:{port}"
        if host not in ("127.0.0.1", "localhost", "::1"):
            raise TargetUnavailable(f"{told}; start it there: adb -a -P {port} nodaemon server")
        try:
            client = find_client()  # type: ignore[operator]
            command: Sequence[str] = [client, "-P", str(port), "start-server"]
            found = run_captured(command, seconds=_STARTING)
            said = found.stderr.decode(errors="replace").strip().splitlines()
            reason = said[-1] if said else f"exit code {found.returncode}"
        except (OSError, RuntimeError, subprocess.TimeoutExpired, TooMuchText) as error:
            raise TargetUnavailable(f"{told} and none can be started ({error}); install adb") from error
        if not _answers(host, port):
            raise TargetUnavailable(f"{told} and starting one failed: {reason}; try: adb -P {port} start-server")


def check_serial(serial: str, options: Options) -> str:
    """The serial as it is. Raises `BadProfile` for what no device is called and adb would misunderstand."""
    if serial and not _SERIAL.fullmatch(serial):
        raise options.wrong("serial", "a serial number as `adb devices` shows it: no blank, not beginning with '-'")
    return serial


def check_address(text: str, options: Options) -> tuple[str, int]:
    """(host, port) of an adb server. Raises `BadProfile`."""
    host, _, port = (text or _usual_server()).rpartition(":")
    if not re.fullmatch(r"[A-Za-z0-9\[][A-Za-z0-9.:\[\]-]*", host) or not (port.isdecimal() and 0 < int(port) < 65536):
        raise options.wrong("adb", "HOST:PORT of an adb server, such as 127.0.0.1:5037")
    return host.strip("[]"), int(port)


def _usual_server() -> str:
    host = os.environ.get("ANDROID_ADB_SERVER_HOST") or "127.0.0.1"
    return f"{host}:{os.environ.get('ANDROID_ADB_SERVER_PORT') or 5037}"


def _answers(host: str, port: int) -> bool:
    try:
        socket.create_connection((host, port), timeout=_CONNECT).close()
    except OSError:
        return False
    return True
