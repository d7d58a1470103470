"""Later sessions share one connection, which never outlives the process that made it."""

from __future__ import annotations

import contextlib
import fcntl
import gc
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from hwprofiles.agent.archive import build_archive
from hwprofiles.transports.ssh import SshTransport
from tests.device.sshd import Sshd, alive, command_of, descendants, wait_until_gone

WAITS = build_archive("import os\nos.write(1, b'up')\nos.read(0, 1)")
CLIENT = """
import os, sys
from pathlib import Path
from hwprofiles.target import Target
from hwprofiles.transports.ssh import SshTransport
transport = SshTransport()
target = Target.model_validate_json(sys.argv[1])
channel = transport.start(target, Path(sys.argv[2]).read_bytes(), Path())
print(os.read(channel.replies, 2).decode(), flush=True)
sys.stdin.readline()
if sys.argv[3] == "end":
    channel.kill()
"""


@pytest.fixture(autouse=True)
def private_folders(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where the private folders of shared connections are made."""
    place = Path(tempfile.mkdtemp(prefix="hw-test-", dir="/tmp"))  # short: a socket goes there
    monkeypatch.setenv("TMPDIR", str(place))
    monkeypatch.setattr(tempfile, "tempdir", None)
    yield place
    gc.collect()
    shutil.rmtree(place, ignore_errors=True)


def shared(parent: int, patience: float = 30.0) -> list[int]:
    """The ssh process below `parent` that holds a shared connection, once it takes sessions."""
    deadline = time.monotonic() + patience
    while time.monotonic() < deadline:
        for pid in descendants(parent):
            words = command_of(pid).split()
            if "ControlMaster=yes" in words:
                ask = ["ssh", "-S", words[words.index("-S") + 1], "-O", "check", "anybody"]
                if not subprocess.run(ask, stdin=subprocess.DEVNULL, capture_output=True, timeout=30).returncode:
                    return [pid]
        time.sleep(0.02)
    return []


def connections(server: Sshd) -> int:
    """How many times somebody has logged in."""
    return (server.folder / "sshd.log").read_text().count("Accepted publickey")


def test_later_sessions_need_no_login(own_sshd: Callable[..., Sshd], tmp_path: Path) -> None:
    server = own_sshd()
    transport = SshTransport()
    channels = [transport.start(server.target(), WAITS, tmp_path)]
    assert shared(os.getpid())
    deadline = time.monotonic() + 30
    while connections(server) < 2 and time.monotonic() < deadline:
        time.sleep(0.02)
    channels += [transport.start(server.target(), WAITS, tmp_path) for _ in range(3)]
    assert [os.read(channel.replies, 2) for channel in channels] == [b"up"] * 4
    assert connections(server) == 2  # the first session and the shared connection
    for channel in channels:
        channel.kill()


def test_more_sessions_than_a_connection_may_have(own_sshd: Callable[..., Sshd], tmp_path: Path) -> None:
    server = own_sshd("MaxSessions 2")
    transport = SshTransport()
    channels = [transport.start(server.target(), WAITS, tmp_path)]
    assert shared(os.getpid())
    channels += [transport.start(server.target(), WAITS, tmp_path) for _ in range(4)]
    assert [os.read(channel.replies, 2) for channel in channels] == [b"up"] * 5
    for channel in channels:
        channel.kill()


def test_a_broken_shared_connection_is_made_anew(own_sshd: Callable[..., Sshd], tmp_path: Path) -> None:
    server = own_sshd()
    transport = SshTransport()
    for _ in range(2):
        channel = transport.start(server.target(), WAITS, tmp_path)
        assert os.read(channel.replies, 2) == b"up"
        (pid,) = shared(os.getpid())
        server.cut()
        ending = channel.ended(wait=30)
        assert ending is not None and ending.code is None
        assert not wait_until_gone([pid])
        channel.kill()


@pytest.mark.slow
@pytest.mark.parametrize("how", ["end", "leave", "killed", "killed while sshd is silent"])
def test_it_ends_with_its_process(
    own_sshd: Callable[..., Sshd], tmp_path: Path, private_folders: Path, how: str
) -> None:
    server = own_sshd()
    (tmp_path / "program").write_bytes(WAITS)
    client = subprocess.Popen(
        [sys.executable, "-c", CLIENT, server.target().model_dump_json(), tmp_path / "program", how],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    assert client.stdin is not None and client.stdout is not None
    stopped: list[int] = []
    try:
        assert client.stdout.readline() == b"up\n"
        assert shared(client.pid)
        mine = [pid for pid in descendants(client.pid) if alive(pid)]
        if how == "killed while sshd is silent":
            stopped = server.sessions()
            for pid in stopped:
                os.kill(pid, signal.SIGSTOP)
        if how.startswith("killed"):
            client.kill()
        client.stdin.close()
        client.wait()
        assert not wait_until_gone(mine)
        if not how.startswith("killed"):
            assert not list(private_folders.iterdir())
    finally:
        for pid in stopped:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)
        client.kill()
        client.wait()
        client.stdout.close()


def test_it_ends_with_its_transport(own_sshd: Callable[..., Sshd], tmp_path: Path, private_folders: Path) -> None:
    server = own_sshd()
    transport = SshTransport()
    transport.start(server.target(), WAITS, tmp_path).kill()
    (pid,) = shared(os.getpid())
    del transport
    gc.collect()
    assert not wait_until_gone([pid])
    assert not list(private_folders.iterdir())


def test_folders_of_killed_processes_are_removed(sshd: Sshd, tmp_path: Path, private_folders: Path) -> None:
    dead, used = private_folders / "hw-ssh-dead", private_folders / "hw-ssh-used"
    for folder in (dead, used):
        folder.mkdir()
        os.utime(folder, (0, 0))
    lock = os.open(used, os.O_RDONLY)
    fcntl.flock(lock, fcntl.LOCK_EX)
    transport = SshTransport()
    transport.start(sshd.target(options={"share": False}), WAITS, tmp_path).kill()
    os.close(lock)
    assert not dead.exists() and used.exists()


def test_a_connection_that_the_user_keeps_open_is_used(own_sshd: Callable[..., Sshd], tmp_path: Path) -> None:
    server = own_sshd()
    socket = Path(tempfile.gettempdir()) / "mine"
    server.config.write_text(server.config.read_text() + f"  ControlPath {socket}\n  ControlMaster auto\n")
    kept = subprocess.Popen(
        ["ssh", "-F", server.config, "-N", "-M", server.host], stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        deadline = time.monotonic() + 30
        while not socket.exists() and time.monotonic() < deadline:
            time.sleep(0.02)
        # Nobody else gets in, as where a login asks for a code: the user has typed it once.
        (server.folder / "authorized_keys").write_text("")
        transport = SshTransport()
        for _ in range(2):
            channel = transport.start(server.target(), WAITS, tmp_path)
            assert os.read(channel.replies, 2) == b"up"
            channel.kill()
        assert connections(server) == 1
        assert kept.poll() is None  # it is the user's: it stays
    finally:
        kept.kill()
        kept.wait()
