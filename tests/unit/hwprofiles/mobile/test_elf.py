"""Reading what a binary needs, and a bundle that has all of it."""

from __future__ import annotations

import _ctypes
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hwprofiles.errors import HardwareError
from hwprofiles.mobile import tree
from hwprofiles.mobile.elf import Elf, read_elf

_LIBRARY = Path(_ctypes.__file__)  # an extension module: a library with needs of its own


def test_reads_machine_and_needs_of_a_real_library() -> None:
    found = read_elf(_LIBRARY)
    assert found is not None
    assert found.machine in ("x86_64", "aarch64")
    assert any(name.startswith("libc.so") for name in found.needed)


def test_what_is_no_elf_file_is_none(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("#!/bin/sh\n")
    assert read_elf(tmp_path / "text") is None
    (tmp_path / "empty").touch()
    assert read_elf(tmp_path / "empty") is None


@given(cut=st.integers(min_value=6, max_value=4096), flips=st.lists(st.integers(min_value=6, max_value=4095)))
def test_a_broken_one_is_told_and_nothing_else(
    tmp_path_factory: pytest.TempPathFactory, cut: int, flips: list[int]
) -> None:
    data = bytearray(_LIBRARY.read_bytes()[:cut])
    for at in flips:
        if at < len(data):
            data[at] ^= 0xFF
    path = tmp_path_factory.mktemp("elf") / "broken.so"
    path.write_bytes(data)
    try:
        assert isinstance(read_elf(path), Elf)
    except ValueError as error:
        assert "broken.so is a broken ELF file" in str(error)


def test_a_file_for_another_machine_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tree, "MACHINE", "riscv64")
    with pytest.raises(HardwareError, match=r"is made for \w+, not for riscv64"):
        _collect(tmp_path)


def test_a_library_that_is_nowhere_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = read_elf(_LIBRARY)
    assert own is not None
    monkeypatch.setattr(tree, "MACHINE", own.machine)
    with pytest.raises(HardwareError, match=r"the packages lack .*libc\.so\.6 \(for module\.so\)"):
        _collect(tmp_path)


def _collect(folder: Path) -> None:
    out, debian = folder / "out", folder / "debian"
    (out / "lib" / "python3.11").mkdir(parents=True)
    debian.mkdir()
    (out / "lib" / "python3.11" / "module.so").write_bytes(_LIBRARY.read_bytes())
    tree.add_libraries(debian, out)
