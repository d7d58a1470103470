"""Whether this is the processor that it claims to be, or an emulator. Runs on the device; Python 3.9, stdlib only.

An emulator of a process (such as qemu-user) changes what `uname` says but passes most of /proc on from the kernel
below, which is made for another kind of processor. Android's emulator says what it is by its properties. An emulator of
a whole machine that hides itself is not noticed.
"""

from __future__ import annotations

import os
import platform
import subprocess
from pathlib import Path

_GETPROP = "/system/bin/getprop"
_PROPERTIES = ("ro.kernel.qemu", "ro.boot.qemu")
_ANSWER = 5.0  # seconds for one property
_SHADOW_STACKS = "x86_Thread_features:"  # a line that only kernels for x86 write, since Linux 6.6
# Names that a kernel or an interpreter gives to processors that run the same programs, by how they begin.
_FAMILIES = {
    "x86": ("x86", "amd64", "i386", "i486", "i586", "i686"),
    "ARM": ("aarch64", "arm"),
    "RISC-V": ("riscv",),
    "POWER": ("ppc", "powerpc"),
    "S/390": ("s390",),
    "MIPS": ("mips",),
    "LoongArch": ("loongarch",),
}


def noticed(
    machine: str | None = None,
    arch: str = "/proc/sys/kernel/arch",
    status: str = "/proc/self/status",
    getprop: str = _GETPROP,
) -> str | None:
    """What gives an emulator away, in words; None if nothing does.

    `machine`: what the interpreter was told that it runs on. `arch` (since Linux 6.1) and `status` are files of the
    kernel, `getprop` is Android's command for properties.
    """
    claimed = platform.machine() if machine is None else machine
    family = _family(claimed)
    kernel = (_read(arch) or "").strip()
    if family and _family(kernel) and _family(kernel) != family:
        return f"it claims to be {claimed}, its kernel is made for {kernel}"
    if family and family != "x86" and _SHADOW_STACKS in (_read(status) or ""):
        return f"it claims to be {claimed}, its kernel is made for x86"
    for name in _PROPERTIES:
        if _property(getprop, name) == "1":
            return f"Android's emulator: {name} is 1"
    return None


def _family(name: str) -> str | None:
    return next((family for family, begins in _FAMILIES.items() if name.lower().startswith(begins)), None)


def _read(path: str) -> str | None:
    try:
        return Path(path).read_text(errors="replace")
    except OSError:
        return None


def _property(getprop: str, name: str) -> str:
    if not os.access(getprop, os.X_OK):
        return ""
    try:
        said = subprocess.run(
            [getprop, name], stdin=subprocess.DEVNULL, capture_output=True, timeout=_ANSWER, check=False
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return said.stdout.decode(errors="replace").strip()
