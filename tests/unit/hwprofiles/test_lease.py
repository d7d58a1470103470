"""One timing at a time, across processes; freed by the kernel; nobody starves."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from hwprofiles.errors import TargetBusy
from hwprofiles.lease import Lease, runtime_folder

HOLD = """
import sys
from hwprofiles.lease import Lease
with getattr(Lease("board"), sys.argv[1])(*sys.argv[2:]):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture(autouse=True)
def private_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    return tmp_path


@pytest.fixture
def holder() -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, "exclusive", "timing ocr"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None and process.stdout.readline() == b"held\n"
        yield process
        process.kill()


def test_another_process_waits_and_is_told_who_holds_it(holder: subprocess.Popen[bytes]) -> None:
    for attempt in (Lease("board", wait=0.2).exclusive("me"), Lease("board", wait=0.2).shared()):
        with pytest.raises(TargetBusy) as raised, attempt:
            pass
        assert f"process {holder.pid}" in str(raised.value) and "timing ocr" in str(raised.value)
    with Lease("other board", wait=0.2).exclusive("me"):
        pass


def test_kernel_frees_it_when_the_holder_is_killed(holder: subprocess.Popen[bytes]) -> None:
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    lease = Lease("board", wait=10)
    assert lease.holder() is None
    with lease.exclusive("me"):
        assert "(me)" in str(lease.holder())
    assert lease.holder() is None


def test_inferences_share() -> None:
    with Lease("board", wait=0.2).shared(), Lease("board", wait=0.2).shared():
        pass
    with pytest.raises(TargetBusy), Lease("board").shared(), Lease("board", wait=0.2).exclusive("me"):
        pass


def test_a_waiting_timing_is_not_overtaken_by_new_inferences() -> None:
    waiting, order = threading.Event(), []

    def timing() -> None:
        lease = Lease("board", wait=30)
        waiting.set()
        with lease.exclusive("timing"):
            order.append("timing")

    with Lease("board").shared():
        thread = threading.Thread(target=timing)
        thread.start()
        waiting.wait()
        # The turnstile is the timing's as soon as it queues; until then a newcomer may still slip in.
        blocked = False
        while not blocked:
            try:
                with Lease("board", wait=0.05).shared():
                    pass
            except TargetBusy:
                blocked = True
        assert order == []
    with Lease("board", wait=30).shared():
        order.append("inference")
    thread.join()
    assert order == ["timing", "inference"]


def test_lock_is_freed_when_the_work_raises() -> None:
    with pytest.raises(ZeroDivisionError), Lease("board").exclusive("me"):
        1 / 0  # noqa: B018
    with Lease("board", wait=0).exclusive("me"):
        pass


def test_folder_is_private(private_folder: Path) -> None:
    assert runtime_folder().parent == private_folder
    assert runtime_folder().stat().st_mode & 0o077 == 0
