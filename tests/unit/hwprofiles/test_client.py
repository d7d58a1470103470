"""An agent that lies, mumbles, shouts or dies: one typed failure each, no process left, no memory taken."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

from hwprofiles.agent import frames
from hwprofiles.agent.client import AgentClient, Limits
from hwprofiles.agent.probe import memory
from hwprofiles.errors import DeviceFailure, Failure
from hwprofiles.target import Target
from hwprofiles.transports.conformance import program
from hwprofiles.transports.local import LocalTransport

MAGIC = frames.MAGIC
READ = "import os, time\nos.read(0, 65536)\n"


def frame(text: bytes, payload: bytes = b"") -> bytes:
    return struct.pack("<4sIQ", MAGIC, len(text), len(payload)) + text + payload


def ask(source: str, work: Path, timeout: float = 20.0) -> tuple[Failure, AgentClient]:
    channel = LocalTransport().start(Target(name="liar"), program(source), work)
    client = AgentClient(channel, Limits(timeout=timeout, memory=1 << 30), "target 'liar'")
    try:
        with pytest.raises(DeviceFailure) as raised:
            client.request("has", stage="load", digest="0" * 64)
        assert not client.alive and channel.ended() is not None
    finally:
        client.close()
    return raised.value.failure, client


def answer(data: bytes, then: str = "time.sleep(600)") -> str:
    return f"{READ}os.write(1, {data!r})\n{then}"


LIES = {
    "noise": b"Hello, I am not a frame at all\n" * 4,
    "huge payload": struct.pack("<4sIQ", MAGIC, 10, 2**40),
    "four gigabytes": struct.pack("<4sIQ", MAGIC, 2**32 - 1, 2**32),
    "no JSON": frame(b"{'single': 'quotes'}"),
    "not an object": frame(b"[1, 2]"),
    "not UTF-8": frame(b'{"number": "\xff"}'),
    "old answer": frame(b'{"number": 0, "has": true}'),
    "no number": frame(b'{"has": true}'),
    "payload nobody announced": frame(b'{"number": 1, "arrays": []}', b"x" * 9),
    "array too short": frame(
        b'{"number": 1, "arrays": [{"name": "y", "type": "float32", "shape": [9], "bytes": 4}]}', b"x" * 4
    ),
    "array of minus one": frame(
        b'{"number": 1, "arrays": [{"name": "y", "type": "int8", "shape": [-1], "bytes": -1}]}'
    ),
    "array of objects": frame(
        b'{"number": 1, "arrays": [{"name": "y", "type": "object", "shape": [1], "bytes": 8}]}', b"x" * 8
    ),
    "unknown failure": frame(b'{"number": 1, "failure": {"kind": "boredom", "message": "no"}}'),
    "failure is text": frame(b'{"number": 1, "failure": "no"}'),
}


@pytest.mark.parametrize("lie", sorted(LIES))
def test_garbage_is_a_protocol_failure(lie: str, tmp_path: Path) -> None:
    before = memory()["now"]
    failure, _ = ask(answer(LIES[lie]), tmp_path)
    assert failure.kind == "protocol" and failure.stage == "load"
    assert "target 'liar'" in failure.message and "\n" not in failure.message
    assert memory()["now"] - before < 50 << 20


def test_half_an_answer_is_a_crash(tmp_path: Path) -> None:
    failure, _ = ask(answer(frame(b'{"number": 1}')[:12], "raise SystemExit(3)"), tmp_path)
    assert failure.kind == "crash" and "exit code 3" in failure.message


def test_closed_output_is_a_protocol_failure(tmp_path: Path) -> None:
    failure, _ = ask(f"{READ}os.close(1)\ntime.sleep(600)", tmp_path)
    assert failure.kind == "protocol" and "runs on" in failure.message


def test_silence_is_a_timeout(tmp_path: Path) -> None:
    failure, _ = ask("import time\ntime.sleep(600)", tmp_path, timeout=0.5)
    assert failure.kind == "timeout" and "0.5 s" in failure.message


def test_a_drip_is_a_timeout(tmp_path: Path) -> None:
    drip = "while True:\n    os.write(1, b' ')\n    time.sleep(0.05)"
    text = struct.pack("<4sIQ", MAGIC, 1 << 20, 0)
    failure, _ = ask(answer(text, drip), tmp_path, timeout=1.0)
    assert failure.kind == "timeout"


def test_a_shouting_agent_neither_blocks_nor_fills_us(tmp_path: Path) -> None:
    flood = "for _ in range(2000):\n    os.write(2, b'x' * 65536)\n"
    failure, _ = ask(f"{READ}{flood}os.write(2, b' at last')\nraise SystemExit(5)", tmp_path)
    assert failure.kind == "crash" and "exit code 5" in failure.message
    assert failure.traceback is not None
    assert len(failure.traceback) <= 16 << 10 and failure.traceback.endswith("at last")


def test_a_shout_without_end_is_a_timeout(tmp_path: Path) -> None:
    failure, _ = ask(f"{READ}while True:\n    os.write(2, b'x' * 65536)", tmp_path, timeout=1.0)
    assert failure.kind == "timeout"
