"""Runs a command here and keeps what it prints, as long as that is as little as it should be."""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import subprocess
import time
from collections.abc import Sequence
from typing import IO

MOST = 1 << 20  # bytes of text that are kept of each output


class TooMuchText(Exception):
    """The command printed more than `MOST`, and was ended. The text is one line."""


def run_captured(
    command: Sequence[str], *, source: IO[bytes] | None = None, seconds: float
) -> subprocess.CompletedProcess[bytes]:
    """Feed `source` to the command, in a session of its own, and wait for its end.

    Raises `subprocess.TimeoutExpired`, `TooMuchText`, and `OSError` if it cannot be started; nothing of it is left
    then.
    """
    deadline = time.monotonic() + seconds
    process = subprocess.Popen(
        list(command),
        stdin=subprocess.DEVNULL if source is None else source,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        bufsize=0,
        start_new_session=True,
    )
    assert process.stdout is not None and process.stderr is not None  # asked for above
    with process.stdout, process.stderr:
        try:
            kept = _read_both(process.stdout, process.stderr, deadline)
            process.wait(max(0.0, deadline - time.monotonic()))
        except BaseException as error:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            if isinstance(error, (TimeoutError, subprocess.TimeoutExpired)):
                raise subprocess.TimeoutExpired(command, seconds) from error
            raise
    return subprocess.CompletedProcess(command, process.returncode, bytes(kept[0]), bytes(kept[1]))


def _read_both(output: IO[bytes], errors: IO[bytes], deadline: float) -> list[bytearray]:
    """Both to their ends. Raises `TimeoutError`, `TooMuchText`."""
    kept = [bytearray(), bytearray()]
    with selectors.DefaultSelector() as ready:
        for pipe, text in zip((output, errors), kept, strict=True):
            ready.register(pipe, selectors.EVENT_READ, text)
        while ready.get_map():
            left = deadline - time.monotonic()
            found = ready.select(left) if left > 0 else []
            if not found:
                raise TimeoutError
            for key, _ in found:
                piece = os.read(key.fd, 1 << 16)
                key.data.extend(piece)
                if not piece:
                    ready.unregister(key.fileobj)
                if len(key.data) > MOST:
                    raise TooMuchText(f"more than {MOST >> 10} KiB of text")
    return kept
