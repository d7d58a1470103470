"""The bundle through a real adb: sent, unpacked, started. The daemon runs on an x86, hence the emulator in front."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest

from hwprofiles.device import open_device
from hwprofiles.errors import HardwareError, TargetUnavailable
from hwprofiles.mobile.bundle import Bundle
from hwprofiles.mobile.emulation import emulator_words, find_emulator, write_system
from hwprofiles.registry import find_target
from hwprofiles.target import Target
from hwprofiles.transports.adb import AdbTransport
from tests.device.bundled import missing
from tests.unit import zoo

from .conftest import SERIAL

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("bundle", "adbd")]


@pytest.fixture
def phone(bundle: Bundle, tmp_path: Path) -> Target:
    """A device with an empty folder of ours."""
    try:
        emulator = find_emulator()
    except HardwareError as error:
        missing(str(error))
    write_system(tmp_path / "system", 2)
    return Target(
        name="phone",
        transport="adb",
        provenance="emulated",
        timeout=300.0,
        options={
            "serial": SERIAL,
            "bundle": str(bundle.folder),
            "folder": str(tmp_path / "device"),
            "prefix": tuple(emulator_words(tmp_path / "system", emulator)),
        },
    )


def test_answers_equal_those_of_this_machine(phone: Target, bundle: Bundle, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    onnx.save(zoo.conv_residual(), path)
    feeds = [zoo.feeds(onnx.load(path), seed=seed) for seed in range(3)]
    with open_device(find_target("local"), work=tmp_path / "here") as here:
        expected = list(here.infer(path, feeds))
    with open_device(phone, work=tmp_path / "work") as device:
        assert device.fingerprint.machine == "aarch64"
        for theirs, ours in zip(device.infer(path, feeds), expected, strict=True):
            for name, value in ours.items():
                np.testing.assert_allclose(theirs[name], value, rtol=1e-5, atol=1e-5 * np.abs(value).max())
    placed = Path(bundle.place(str(phone.options["folder"])))
    assert (placed / "bundle.json").is_file()
    assert not list(placed.parent.glob("*.part*")) and not list(placed.parent.glob("*.tar.gz"))


def test_another_architecture_is_refused(phone: Target, tmp_path: Path) -> None:
    options = {key: value for key, value in phone.options.items() if key != "prefix"}
    with pytest.raises(TargetUnavailable, match=r"is a x86_64, the bundle .* is for aarch64"):
        AdbTransport().start(phone.model_copy(update={"options": options}), b"", tmp_path)


def test_a_full_device_is_told_before_and_while_sending(phone: Target, small_disk: Path, tmp_path: Path) -> None:
    onto = phone.model_copy(update={"options": {**phone.options, "folder": str(small_disk / "ours")}})
    with pytest.raises(TargetUnavailable, match=r"MiB are free in .*, the bundle needs \d+ MiB"):
        AdbTransport().start(onto, b"program", tmp_path)
    python = onto.model_copy(
        update={
            "python": "/bin/sh",
            "options": {k: v for k, v in onto.options.items() if k not in ("bundle", "prefix")},
        }
    )
    with pytest.raises(TargetUnavailable, match=r"cannot be written: .*[Nn]o space left.*; free space there"):
        AdbTransport().start(python, b"p" * (8 << 20), tmp_path)
    assert not list((small_disk / "ours" / "programs").iterdir())


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 4 MiB."""
    place = tmp_path / "small"
    place.mkdir()
    mount = shutil.which("mount")
    assert mount is not None
    if subprocess.run([mount, "-t", "tmpfs", "-o", "size=4m", "tmpfs", place], check=False).returncode:
        missing("a small file system can only be mounted by root")
    yield place
    subprocess.run(["umount", place], check=True)
