"""The target `aarch64-emulated`: a real bundle under qemu."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from hwprofiles.errors import HardwareError
from hwprofiles.mobile.emulation import NAME, find_emulator, prepare_emulation
from hwprofiles.registry import find_target
from hwprofiles.target import Target
from tests.device.bundled import kept_bundle, missing


@pytest.fixture(scope="module")
def locks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """One folder of locks for a device that serves several tests, from before it is opened."""
    folder = tmp_path_factory.mktemp("locks")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HW_AUTOTUNE_LOCKS", str(folder))
        yield folder


@pytest.fixture(autouse=True)
def same_locks(own_folders: Path, locks: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Processes that the device starts later lock in the same place, not in the one of the single test."""
    monkeypatch.setenv("HW_AUTOTUNE_LOCKS", str(locks))


@pytest.fixture(scope="session")
def emulated(tmp_path_factory: pytest.TempPathFactory) -> Target:
    """As `autotune targets bundle --emulate` writes it."""
    try:
        find_emulator()
    except HardwareError as error:
        missing(str(error))
    folder: Path = tmp_path_factory.mktemp("emulated")
    prepare_emulation(kept_bundle(), folder / "root")
    return find_target(NAME, folders=[folder])
