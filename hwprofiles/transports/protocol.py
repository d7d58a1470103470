"""The contract of a transport: start the agent on a device, and nothing else.

Local, SSH, adb, an emulator: they differ only in the command that starts the agent. A third party registers a
class under the entry point group `hwprofiles.transports`; it is made without arguments.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from hwprofiles.target import Target


@dataclass(frozen=True)
class Ending:
    """How a started program ended.

    `code` is its exit code: 128 + n for signal n, `hwprofiles.agent.codes.OUT_OF_MEMORY` for its memory guard. None
    means that the connection broke and nothing is known of the program: the device is gone, not the model's fault.
    `said` is one line for a person: "SIGSEGV", "exit code 3", "ssh: connect to host x port 22: Connection refused".
    """

    code: int | None
    said: str


class Channel(Protocol):
    """A started agent, seen from here. `requests`, `replies` and `log` are file descriptors of this process.

    `requests` and `replies` carry frames; `log` is whatever agent and model print. Closing `requests` must
    end the remote process, however the connection is built.
    """

    requests: int
    replies: int
    log: int

    def ended(self, wait: float = 0.0) -> Ending | None:
        """How it ended, or None if it still runs after `wait` seconds."""

    def kill(self) -> None:
        """End the agent and all it started, release the descriptors. Fine if it is gone already.

        Closing `requests` comes first: the program's supervisor then ends everything on the device.
        """


class Transport(Protocol):
    """Starts agents for one kind of connection."""

    def check(self, target: Target) -> None:
        """Refuse what the profile alone shows to be wrong. Looks at nothing else: no file, no device, no network.

        What is only missing is let through (a template has no host yet); `start` refuses that. A transport made
        elsewhere may leave this method out; then everything is found out by `start`.

        Raises `BadProfile` naming target and option.
        """

    def start(self, target: Target, program: bytes, work: Path) -> Channel:
        """Run `program` with the target's interpreter as `python PROGRAM FOLDER MEMORY_LIMIT`; the open channel.

        `program` is a zip archive made by `hwprofiles.agent.archive`; its supervisor ends it when its stdin ends.
        `work` is a folder on this machine for the transport's files; FOLDER is where the agent keeps its own on the
        device (the local transport takes `work`, a remote one chooses). May wait, for a bounded time, until the
        device has the program; what is found out later is told by `Channel.ended`.

        Raises `TargetUnavailable` (device or interpreter not there) with what to do, and `BadProfile` for whatever
        `check` refuses.
        """
