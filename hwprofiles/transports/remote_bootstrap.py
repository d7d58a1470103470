"""Runs on the device: receives the program, keeps it under its digest and becomes it.

Its source travels as one line on the standard input of the device's Python (`hwprofiles.transports.remote_start`).
Python 3.9, standard library only. It answers in lines that begin with a marker, so that the text that a login shell
prints before is told apart: `send` (the program is not here, send it), `go` (it starts now), `error TEXT`.
"""

from __future__ import annotations

import contextlib
import faulthandler
import hashlib
import os
import runpy
import sys
import time
from pathlib import Path
from typing import Any, Callable  # noqa: UP035  # as Python 3.9 has it

_OLDEST = (3, 9)
_KEPT = 30 * 86400.0  # seconds that a program nobody starts is kept


def place_and_run(facts: dict[str, Any]) -> None:
    """`facts`: nonce, digest and size of the program, folder ("" for the usual one), memory_limit."""
    marker = hashlib.sha256(facts["nonce"].encode()).hexdigest()

    def say(text: str) -> None:
        data = (marker + " " + " ".join(text.split()) + "\n").encode("utf-8", "replace")
        while data:
            data = data[os.write(1, data) :]

    if sys.version_info < _OLDEST:
        say("error {} is Python {}.{}; 3.9 is the oldest that will do".format(sys.executable, *sys.version_info[:2]))
        raise SystemExit(1)
    wanted = facts["folder"] or "~/.cache/hw-autotune"
    try:
        folder = _folder(facts["folder"])
        wanted = str(folder)
        path = _place(folder / "programs", facts["digest"], facts["size"], say)
    except (OSError, ValueError, RuntimeError) as error:
        told = getattr(error, "strerror", None) or error
        say(f"error cannot keep its files in {wanted}: {told}")
        raise SystemExit(1) from None
    faulthandler.enable()
    say("go")
    os.write(2, marker.encode() + b"\n")
    sys.argv = [str(path), str(folder), str(facts["memory_limit"])]
    runpy.run_path(str(path), run_name="__main__")


def _folder(wanted: str) -> Path:
    """The folder, made if it is missing. What lies there is started: nobody else may write to it."""
    if wanted:
        folder = Path(wanted).expanduser()
    else:
        folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "hw-autotune"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    facts = folder.stat()
    if facts.st_uid != os.geteuid():
        raise ValueError("it belongs to another user")
    if facts.st_mode & 0o022:
        raise ValueError("other users can write there")
    return folder


def _place(folder: Path, digest: str, size: int, say: Callable[[str], None]) -> Path:
    """The program's file, received unless it lies there whole."""
    folder.mkdir(mode=0o700, exist_ok=True)
    path = folder / (digest + ".pyz")
    with contextlib.suppress(OSError):
        if hashlib.sha256(path.read_bytes()).hexdigest() == digest:
            os.utime(path)
            return path
    say("send")
    data = bytearray()
    while len(data) < size:
        piece = os.read(0, size - len(data))
        if not piece:
            os._exit(0)  # whoever asked is gone
        data += piece
    if hashlib.sha256(data).hexdigest() != digest:
        raise ValueError("the program arrived damaged")
    part = folder / f"{digest}.{os.getpid()}.part"
    try:
        part.write_bytes(data)
        part.replace(path)  # a neighbour may be starting it right now
    except OSError:
        with contextlib.suppress(OSError):
            part.unlink()
        raise
    for old in folder.iterdir():
        with contextlib.suppress(OSError):  # a neighbour may be tidying up as well
            if old.stat().st_mtime < time.time() - _KEPT:
                old.unlink()
    return path
