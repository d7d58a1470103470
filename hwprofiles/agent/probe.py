"""What is really there: facts read from /proc and /sys. Runs on the device; needs nothing but Python 3.9.

Every probe is optional: what a machine does not tell is None, never an error.
"""

from __future__ import annotations

import os
import platform
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from hwprofiles.agent import processor
from hwprofiles.agent.memory_group import GROUP_PREFIX

_PAGE = os.sysconf("SC_PAGE_SIZE")
_TICK = os.sysconf("SC_CLK_TCK")


def read(path: str) -> str | None:
    """The text of a small file, or None."""
    try:
        return Path(path).read_text(errors="replace").strip()
    except OSError:
        return None


def identity() -> dict[str, Any]:
    """The part of a fingerprint that does not change from run to run while the machine stays the same."""
    return {
        "machine": platform.machine(),
        "system": platform.system() + " " + ".".join(platform.release().split(".")[:2]),
        "board": _board(),
        **processor.describe(),
        "cores": processor.count(),
        "cpu_quota": _cgroup_cpus(),
        "memory_total": _memory_total(),
        "libc": _libc(),
        "python": platform.python_version(),
        "boot_id": read("/proc/sys/kernel/random/boot_id"),
        "interpreter": sys.executable,
    }


def environment() -> dict[str, Any]:
    """Momentary facts that explain a number but do not identify the machine."""
    facts: dict[str, Any] = {
        **_clocks(),
        **_temperature(),
        "microcode": _cpuinfo_field("microcode"),
        "turbo": _turbo(),
        "cores_online": os.cpu_count(),
        "memory_available": _meminfo("MemAvailable"),
        "swap_free": _meminfo("SwapFree"),
        "cgroup_memory_limit": _cgroup_memory(),
        "cgroup_cpus": _cgroup_cpus(),
        "huge_pages": _chosen(read("/sys/kernel/mm/transparent_hugepage/enabled")),
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


def _memory_total() -> int:
    return _meminfo("MemTotal") or os.sysconf("SC_PHYS_PAGES") * _PAGE


def _meminfo(field: str) -> int | None:
    for line in (read("/proc/meminfo") or "").splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) * 1024
    return None


def _board() -> str:
    """The product: "Raspberry Pi 5 Model B Rev 1.0", "Google Pixel 8", a server's or a cloud machine's type; or ""."""
    tree = read("/proc/device-tree/model")
    if tree:
        return tree.strip("\0 ")
    if os.access("/system/bin/getprop", os.X_OK):
        words = [_getprop("ro.product.manufacturer"), _getprop("ro.product.model"), _getprop("ro.soc.model")]
        return " ".join(word for word in words if word)
    words = [read("/sys/class/dmi/id/" + name) or "" for name in ("sys_vendor", "product_name")]
    return " ".join(word for word in words if word)


def _getprop(name: str) -> str:
    try:
        said = subprocess.run(
            ["/system/bin/getprop", name], stdin=subprocess.DEVNULL, capture_output=True, timeout=5, check=False
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return said.stdout.decode(errors="replace").strip()


def _libc() -> str:
    """`glibc 2.36`, `bionic`, `macOS 15.1`: its mathematics is part of the answer."""
    if sys.platform == "darwin":
        return "macOS " + platform.mac_ver()[0]
    try:
        return os.confstr("CS_GNU_LIBC_VERSION") or ""
    except (ValueError, OSError):
        return "bionic" if os.environ.get("ANDROID_ROOT") else "unknown"


def _clocks() -> dict[str, Any]:
    """Governors of all cores, and of the fastest one its clock now and the limits that are set, in hertz."""
    governors: dict[str, None] = {}
    fastest = -1.0, ""
    for folder in sorted(Path("/sys/devices/system/cpu").glob("cpu[0-9]*/cpufreq")):
        governor = read(str(folder / "scaling_governor"))
        if governor:
            governors[governor] = None
        limit = _kilo(read(str(folder / "cpuinfo_max_freq")))
        if limit is not None and limit > fastest[0]:
            fastest = limit, str(folder)
    place = fastest[1]
    now = _kilo(read(place + "/scaling_cur_freq")) if place else None
    told = _cpuinfo_field("cpu MHz")  # a machine without cpufreq, mostly a virtual one
    return {
        "governor": " + ".join(governors) or None,
        "frequency_hz": now if now is not None else float(told) * 1e6 if told else None,
        "frequency_min_hz": _kilo(read(place + "/scaling_min_freq")) if place else None,
        "frequency_max_hz": _kilo(read(place + "/scaling_max_freq")) if place else None,
    }


def _temperature() -> dict[str, Any]:
    """The hottest zone that makes sense, in degrees Celsius, and its name."""
    found: list[tuple[float, str]] = []
    for zone in Path("/sys/class/thermal").glob("thermal_zone*"):
        found.append((_milli(read(str(zone / "temp"))) or 0.0, read(str(zone / "type")) or zone.name))
    for chip in Path("/sys/class/hwmon").glob("hwmon*"):
        name = read(str(chip / "name")) or ""
        if name in ("coretemp", "k10temp", "zenpower", "cpu_thermal"):  # not that of a disk or a network card
            found += [(_milli(read(str(path))) or 0.0, name) for path in chip.glob("temp*_input")]
    sane = [entry for entry in found if 0.0 < entry[0] < 150.0]
    hottest = max(sane) if sane else (None, None)
    return {"temperature_c": hottest[0], "temperature_zone": hottest[1]}


def _turbo() -> str | None:
    """Whether it is "on" or "off", where the kernel tells."""
    off = read("/sys/devices/system/cpu/intel_pstate/no_turbo")
    if off in ("0", "1"):
        return "off" if off == "1" else "on"
    on = read("/sys/devices/system/cpu/cpufreq/boost")
    return {"0": "off", "1": "on"}.get(on or "")


def _chosen(text: str | None) -> str | None:
    """`always [madvise] never` -> madvise."""
    inside = (text or "").partition("[")[2].partition("]")[0]
    return inside or None


def _cpuinfo_field(name: str) -> str | None:
    for line in (read("/proc/cpuinfo") or "").splitlines():
        key, _, value = line.partition(":")
        if key.strip() == name:
            return value.strip()
    return None


def _cgroups(controller: str) -> list[str]:
    """Folders of this process's own cgroup and those above it, of the version that has the controller."""
    found: list[str] = []
    for line in (read("/proc/self/cgroup") or "").splitlines():
        number, _, rest = line.partition(":")
        names, _, path = rest.partition(":")
        if number == "0" and not names:
            root = "/sys/fs/cgroup"
        elif controller in names.split(","):
            root = "/sys/fs/cgroup/" + controller
        else:
            continue
        while True:
            found.append(root + path.rstrip("/"))
            if path in ("", "/"):
                break
            path = path.rpartition("/")[0]
    return found


def _cgroup_memory() -> int | None:
    """The tightest limit in bytes; None where there is none. The group that guards this agent is not the machine's."""
    limits = []
    for folder in _cgroups("memory"):
        if folder.rpartition("/")[2].startswith(GROUP_PREFIX):
            continue
        for name in ("/memory.max", "/memory.limit_in_bytes"):
            text = read(folder + name)
            if text and text.isdigit() and int(text) < 1 << 60:  # v1 spells "no limit" as a huge number
                limits.append(int(text))
    return min(limits) if limits else None


def _cgroup_cpus() -> float | None:
    """The tightest quota, in CPUs; None where there is none."""
    quotas = []
    for folder in _cgroups("cpu"):
        text = (read(folder + "/cpu.max") or "").split()
        if len(text) != 2:
            text = [read(folder + "/cpu.cfs_quota_us") or "", read(folder + "/cpu.cfs_period_us") or ""]
        if text[0].isdigit() and text[1].isdigit() and int(text[1]) > 0:
            quotas.append(int(text[0]) / int(text[1]))
    return min(quotas) if quotas else None


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
