"""An emulator is noticed by what it does not hide, and is never taken for hardware."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from hwprofiles.agent.emulation import noticed
from hwprofiles.device import Device
from hwprofiles.errors import BadProfile
from hwprofiles.runtimes.onnxruntime import OnnxRuntime

STATUS = "Name:\tpython\nThreads:\t1\n"
FEATURES = "x86_Thread_features:\t\nx86_Thread_features_locked:\t\n"


def look(folder: Path, machine: str, arch: str | None, status: str | None = STATUS, properties: str = "") -> str | None:
    """What is noticed of a process on a machine that tells this."""
    for name, text in (("arch", arch), ("status", status)):
        if text is not None:
            (folder / name).write_text(text)
    if properties:
        (folder / "getprop").write_text(f"#!/bin/sh\ncase $1 in {properties}) echo 1;; esac\n")
        (folder / "getprop").chmod(0o755)
    return noticed(machine, str(folder / "arch"), str(folder / "status"), str(folder / "getprop"))


@pytest.mark.parametrize(
    ("machine", "arch"),
    [
        ("x86_64", "x86_64\n"), ("i686", "x86_64\n"), ("AMD64", "x86_64\n"), ("aarch64", "aarch64\n"),
        ("armv8l", "aarch64\n"), ("armv7l", "arm\n"), ("arm64", "aarch64\n"), ("riscv64", "riscv64\n"),
        ("aarch64", None), ("x86_64", ""), ("aarch64", "something-new\n"), ("something-new", "x86_64\n"), ("", "arm\n"),
    ],
)  # fmt: skip
def test_a_processor_that_is_what_it_says(tmp_path: Path, machine: str, arch: str | None) -> None:
    assert look(tmp_path, machine, arch) is None


@pytest.mark.parametrize(
    ("machine", "arch"),
    [("aarch64", "x86_64\n"), ("armv7l", "x86_64\n"), ("x86_64", "aarch64\n"), ("riscv64", "x86_64\n")],
)
def test_a_processor_on_the_kernel_of_another(tmp_path: Path, machine: str, arch: str) -> None:
    assert look(tmp_path, machine, arch) == f"it claims to be {machine}, its kernel is made for {arch.strip()}"


def test_a_line_that_only_one_kind_of_kernel_writes(tmp_path: Path) -> None:
    assert look(tmp_path, "aarch64", None, STATUS + FEATURES) == "it claims to be aarch64, its kernel is made for x86"
    assert look(tmp_path, "x86_64", None, STATUS + FEATURES) is None
    assert look(tmp_path, "aarch64", None, STATUS) is None


@pytest.mark.parametrize("name", ["ro.kernel.qemu", "ro.boot.qemu"])
def test_an_android_that_says_so(tmp_path: Path, name: str) -> None:
    assert look(tmp_path, "x86_64", "x86_64\n", properties=name) == f"Android's emulator: {name} is 1"


def test_an_android_that_does_not(tmp_path: Path) -> None:
    assert look(tmp_path, "aarch64", "aarch64\n", properties="ro.other") is None


def test_this_machine_is_none() -> None:
    assert noticed() is None


class Emulated(OnnxRuntime):
    def backend(self) -> str:
        return f"{super().backend()}\nfrom hwprofiles.agent import emulation\nemulation.noticed = lambda: 'a toy'\n"


def test_a_profile_that_calls_it_hardware_is_refused(opened: Callable[..., Device]) -> None:
    with pytest.raises(BadProfile) as raised:
        opened(Emulated())
    assert str(raised.value) == (
        'target \'here\' says provenance = "hardware", but it is emulated: a toy; set provenance = "emulated" in its '
        "profile"
    )


@pytest.mark.parametrize("provenance", ["emulated", "simulated", "software"])
def test_a_profile_that_says_so_is_fine(opened: Callable[..., Device], provenance: str) -> None:
    assert opened(Emulated(), provenance=provenance).fingerprint.environment["emulator"] == "a toy"
    assert opened().fingerprint.environment["emulator"] is None
