"""What cannot be reached is one clear line that says what to do, and nothing is asked or run on the way."""

from __future__ import annotations

import os
import socket
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from hwprofiles.agent.archive import build_archive
from hwprofiles.errors import BadProfile, TargetUnavailable
from hwprofiles.target import Target
from hwprofiles.transports.ssh import SshTransport
from tests.device.sshd import Sshd

PROGRAM = build_archive("import os\nos.read(0, 1)")


def refusal(target: Target, work: Path, transport: SshTransport | None = None) -> str:
    """The one line that `start` raises."""
    with pytest.raises(TargetUnavailable) as caught:
        (transport or SshTransport()).start(target, PROGRAM, work)
    text = str(caught.value)
    assert text.startswith("target 'device': ") and "\n" not in text
    return text


def test_a_name_that_nobody_knows(sshd: Sshd, tmp_path: Path) -> None:
    text = refusal(sshd.target(options={"host": "no-such-host.invalid"}), tmp_path)
    assert "resolve" in text and "check option `host`" in text


def test_nothing_listens(sshd: Sshd, tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind((sshd.host, 0))
        text = refusal(sshd.target(options={"port": free.getsockname()[1]}), tmp_path)
    assert "by ssh: connect to host" in text and "Connection refused" in text and "start sshd" in text


def test_what_listens_says_nothing(sshd: Sshd, tmp_path: Path) -> None:
    with socket.socket() as deaf:
        deaf.bind((sshd.host, 0))
        deaf.listen()
        text = refusal(sshd.target(options={"port": deaf.getsockname()[1], "connect_timeout": 1}), tmp_path)
    assert "timed out" in text and "check that it is on" in text


def test_what_listens_is_something_else(sshd: Sshd, tmp_path: Path) -> None:
    with socket.socket() as other:
        other.bind((sshd.host, 0))
        other.listen()
        port = other.getsockname()[1]
        child = os.fork()
        if child == 0:
            for _ in range(4):
                other.accept()[0].close()
            os._exit(0)
        try:
            text = refusal(sshd.target(options={"port": port}), tmp_path)
        finally:
            os.kill(child, 9)
            os.waitpid(child, 0)
    assert "no SSH server" in text


def test_a_changed_host_key_names_the_line(own_sshd: Callable[..., Sshd], tmp_path: Path) -> None:
    server = own_sshd()
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", server.folder / "other"], check=True)
    server.accept(server.folder / "other.pub")
    server.known_hosts.write_text("# a comment\n" + server.known_hosts.read_text())
    before = server.known_hosts.read_text()
    text = refusal(server.target(), tmp_path)
    assert f"the one in {server.known_hosts}, line 2" in text and "somebody may stand between" in text
    assert server.known_hosts.read_text() == before


def test_an_unknown_host_key_is_not_accepted(own_sshd: Callable[..., Sshd], tmp_path: Path) -> None:
    server = own_sshd()
    server.known_hosts.unlink()
    text = refusal(server.target(), tmp_path)
    assert "host key is unknown" in text and f"ssh {server.host}" in text
    assert not server.known_hosts.exists()


def test_a_key_that_is_not_accepted(own_sshd: Callable[..., Sshd], tmp_path: Path) -> None:
    server = own_sshd()
    (server.folder / "authorized_keys").write_text("")
    text = refusal(server.target(), tmp_path)
    assert "Permission denied" in text and "`identity`" in text


def test_a_jump_host_that_is_not_there(sshd: Sshd, tmp_path: Path) -> None:
    text = refusal(sshd.target(options={"jump": f"{sshd.host}:1"}), tmp_path)
    assert "port 1: Connection refused" in text


def test_a_configuration_with_a_mistake(own_sshd: Callable[..., Sshd], tmp_path: Path) -> None:
    server = own_sshd()
    server.config.write_text("NoSuchOption yes\n")
    assert "Bad configuration option" in refusal(server.target(), tmp_path)


def test_no_client_on_this_machine(sshd: Sshd, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "install the OpenSSH client" in refusal(sshd.target(), tmp_path)


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("host", "-oProxyCommand=touch {trap}"),
        ("host", "root@-oProxyCommand=touch {trap}"),
        ("host", "127.0.0.1; touch {trap}"),
        ("host", "$(touch${IFS}{trap})"),
        ("host", "`touch\t{trap}`"),
        ("host", "127.0.0.1\n-oProxyCommand=touch {trap}"),
        ("host", ""),
        ("user", "-oProxyCommand=touch {trap}"),
        ("user", "$(touch {trap})"),
        ("jump", "-oProxyCommand=touch {trap}"),
        ("jump", "127.0.0.1,-oProxyCommand=touch {trap}"),
        ("jump", "a b"),
        ("port", "22 -oProxyCommand=touch {trap}"),
        ("port", 0),
        ("port", 65536),
        ("port", True),
        ("identity", "/no/such/key"),
        ("config", "/no/such/config"),
        ("config", "-oProxyCommand=touch {trap}"),
        ("connect_timeout", 0),
        ("folder", "relative/folder"),
        ("folder", "/a\nb"),
        ("prefix", ["sudo", "; touch {trap}"]),
        ("prefix", "sudo -n"),
        ("share", "no"),
    ],
)
def test_options_that_cannot_be(sshd: Sshd, tmp_path: Path, option: str, value: object) -> None:
    trap = tmp_path / "trap"
    if isinstance(value, str):
        value = value.replace("{trap}", str(trap))
    with pytest.raises(BadProfile) as caught:
        SshTransport().start(sshd.target(options={option: value}), PROGRAM, tmp_path)
    assert "target 'device'" in str(caught.value) and option in str(caught.value) and "\n" not in str(caught.value)
    assert not trap.exists()


@pytest.mark.parametrize(
    "python", ["py thon", "python3;reboot", "$(reboot)", "-c", "python3\n", "", "`id`", "a'b", "!!"]
)
def test_interpreters_that_a_shell_would_take_apart(sshd: Sshd, tmp_path: Path, python: str) -> None:
    with pytest.raises(BadProfile, match="python"):
        SshTransport().start(sshd.target(python=python), PROGRAM, tmp_path)


def test_an_option_that_nobody_knows(sshd: Sshd, tmp_path: Path) -> None:
    with pytest.raises(BadProfile, match="has no option 'identty'; did you mean 'identity'"):
        SshTransport().start(sshd.target(options={"identty": "x"}), PROGRAM, tmp_path)
