"""Devices that tests make for themselves."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.device.sshd import Sshd


@pytest.fixture(scope="session")
def sshd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sshd]:
    """One server for all tests that leave it as it was."""
    server = Sshd(tmp_path_factory.mktemp("sshd"))
    yield server
    server.stop()


@pytest.fixture
def own_sshd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Sshd]]:
    """Starts servers for one test; `settings` are lines of their configuration."""
    servers: list[Sshd] = []

    def make(settings: str = "") -> Sshd:
        folder: Path = tmp_path_factory.mktemp("sshd")
        servers.append(Sshd(folder, settings=settings))
        return servers[-1]

    yield make
    for server in servers:
        server.stop()
