"""A real sshd on 127.0.0.1 with keys and configuration of its own: nothing outside its folder is touched."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

from hwprofiles.target import Target
from tests.device.bundled import missing

_USUAL = "/usr/local/sbin:/usr/sbin:/sbin"


def need(tool: str, package: str) -> str:
    """Path of a program. Where it is missing the test is skipped; on a build server it fails."""
    found = shutil.which(tool, path=f"{os.environ.get('PATH', '')}:{_USUAL}")
    if found is None:
        missing(f"{tool} is not installed; Debian: apt-get install {package}")
    return str(found)


class Sshd:
    """`start`, `stop` and `cut` it at will. `config` is the client's configuration file."""

    def __init__(self, folder: Path, *, settings: str = "") -> None:
        self._program = need("sshd", "openssh-server")
        need("ssh", "openssh-client")
        if os.geteuid() == 0:  # where sshd as root puts itself; its package makes it at boot
            Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
        self.folder = folder
        self.host = "127.0.0.1"
        self.known_hosts = folder / "known_hosts"
        self.config = folder / "client_config"
        self.cache = folder / "cache"  # where our files lie "on the device"
        self.python = folder / "python"
        self.python.write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
        self.python.chmod(0o755)
        for name in ("host_key", "identity"):
            subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", folder / name], check=True)
        shutil.copy(folder / "identity.pub", folder / "authorized_keys")
        with socket.socket() as probe:
            probe.bind((self.host, 0))
            self.port = int(probe.getsockname()[1])
        (folder / "sshd_config").write_text(
            f"Port {self.port}\nListenAddress {self.host}\nHostKey {folder}/host_key\nPidFile none\n"
            f"AuthorizedKeysFile {folder}/authorized_keys\nStrictModes no\nUsePAM no\nPasswordAuthentication no\n"
            "KbdInteractiveAuthentication no\nMaxStartups 100\nPrintMotd no\n"
            f"SetEnv XDG_CACHE_HOME={self.cache} HW_AUTOTUNE_LOCKS={folder}/locks\n{settings}\n"
        )
        self.config.write_text(
            f"Host *\n  Port {self.port}\n  IdentityFile {folder}/identity\n  IdentitiesOnly yes\n"
            f"  UserKnownHostsFile {self.known_hosts}\n  GlobalKnownHostsFile none\n"
        )
        self.accept(folder / "host_key.pub")
        self._process: subprocess.Popen[bytes] | None = None
        self.start()

    def accept(self, public_key: Path) -> None:
        """Make `public_key` the one that the client expects."""
        self.known_hosts.write_text(f"[{self.host}]:{self.port} {public_key.read_text()}")

    def target(self, **changes: object) -> Target:
        """A target on it; keywords are its fields, `options` is merged."""
        options = {"host": self.host, "config": str(self.config), "quiet_wait": 0, "quiet_wait_final": 0}
        more = changes.pop("options", {})
        assert isinstance(more, dict)
        fields = {"name": "device", "transport": "ssh", "python": str(self.python), "timeout": 60.0, **changes}
        return Target.model_validate({**fields, "options": {**options, **more}})

    def start(self) -> None:
        command = [self._program, "-D", "-f", self.folder / "sshd_config", "-E", self.folder / "sshd.log"]
        self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL)
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            with contextlib.suppress(OSError), socket.create_connection((self.host, self.port), timeout=1):
                return
            time.sleep(0.02)
        raise RuntimeError(f"sshd does not listen: {(self.folder / 'sshd.log').read_text()}")

    def stop(self) -> None:
        """End it and all connections at once, as a power cut would."""
        if self._process is not None:
            self.cut()
            self._process.kill()
            self._process.wait()
            self._process = None

    def cut(self) -> None:
        """End all connections; new ones are welcome."""
        for pid in self.sessions():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def sessions(self) -> list[int]:
        """The processes of sshd that serve a connection."""
        assert self._process is not None
        return [pid for pid in descendants(self._process.pid) if "sshd" in command_of(pid).partition(" ")[0]]


def descendants(parent: int) -> list[int]:
    """All processes below `parent`, as /proc shows them now."""
    parents: dict[int, int] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                parents[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
    found, wave = [], {parent}
    while wave:
        wave = {pid for pid, above in parents.items() if above in wave}
        found += sorted(wave)
    return found


def command_of(pid: int) -> str:
    """Its command line; "" if it is gone or a zombie."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
    except OSError:
        return ""


def alive(pid: int) -> bool:
    """Whether it is there and no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def wait_until_gone(pids: list[int], patience: float = 40.0) -> list[int]:
    """Those that are still alive when patience ends: a connection that went silent takes 20 seconds to be noticed."""
    deadline = time.monotonic() + patience
    while (left := [pid for pid in pids if alive(pid)]) and time.monotonic() < deadline:
        time.sleep(0.02)
    return left
