"""What a supervisor is made of: process trees, their weight, control groups; and its end when it is killed itself."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from hwprofiles.agent import codes, memory_group
from hwprofiles.agent.archive import build_archive
from hwprofiles.agent.memory_group import make_group
from hwprofiles.agent.processes import Scale, descendants

LINUX = pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")
# A process, its child and its grandchild; each holds 64 MiB, says so, and sleeps.
TREE = """
import os, time
for generation in range(3):
    kept = b"x" * (64 << 20)
    os.write(1, b"x")
    if generation < 2 and os.fork():
        break
time.sleep(600)
"""


def wait_until(condition: Callable[[], bool], seconds: float = 30.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it never came"
        time.sleep(0.02)


@LINUX
def test_a_tree_is_found_and_weighed() -> None:
    with subprocess.Popen([sys.executable, "-c", TREE], stdout=subprocess.PIPE) as root:
        assert root.stdout is not None
        try:
            for _ in range(3):
                assert root.stdout.read(1) == b"x"
            tree = descendants(root.pid)
            assert len(tree) == 2 and set(tree) < set(descendants(os.getpid()))
            scale = Scale(root.pid)
            both = scale.resident()
            assert 2 * (64 << 20) < both < 2 * (200 << 20)
            os.kill(tree[-1], signal.SIGKILL)
            wait_until(lambda: 64 << 20 < scale.resident() < both - (60 << 20))
        finally:
            for process in descendants(root.pid):
                os.kill(process, signal.SIGKILL)
            root.kill()


@LINUX
def test_processes_that_come_later_are_weighed_too() -> None:
    scale = Scale(os.getpid())
    before = scale.resident()
    with subprocess.Popen([sys.executable, "-c", TREE], stdout=subprocess.PIPE) as root:
        try:
            wait_until(lambda: scale.resident() - before > 3 * (64 << 20))
        finally:
            for process in descendants(root.pid):
                os.kill(process, signal.SIGKILL)
            root.kill()


@LINUX
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGHUP])
def test_the_worker_goes_with_its_supervisor(tmp_path: Path, number: int) -> None:
    program = tmp_path / "program.pyz"
    program.write_bytes(build_archive("import os, time\nos.write(1, b'u')\ntime.sleep(600)"))
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen([sys.executable, program, tmp_path, "0"], **pipes) as process:  # type: ignore[call-overload]
        assert process.stdout.read(1) == b"u"
        (worker,) = descendants(process.pid)
        process.send_signal(number)
        assert process.wait(timeout=30) == (-number if number == signal.SIGKILL else codes.ENDED)
        wait_until(lambda: not Path(f"/proc/{worker}").exists() or "Z" in Path(f"/proc/{worker}/stat").read_text())


@pytest.mark.parametrize(
    ("point", "root", "path", "places"),
    [
        ("/sys/fs/cgroup", "/", "/", ["/sys/fs/cgroup"]),
        ("/sys/fs/cgroup", "/", "/a/b", ["/sys/fs/cgroup/a/b", "/sys/fs/cgroup/a"]),
        ("/sys/fs/cgroup", "/docker/x", "/docker/x", ["/sys/fs/cgroup"]),  # a container with the host's names
        ("/sys/fs/cgroup", "/docker/x", "/docker/x/a", ["/sys/fs/cgroup/a", "/sys/fs/cgroup"]),
        ("/sys/fs/cgroup", "/", "/../other", []),  # outside of what can be seen
    ],
)
def test_where_a_group_may_be_made(point: str, root: str, path: str, places: list[str]) -> None:
    assert [str(place) for place in memory_group._below(point, root, path)] == places


@LINUX
def test_a_group_of_the_second_version_has_the_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On an ordinary folder: what is written where, and that leftovers of the dead go and those of the living stay."""
    monkeypatch.setattr(memory_group, "_places", lambda: [(tmp_path / "missing", 2), (tmp_path, 2)])
    (tmp_path / "hw-autotune-dead").mkdir()
    first = make_group(123 << 20)
    second = make_group(5 << 20)
    assert first is not None and second is not None and first.label == "cgroup v2"
    limits = sorted(int(path.read_text()) for path in tmp_path.glob("hw-autotune-*/memory.max"))
    assert limits == [5 << 20, 123 << 20] and not (tmp_path / "hw-autotune-dead").exists()
    assert first.kills() == 0
    for folder in tmp_path.glob("hw-autotune-*"):
        (folder / "memory.events").write_text("low 0\noom 1\noom_kill 1\n")
    assert first.kills() == 1


def test_no_group_without_a_place(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(memory_group, "_places", lambda: [(tmp_path / "missing", 1)])
    assert make_group(1 << 30) is None


@pytest.mark.parametrize(
    ("code", "said"),
    [(0, "exit code 0"), (3, "exit code 3"), (139, "SIGSEGV"), (137, "SIGKILL"), (121, "ended from outside"),
     (255, "exit code 255")],
)  # fmt: skip
def test_exit_codes_in_words(code: int, said: str) -> None:
    assert codes.spell(code) == said
