"""Every built-in transport passes the conformance suite that ships with the package."""

from __future__ import annotations

import os
import signal
import sys
from importlib import metadata
from pathlib import Path
from typing import ClassVar

import pytest

from hwprofiles.agent.archive import build_archive
from hwprofiles.registry import TRANSPORTS
from hwprofiles.target import Target
from hwprofiles.transports.conformance import TransportConformance
from hwprofiles.transports.local import LocalChannel, LocalTransport

# Says what guards its memory and the control groups that it is in.
_GROUP = """
import os
text = os.environ["HW_AUTOTUNE_MEMORY_GUARD"] + "\\n" + open("/proc/self/cgroup").read() + "end"
os.write(1, text.encode())
os.read(0, 1)
"""


class TestLocalTransport(TransportConformance):
    transport: ClassVar[LocalTransport] = LocalTransport()
    target = Target(name="here")

    def test_neighbours_share_one_copy_of_the_program(self, tmp_path: Path) -> None:
        source = build_archive("pass")
        channels = [self.transport.start(self.target, source, tmp_path) for _ in range(3)]
        for channel in channels:
            channel.ended(wait=self.patience)
            channel.kill()
        assert len(list(tmp_path.iterdir())) == 1

    def test_a_fork_with_a_copy_of_the_line_does_not_keep_the_program(self, tmp_path: Path) -> None:
        channel = self._start("import os, time\nos.write(1, b'u')\ntime.sleep(600)", tmp_path)
        assert self._read(channel.replies, 1) == b"u"
        fork = os.fork()
        if fork == 0:  # holds every descriptor of this process, as a worker of a data loader would
            signal.pause()
        try:
            channel.kill()
            assert channel.ended() is not None
        finally:
            os.kill(fork, signal.SIGKILL)
            os.waitpid(fork, 0)

    @pytest.mark.skipif(sys.platform != "linux", reason="control groups are Linux's")
    def test_control_groups_do_not_outlive_their_program(self, tmp_path: Path) -> None:
        first = self._begin(tmp_path)
        groups = [self._group(first)]
        first.kill()
        # A supervisor that is killed cannot clean up; the next one does.
        second = self._begin(tmp_path)
        groups.append(self._group(second))
        os.kill(second.pid, signal.SIGKILL)
        second.kill()
        third = self._begin(tmp_path)
        groups.append(self._group(third))
        third.kill()
        assert len(set(groups)) == 3 or groups == [""] * 3  # all empty: this user may not make groups
        assert not [group for group in groups if group and Path(group).exists()]

    def _begin(self, work: Path) -> LocalChannel:
        return self.transport.start(self.target, build_archive(_GROUP), work)

    def _group(self, channel: LocalChannel) -> str:
        """Folder of the control group that bounds the program; "" if none does."""
        guard, *lines = self._until(channel.replies, b"end").decode().splitlines()[:-1]
        assert guard in ("cgroup v1", "cgroup v2", "watchdog")
        paths = [line.split(":", 2) for line in lines if "hw-autotune-" in line]
        assert bool(paths) == guard.startswith("cgroup")
        mount = {"cgroup v1": "/sys/fs/cgroup/memory", "cgroup v2": "/sys/fs/cgroup"}
        return mount[guard] + paths[0][2] if paths else ""


def test_every_registered_transport_is_made_without_arguments() -> None:
    found = {entry.name: entry.load()() for entry in metadata.entry_points(group=TRANSPORTS)}
    assert isinstance(found["local"], LocalTransport)
