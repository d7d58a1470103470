"""Fetches packages for another machine without root: Debian's by apt with a state of its own, wheels by pip.

apt checks Debian's signatures and the sums of what it loads; pip checks those of its index.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from hwprofiles.errors import HardwareError
from hwprofiles.mobile.bundle import Package

MIRROR = "http://deb.debian.org/debian"
SECURITY_MIRROR = "http://deb.debian.org/debian-security"
KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")

Say = Callable[[str], None]

_SECONDS = 900  # for one call of apt or pip


class Debian:
    """Packages of one suite ("bookworm") for one architecture ("arm64"); lists and packages are kept in `folder`."""

    def __init__(self, folder: Path, suite: str, architecture: str, *, mirror: str = MIRROR) -> None:
        self._folder = folder.absolute()
        self._suite = suite
        self._architecture = architecture
        self._mirror = mirror
        for tool, package in (("apt-get", "apt"), ("dpkg-deb", "dpkg")):
            if shutil.which(tool) is None:
                raise HardwareError(
                    f"{tool} is not there, which fetches and unpacks Debian packages; install the package {package}, "
                    "or make the bundle on a Debian or Ubuntu machine (or in a debian container) and copy its folder"
                )
        if not KEYRING.is_file():
            raise HardwareError(f"{KEYRING} is not there; install the package debian-archive-keyring")

    def fetch(self, names: Sequence[str], *, dependencies: bool = False) -> list[tuple[Package, Path]]:
        """Load the packages (with all they depend on if asked). Raises `HardwareError` with what to do."""
        options = self._options()
        self._apt([*options, "update"], "its package lists")
        place = self._folder / "debs"
        place.mkdir(parents=True, exist_ok=True)
        if dependencies:
            listed = self._apt(
                [*options, "install", "--no-install-recommends", "--print-uris", "--yes", *names], "its packages"
            )
            names = [deb.split("_")[0] for deb in re.findall(r"^'[^']*' (\S+_\S+_\w+\.deb)", listed, re.M)]
        listed = self._apt([*options, "download", "--print-uris", *names], "its packages")
        files = re.findall(r"^'[^']*' (\S+_\S+_\w+\.deb)", listed, re.M)
        # apt takes up a half-loaded file; a whole one that is there is checked by its sum and not loaded again.
        self._apt([*options, "download", *names], "its packages", cwd=place)
        return [(_describe(place / file), place / file) for file in sorted(set(files))]

    def _options(self) -> list[str]:
        state, sources = self._folder / "state", self._folder / "sources.list"
        (state / "lists" / "partial").mkdir(parents=True, exist_ok=True)
        (self._folder / "cache" / "archives" / "partial").mkdir(parents=True, exist_ok=True)
        sign = f"[arch={self._architecture} signed-by={KEYRING}]"
        lines = [f"deb {sign} {self._mirror} {self._suite} main\n"]
        if self._mirror == MIRROR:
            lines.append(f"deb {sign} {SECURITY_MIRROR} {self._suite}-security main\n")
        sources.write_text("".join(lines), "utf-8")
        status = self._folder / "status"
        status.touch()
        settings = {
            "APT::Architecture": self._architecture,
            "APT::Architectures": self._architecture,
            "APT::Get::List-Cleanup": "false",
            "APT::Sandbox::User": "",
            "Acquire::Languages": "none",
            "Acquire::Retries": "2",
            "Acquire::http::Timeout": "30",
            "Acquire::https::Timeout": "30",
            "Debug::NoLocking": "true",
            "Dir::State": str(state),
            "Dir::State::status": str(status),
            "Dir::Cache": str(self._folder / "cache"),
            "Dir::Etc::sourcelist": str(sources),
            "Dir::Etc::sourceparts": "/dev/null",
        }
        return ["-qq", *(word for key, value in settings.items() for word in ("-o", f"{key}={value}"))]

    def _apt(self, arguments: list[str], what: str, cwd: Path | None = None) -> str:
        environment = {**os.environ, "LC_ALL": "C", "DEBIAN_FRONTEND": "noninteractive"}
        found = _run(["apt-get", *arguments], cwd=cwd, environment=environment, tool="apt-get")
        # A source that cannot be reached is a warning to `update`, which then exits with 0.
        if found.returncode or "Failed to fetch" in found.stderr:
            raise HardwareError(
                f"apt cannot load {what} from {self._mirror} ({self._suite}, {self._architecture}): "
                f"{_reason(found.stderr)}; check the network or name another mirror with --mirror"
            )
        return found.stdout


def fetch_wheels(wanted: Sequence[str], folder: Path, *, python: str, platform: str) -> list[tuple[Package, Path]]:
    """Load wheels ("numpy", "onnxruntime==1.31.1") without what they depend on, for CPython `python` on `platform`.

    Raises `HardwareError` with what to do.
    """
    folder = folder.absolute()
    folder.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-input"]
    command += ["--dest", str(folder), "--no-deps", "--only-binary=:all:", "--platform", platform]
    command += ["--implementation", "cp", "--python-version", python, *wanted]
    found = _run(command, cwd=folder, environment=dict(os.environ), tool="pip")
    if found.returncode:
        reason = _reason(found.stderr)
        if "No module named pip" in found.stderr:
            raise HardwareError(f"pip is not there; install it: {sys.executable} -m ensurepip")
        raise HardwareError(
            f"pip cannot load {' and '.join(wanted)} for Python {python} on {platform}: {reason}; check the network, "
            "the index that pip is set to, and that this version has such a wheel"
        )
    files = []
    for name in wanted:
        project = re.split(r"[=<>!~]", name)[0]
        pinned = name.partition("==")[2]
        found_files = sorted(folder.glob(f"{project}-{pinned or '*'}-*.whl"), key=lambda path: path.stat().st_mtime_ns)
        files.append(found_files[-1])
    return [(_describe_wheel(file), file) for file in files]


def installed_version(project: str) -> str | None:
    """Version of a Python package that is installed here, or None."""
    try:
        return importlib.metadata.version(project)
    except importlib.metadata.PackageNotFoundError:
        return None


def unpack_deb(file: Path, folder: Path) -> None:
    """Unpack a Debian package's files. Raises `HardwareError`."""
    found = _run(["dpkg-deb", "-x", str(file), str(folder)], cwd=None, environment=dict(os.environ), tool="dpkg-deb")
    if found.returncode:
        raise HardwareError(f"dpkg-deb cannot unpack {file}: {_reason(found.stderr)}; remove it and try again")


def _run(
    command: list[str], *, cwd: Path | None, environment: dict[str, str], tool: str
) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(
            command,
            cwd=cwd,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_SECONDS,
            check=False,
        )
    except FileNotFoundError as error:
        raise HardwareError(f"{tool} is not there; install it") from error
    except subprocess.TimeoutExpired as error:
        raise HardwareError(f"{tool} was not done after {_SECONDS} s; check the network and try again") from error


def _describe(deb: Path) -> Package:
    name, version, _ = deb.name.removesuffix(".deb").split("_")
    return Package(name=name, version=version.replace("%3a", ":"), kind="debian", file=deb.name, sha256=_sha256(deb))


def _describe_wheel(wheel: Path) -> Package:
    name, version = wheel.name.split("-")[:2]
    return Package(name=name, version=version, kind="wheel", file=wheel.name, sha256=_sha256(wheel))


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _reason(text: str) -> str:
    """The line that says what is wrong. apt begins it with E: or, for a source, W: Failed to fetch; pip with ERROR:."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    told = [line for line in lines if re.match(r"(W: Failed to fetch|E:|ERROR:)", line)]
    line = told[0] if told else lines[-1] if lines else "it gave no reason"
    line = line.partition(" (from versions")[0]  # of all there ever were
    return re.sub(r"^(W:|E:|ERROR:)\s*", "", line)[:300]
