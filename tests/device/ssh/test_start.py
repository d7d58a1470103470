"""How the program gets to the device and starts there, whatever shell, login files and Python it finds."""

from __future__ import annotations

import ast
import os
import shutil
from collections.abc import Callable
from importlib import resources
from pathlib import Path

import pytest

from hwprofiles.agent.archive import build_archive
from hwprofiles.target import Target
from hwprofiles.transports.ssh import SshTransport
from tests.device.ssh.test_no_connection import refusal
from tests.device.sshd import Sshd, need

HELLO = build_archive("import os, sys\nos.write(1, ('hello from ' + sys.argv[1]).encode())\nos.read(0, 1)")


def answer(target: Target, work: Path, program: bytes = HELLO) -> str:
    """What the program says first."""
    channel = SshTransport().start(target, program, work)
    try:
        return os.read(channel.replies, 4096).decode()
    finally:
        channel.kill()


def script(path: Path, text: str) -> str:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return str(path)


@pytest.mark.parametrize("shell", ["dash", "bash", "zsh", "fish", "tcsh"])
def test_any_login_shell(own_sshd: Callable[..., Sshd], tmp_path: Path, shell: str) -> None:
    program = need(shell, shell)
    server = own_sshd(f'ForceCommand exec {program} -c "$SSH_ORIGINAL_COMMAND"')
    assert answer(server.target(), tmp_path).startswith("hello from ")
    assert "no 'no-such-python'" in refusal(server.target(python="no-such-python"), tmp_path)


def test_login_files_that_print(own_sshd: Callable[..., Sshd], tmp_path: Path) -> None:
    noise = 'echo "Welcome! $(seq 1 2000)"; printf "no newline at the end"; echo warning >&2'
    server = own_sshd(f'ForceCommand {noise}; exec sh -c "$SSH_ORIGINAL_COMMAND"')
    assert answer(server.target(), tmp_path).startswith("hello from ")


@pytest.mark.parametrize("stream", ["", ">&2"])
def test_login_files_that_print_without_end(own_sshd: Callable[..., Sshd], tmp_path: Path, stream: str) -> None:
    server = own_sshd(f"ForceCommand exec yes {stream}")
    text = refusal(server.target(timeout=3.0, options={"connect_timeout": 1}), tmp_path)
    assert "64 KiB" in text or "no answer within 4 s" in text


def test_login_files_that_wait(own_sshd: Callable[..., Sshd], tmp_path: Path) -> None:
    server = own_sshd("ForceCommand exec sleep 60")
    text = refusal(server.target(timeout=1.0, options={"connect_timeout": 1}), tmp_path)
    assert "no answer within 2 s" in text


def test_a_device_that_echoes_what_it_is_sent(sshd: Sshd, tmp_path: Path) -> None:
    target = sshd.target(python=script(tmp_path / "fake", "exec cat"), timeout=1.0, options={"connect_timeout": 1})
    text = refusal(target, tmp_path)
    assert "no answer" in text


def test_no_python(sshd: Sshd, tmp_path: Path) -> None:
    text = refusal(sshd.target(python="no-such-python"), tmp_path)
    assert "there is no 'no-such-python'" in text and "set `python`" in text


def test_python_that_may_not_be_executed(sshd: Sshd, tmp_path: Path) -> None:
    (tmp_path / "python").write_text("#!/bin/sh\n")
    text = refusal(sshd.target(python=str(tmp_path / "python")), tmp_path)
    assert "may not be executed" in text


def test_python_of_another_processor(sshd: Sshd, tmp_path: Path) -> None:
    fake = tmp_path / "python"
    header = bytearray(Path(shutil.which("true") or "/bin/true").read_bytes())
    header[18:20] = b"\xf3\x00"  # RISC-V
    fake.write_bytes(header)
    fake.chmod(0o755)
    text = refusal(sshd.target(python=str(fake)), tmp_path)
    assert "another kind of processor" in text


def test_python_that_is_something_else(sshd: Sshd, tmp_path: Path) -> None:
    text = refusal(sshd.target(python=script(tmp_path / "fake", "echo I am a menu; exit 3")), tmp_path)
    assert "exit code 3" in text


def test_python_that_is_too_old(sshd: Sshd, tmp_path: Path) -> None:
    two = script(tmp_path / "two", """echo "AttributeError: 'file' object has no attribute 'buffer'" >&2; exit 1""")
    assert "older than Python 3.9" in refusal(sshd.target(python=two), tmp_path)
    (tmp_path / "old.py").write_text(
        "import sys\nsys.version_info = (3, 8, 10)\nexec(sys.stdin.buffer.raw.readline())\n"
    )
    eight = script(tmp_path / "eight", f"exec {sshd.python} {tmp_path}/old.py")
    text = refusal(sshd.target(python=eight), tmp_path)
    assert "is Python 3.8; 3.9 is the oldest" in text and "`python`" in text


def test_what_travels_is_python_3_9() -> None:
    source = resources.files("hwprofiles.transports").joinpath("remote_bootstrap.py").read_text("utf-8")
    ast.parse(source, feature_version=(3, 9))


def test_a_module_in_the_home_folder_is_not_imported(own_sshd: Callable[..., Sshd], tmp_path: Path) -> None:
    for name in ("hashlib", "runpy", "faulthandler", "zipfile"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('the wrong one')")
    server = own_sshd(f'ForceCommand cd {tmp_path}; exec sh -c "$SSH_ORIGINAL_COMMAND"')
    assert answer(server.target(), tmp_path).startswith("hello from ")


def test_the_program_is_sent_once(own_sshd: Callable[..., Sshd], tmp_path: Path) -> None:
    server = own_sshd()
    for _ in range(2):
        assert answer(server.target(), tmp_path) == f"hello from {server.cache}/hw-autotune"
    (kept,) = (server.cache / "hw-autotune" / "programs").iterdir()
    first = kept.stat().st_ino
    answer(server.target(), tmp_path)
    assert kept.stat().st_ino == first
    kept.write_bytes(kept.read_bytes()[:-1])  # a disk that was full
    assert answer(server.target(), tmp_path).startswith("hello from ")
    assert kept.read_bytes() == HELLO


def test_programs_that_nobody_starts_any_more_are_removed(own_sshd: Callable[..., Sshd], tmp_path: Path) -> None:
    server = own_sshd()
    answer(server.target(), tmp_path)
    (old,) = (server.cache / "hw-autotune" / "programs").iterdir()
    os.utime(old, (0, 0))
    answer(server.target(), tmp_path, build_archive("import os\nos.write(1, b'x')"))
    assert not old.exists()


def test_a_folder_of_ones_own(sshd: Sshd, tmp_path: Path) -> None:
    folder = tmp_path / "a folder; with $(everything) 'in' it"
    assert answer(sshd.target(options={"folder": str(folder)}), tmp_path) == f"hello from {folder}"
    assert folder.stat().st_mode & 0o077 == 0


def test_a_folder_that_others_can_write_to(sshd: Sshd, tmp_path: Path) -> None:
    folder = tmp_path / "open"
    folder.mkdir()
    folder.chmod(0o777)
    text = refusal(sshd.target(options={"folder": str(folder)}), tmp_path)
    assert str(folder) in text and "other users can write" in text and "`folder`" in text


def test_a_folder_that_cannot_be_made(sshd: Sshd, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    text = refusal(sshd.target(options={"folder": str(tmp_path / "file" / "x")}), tmp_path)
    assert "Not a directory" in text and "`folder`" in text


def test_a_full_disk(sshd: Sshd, tmp_path: Path) -> None:
    fake = script(tmp_path / "python", f'ulimit -f 0; exec {sshd.python} "$@"')
    text = refusal(sshd.target(python=fake, options={"folder": str(tmp_path / "full")}), tmp_path)
    assert "File too large" in text and "`folder`" in text
    assert not list((tmp_path / "full" / "programs").iterdir())


def test_jump_host_and_user_configuration(sshd: Sshd, tmp_path: Path) -> None:
    alias = sshd.folder / "aliases"
    alias.write_text(f"Host board\n  HostName {sshd.host}\n  ProxyJump {sshd.host}\n" + sshd.config.read_text())
    target = sshd.target(options={"host": "board", "config": str(alias)})
    assert answer(target, tmp_path).startswith("hello from ")


def test_settings_for_interactive_sessions_do_no_harm(sshd: Sshd, tmp_path: Path) -> None:
    odd = sshd.folder / "odd"
    odd.write_text(
        "Host *\n  RequestTTY force\n  RemoteCommand tmux attach\n  LogLevel QUIET\n  LocalForward 1 localhost:1\n"
        "  ForwardX11 yes\n  ForwardAgent yes\n" + sshd.config.read_text()
    )
    assert answer(sshd.target(options={"config": str(odd)}), tmp_path).startswith("hello from ")
