"""The transport through a command: what it refuses, and a device behind it."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hwprofiles.agent.archive import build_archive
from hwprofiles.device import open_device
from hwprofiles.errors import BadProfile, TargetUnavailable
from hwprofiles.target import Target
from hwprofiles.transports.command import CommandTransport
from tests.device.ssh.test_start import script
from tests.unit.hwprofiles.conftest import save_dense

PROGRAM = build_archive("import os, sys\nos.write(1, sys.argv[1].encode())\nos.read(0, 1)")


def wrapped(python: str | None = None, **options: Any) -> Target:
    return Target.model_validate({"name": "box", "transport": "command", "python": python, "options": options})


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({}, "'prefix' is missing"),
        ({"prefix": []}, "'prefix' is \\[\\]"),
        ({"prefix": "env"}, "'prefix' is 'env'; give a list of words"),
        ({"prefix": ["env", ""]}, "'prefix' is"),
        ({"prefix": ["env"], "shared": 1}, "'shared' is 1"),
        ({"prefix": ["env"], "folder": "here"}, "`folder` is 'here'"),
        ({"prefix": ["env"], "host": "x"}, "no option 'host'"),
    ],
)
def test_options_that_cannot_be(tmp_path: Path, options: dict[str, Any], says: str) -> None:
    with pytest.raises(BadProfile, match=says):
        CommandTransport().start(wrapped(**options), PROGRAM, tmp_path)


@pytest.mark.parametrize("python", ["", "-c", "a\nb"])
def test_interpreters_that_cannot_be(tmp_path: Path, python: str) -> None:
    with pytest.raises(BadProfile, match="python is"):
        CommandTransport().start(wrapped(python, prefix=["env"]), PROGRAM, tmp_path)


def test_a_prefix_that_is_not_there(tmp_path: Path) -> None:
    for shared in (False, True):
        with pytest.raises(TargetUnavailable, match="no command 'no-such-docker' here"):
            CommandTransport().start(wrapped(prefix=["no-such-docker", "exec"], shared=shared), PROGRAM, tmp_path)


def test_a_prefix_that_fails(tmp_path: Path) -> None:
    docker = script(tmp_path / "docker", 'echo "Error: No such container: x" >&2; exit 1')
    with pytest.raises(TargetUnavailable, match="No such container: x"):
        CommandTransport().start(wrapped(prefix=[docker, "exec", "-i", "x"]), PROGRAM, tmp_path)


def test_an_interpreter_that_is_not_inside(tmp_path: Path) -> None:
    with pytest.raises(TargetUnavailable, match=r"there is no 'no-such-python'.*set `python`"):
        CommandTransport().start(wrapped("no-such-python", prefix=["env"]), PROGRAM, tmp_path)


def test_words_reach_the_command_as_they_are(tmp_path: Path) -> None:
    folder = tmp_path / "it's a $(folder); yes"
    channel = CommandTransport().start(wrapped(prefix=["env", "A=$(b) 'c'"], folder=str(folder)), PROGRAM, tmp_path)
    assert os.read(channel.replies, 4096).decode() == str(folder)
    channel.kill()


@pytest.mark.parametrize("shared", [False, True])
def test_a_device_behind_a_command(tmp_path: Path, shared: bool) -> None:
    model = save_dense(tmp_path / "dense.onnx", width=8)
    target = wrapped(sys.executable, prefix=["env"], shared=shared, folder=str(tmp_path / "inside"))
    with open_device(target, work=tmp_path / "work") as device:
        (found,) = device.infer(model, [{"x": np.ones((1, 64), np.float32)}])
    assert found["y"].shape == (1, 8)
    assert list((tmp_path / "inside" / "blobs").iterdir())
