"""What an ELF file says it needs: enough of the format to find the libraries of a bundle and no more."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path

MACHINES = {183: "aarch64", 62: "x86_64", 40: "arm", 243: "riscv64"}

_DYNAMIC, _LOAD = 2, 1
_NEEDED, _STRTAB, _SONAME = 1, 5, 14


@dataclass(frozen=True)
class Elf:
    """Of one 64-bit little-endian ELF file. `machine` as `uname -m` spells it, "?" if it is none of ours."""

    machine: str
    soname: str | None
    needed: tuple[str, ...]


def read_elf(path: Path) -> Elf | None:
    """None if the file is no ELF file (of 64 bits, little-endian). Raises `ValueError` if it is a broken one."""
    with path.open("rb") as file:
        if file.read(6) != b"\x7fELF\x02\x01":
            return None
    data = path.read_bytes()
    try:
        return _parse(data)
    except (struct.error, ValueError, OverflowError, StopIteration) as error:
        raise ValueError(f"{path} is a broken ELF file: {error!r}") from error


def _parse(data: bytes) -> Elf:
    machine = struct.unpack_from("<H", data, 18)[0]
    table, entry_size, entries = struct.unpack_from("<Q", data, 32)[0], *struct.unpack_from("<HH", data, 54)
    segments = [struct.unpack_from("<IIQQQQQQ", data, table + i * entry_size) for i in range(entries)]
    loads = [(at, offset, size) for kind, _, offset, at, _, size, _, _ in segments if kind == _LOAD]
    facts: list[tuple[int, int]] = []
    for kind, _, offset, _, _, size, _, _ in segments:
        if kind == _DYNAMIC:
            facts = [struct.unpack_from("<qQ", data, at) for at in range(offset, offset + size, 16)]
    strings = next((value for tag, value in facts if tag == _STRTAB), None)
    if strings is None:
        return Elf(MACHINES.get(machine, "?"), None, ())
    base = next(offset + strings - at for at, offset, size in loads if at <= strings < at + size)

    def text(index: int) -> str:
        return data[base + index : data.index(b"\0", base + index)].decode()

    soname = next((text(value) for tag, value in facts if tag == _SONAME), None)
    return Elf(MACHINES.get(machine, "?"), soname, tuple(text(value) for tag, value in facts if tag == _NEEDED))
