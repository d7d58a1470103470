"""The adb transport against a real adbd."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from hwprofiles.agent.archive import build_archive
from hwprofiles.errors import BadProfile, TargetUnavailable
from hwprofiles.target import Target
from hwprofiles.transports.adb import AdbTransport
from hwprofiles.transports.adb_devices import Server
from hwprofiles.transports.conformance import TransportConformance

from .conftest import SERIAL, TWIN, Adbd, wait_for

pytestmark = pytest.mark.usefixtures("adbd")

_ROOT = Path(__file__).resolve().parents[3]
_FOLDER = "/tmp/hw-autotune-adb-test"
_TARGET = Target(name="phone", transport="adb", python=sys.executable, options={"serial": SERIAL, "folder": _FOLDER})
_TELL_AND_SLEEP = "import os, time\nos.write(1, b'%010d' % os.getpid())\ntime.sleep(600)\n"


@pytest.fixture(scope="module", autouse=True)
def device_folder() -> Iterator[None]:
    yield
    shutil.rmtree(_FOLDER, ignore_errors=True)


class TestAdbTransport(TransportConformance):
    transport = AdbTransport()
    target = _TARGET


def test_two_serials_of_one_device_are_one_device(tmp_path: Path) -> None:
    server = Server(("127.0.0.1", 5037), "target 'phone'")
    (seen,) = server.devices()
    assert seen.serials == (TWIN, SERIAL) or seen.serials == (SERIAL, TWIN)
    channel = AdbTransport().start(_with(serial=""), build_archive(_TELL_AND_SLEEP), tmp_path)  # asks for none of them
    try:
        assert int(os.read(channel.replies, 10)) > 0
    finally:
        channel.kill()


def test_what_nobody_has_used_for_a_month_is_removed(tmp_path: Path) -> None:
    device = tmp_path / "device"
    old, new, used = device / "bundle-old", device / "bundle-new", device / "programs" / "used.pyz"
    for path in (old / "bin", new / "bin", used.parent, device / "tmp" / "left"):
        path.mkdir(parents=True)
    used.touch()
    month = time.time() - 32 * 86400
    for path in (old, device / "tmp" / "left"):
        os.utime(path, (month, month))
    AdbTransport().start(_with(folder=str(device)), build_archive("import os\nos.read(0, 1)\n"), tmp_path).kill()
    assert not old.exists() and not (device / "tmp" / "left").exists()
    assert new.is_dir() and used.is_file() and len(list(used.parent.iterdir())) == 2


def test_unread_requests_do_not_keep_a_program_alive(tmp_path: Path) -> None:
    channel = AdbTransport().start(_TARGET, build_archive(_TELL_AND_SLEEP), tmp_path)
    pid = int(os.read(channel.replies, 10))
    os.set_blocking(channel.requests, False)
    with pytest.raises(BlockingIOError):  # until every buffer on the way is full
        while True:
            os.write(channel.requests, b"x" * 65536)
    channel.kill()
    assert channel.ended() is not None
    wait_for(lambda: not _alive(pid) and not _left())


def test_unread_requests_of_a_killed_client_do_not_either(tmp_path: Path) -> None:
    code = f"""
import os
from pathlib import Path
from hwprofiles.target import Target
from hwprofiles.transports.adb import AdbTransport
target = Target.model_validate_json({_TARGET.model_dump_json()!r})
channel = AdbTransport().start(target, Path({str(tmp_path / "program")!r}).read_bytes(), Path({str(tmp_path)!r}))
os.write(1, os.read(channel.replies, 10))
while True:
    os.write(channel.requests, b"x" * 65536)
"""
    (tmp_path / "program").write_bytes(build_archive(_TELL_AND_SLEEP))
    client = subprocess.Popen([sys.executable, "-c", code], cwd=_ROOT, stdout=subprocess.PIPE)
    assert client.stdout is not None
    with client.stdout as told:
        pid = int(told.read(10))
    assert _alive(pid)
    time.sleep(0.5)  # for every buffer on the way to fill
    client.kill()
    client.wait()
    wait_for(lambda: not _alive(pid) and not _left())


def test_a_lost_connection_says_nothing_of_the_program_and_ends_it(adbd: Adbd, tmp_path: Path) -> None:
    channel = AdbTransport().start(_TARGET, build_archive(_TELL_AND_SLEEP), tmp_path)
    pid = int(os.read(channel.replies, 10))
    adbd.stop()
    try:
        ending = channel.ended(wait=30)
        assert ending is not None and ending.code is None and SERIAL in ending.said
        wait_for(lambda: not _alive(pid))
        assert os.read(channel.replies, 1) == b""
        channel.kill()
        with pytest.raises(TargetUnavailable, match=rf"target 'phone': .*{SERIAL}"):
            AdbTransport().start(_TARGET, build_archive(_TELL_AND_SLEEP), tmp_path)
    finally:
        adbd.start()
    # It is in the network: the transport connects to it again by itself.
    channel = AdbTransport().start(_TARGET, build_archive(_TELL_AND_SLEEP), tmp_path)
    assert int(os.read(channel.replies, 10)) > 0
    channel.kill()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"serial": "R58M123ABC"}, "no device R58M123ABC; it has 127.0.0.1:5555"),
        ({"serial": "127.0.0.1:5999"}, "127.0.0.1:5999.*is the device on"),
        ({"adb": "10.255.255.1:5037"}, "no adb server answers at 10.255.255.1:5037; start it there"),
        ({"folder": "/proc/hw-autotune"}, "/proc/hw-autotune cannot be used: .*; choose another"),
    ],
)
def test_what_is_not_there(options: dict[str, str], said: str, tmp_path: Path) -> None:
    with pytest.raises(TargetUnavailable, match=rf"^target 'phone': [^\n]*{said}[^\n]*$"):
        AdbTransport().start(_with(**options), b"", tmp_path)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"serial": "-e"}, "option 'serial' is '-e'"),
        ({"serial": "a b"}, "option 'serial' is 'a b'"),
        ({"folder": "tmp"}, "option 'folder' is 'tmp'"),
        ({"adb": "5037"}, "option 'adb' is '5037'"),
        ({"serail": "x"}, "no option 'serail'; did you mean 'serial'"),
        ({"bundle": "/no/such"}, "keep one of them"),
    ],
)
def test_wrong_options(options: dict[str, str], said: str, tmp_path: Path) -> None:
    with pytest.raises(BadProfile, match=rf"^target 'phone': [^\n]*{said}[^\n]*$"):
        AdbTransport().start(_with(**options), b"", tmp_path)


def test_an_interpreter_must_be_named(tmp_path: Path) -> None:
    with pytest.raises(BadProfile, match="autotune targets bundle"):
        AdbTransport().start(_TARGET.model_copy(update={"python": None}), b"", tmp_path)


def _with(**options: str) -> Target:
    return _TARGET.model_copy(update={"options": {**_TARGET.options, **options}})


def _left() -> list[Path]:
    """What starting a program leaves behind until it has ended."""
    return list(Path(_FOLDER, "tmp").iterdir())


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
