"""A mobile bundle over ssh: sent once by digest, started by its own words.

The bundle here is made for this machine, with a shell script in the place of its Python: what is tested is the way
to the device. The real one is tested where it is emulated.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import platform
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from hwprofiles.agent.archive import build_archive
from hwprofiles.device import open_device
from hwprofiles.errors import BadProfile
from hwprofiles.mobile.bundle import ARCHIVE, MANIFEST, Manifest
from hwprofiles.mobile.emulation import emulator_words, write_system
from hwprofiles.target import Target
from hwprofiles.transports.ssh import SshTransport
from tests.device.bundled import kept_bundle
from tests.device.ssh.test_no_connection import refusal
from tests.device.sshd import Sshd, need
from tests.unit.hwprofiles.conftest import save_dense

WAITS = build_archive("import os\nos.write(1, (os.environ.get('BUNDLE', 'none') + os.sep).encode())\nos.read(0, 1)")


def make_bundle(folder: Path, interpreter: Path, *, machine: str = platform.machine(), more: int = 0) -> Path:
    """`more`: bytes of ballast that do not compress."""
    script = f'#!/bin/sh\nBUNDLE="$0" exec {interpreter} "$@"\n'.encode()
    manifest = Manifest(
        machine=machine, python="3.11", digest="", archive_sha256="", size=0, unpacked_size=0, packages=(),
        start=("{folder}/bin/python",),
    )  # fmt: skip
    files = {"bin/python": script, "ballast": os.urandom(more), MANIFEST: manifest.model_dump_json().encode()}
    plain = io.BytesIO()
    with tarfile.open(fileobj=plain, mode="w") as tar:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size, member.mode = len(data), 0o755
            tar.addfile(member, io.BytesIO(data))
    packed = gzip.compress(plain.getvalue())
    folder.mkdir()
    (folder / ARCHIVE).write_bytes(packed)
    facts = {
        "digest": hashlib.sha256(plain.getvalue()).hexdigest(),
        "archive_sha256": hashlib.sha256(packed).hexdigest(),
        "size": len(packed),
        "unpacked_size": sum(map(len, files.values())),
    }
    (folder / MANIFEST).write_text(manifest.model_copy(update=facts).model_dump_json())
    return folder


@pytest.fixture
def bundle(sshd: Sshd, tmp_path: Path) -> Path:
    return make_bundle(tmp_path / "bundle", sshd.python, more=1 << 20)


def test_it_is_sent_once_and_started(own_sshd: Callable[..., Sshd], bundle: Path, tmp_path: Path) -> None:
    server = own_sshd()
    target = server.target(python=None, options={"bundle": str(bundle)})
    seen = set()
    for _ in range(2):
        transport = SshTransport()
        for _ in range(2):
            channel = transport.start(target, WAITS, tmp_path)
            place = Path(os.read(channel.replies, 4096).decode()).parent.parent
            channel.kill()
            seen.add((place, place.stat().st_ino))
    assert len(seen) == 1
    assert place.parent == server.cache / "hw-autotune"
    assert sorted(path.name for path in place.parent.iterdir()) == sorted([place.name, "programs"])


@pytest.mark.parametrize("shell", ["dash", "zsh", "fish", "tcsh"])
def test_any_login_shell(own_sshd: Callable[..., Sshd], bundle: Path, tmp_path: Path, shell: str) -> None:
    server = own_sshd(f'ForceCommand echo hello; exec {need(shell, shell)} -c "$SSH_ORIGINAL_COMMAND"')
    channel = SshTransport().start(server.target(python=None, options={"bundle": str(bundle)}), WAITS, tmp_path)
    assert os.read(channel.replies, 4096).startswith(str(server.cache).encode())
    channel.kill()


def test_one_that_was_removed_is_sent_again(own_sshd: Callable[..., Sshd], bundle: Path, tmp_path: Path) -> None:
    server = own_sshd()
    target = server.target(python=None, options={"bundle": str(bundle)})
    transport = SshTransport()
    transport.start(target, WAITS, tmp_path).kill()
    shutil.rmtree(server.cache)
    text = refusal(target, tmp_path, transport)
    assert "there is no" in text
    transport.start(target, WAITS, tmp_path).kill()


def test_for_another_machine(sshd: Sshd, tmp_path: Path) -> None:
    other = make_bundle(tmp_path / "other", sshd.python, machine="aarch64" if platform.machine() != "aarch64" else "x")
    text = refusal(sshd.target(python=None, options={"bundle": str(other)}), tmp_path)
    assert f"the device is {platform.machine()}" in text and "`bundle`" in text


def test_no_room(own_sshd: Callable[..., Sshd], bundle: Path, tmp_path: Path) -> None:
    server = own_sshd('ForceCommand ulimit -f 512; exec sh -c "$SSH_ORIGINAL_COMMAND"')
    text = refusal(server.target(python=None, options={"bundle": str(bundle)}), tmp_path)
    assert "cannot be unpacked" in text and "make room" in text
    assert not list((server.cache / "hw-autotune").iterdir())


def test_a_folder_of_ones_own(sshd: Sshd, bundle: Path, tmp_path: Path) -> None:
    folder = tmp_path / "phone"
    target = sshd.target(python=None, options={"bundle": str(bundle), "folder": str(folder)})
    SshTransport().start(target, WAITS, tmp_path).kill()
    assert list(folder.glob("bundle-*"))
    for strange in ("/a b", "/a;reboot", "/$HOME", "/a'b"):
        with pytest.raises(BadProfile, match="folder"):
            SshTransport().start(
                sshd.target(python=None, options={"bundle": str(bundle), "folder": strange}), WAITS, tmp_path
            )


def test_not_beside_an_interpreter_and_not_missing(sshd: Sshd, bundle: Path, tmp_path: Path) -> None:
    with pytest.raises(BadProfile, match="exclude each other"):
        SshTransport().start(sshd.target(options={"bundle": str(bundle)}), WAITS, tmp_path)
    with pytest.raises(BadProfile, match="bundle"):
        SshTransport().start(sshd.target(python=None, options={"bundle": str(tmp_path / "no")}), WAITS, tmp_path)


@pytest.mark.slow
def test_the_real_one_computes_on_a_device_without_python(own_sshd: Callable[..., Sshd], tmp_path: Path) -> None:
    """Sent over ssh, unpacked there, started by its own loader under an emulator; answers as on this machine."""
    emulator = need("qemu-aarch64-static", "qemu-user-static")
    server = own_sshd()
    write_system(tmp_path / "system", os.cpu_count() or 1)
    options = {"bundle": str(kept_bundle().folder), "prefix": emulator_words(tmp_path / "system", emulator)}
    phone = server.target(python=None, provenance="emulated", timeout=300.0, options=options)
    model = save_dense(tmp_path / "dense.onnx", width=64)
    feeds = [{"x": np.random.default_rng(1).normal(size=(1, 64)).astype(np.float32)}]
    with open_device(phone, work=tmp_path / "work") as device:
        (there,) = device.infer(model, feeds)
        assert device.fingerprint.machine == "aarch64"
    with open_device(Target(name="here"), work=tmp_path / "work") as device:
        (here,) = device.infer(model, feeds)
    np.testing.assert_allclose(there["y"], here["y"], rtol=1e-5, atol=1e-5)
