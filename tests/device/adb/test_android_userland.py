"""adbd with Android's own shell (mksh) and tools (toybox), as far as Debian has them."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from hwprofiles.agent.archive import build_archive
from hwprofiles.mobile.bundle import Bundle
from hwprofiles.target import Target
from hwprofiles.transports.adb import AdbTransport
from hwprofiles.transports.adb_devices import Server

from .conftest import SERIAL, wait_for

pytestmark = pytest.mark.usefixtures("bundle", "adbd")


@pytest.fixture(scope="module")
def userland() -> str:
    return "android"


@pytest.fixture
def server() -> Server:
    return Server(("127.0.0.1", 5037), "target 'phone'")


def test_is_what_it_says(server: Server) -> None:
    found = server.shell(SERIAL, "echo $KSH_VERSION; command -v tar; command -v gcc; readlink -f $(command -v tar)")
    assert "MIRBSD KSH" in found.stdout and found.stdout.rstrip().endswith("toybox") and "gcc" not in found.stdout


def test_the_bundle_is_sent_and_unpacked(server: Server, bundle: Bundle, tmp_path: Path) -> None:
    target = Target(
        name="phone",
        transport="adb",
        # In front of the bundle's aarch64 loader: this device only shows what it was told to start.
        options={"serial": SERIAL, "bundle": str(bundle.folder), "folder": str(tmp_path / "ours"), "prefix": ("echo",)},
    )
    channel = AdbTransport().start(target, build_archive(""), tmp_path)
    try:
        told = b""
        while piece := os.read(channel.replies, 4096):
            told += piece
        place = bundle.place(str(tmp_path / "ours"))
        words = told.decode().split()
        assert words[: len(bundle.command(place))] == bundle.command(place)
        assert words[-2:] == [str(tmp_path / "ours"), str(target.memory_limit)]
        assert (Path(place) / "lib" / "python3.11" / "os.py").is_file()
        assert sorted(path.name for path in (tmp_path / "ours").iterdir()) == [Path(place).name, "programs", "tmp"]
    finally:
        channel.kill()
    wait_for(lambda: not list((tmp_path / "ours" / "tmp").iterdir()))


def test_a_program_that_does_not_listen_is_ended(tmp_path: Path) -> None:
    target = Target(
        name="phone",
        transport="adb",
        python=sys.executable,
        options={"serial": SERIAL, "folder": str(tmp_path / "ours")},
    )
    program = build_archive("import os, time\nos.write(1, b'%010d' % os.getpid())\ntime.sleep(600)\n")
    channel = AdbTransport().start(target, program, tmp_path)
    pid = int(os.read(channel.replies, 10))
    os.set_blocking(channel.requests, False)
    with pytest.raises(BlockingIOError):
        while True:
            os.write(channel.requests, b"x" * 65536)
    channel.kill()
    wait_for(lambda: not Path(f"/proc/{pid}").exists() and not list((tmp_path / "ours" / "tmp").iterdir()))
