"""Every built-in transport passes the conformance suite that ships with the package."""

from __future__ import annotations

import time
from importlib import metadata
from pathlib import Path

import pytest

from hwprofiles.registry import TRANSPORTS
from hwprofiles.target import Target
from hwprofiles.transports.conformance import TransportConformance, program
from hwprofiles.transports.local import LocalTransport

# Starts a child that never listens and says its number in ten digits.
_PARENT = """
import os, subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
os.write(1, b"%010d" % child.pid)
"""


class TestLocalTransport(TransportConformance):
    transport = LocalTransport()
    target = Target(name="here")

    @pytest.mark.parametrize("then", ["time.sleep(600)", "raise SystemExit(0)"])
    def test_kill_ends_the_children_of_the_program(self, tmp_path: Path, then: str) -> None:
        channel = self.transport.start(self.target, program(_PARENT + then), tmp_path)
        child = int(self._read(channel.replies, 10))
        if then.startswith("raise"):
            assert channel.ended(wait=self.patience) == "exit code 0"
        assert _lives(child)
        channel.kill()
        deadline = time.monotonic() + self.patience
        while _lives(child) and time.monotonic() < deadline:
            time.sleep(0.01)
        assert not _lives(child)

    def test_neighbours_share_one_copy_of_the_program(self, tmp_path: Path) -> None:
        source = program("pass")
        channels = [self.transport.start(self.target, source, tmp_path) for _ in range(3)]
        for channel in channels:
            channel.ended(wait=self.patience)
            channel.kill()
        assert len(list(tmp_path.iterdir())) == 1


def test_every_registered_transport_is_made_without_arguments() -> None:
    found = {entry.name: entry.load()() for entry in metadata.entry_points(group=TRANSPORTS)}
    assert isinstance(found["local"], LocalTransport)


def _lives(pid: int) -> bool:
    """A zombie that nobody reaps does not count."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
