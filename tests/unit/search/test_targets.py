"""A target that is gone pauses only itself, is tried again after growing pauses, and is quarantined in the end."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest

from autotune.config import PatienceTable
from autotune.search.targets import Stopped, TargetPaused, Targets
from hwprofiles.errors import DeviceFailure, Failure, TargetBusy, TargetLost, TargetUnavailable

PATIENCE = PatienceTable(pauses=(10, 30, 60), failures=3)


class Clock(threading.Event):
    """Time that passes only while somebody waits; `stop_at` is when the user asks to stop."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.stop_at = float("inf")

    def __call__(self) -> float:
        return self.now

    def wait(self, timeout: float | None = None) -> bool:
        assert timeout is not None
        self.now += timeout
        if self.now >= self.stop_at:
            self.set()
        return self.is_set()


class Device:
    """Answers from `back` on; until then `error`."""

    def __init__(self, clock: Clock, back: float = 0.0, error: Exception | None = None) -> None:
        self.clock, self.back, self.tried = clock, back, list[float]()
        self.held: str | None = None
        self.error = error or TargetUnavailable("target 'b': no route to host")

    def holder(self) -> str | None:
        self.tried.append(round(self.clock.now))
        if self.clock.now < self.back:
            raise self.error
        return self.held


def make(clock: Clock, tell: Callable[[str], None] = lambda _: None, **devices: Device) -> Targets:
    return Targets(devices, PATIENCE, clock, tell, clock=clock)


def lose(targets: Targets, name: str, error: Exception | None = None) -> None:
    with pytest.raises(TargetPaused) as caught, targets.using(name):
        raise error or TargetLost(f"target {name!r}: connection broke")
    assert caught.value.target == name and caught.value.exit_code == 69


def test_only_the_target_that_is_gone_is_paused() -> None:
    clock = Clock()
    targets = make(clock, a=Device(clock), b=Device(clock, 1e9))
    lose(targets, "b")
    assert targets.paused == {"b"} and targets.any_there()
    with targets.using("a"):
        pass
    entered = False
    with pytest.raises(TargetPaused, match="connection broke"), targets.using("b"):
        entered = True
    assert not entered, "nothing is run on a paused target"
    lose(targets, "a", TargetBusy("device 'a' is in use by process 7"))
    assert not targets.any_there() and "process 7" in targets.state()["a"]


def test_what_a_model_does_pauses_nobody() -> None:
    clock = Clock()
    targets = make(clock, a=Device(clock))
    failure = Failure(kind="crash", stage="latency", message="signal 11")
    with pytest.raises(DeviceFailure), targets.using("a"):
        raise DeviceFailure(failure)
    assert targets.paused == frozenset()
    with pytest.raises(KeyError), targets.using("a"):
        raise KeyError("user code")
    assert targets.paused == frozenset()
    lose(targets, "a", DeviceFailure(failure.model_copy(update={"stage": "start"})))
    assert targets.paused == {"a"}, "it died before it had seen a model"


def test_it_is_tried_again_after_growing_pauses_and_comes_back() -> None:
    clock, said = Clock(), list[str]()
    device = Device(clock, back=250)
    targets = make(clock, said.append, b=device)
    lose(targets, "b")
    while targets.paused:
        targets.wait()
    assert device.tried == [10, 40, 100, 160, 220, 280]
    assert "paused, next try in 10 s" in said[0] and "quarantined after 3 failures" in said[4], said
    assert said[-1] == "target b is back"


def test_a_retry_before_its_time_is_none() -> None:
    clock = Clock()
    device = Device(clock)
    targets = make(clock, b=device)
    lose(targets, "b")
    targets.retry()
    assert device.tried == [] and targets.paused
    targets.retry(now=True)
    assert device.tried == [0] and not targets.paused


def test_a_target_that_opens_but_cannot_work_is_quarantined_too() -> None:
    clock = Clock()
    targets = make(clock, b=Device(clock))
    for expected in (10, 30, 60, 60):
        lose(targets, "b")
        assert f"next try in {expected} s" in targets.state()["b"]
        targets.wait()
        assert not targets.paused
    lose(targets, "b")
    assert "quarantined after 5" in targets.state()["b"]
    targets.retry(now=True)
    with targets.using("b"):
        pass
    lose(targets, "b")
    assert "paused, next try in 10 s" in targets.state()["b"], "work that succeeds makes it good again"


def test_a_target_that_somebody_holds_stays_paused() -> None:
    clock = Clock()
    device = Device(clock)
    device.held = "process 9 of ada on lab3"
    targets = make(clock, b=device)
    lose(targets, "b", TargetBusy("device 'b' is in use"))
    targets.retry(now=True)
    assert "in use by process 9 of ada on lab3" in targets.state()["b"]
    device.held = None
    targets.retry(now=True)
    assert not targets.paused


def test_outlasting_ends_with_the_quarantine() -> None:
    clock = Clock()
    lost, back = Device(clock, 1e9), Device(clock, 35)
    targets = make(clock, b=lost, c=back)
    lose(targets, "b")
    assert not targets.outlast({"b"})
    assert lost.tried == [10, 40, 40], "at last once more, whatever the time"
    clock.now = 0
    lose(targets, "c")
    assert targets.outlast({"c"}) and not targets.outlast({"b"})
    assert targets.outlast({"b", "c"}), "one of them is enough"


def test_waiting_is_bounded_and_can_be_stopped() -> None:
    clock = Clock()
    device = Device(clock, 1e9)
    targets = make(clock, b=device)
    lose(targets, "b")
    targets.wait(4.0)
    assert clock.now == 4.0 and device.tried == []
    clock.stop_at = 6.0
    with pytest.raises(Stopped):
        targets.wait()
    assert clock.now < 7 and device.tried == []
    with pytest.raises(Stopped):
        targets.retry(now=True)
