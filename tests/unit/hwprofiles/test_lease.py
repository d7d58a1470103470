"""One timing at a time, across processes; freed by the kernel; nobody starves; a lost lease is noticed."""

from __future__ import annotations

import hashlib
import os
import signal
import stat
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from hwprofiles.agent.archive import build_archive
from hwprofiles.agent.client import AgentClient, Limits, Moment
from hwprofiles.agent.lock import DeviceLock, LockError, is_current, lock_folder, watch
from hwprofiles.device import Device, open_keeper
from hwprofiles.errors import TargetBusy, TargetLost, TargetUnavailable
from hwprofiles.lease import Keeper, check_clocks
from hwprofiles.scenario import Scenario
from hwprofiles.target import Target
from hwprofiles.transports.local import LocalTransport

OpenDevice = Callable[..., Device]
OpenKeeper = Callable[..., Keeper]
X = {"x": np.ones((1, 64), np.float32)}

HOLD = """
import sys
from pathlib import Path
from hwprofiles.device import open_keeper
from hwprofiles.target import Target
from hwprofiles.transports.local import LocalTransport
keeper = open_keeper(Target(name="board", options={"lease_wait": 30}), work=Path(sys.argv[1]))
with getattr(keeper, sys.argv[2])(*sys.argv[3:]):
    print("held", flush=True)
    sys.stdin.read()
keeper.close()
"""


@pytest.fixture
def locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "locks"
    monkeypatch.setenv("HW_AUTOTUNE_LOCKS", str(folder))
    return folder


@pytest.fixture
def keep(tmp_path: Path, locks: Path) -> Iterator[OpenKeeper]:
    """Opens keepers that are closed after the test; they wait as long as they are told to."""
    keepers: list[Keeper] = []

    def make(wait: float = 30) -> Keeper:
        target = Target(name="board", options={"lease_wait": wait})
        keepers.append(open_keeper(target, work=tmp_path / "work"))
        return keepers[-1]

    yield make
    for keeper in keepers:
        keeper.close()


@pytest.fixture
def holder(tmp_path: Path, locks: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Another process that times on the device."""
    arguments = [str(tmp_path / "other"), "exclusive", "timing ocr"]
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None and process.stdout.readline() == b"held\n"
        yield process
        process.kill()


def test_another_process_waits_and_is_told_who_holds_it(holder: subprocess.Popen[bytes], keep: OpenKeeper) -> None:
    keeper = keep(0.2)
    for attempt in (keeper.exclusive("me"), keeper.shared()):
        with pytest.raises(TargetBusy) as raised, attempt:
            pass
        said = str(raised.value)
        assert f"process {holder.pid}" in said and "timing ocr" in said and "'board'" in said and "@" in said
    assert f"process {holder.pid}" in str(keeper.holder()) and " s: timing ocr" in str(keeper.holder())


def test_kernel_frees_it_when_the_holder_is_killed(holder: subprocess.Popen[bytes], keep: OpenKeeper) -> None:
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    keeper = keep()
    with keeper.exclusive("me"):
        assert str(keeper.holder()).endswith(": me")
    assert keeper.holder() is None


def test_inferences_share(keep: OpenKeeper) -> None:
    keeper, other = keep(0.2), keep(0.2)
    with keeper.shared(), keeper.shared(), other.shared():
        for one in (keeper, other):
            with pytest.raises(TargetBusy), one.exclusive("me"):
                pass
    with keeper.exclusive("me"):
        pass


def test_a_waiting_timing_is_not_overtaken_by_new_inferences(keep: OpenKeeper) -> None:
    first, timer, hasty, patient = keep(), keep(), keep(0.05), keep()
    order: list[str] = []

    def timing() -> None:
        with timer.exclusive("timing"):
            order.append("timing")

    with first.shared():
        thread = threading.Thread(target=timing)
        thread.start()
        # The turnstile is the timing's as soon as it queues; until then a newcomer may still slip in.
        blocked = False
        while not blocked:
            try:
                with hasty.shared():
                    pass
            except TargetBusy:
                blocked = True
        assert order == []
    with patient.shared():
        order.append("inference")
    thread.join()
    assert order == ["timing", "inference"]


def test_it_is_freed_when_the_work_raises(keep: OpenKeeper) -> None:
    with pytest.raises(ZeroDivisionError), keep().exclusive("me"):
        1 / 0  # noqa: B018
    with keep(0).exclusive("me"):
        pass


def test_tokens_grow_and_an_old_one_is_refused(keep: OpenKeeper) -> None:
    keeper = keep()
    with keeper.exclusive("one") as first:
        assert is_current(first)
    with keep().exclusive("two") as second:
        assert second > first and is_current(second) and not is_current(first)


def test_release_needs_force_while_somebody_holds_it(holder: subprocess.Popen[bytes], keep: OpenKeeper) -> None:
    keeper = keep(5)
    with pytest.raises(TargetBusy, match="timing ocr"):
        keeper.release(force=False)
    assert holder.poll() is None
    said = keeper.release(force=True)
    assert "ended process" in said and "timing ocr" in said
    with keeper.exclusive("me"):
        pass
    assert keeper.release(force=False).endswith("nobody holds it")


def test_a_stuck_holder_is_released_too(holder: subprocess.Popen[bytes], keep: OpenKeeper) -> None:
    holder.send_signal(signal.SIGSTOP)
    keeper = keep(5)
    keeper.release(force=True)
    with keeper.exclusive("me"):
        pass
    holder.send_signal(signal.SIGCONT)


def test_whoever_loses_it_learns_it(keep: OpenKeeper) -> None:
    loser = keep()
    with pytest.raises(TargetLost, match=r"'board'.*lease"), loser.exclusive("slow work"):
        keep().release(force=True)
    with loser.exclusive("again"):  # a lost keeper is replaced
        pass


def test_a_measurement_whose_lease_was_taken_is_no_measurement(
    opened: OpenDevice, keep: OpenKeeper, dense: Path, quick: Scenario
) -> None:
    device = opened(timeout=4)  # at most half of it is timed in one go
    slow = quick.model_copy(update={"min_pairs": 10**6, "max_pairs": 10**6, "max_seconds": 60})
    raised: list[BaseException] = []

    def work() -> None:
        try:
            device.measure(dense, [X], scenario=slow)
        except TargetLost as error:
            raised.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    other = keep()
    wait_until(lambda: other.holder() is not None)
    other.release(force=True)
    thread.join(timeout=120)
    assert len(raised) == 1
    assert device.measure(dense, [X], scenario=quick).failure is None


def test_timing_ends_soon_after_the_lease_was_taken(
    opened: OpenDevice, keep: OpenKeeper, dense: Path, quick: Scenario
) -> None:
    """Not only when its request ends: the next holder would measure next to it."""
    device, first = opened(timeout=2000), keep()
    agent = device._slots[0].agent()
    sides, counts = {"a": "m"}, {"a": 20}
    agent.open("m", dense, hashlib.sha256(dense.read_bytes()).hexdigest())
    endless = {"sides": sides, "counts": counts, "pairs": 10**9, "seed": 1, "budget": 1800.0, "feeds": [X]}
    raised: list[BaseException] = []

    def work(token: int) -> None:
        agent.token = token
        try:
            agent.request("time", stage="latency", **endless)
        except TargetLost as error:
            raised.append(error)

    with pytest.raises(TargetLost), first.exclusive("timing") as token:
        thread = threading.Thread(target=work, args=(token,))
        thread.start()
        thread.join(timeout=1.0)
        assert thread.is_alive() and not raised
        keep().release(force=True)
        thread.join(timeout=60)
        assert not thread.is_alive()
    assert len(raised) == 1 and "lost to somebody else" in str(raised[0])
    assert agent.alive  # it is the lease that is gone, not the agent


def test_a_claim_is_watched_without_opening_it_anew(keep: OpenKeeper) -> None:
    with keep().exclusive("one") as first:
        current = watch(first)
        assert current() and current()
    with keep().exclusive("two"):
        assert not current()


@pytest.mark.parametrize("lie", ["{'got': True}", "{'got': True, 'token': 'x'}", "{'got': True, 'token': 1.5}"])
def test_a_keeper_that_gives_no_token_holds_nothing(tmp_path: Path, locks: Path, lie: str) -> None:
    prelude = f"program.lock.DeviceLock.attempt = lambda *_: {lie}"
    with (
        odd_keeper(tmp_path / "work", prelude) as keeper,
        pytest.raises(TargetLost, match="garbage"),
        keeper.exclusive("timing"),
    ):
        pytest.fail("nothing is held")


@pytest.mark.parametrize("lie", ["'x'", "[1]", "{'pid': [], 'seconds': -5}", "{'what': '\\x1b[2J' * 9000}"])
def test_a_holder_that_is_nonsense_is_still_spelled(tmp_path: Path, locks: Path, lie: str) -> None:
    with odd_keeper(tmp_path / "work", f"program.lock.DeviceLock.holder = lambda *_: {lie}") as keeper:
        said = keeper.holder()
        assert said and said.isprintable() and len(said) <= 300


def test_an_agent_with_a_stale_token_refuses(opened: OpenDevice, keep: OpenKeeper) -> None:
    device, keeper = opened(), keep()
    agent = device._slots[0].agent()
    with keeper.exclusive("one") as token:
        agent.token = token
        agent.request("pressure", stage="latency", seconds=0.0)
    with keep().exclusive("two"), pytest.raises(TargetLost, match="lost to somebody else"):
        agent.request("pressure", stage="latency", seconds=0.0)
    assert agent.alive  # it is the lease that is gone, not the agent


def test_a_device_tells_and_releases(
    opened: OpenDevice, holder: subprocess.Popen[bytes], dense: Path, quick: Scenario
) -> None:
    device = opened(options={"quiet_wait": 0, "lease_wait": 0.1})
    with pytest.raises(TargetBusy, match="timing ocr"):
        device.measure(dense, [X], scenario=quick)
    assert "timing ocr" in str(device.holder())
    device.release(force=True)
    assert device.holder() is None
    assert device.measure(dense, [X], scenario=quick).failure is None


def test_a_keeper_needs_an_interpreter_but_no_runtime(tmp_path: Path, locks: Path) -> None:
    bare = tmp_path / "python"
    bare.write_text(f'#!/bin/sh\nexec {sys.executable} -I -S "$@"\n')  # has neither numpy nor onnxruntime
    bare.chmod(0o755)
    with (
        open_keeper(Target(name="bare", python=str(bare)), work=tmp_path / "work") as keeper,
        keeper.exclusive("me"),
    ):
        assert keeper.holder() is not None


@pytest.mark.parametrize(("python", "said"), [("/no/python", "/no/python"), ("/bin/false", "exit code 1")])
def test_a_device_that_is_not_there(tmp_path: Path, locks: Path, python: str, said: str) -> None:
    with open_keeper(Target(name="none", python=python), work=tmp_path) as keeper:
        for ask in (keeper.holder, lambda: keeper.release(force=True)):
            with pytest.raises(TargetUnavailable, match=said) as raised:
                ask()
            assert not isinstance(raised.value, TargetLost)


def wait_until(condition: Callable[[], bool], seconds: float = 30.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it never came"
        time.sleep(0.02)


def odd_keeper(work: Path, prelude: str) -> Keeper:
    """A keeper on a device where `prelude` has changed something of the agent (`program`)."""
    source = f"from hwprofiles.agent import program\n{prelude}\nprogram.main()\n"

    def start() -> AgentClient:
        channel = LocalTransport().start(Target(name="odd"), build_archive(source), work)
        return AgentClient(channel, Limits(20, 1 << 30), "target 'odd'")

    return Keeper(start, "target 'odd'", wait=5)


def test_a_silent_parent_is_given_up_and_one_that_lives_is_not(
    tmp_path: Path, locks: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A connection can hang for hours without breaking; the lock must not."""
    with odd_keeper(tmp_path / "work", "program._HEARTBEAT = 2.0") as keeper:
        with pytest.raises(TargetLost), keeper.exclusive("the cable is pulled"):
            other = DeviceLock()
            assert not other.attempt("n", True, {})["got"]
            wait_until(lambda: bool(other.attempt("n", True, {})["got"]))
            other.leave("n")
        monkeypatch.setattr("hwprofiles.lease._PING", 0.1)
    with odd_keeper(tmp_path / "work", "program._HEARTBEAT = 2.0") as keeper, keeper.exclusive("slow work"):
        time.sleep(3.0)
        assert not other.attempt("n", True, {})["got"]
        other.leave("n")


def test_a_device_whose_clock_is_wrong_measures_nothing(tmp_path: Path, locks: Path) -> None:
    slow = "import time\nreal, start = time.monotonic, time.monotonic()\n"
    slow += "time.monotonic = lambda: start + (real() - start) / 2"
    with (
        odd_keeper(tmp_path / "work", slow) as keeper,
        pytest.raises(TargetLost, match="its clock cannot be trusted"),
        keeper.exclusive("timing"),
    ):
        time.sleep(2.0)


A = Moment(sent=100.0, got=100.1, device=5.0, boot="b")


@pytest.mark.parametrize(
    ("end", "fits"),
    [
        (Moment(sent=110.0, got=110.1, device=15.0, boot="b"), True),
        (Moment(sent=110.0, got=110.1, device=15.6, boot="b"), True),  # within the slack
        (Moment(sent=110.0, got=125.0, device=25.0, boot="b"), True),  # an answer that came late
        (Moment(sent=110.0, got=110.1, device=5.1, boot="b"), False),  # it slept
        (Moment(sent=110.0, got=110.1, device=30.0, boot="b"), False),
        (Moment(sent=110.0, got=110.1, device=15.0, boot="c"), False),
    ],
)
def test_clocks(end: Moment, fits: bool) -> None:
    if fits:
        check_clocks(A, end, "target 'board'")
    else:
        with pytest.raises(TargetLost, match="'board'"):
            check_clocks(A, end, "target 'board'")


def test_folder_is_for_everybody_and_cannot_be_misused(
    locks: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock = DeviceLock()
    assert lock.attempt("n", True, {"what": "x"})["got"]
    assert stat.S_IMODE(locks.stat().st_mode) == 0o1777
    assert {stat.S_IMODE(path.stat().st_mode) for path in locks.iterdir()} == {0o666}
    lock.leave("n")

    (tmp_path / "link").symlink_to(locks)
    monkeypatch.setenv("HW_AUTOTUNE_LOCKS", str(tmp_path / "link"))
    with pytest.raises(LockError, match="link is not followed"):
        lock_folder()

    monkeypatch.setenv("HW_AUTOTUNE_LOCKS", str(locks))
    secret = tmp_path / "secret"
    secret.write_text("mine")
    for name in ("device.lock", "device.turn"):
        (locks / name).unlink()
        (locks / name).symlink_to(secret)
    with pytest.raises(LockError, match="cannot open the lock"):
        DeviceLock().attempt("n", True, {"what": "x"})
    assert secret.read_text() == "mine"


@pytest.mark.skipif(os.getuid() != 0, reason="needs two accounts")
def test_accounts_exclude_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    """Held by an account that owns nothing, it is held for root too, and the other way round."""
    code = (
        "import os, sys\nfrom hwprofiles.agent.lock import DeviceLock\nos.setuid(65534)\n"
        "sys.stdout.write(str(DeviceLock().attempt('n', True, {'what': 'y'})['got']))\nsys.stdout.flush()\n"
        "sys.stdin.read()\n"
    )

    def other() -> subprocess.Popen[str]:
        return subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    with tempfile.TemporaryDirectory() as place:
        Path(place).chmod(0o755)
        monkeypatch.setenv("HW_AUTOTUNE_LOCKS", f"{place}/locks")
        root = DeviceLock()
        with other() as first:
            assert first.stdout is not None and first.stdout.read(4) == "True"
            assert not root.attempt("r", True, {"what": "x"})["got"]
            assert "nobody" in str((root.holder() or {}).get("account"))
        assert root.attempt("r", True, {"what": "x"})["got"]
        with other() as second:
            assert second.stdout is not None and second.stdout.read(5) == "False"


def test_a_record_cannot_have_a_foreign_process_killed(locks: Path) -> None:
    """The number in the record is somebody's word; only a process that has the lock open is ended."""
    lock, bystander = DeviceLock(), subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        assert lock.attempt("n", True, {"what": "x"})["got"]
        lock._write({"token": 1, "holder": {"process": bystander.pid}})
        with pytest.raises(LockError, match="cannot be reached"):
            DeviceLock().evict()
        assert bystander.poll() is None
    finally:
        bystander.communicate(b"\n")
