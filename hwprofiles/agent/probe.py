"""What is really there: facts read from /proc and /sys. Runs on the device; needs nothing but Python 3.9.

Every probe is optional: what a machine does not tell is None, never an error.
"""

from __future__ import annotations

import os
import platform
import sys
import time
from pathlib import Path
from typing import Any

# Instruction sets that decide which kernels a runtime picks; the other hundred flags are noise in a
# fingerprint.
_ISA = {"sse4_1", "sse4_2", "avx", "avx2", "fma", "f16c", "avx_vnni", "amx_tile", "amx_int8", "amx_bf16"}
_ISA |= {"avx512f", "avx512bw", "avx512vl", "avx512_vnni", "avx512_bf16", "avx512_fp16"}
_ISA |= {
    "neon",
    "asimd",
    "asimdhp",
    "asimddp",
    "fphp",
    "sve",
    "sve2",
    "i8mm",
    "bf16",
    "svei8mm",
    "svebf16",
    "sme",
}
_PAGE = os.sysconf("SC_PAGE_SIZE")
_TICK = os.sysconf("SC_CLK_TCK")


def read(path: str) -> str | None:
    """The text of a small file, or None."""
    try:
        return Path(path).read_text(errors="replace").strip()
    except OSError:
        return None


def identity() -> dict[str, Any]:
    """The part of a fingerprint that does not change while the machine stays the same."""
    model, flags = _cpu()
    return {
        "machine": platform.machine(),
        "system": platform.system() + " " + ".".join(platform.release().split(".")[:2]),
        "cpu_model": model,
        "isa": sorted(flags & _ISA),
        "cores": _cores(),
        "memory_total": _memory_total(),
        "python": platform.python_version(),
        "boot_id": read("/proc/sys/kernel/random/boot_id"),
        "interpreter": sys.executable,
    }


def environment() -> dict[str, Any]:
    """Momentary facts that explain a number but do not identify the machine."""
    facts: dict[str, Any] = {
        "governor": read("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"),
        "frequency_hz": _kilo(read("/sys/devices/system/cpu/cpu0/cpufreq/scaling_cur_freq")),
        "temperature_c": _milli(read("/sys/class/thermal/thermal_zone0/temp")),
        "cgroup_memory_limit": _cgroup_memory(),
        "cgroup_cpus": _cgroup_cpus(),
    }
    facts.update(pressure())
    del facts["clock"]  # means nothing by itself
    return facts


def pressure() -> dict[str, Any]:
    """Counters that only grow (seconds), and the kernel's own averages.

    Two readings give the pressure between.
    """
    load = os.getloadavg()[0]
    stalled, average = _psi()
    return {
        "clock": time.monotonic(),
        "load": load,
        "psi_avg10": average,  # per cent of the last 10 s in which some task waited for a CPU
        "psi_total": stalled,
        "steal_total": _steal(),
        "throttle_count": _throttle(),
    }


def memory(pid: str = "self") -> dict[str, int]:
    """Resident memory in bytes: `now` (VmRSS) and `peak` since the process began or `reset_peak` (VmHWM).

    `ru_maxrss` is of no use: it survives fork and exec, so a small child of a large parent inherits the
    parent's.
    """
    found = {"now": 0, "peak": 0}
    for line in (read("/proc/" + pid + "/status") or "").splitlines():
        if line.startswith("VmRSS:"):
            found["now"] = int(line.split()[1]) * 1024
        elif line.startswith("VmHWM:"):
            found["peak"] = int(line.split()[1]) * 1024
    return found


def reset_peak() -> bool:
    """Set VmHWM back to the present VmRSS. False where the kernel or a container forbids it."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return False
    return True


def _cpu() -> tuple[str, set[str]]:
    model, part, flags = "", "", set[str]()
    for line in (read("/proc/cpuinfo") or "").splitlines():
        key, _, value = line.partition(":")
        key, value = key.strip(), value.strip()
        if key == "model name" and not model:
            model = value
        elif key in ("flags", "Features") and not flags:
            flags = set(value.split())
        elif key == "CPU part" and not part:
            part = value
    return model or ("part " + part if part else platform.processor() or "unknown"), flags


def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _memory_total() -> int:
    for line in (read("/proc/meminfo") or "").splitlines():
        if line.startswith("MemTotal:"):
            return int(line.split()[1]) * 1024
    return os.sysconf("SC_PHYS_PAGES") * _PAGE


def _cgroup_memory() -> int | None:
    for path in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        text = read(path)
        if text and text.isdigit() and int(text) < 1 << 60:  # v1 spells "no limit" as a huge number
            return int(text)
    return None


def _cgroup_cpus() -> float | None:
    text = (read("/sys/fs/cgroup/cpu.max") or "").split()
    if len(text) == 2 and text[0].isdigit():
        return int(text[0]) / int(text[1])
    quota = read("/sys/fs/cgroup/cpu/cpu.cfs_quota_us")
    period = read("/sys/fs/cgroup/cpu/cpu.cfs_period_us")
    if quota and period and quota.isdigit() and period.isdigit():
        return int(quota) / int(period)
    return None


def _psi() -> tuple[float | None, float | None]:
    for line in (read("/proc/pressure/cpu") or "").splitlines():
        if line.startswith("some"):
            fields = dict(part.split("=", 1) for part in line.split()[1:])
            return int(fields["total"]) / 1e6, float(fields["avg10"])
    return None, None


def _steal() -> float | None:
    fields = (read("/proc/stat") or "").split("\n", 1)[0].split()
    return int(fields[8]) / _TICK if len(fields) > 8 and fields[0] == "cpu" else None


def _throttle() -> int | None:
    counts = [read(str(path)) for path in Path("/sys/devices/system/cpu").glob("cpu[0-9]*/thermal_throttle/*_count")]
    numbers = [int(count) for count in counts if count and count.isdigit()]
    return sum(numbers) if numbers else None


def _kilo(text: str | None) -> float | None:
    return float(text) * 1e3 if text and text.isdigit() else None


def _milli(text: str | None) -> float | None:
    return float(text) / 1e3 if text and text.lstrip("-").isdigit() else None
