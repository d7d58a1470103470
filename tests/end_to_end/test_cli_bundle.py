"""`autotune targets bundle`: what goes wrong is one line."""

from __future__ import annotations

from pathlib import Path

import pytest

from autotune.cli import main
from tests.device.bundled import kept_bundle


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["--python", "3.9"], 2, "no bundle of Python '3.9' can be made; choose one of 3.11, 3.13"),
        (["--mirror", "http://127.0.0.1:9/debian"], 69, "apt cannot load its package lists from http://127.0.0.1:9"),
        ([], 2, "Missing argument 'OUT'"),
    ],
)
def test_one_line(arguments: list[str], code: int, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    if "--mirror" in arguments:
        kept_bundle()  # skips where there is no apt
    out = [] if not arguments else ["out"]
    assert main(["targets", "bundle", *out, *arguments]) == code
    lines = capsys.readouterr().err.splitlines()
    assert said in lines[-1] and not Path("out").exists()


def test_missing_tools_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert main(["targets", "bundle", "out"]) == 69
    assert "apt-get is not there" in capsys.readouterr().err
    assert main(["targets", "bundle", "out", "--emulate"]) == 69
    assert "install the package qemu-user-static" in capsys.readouterr().err
    assert not Path("out").exists()
