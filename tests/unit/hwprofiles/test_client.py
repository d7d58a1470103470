"""An agent that lies, mumbles, shouts or dies: one typed failure each, no process left, no memory taken."""

from __future__ import annotations

import json
import math
import os
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel

from hwprofiles.agent import frames
from hwprofiles.agent.archive import build_archive
from hwprofiles.agent.client import AgentClient, Limits, duration
from hwprofiles.agent.probe import memory
from hwprofiles.errors import DeviceFailure, Failure, HardwareError, TargetLost, TargetUnavailable
from hwprofiles.target import Target
from hwprofiles.transports.local import LocalTransport
from hwprofiles.transports.protocol import Ending

MAGIC = frames.MAGIC
READ = "import os, time\nos.read(0, 65536)\n"


def frame(text: bytes, payload: bytes = b"") -> bytes:
    return struct.pack("<4sIQ", MAGIC, len(text), len(payload)) + text + payload


def ask(source: str, work: Path, timeout: float = 20.0) -> HardwareError:
    channel = LocalTransport().start(Target(name="liar"), build_archive(source), work)
    client = AgentClient(channel, Limits(timeout=timeout, memory=1 << 30), "target 'liar'")
    try:
        with pytest.raises((DeviceFailure, TargetLost)) as raised:
            client.request("has", stage="load", digest="0" * 64)
        assert not client.alive and channel.ended() is not None
    finally:
        client.close()
    return raised.value


def ask_failure(source: str, work: Path, timeout: float = 20.0) -> Failure:
    error = ask(source, work, timeout)
    assert isinstance(error, DeviceFailure)
    return error.failure


def check_garbage(error: HardwareError | None) -> None:
    """It says nothing of the model, names the device and what to do, in one line for a person."""
    assert isinstance(error, TargetLost)
    said = str(error)
    assert said.startswith("target 'liar': the agent answered garbage: ") and said.isprintable() and len(said) < 600
    assert said.endswith("; what was being measured is lost; check the device, or start again")
    assert "Error(" not in said and "garbage: ;" not in said


def answer(data: bytes, then: str = "time.sleep(600)") -> str:
    return f"{READ}os.write(1, {data!r})\n{then}"


LIES = {
    "noise": b"Hello, I am not a frame at all\n" * 4,
    "huge payload": struct.pack("<4sIQ", MAGIC, 10, 2**40),
    "four gigabytes": struct.pack("<4sIQ", MAGIC, 2**32 - 1, 2**32),
    "no JSON": frame(b"{'single': 'quotes'}"),
    "not an object": frame(b"[1, 2]"),
    "not UTF-8": frame(b'{"number": "\xff"}'),
    "old answer": frame(b'{"number": 0, "boot": "b", "clock": 1.0, "has": true}'),
    "no clock": frame(b'{"number": 1, "boot": "b", "has": true}'),
    "no boot": frame(b'{"number": 1, "clock": 1.0, "has": true}'),
    "clock below zero": frame(b'{"number": 1, "boot": "b", "clock": -1.0, "has": true}'),
    "clock is not a number": frame(b'{"number": 1, "boot": "b", "clock": NaN, "has": true}'),
    "clock without end": frame(b'{"number": 1, "boot": "b", "clock": Infinity, "has": true}'),
    "clock of another age": frame(b'{"number": 1, "boot": "b", "clock": 1e300, "has": true}'),
    "clock in words": frame(b'{"number": 1, "boot": "b", "clock": "noon", "has": true}'),
    "no number": frame(b'{"has": true}'),
    "payload nobody announced": frame(b'{"number": 1, "arrays": []}', b"x" * 9),
    "array too short": frame(
        b'{"number": 1, "arrays": [{"name": "y", "type": "float32", "shape": [9], "bytes": 4}]}', b"x" * 4
    ),
    "array of minus one": frame(
        b'{"number": 1, "arrays": [{"name": "y", "type": "int8", "shape": [-1], "bytes": -1}]}'
    ),
    "array of a million dimensions": frame(
        b'{"number": 1, "arrays": [{"name": "y", "type": "int8", "shape": [%s], "bytes": 0}]}' % (b"1," * 10**6 + b"1")
    ),
    "array that cannot be": frame(
        b'{"number": 1, "arrays": [{"name": "y", "type": "int8", "bytes": 0, "shape": [0, %d, %d]}]}' % (2**39, 2**39)
    ),
    "number nested deeply": frame(b'{"number": ' + b"[" * 900 + b"]" * 900 + b"}"),
    "failure nested deeply": frame(
        b'{"number": 1, "boot": "b", "clock": 1.0, "failure": ' + b"[" * 900 + b"]" * 900 + b"}"
    ),
    "array of objects": frame(
        b'{"number": 1, "arrays": [{"name": "y", "type": "object", "shape": [1], "bytes": 8}]}', b"x" * 8
    ),
    "unknown failure": frame(b'{"number": 1, "boot": "b", "clock": 1.0, "failure": {"kind": "boredom"}}'),
    "failure is text": frame(b'{"number": 1, "boot": "b", "clock": 1.0, "failure": "no"}'),
    "more than a yes or no can take": struct.pack("<4sIQ", MAGIC, 10, 65 << 20),
}


@pytest.mark.parametrize("lie", sorted(LIES))
def test_garbage_says_nothing_about_the_model(lie: str, tmp_path: Path) -> None:
    before = memory()["now"]
    (tmp_path / "lie").write_bytes(LIES[lie])
    source = f"data = open({str(tmp_path / 'lie')!r}, 'rb').read()\nwhile data:\n    data = data[os.write(1, data):]\n"
    check_garbage(ask(f"{READ}{source}time.sleep(600)", tmp_path))
    assert memory()["now"] - before < 80 << 20


class Recorded:
    """The line of an agent that has said something, no more than a pipe holds, and then ended."""

    def __init__(self, said: bytes, ending: Ending) -> None:
        self._ending = ending
        unread, self.requests = os.pipe()
        self.replies, replies = os.pipe()
        self.log, log = os.pipe()
        os.write(replies, said[: 60 << 10])
        os.close(replies)
        os.close(log)
        self._open = [unread, self.requests, self.replies, self.log]

    def ended(self, wait: float = 0.0) -> Ending:
        return self._ending

    def kill(self) -> None:
        while self._open:
            os.close(self._open.pop())


def hear(said: bytes, ending: Ending = Ending(1, "exit code 1")) -> tuple[HardwareError | None, AgentClient]:  # noqa: B008
    client = AgentClient(Recorded(said, ending), Limits(timeout=20, memory=1 << 30), "target 'liar'")
    try:
        client.request("has", stage="load", digest="0" * 64)
    except HardwareError as error:
        return error, client
    finally:
        client.close()
    return None, client


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6), inner, max_size=4),
    max_leaves=12,
)
dimension = st.sampled_from([0, 1, 2, 2**39, 2**40, 2**64]) | st.integers()
shape = st.lists(dimension, max_size=5) | st.lists(st.just(1), min_size=30, max_size=70)
described = st.builds(
    lambda name, kind, dims: {"name": name, "type": kind, "shape": dims, "bytes": math.prod(dims)},
    st.text(max_size=3),
    st.sampled_from(["int8", "bool", "uint8", "str"]),
    shape,
)
plausible = st.fixed_dictionaries(
    {},
    optional={
        "number": st.just(1) | anything,
        "boot": st.just("b") | anything,
        "clock": st.floats() | anything,
        "failure": anything | st.fixed_dictionaries({"kind": st.just("oom") | anything, "message": anything}),
        "arrays": anything | st.lists(anything | described, max_size=2),
    },
)
port = anything | st.fixed_dictionaries(
    {"name": st.just("x") | anything}, optional={"type": anything, "shape": anything | shape}
)
opened = st.fixed_dictionaries(
    {"number": st.just(2), "boot": st.just("b"), "clock": st.just(2.0)},
    optional={
        "seconds": st.just(0.5) | anything,
        "inputs": anything | st.lists(port, max_size=3),
        "outputs": st.just([]) | anything | st.lists(port, max_size=3),
    },
)


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=300))
def test_any_bytes_are_one_failure(said: bytes) -> None:
    error, client = hear(said)
    assert not client.alive
    if isinstance(error, DeviceFailure):
        assert error.failure.kind == "crash" and "\n" not in error.failure.message
    else:
        check_garbage(error)


@settings(max_examples=300, deadline=None)
@given(plausible, st.binary(max_size=40))
def test_any_reply_is_an_answer_or_one_failure(header: dict[str, object], payload: bytes) -> None:
    before = memory()["now"]
    error, _ = hear(frame(json.dumps(header).encode(), payload))
    assert error is None or isinstance(error, (DeviceFailure, TargetLost))
    assert memory()["now"] - before < 50 << 20


@settings(max_examples=300, deadline=None)
@given(opened)
def test_any_ports_are_taken_or_garbage(header: dict[str, object]) -> None:
    """What an opened model is said to take is compared with feeds, and spelled in messages."""
    said = frame(b'{"number": 1, "boot": "b", "clock": 1.0, "has": true}') + frame(json.dumps(header).encode())
    client = AgentClient(Recorded(said, Ending(1, "exit code 1")), Limits(20, 1 << 30), "target 'liar'")
    try:
        client.open("m", Path(__file__), "0" * 64)
        client.check_feeds("m", [{"x": np.zeros(1)}], stage="infer")
    except TargetLost as error:
        check_garbage(error)
    except DeviceFailure as error:
        assert error.failure.kind == "bad_model" and len(error.failure.message) < 3000
    finally:
        client.close()


@pytest.mark.parametrize(
    "change",
    [
        {"inputs": None}, {"inputs": {"name": "x"}}, {"inputs": ["x"]}, {"inputs": [{"name": 1}]},
        {"inputs": [{"type": "tensor(float)"}]}, {"outputs": None}, {"outputs": [None]}, {"seconds": -1},
        {"seconds": None},
    ],
)  # fmt: skip
def test_a_model_opened_with_impossible_ports_is_garbage(change: dict[str, object]) -> None:
    good = {"number": 2, "boot": "b", "clock": 2.0, "seconds": 0.5, "inputs": [{"name": "x"}], "outputs": []}
    for told, wrong in ((good, False), ({**good, **change}, True)):
        said = frame(b'{"number": 1, "boot": "b", "clock": 1.0, "has": true}') + frame(json.dumps(told).encode())
        client = AgentClient(Recorded(said, Ending(1, "exit code 1")), Limits(20, 1 << 30), "target 'liar'")
        try:
            if wrong:
                with pytest.raises(TargetLost) as raised:
                    client.open("m", Path(__file__), "0" * 64)
                check_garbage(raised.value)
                assert not client.alive and not client.sessions
            else:
                client.open("m", Path(__file__), "0" * 64)
                client.check_feeds("m", [{"x": np.zeros(1)}], stage="infer")
        finally:
            client.close()


class Count(BaseModel):
    count: int


def complain(*words: str) -> None:
    raise ValueError(*words)


@pytest.mark.parametrize(
    ("read", "said"),
    [
        (lambda: {}["blocks"], "it has no 'blocks'"),
        (lambda: Count.model_validate({"count": "many\nmore"}), "count: Input should be a valid integer"),
        (lambda: int(float("inf")), "cannot convert float infinity to integer"),
        (lambda: duration({"seconds": float("nan")}, "seconds"), "'seconds' is nan, not a duration"),
        (lambda: [][0], "list index out of range"),
        (lambda: complain(), "another form"),
        (lambda: complain("two\nlines " * 500), "two lines"),
    ],
)
def test_what_does_not_fit_is_told_in_words(read: Callable[[], object], said: str) -> None:
    client = AgentClient(Recorded(b"", Ending(1, "exit code 1")), Limits(20, 1 << 30), "target 'liar'")
    with pytest.raises(TargetLost, match=said) as raised, client.reading("latency"):
        read()
    check_garbage(raised.value)
    assert not client.alive


def reply(number: int, boot: str = "b", clock: float = 1.0) -> bytes:
    return frame(json.dumps({"number": number, "boot": boot, "clock": clock, "has": True}).encode())


@pytest.mark.parametrize("ending", [Ending(None, "ssh: connection reset"), Ending(121, "ended from outside")])
@pytest.mark.parametrize("said", [b"", reply(2)[:12], reply(2)[:-1]])
def test_a_broken_connection_says_nothing_about_the_model(said: bytes, ending: Ending) -> None:
    client = AgentClient(Recorded(reply(1) + said, ending), Limits(20, 1 << 30), "target 'liar'")
    client.request("has", stage="load", digest="0" * 64)
    with pytest.raises(TargetLost) as raised:
        client.request("has", stage="load", digest="0" * 64)
    assert ending.said in str(raised.value) and "'liar'" in str(raised.value)
    assert not client.alive


def test_a_connection_that_never_came_about_is_unavailable() -> None:
    error, client = hear(b"", Ending(None, "ssh: connect to host x port 22: Connection refused"))
    assert type(error) is TargetUnavailable and str(error).endswith("port 22: Connection refused")
    assert not client.alive


def test_the_memory_guard_is_an_oom() -> None:
    error, _ = hear(b"", Ending(120, "exit code 120"))
    assert isinstance(error, DeviceFailure) and error.failure.kind == "oom"
    assert "limit of 1024 MiB" in error.failure.message


@pytest.mark.parametrize(
    ("second", "kind"),
    [(reply(2, clock=2.0), None), (reply(2, clock=0.5), TargetLost), (reply(2, boot="c", clock=2.0), TargetLost)],
)
def test_boot_and_clock_are_watched(second: bytes, kind: type[Exception] | None) -> None:
    client = AgentClient(Recorded(reply(1) + second, Ending(0, "exit code 0")), Limits(20, 1 << 30), "target 'liar'")
    client.request("has", stage="load", digest="0" * 64)
    try:
        if kind is None:
            client.request("has", stage="load", digest="0" * 64)
            assert client.moment is not None and client.moment.device == 2.0
        else:
            with pytest.raises(kind):
                client.request("has", stage="load", digest="0" * 64)
            assert not client.alive
    finally:
        client.close()


def test_a_refusal_for_a_lost_lease_is_no_failure_of_the_model() -> None:
    told = {"number": 1, "boot": "b", "clock": 1.0, "failure": {"kind": "lost", "message": "the lease is gone"}}
    error, _ = hear(frame(json.dumps(told).encode()))
    assert isinstance(error, TargetLost) and "the lease is gone" in str(error)


@pytest.mark.parametrize(("reachable", "kind"), [(True, DeviceFailure), (False, TargetLost)])
def test_silence_of_the_whole_device_is_not_the_models_fault(
    tmp_path: Path, reachable: bool, kind: type[Exception]
) -> None:
    channel = LocalTransport().start(Target(name="liar"), build_archive("import time\ntime.sleep(600)"), tmp_path)
    client = AgentClient(channel, Limits(0.3, 1 << 30), "target 'liar'", reachable=lambda: reachable)
    with pytest.raises(kind):
        client.request("infer", stage="infer")
    assert not client.alive and channel.ended() is not None


def test_a_flood_of_replies_takes_no_memory(tmp_path: Path) -> None:
    before = memory()["now"]
    flood = f"while True:\n    os.write(1, {frame(b'{}', b'')!r} * 4000)"
    check_garbage(ask(f"{READ}{flood}", tmp_path))
    long = f"os.write(1, {struct.pack('<4sIQ', MAGIC, 10, 2**30)!r})\nwhile True:\n    os.write(1, bytes(1 << 20))"
    check_garbage(ask(f"{READ}{long}", tmp_path))
    assert memory()["now"] - before < 50 << 20


def test_half_an_answer_is_a_crash(tmp_path: Path) -> None:
    failure = ask_failure(answer(frame(b'{"number": 1}')[:12], "raise SystemExit(3)"), tmp_path)
    assert failure.kind == "crash" and "exit code 3" in failure.message


def test_closed_output_is_a_protocol_failure(tmp_path: Path) -> None:
    failure = ask_failure(f"{READ}os.close(1)\ntime.sleep(600)", tmp_path)
    assert failure.kind == "protocol" and "runs on" in failure.message


def test_silence_is_a_timeout(tmp_path: Path) -> None:
    failure = ask_failure("import time\ntime.sleep(600)", tmp_path, timeout=0.5)
    assert failure.kind == "timeout" and "0.5 s" in failure.message


def test_a_drip_is_a_timeout(tmp_path: Path) -> None:
    drip = "while True:\n    os.write(1, b' ')\n    time.sleep(0.05)"
    text = struct.pack("<4sIQ", MAGIC, 1 << 20, 0)
    failure = ask_failure(answer(text, drip), tmp_path, timeout=1.0)
    assert failure.kind == "timeout"


def test_a_shouting_agent_neither_blocks_nor_fills_us(tmp_path: Path) -> None:
    flood = "for _ in range(2000):\n    os.write(2, b'x' * 65536)\n"
    failure = ask_failure(f"{READ}{flood}os.write(2, b' at last')\nraise SystemExit(5)", tmp_path)
    assert failure.kind == "crash" and "exit code 5" in failure.message
    assert failure.traceback is not None
    assert len(failure.traceback) <= 16 << 10 and failure.traceback.endswith("at last")


def test_a_shout_without_end_is_a_timeout(tmp_path: Path) -> None:
    failure = ask_failure(f"{READ}while True:\n    os.write(2, b'x' * 65536)", tmp_path, timeout=1.0)
    assert failure.kind == "timeout"
