"""A real adbd in a network of its own, and a bundle to put on it.

adbd listens on every address and asks nobody who they are: it must never run where another machine can reach it. The
thread that runs the tests therefore moves into an empty network namespace, in which adbd and an adb server of its own
are started, and moves back afterwards.
"""

from __future__ import annotations

import ctypes
import os
import platform
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from hwprofiles.errors import HardwareError
from hwprofiles.mobile.bundle import Bundle
from hwprofiles.mobile.packages import Debian, unpack_deb
from tests.device.bundled import KEPT, keep, kept_bundle, missing
from tests.device.sshd import need

_NEW_NETWORK = 0x40000000  # CLONE_NEWNET
_LIBC = ctypes.CDLL(None, use_errno=True)

SERIAL = "127.0.0.1:5555"
TWIN = "emulator-5554"  # the server finds the same adbd once more, by the port of an emulator


class Adbd:
    """Starts and ends the daemon."""

    def __init__(self, root: Path, work: Path, environment: dict[str, str], before: str = "") -> None:
        self._root = root
        self._work = work
        self._environment = environment  # of the programs that it starts, too
        self._before = before  # shell commands in a view of the file system of its own
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        libraries = self._root / "usr" / "lib" / "x86_64-linux-gnu"
        program = self._root / "usr" / "lib" / "android-sdk" / "platform-tools" / "adbd"
        command = [str(libraries / "ld-linux-x86-64.so.2"), "--library-path", f"{libraries}:{libraries}/android"]
        apart = ["unshare", "-m", "sh", "-c", f'{self._before}; exec "$@"', "sh"] if self._before else []
        with (self._work / "adbd.log").open("ab") as log:
            self._process = subprocess.Popen(
                [*apart, *command, str(program)],
                cwd=self._work,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        until = time.monotonic() + 20
        while time.monotonic() < until:
            try:
                socket.create_connection(("127.0.0.1", 5555), timeout=1).close()
                return
            except OSError:
                time.sleep(0.05)
        raise RuntimeError(f"adbd does not listen: {(self._work / 'adbd.log').read_text(errors='replace')[-500:]}")

    def stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None


@pytest.fixture(scope="session")
def adbd_files() -> Path:
    """Debian's adbd with its libraries, unpacked."""
    if platform.machine() != "x86_64":
        pytest.skip(f"the daemon is taken from Debian's packages for x86-64, this is {platform.machine()}")
    root = KEPT / "adbd-trixie"
    if not root.is_dir():
        part = root.with_name(f"{root.name}.{os.getpid()}.part")
        try:
            for _, deb in Debian(KEPT / "trixie-amd64", "trixie", "amd64").fetch(["adbd"], dependencies=True):
                unpack_deb(deb, part)
        except HardwareError as error:
            shutil.rmtree(part, ignore_errors=True)
            missing(f"no adbd: {error}")
        keep(part, root)
    return root


@pytest.fixture(scope="session")
def bundle() -> Bundle:
    """Modules that need it name it before `adbd`: nothing can be loaded from within the empty network."""
    return kept_bundle()


@pytest.fixture(scope="module")
def network(adbd_files: Path) -> Iterator[None]:
    """This thread, and all that it starts, in an empty network."""
    if shutil.which("adb") is None or shutil.which("ip") is None:
        missing("adb and ip are needed: apt-get install adb iproute2")
    before = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
    if _LIBC.unshare(_NEW_NETWORK) != 0:
        os.close(before)
        missing("a network namespace can only be made by root")
    try:
        subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
        yield
    finally:
        assert _LIBC.setns(before, _NEW_NETWORK) == 0
        os.close(before)


@pytest.fixture(scope="module")
def userland() -> str:
    """Whose shell and tools the device has: "debian" or, where a module says so, "android"."""
    return "debian"


@pytest.fixture(scope="module")
def adbd(network: None, adbd_files: Path, userland: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Adbd]:
    """A running daemon that the server has connected to; the server is in the same network and ends with it."""
    work = tmp_path_factory.mktemp("adbd")
    environment = {**os.environ, "HOME": str(work), "ADB_MDNS": "0", "HW_AUTOTUNE_LOCKS": str(work / "locks")}
    on_device, before = environment, ""
    if userland == "android":
        before = f"mount --bind {need('mksh', 'mksh')} /bin/sh"
        on_device = {**environment, "PATH": str(_toybox(work / "bin"))}
    daemon = Adbd(adbd_files, work, on_device, before)
    daemon.start()
    # In the foreground, so that it cannot outlive the test run unnoticed.
    server = subprocess.Popen(
        ["adb", "-P", "5037", "nodaemon", "server"],
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        wait_for(lambda: "connected" in _adb(environment, "connect", SERIAL))
        wait_for(lambda: _adb(environment, "devices").count("\tdevice") == 2)
        yield daemon
    finally:
        server.kill()
        server.wait()
        daemon.stop()


def _toybox(folder: Path) -> Path:
    """Android's tools under their names, as far as Debian's toybox has them."""
    tool = need("toybox", "toybox")
    folder.mkdir()
    for name in subprocess.run([tool], capture_output=True, text=True, check=True).stdout.split():
        (folder / name).symlink_to(tool)
    for name in ("env", "sh"):  # not among Debian's; Android has both
        if not (folder / name).exists():
            (folder / name).symlink_to(need("mksh", "mksh") if name == "sh" else need(name, "coreutils"))
    return folder


def _adb(environment: dict[str, str], *words: str) -> str:
    return subprocess.run(["adb", *words], env=environment, capture_output=True, text=True, check=False).stdout


def wait_for(happened: Callable[[], bool]) -> None:
    """Until it has; raises after half a minute."""
    until = time.monotonic() + 30
    while time.monotonic() < until:
        if happened():
            return
        time.sleep(0.05)
    raise TimeoutError("it did not happen within half a minute")
