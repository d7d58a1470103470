"""A tool's run as a process of its own: how long it took and what it said of itself."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any


def run_process(command: Sequence[str], environment: Mapping[str, str], out: Path, limit: float) -> dict[str, Any]:
    """Seconds of wall and of CPU, how it ended, and its errors where it told any.

    A run that has ended in `out` before is not repeated.
    """
    done = out / "told.json"
    if done.exists():
        found: dict[str, Any] = json.loads(done.read_text())
        return found
    out.mkdir(parents=True)
    load, begun, before = os.getloadavg()[0], time.monotonic(), _cpu_of_children()
    with (out / "log.txt").open("w") as log:
        tool = subprocess.Popen(command, stdout=log, stderr=log, env=environment, start_new_session=True)
        try:
            code = tool.wait(limit)
            ended = f"exit code {code}" if code else "done"
        except subprocess.TimeoutExpired:
            ended = f"stopped after {limit:g} s"
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(tool.pid, signal.SIGKILL)
            tool.wait()
    told = {
        "seconds": round(time.monotonic() - begun, 1),
        "cpu_seconds": round(_cpu_of_children() - before, 1),
        "ended": ended,
        "errors": _errors((out / "log.txt").read_text(), 0 if ended == "done" else 1),
        "load_average": [load, os.getloadavg()[0]],
    }
    done.write_text(json.dumps(told))
    return told


def _cpu_of_children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _errors(log: str, last: int) -> list[str]:
    """Lines of the log that name an exception, each once, and as many lines of its end as are asked for."""
    lines = [line.strip()[:300] for line in log.splitlines() if line.strip()]
    named = [line for line in lines if "Error: " in line or "Exception: " in line]
    return list(dict.fromkeys([*named[:12], *(lines[-last:] if last else [])]))
