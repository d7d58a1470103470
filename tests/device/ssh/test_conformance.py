"""ssh and command pass the conformance suite of transports, against a real sshd and real processes."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import pytest

from hwprofiles.agent.archive import build_archive
from hwprofiles.target import Target
from hwprofiles.transports.command import CommandTransport
from hwprofiles.transports.conformance import TransportConformance
from hwprofiles.transports.protocol import Ending
from hwprofiles.transports.ssh import SshTransport
from tests.device.sshd import Sshd


class TestSsh(TransportConformance):
    transport: ClassVar[SshTransport] = SshTransport()
    target: ClassVar[Target]

    @pytest.fixture(autouse=True)
    def reach(self, sshd: Sshd) -> None:
        type(self).target = sshd.target()

    def test_a_programs_own_255_is_not_taken_for_a_broken_connection(self, tmp_path: Path) -> None:
        assert self._ending("raise SystemExit(255)", tmp_path) == Ending(254, "exit code 254")
        assert self._ending("import os\nos._exit(-1)", tmp_path) == Ending(254, "exit code 254")

    def test_a_cut_connection_says_nothing_of_the_program(self, sshd: Sshd, tmp_path: Path) -> None:
        channel = self.transport.start(self.target, build_archive("import os\nos.read(0, 1)"), tmp_path)
        sshd.cut()
        ending = channel.ended(wait=self.patience)
        channel.kill()
        assert ending is not None and ending.code is None and ending.said.startswith("ssh: ")


class TestSshAlone(TestSsh):
    """Each session with a connection of its own."""

    transport: ClassVar[SshTransport] = SshTransport()

    @pytest.fixture(autouse=True)
    def reach(self, sshd: Sshd) -> None:
        type(self).target = sshd.target(options={"share": False})


class TestCommand(TransportConformance):
    transport: ClassVar[CommandTransport] = CommandTransport()

    @pytest.fixture(autouse=True)
    def reach(self, tmp_path_factory: pytest.TempPathFactory) -> None:
        cache = tmp_path_factory.mktemp("cache")
        options = {"prefix": ["env", f"XDG_CACHE_HOME={cache}"]}
        type(self).target = Target.model_validate({"name": "wrapped", "transport": "command", "options": options})


class TestCommandShared(TransportConformance):
    transport: ClassVar[CommandTransport] = CommandTransport()
    target = Target.model_validate(
        {"name": "wrapped", "transport": "command", "options": {"prefix": ["env"], "shared": True}}
    )
