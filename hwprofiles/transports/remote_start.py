"""Starts the agent through a connection that only runs a command: ssh, docker exec, an emulator.

The command is constant for a target: `WORDS -c 'import sys;exec(...)'`, where WORDS are the interpreter (after a
prefix, if any). The program `-c` reads one line of standard input and runs it; that line is `remote_bootstrap`, which
receives the agent's archive unless the device has it under its digest, and becomes it. So there is one connection, and
the agent's supervisor owns its standard input and output.

    channel = start_remotely(["ssh", "--", host, shell_command(["python3"])], program, Place(memory_limit=1 << 30))

`shell_command` spells the command for a login shell of any kind: sh, bash, zsh, fish, csh. Where no shell is between,
pass `[*words, "-c", BOOT]`.
"""

from __future__ import annotations

import hashlib
import os
import re
import secrets
import selectors
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Literal

from hwprofiles.errors import BadProfile
from hwprofiles.transports.protocol import Ending
from hwprofiles.transports.remote_channel import RemoteChannel, open_channel, spell

# Unbuffered, a byte at a time: nothing of what follows the line is swallowed.
BOOT = "import sys;exec(sys.stdin.buffer.raw.readline())"

_WORD = re.compile(r"(~/)?[A-Za-z0-9_./+-][A-Za-z0-9_./+@:,=-]*\Z")
_NOISE = 64 << 10  # bytes of text that a login may print before our program answers
_LAST_WORDS = 2.0  # seconds for the log and the exit status after the output has closed
_BEHIND = 10.0  # seconds that one of the two outputs may lag behind the other
_PART = 16  # characters of our marker by which it is known when it arrives damaged
_SAID = 300  # characters of the bootstrap's reason that are shown
_TAIL = 4 << 10  # bytes of its standard error that are kept to explain a failure
_SOURCE = resources.files("hwprofiles.transports").joinpath("remote_bootstrap.py")


@dataclass(frozen=True)
class Place:
    """Where the program keeps its files on the device, and how long it may take to begin.

    `folder`: absolute or with a leading `~`; "" is `$XDG_CACHE_HOME/hw-autotune` or `~/.cache/hw-autotune` there.
    `memory_limit` in bytes. `seconds`: until our program answers, connecting included.
    """

    memory_limit: int
    folder: str = ""
    seconds: float = 120.0


class NotStarted(Exception):
    """The program did not begin. The text is one line without a target's name; the process has ended.

    `why`: "ended" (the command ended with `code` before our program spoke), "refused" (our bootstrap says why not),
    "silent" (nothing within the time), "noisy" (more text than a login would print), "garbled" (our bootstrap runs, and
    its words do not arrive as it says them). `lines`: the last of its log, without what our bootstrap writes there.
    """

    def __init__(
        self,
        why: Literal["ended", "refused", "silent", "noisy", "garbled"],
        text: str,
        *,
        code: int | None = None,
        lines: Sequence[str] = (),
    ) -> None:
        super().__init__(text)
        self.why = why
        self.code = code
        self.lines = tuple(lines)


def shell_command(words: Sequence[str]) -> str:
    """The command as one string that every login shell reads alike. `words` must have passed `checked_word`.

    Nothing in it is special between single quotes: no quote, backslash or exclamation mark.
    """
    return f"exec {' '.join(words)} -c '{BOOT}'"


def checked_word(word: str, *, what: str, target: str) -> str:
    """`word` if every shell leaves it alone. Raises `BadProfile`."""
    if not _WORD.match(word) or (what == "python" and word.startswith("-")):
        raise BadProfile(
            f"target {target!r}: {what} {word!r} may hold only letters, digits and . _ / + - @ : , = "
            "(a shell on the device reads it, so no spaces either); make a link with a plain name there"
        )
    return word


def checked_folder(folder: str, *, target: str) -> str:
    """`folder` if it names a place on the device by itself. Raises `BadProfile`."""
    if folder and (not folder.startswith(("/", "~")) or "\0" in folder or "\n" in folder):
        raise BadProfile(f"target {target!r}: option `folder` is {folder!r}; give an absolute path, or one with ~/")
    return folder


def start_remotely(
    command: Sequence[str],
    program: bytes,
    place: Place,
    *,
    read_ending: Callable[[int], Ending] = spell,
) -> RemoteChannel:
    """Run `command` here, which connects to the device; the channel, once the device's Python has the program.

    `read_ending` turns the command's exit status into an ending. Raises `NotStarted`, and `OSError` if `command`
    itself cannot be started.
    """
    channel = open_channel(command, read_ending)
    try:
        _Handover(channel, program, place).run()
    except BaseException:
        channel.kill()
        raise
    return channel


class _Handover:
    """The talk with the bootstrap. It leaves both outputs at exactly the first byte of the program's own."""

    def __init__(self, channel: RemoteChannel, program: bytes, place: Place) -> None:
        nonce = secrets.token_hex(16)
        # Its digest, not itself, is the marker: a device that echoes what it is sent says nothing of value.
        self._marker = hashlib.sha256(nonce.encode()).hexdigest().encode()
        facts: dict[str, str | int] = {
            "nonce": nonce,
            "digest": hashlib.sha256(program).hexdigest(),
            "size": len(program),
            "folder": place.folder,
            "memory_limit": place.memory_limit,
        }
        self._channel = channel
        self._program = program
        self._seconds = place.seconds
        self._deadline = time.monotonic() + place.seconds
        self._to_send = memoryview(_line(facts))
        self._noise = 0
        self._begun = False  # one of the two outputs says that the program begins
        self._log = bytearray()
        self._ready = selectors.DefaultSelector()

    def run(self) -> None:
        os.set_blocking(self._channel.requests, False)
        with self._ready:
            self._ready.register(self._channel.replies, selectors.EVENT_READ)
            self._ready.register(self._channel.log, selectors.EVENT_READ)
            self._ready.register(self._channel.requests, selectors.EVENT_WRITE)
            answer = self._answer()
            if answer == "send":
                self._to_send = memoryview(self._program)
                self._ready.register(self._channel.requests, selectors.EVENT_WRITE)
                answer = self._answer()
            if answer.startswith("error "):
                raise NotStarted("refused", answer.removeprefix("error ")[:_SAID], lines=self._lines())
            if answer != "go":
                raise self._damaged()
            self._ready.unregister(self._channel.replies)  # the rest of them belongs to the program
            self._expect_other()
            while self._channel.log in self._ready.get_map():
                self._turn()
        os.set_blocking(self._channel.requests, True)

    def _answer(self) -> str:
        """The next line of the bootstrap; whatever precedes its marker is skipped."""
        line = bytearray()
        while True:
            byte = self._turn()
            line += byte
            if byte == b"\n":
                _, found, text = bytes(line).rpartition(self._marker + b" ")
                if found:
                    return text.decode(errors="replace").strip()
                line.clear()

    def _turn(self) -> bytes:
        """Wait for anything, take it. Returns a byte of the replies, if there was one."""
        left = self._deadline - time.monotonic()
        if left <= 0 and self._begun:
            raise self._damaged()
        if left <= 0:
            raise NotStarted("silent", f"no answer within {self._seconds:g} s", lines=self._lines())
        found = {key.fd for key, _ in self._ready.select(left)}
        if self._channel.log in found:
            self._take_log()
        if self._channel.requests in found:
            self._send()
        if self._channel.replies not in found:
            return b""
        byte = os.read(self._channel.replies, 1)
        if not byte:
            raise self._ended()
        self._noise += 1
        if self._noise > _NOISE:
            raise NotStarted("noisy", f"more than {_NOISE >> 10} KiB of other text before it", lines=self._lines())
        return byte

    def _take_log(self) -> None:
        """A byte of the log, which is left alone after the marker: then come the program's own words."""
        byte = os.read(self._channel.log, 1)
        self._log += byte
        if len(self._log) > 2 * _TAIL:
            del self._log[:-_TAIL]
        if not byte or self._log.endswith(self._marker + b"\n"):
            self._ready.unregister(self._channel.log)
        if byte and self._channel.log not in self._ready.get_map():
            self._expect_other()

    def _expect_other(self) -> None:
        """One output says that the program begins; the other must say so soon."""
        self._begun = True
        self._deadline = min(self._deadline, time.monotonic() + _BEHIND)

    def _send(self) -> None:
        try:
            self._to_send = self._to_send[os.write(self._channel.requests, self._to_send) :]
        except BlockingIOError:
            return
        except BrokenPipeError:
            self._to_send = memoryview(b"")  # the end of the replies follows
        if not self._to_send.nbytes:
            self._ready.unregister(self._channel.requests)

    def _damaged(self) -> NotStarted:
        return NotStarted("garbled", "its words arrive damaged", lines=self._lines())

    def _ended(self) -> NotStarted:
        self._ready.unregister(self._channel.replies)
        until = time.monotonic() + _LAST_WORDS
        while self._channel.log in self._ready.get_map() and time.monotonic() < until:
            if self._ready.select(until - time.monotonic()):
                self._take_log()
        ending = self._channel.ended(wait=_LAST_WORDS)
        if ending is None:
            return NotStarted("ended", "it closed its output and runs on", lines=self._lines())
        return NotStarted("ended", ending.said, code=ending.code, lines=self._lines())

    def _lines(self) -> list[str]:
        text, marker = bytes(self._log).decode(errors="replace"), self._marker.decode()
        parts = {marker[start : start + _PART] for start in range(len(marker) - _PART + 1)}
        lines = [line.strip() for line in text.splitlines() if line.strip()]
        return [line for line in lines if not any(part in line.lower() for part in parts)]


def _line(facts: dict[str, str | int]) -> bytes:
    """The bootstrap as one line of ASCII, to be run by `BOOT`."""
    source = _SOURCE.read_text("utf-8")
    # The folder where the login begins comes first in Python's path; what lies there must not be imported.
    path = "sys.path[:] = [entry for entry in sys.path if entry]"
    return f"{path}; exec({source!a}); place_and_run({facts!a})\n".encode("ascii")
