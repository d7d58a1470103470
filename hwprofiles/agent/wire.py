"""Frames in and out of the agent: what were stdin and stdout. Runs on the device; Python 3.9."""

from __future__ import annotations

import os
import queue
import threading
from collections.abc import Mapping
from typing import Any

from hwprofiles.agent import codes, frames


class Wire:
    """Frames in and out.

    A thread of its own reads: the end of the input is noticed even during an inference.
    """

    def __init__(self) -> None:
        # Native code may print to fd 1 at any time; it must not be able to reach the protocol.
        self._in = os.fdopen(os.dup(0), "rb", buffering=0)
        self._out = os.dup(1)
        null = os.open(os.devnull, os.O_RDONLY)
        os.dup2(null, 0)
        os.dup2(2, 1)
        self._requests: queue.Queue[tuple[dict[str, Any], bytearray]] = queue.Queue(maxsize=2)
        threading.Thread(target=self._read, daemon=True).start()

    def next(self, patience: float | None) -> tuple[dict[str, Any], bytearray] | None:
        """The next request; None if none comes within `patience` seconds."""
        try:
            return self._requests.get(timeout=patience)
        except queue.Empty:
            return None

    def send(self, header: Mapping[str, Any], parts: list[memoryview]) -> None:
        size = sum(part.nbytes for part in parts)
        for piece in [memoryview(frames.encode(header, size)), *parts]:
            while piece.nbytes:
                piece = piece[os.write(self._out, piece) :]

    def _read(self) -> None:
        try:
            while True:
                header_size, payload_size = frames.decode_prefix(bytes(self._take(frames.PREFIX.size)))
                header = bytes(self._take(header_size))
                payload = self._take(payload_size)
                self._requests.put((frames.decode_header(header, payload_size), payload))
        except (frames.FrameError, MemoryError, OSError) as error:
            os.write(2, f"agent: cannot read its requests: {error}\n".encode())
            os._exit(codes.BAD_REQUEST)

    def _take(self, size: int) -> bytearray:
        """Exactly `size` bytes. The end of the input ends the process, whatever it is doing."""
        data = bytearray(size)
        view, got = memoryview(data), 0
        while got < size:
            count = self._in.readinto(view[got:])
            if not count:
                os._exit(codes.ENDED)
            got += count
        return data
