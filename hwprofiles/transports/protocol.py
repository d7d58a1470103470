"""The contract of a transport: start the agent on a device, and nothing else.

Local, SSH, adb, an emulator: they differ only in the command that starts the agent. A third party registers a
class under the entry point group `hwprofiles.transports`; it is made without arguments.
"""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from hwprofiles.target import Target


class Channel(Protocol):
    """A started agent, seen from here. `requests`, `replies` and `log` are file descriptors of this process.

    `requests` and `replies` carry frames; `log` is whatever agent and model print. Closing `requests` must
    end the remote process, however the connection is built.
    """

    requests: int
    replies: int
    log: int

    def resident_bytes(self) -> int | None:
        """Present resident memory of the agent; None where it cannot be seen from here."""

    def ended(self, wait: float = 0.0) -> str | None:
        """How it ended ("exit code 3", "SIGSEGV"), or None if it still runs after `wait` seconds."""

    def kill(self) -> None:
        """End the agent and all it started, release the descriptors. Fine if it is gone already."""


class Transport(Protocol):
    """Starts agents for one kind of connection."""

    def device_id(self, target: Target) -> str:
        """Name of the physical device, equal for all targets on it: measurements on it exclude each other."""

    def start(self, target: Target, program: bytes, work: Path) -> Channel:
        """Run `program` (a zip archive for Python) with the target's interpreter and return the open channel.

        `work` is a folder on this machine for the transport's and the agent's files; a remote transport
        chooses a folder on the device itself. Must not block until the agent answers.

        Raises `TargetUnavailable` (device or interpreter not there) with what to do.
        """
