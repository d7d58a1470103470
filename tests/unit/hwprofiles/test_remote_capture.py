"""What a command prints is kept up to a limit; beyond it, or beyond its time, nothing of the command is left."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

from hwprofiles.transports.remote_capture import MOST, TooMuchText, run_captured


def test_output_errors_and_exit_code(tmp_path: Path) -> None:
    (tmp_path / "in").write_bytes(b"y" * 300_000)
    code = "import sys; print(len(sys.stdin.read())); print('no', file=sys.stderr); sys.exit(3)"
    with (tmp_path / "in").open("rb") as source:
        done = run_captured([sys.executable, "-c", code], source=source, seconds=60)
    assert (done.returncode, done.stdout, done.stderr) == (3, b"300000\n", b"no\n")
    done = run_captured([sys.executable, "-c", "print(input())"], seconds=60)
    assert done.returncode == 1  # there is nothing to read


@pytest.mark.parametrize("output", [1, 2])
def test_as_much_as_is_kept_and_a_byte_more(output: int) -> None:
    code = "import os, sys\nleft = {}\nwhile left:\n    left -= os.write({}, bytes(min(left, 65536)))"
    done = run_captured([sys.executable, "-c", code.format(MOST, output)], seconds=60)
    assert len(done.stdout) + len(done.stderr) == MOST
    with pytest.raises(TooMuchText, match="1024 KiB"):
        run_captured([sys.executable, "-c", code.format(MOST + 1, output)], seconds=60)


def test_nothing_is_left_of_one_that_prints_without_end_or_hangs(tmp_path: Path) -> None:
    pid = tmp_path / "pid"
    child = f"echo $$ > {pid}; exec yes"
    with pytest.raises(TooMuchText):
        run_captured(["sh", "-c", f"sh -c '{child}' & wait"], seconds=60)
    assert gone(pid)
    pid.unlink()
    with pytest.raises(subprocess.TimeoutExpired):
        run_captured(["sh", "-c", f"sh -c 'echo $$ > {pid}; exec sleep 600' & wait"], seconds=1.0)
    assert gone(pid)


def gone(pid: Path) -> bool:
    """Whether the process ends, whoever reaps it."""
    status = Path("/proc") / pid.read_text().strip() / "status"
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        try:
            if "State:\tZ" in status.read_text():
                return True
        except OSError:
            return True
        time.sleep(0.02)
    return False
