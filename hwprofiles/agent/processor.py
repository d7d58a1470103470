"""Which processor this is: names, kinds of cores, instruction sets, caches. Runs on the device; Python 3.9.

Linux (Android too) is read from /proc and /sys, macOS by one call of sysctl. What is not told is left out, never
guessed.
"""

from __future__ import annotations

import os
import platform
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

# Instruction sets that decide which kernels a runtime picks; the other hundred flags are noise in a
# fingerprint.
_ISA = frozenset(
    [
        "sse4_1",
        "sse4_2",
        "avx",
        "avx2",
        "fma",
        "f16c",
        "avx_vnni",
        "avx_vnni_int8",
        "amx_tile",
        "amx_int8",
        "amx_bf16",
        "amx_fp16",
        "avx512f",
        "avx512bw",
        "avx512vl",
        "avx512_vnni",
        "avx512_bf16",
        "avx512_fp16",
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
        "sme2",
    ]
)

# MIDR_EL1 part numbers, from the technical reference manuals of the cores: an ARM /proc/cpuinfo has no names.
_ARM_LIMITED = {
    0xD03: "Cortex-A53", 0xD04: "Cortex-A35", 0xD05: "Cortex-A55", 0xD07: "Cortex-A57", 0xD08: "Cortex-A72",
    0xD09: "Cortex-A73", 0xD0A: "Cortex-A75", 0xD0B: "Cortex-A76", 0xD0C: "Neoverse-N1", 0xD0D: "Cortex-A77",
    0xD0E: "Cortex-A76AE", 0xD40: "Neoverse-V1", 0xD41: "Cortex-A78", 0xD42: "Cortex-A78AE", 0xD44: "Cortex-X1",
    0xD46: "Cortex-A510", 0xD47: "Cortex-A710", 0xD48: "Cortex-X2", 0xD49: "Neoverse-N2", 0xD4A: "Neoverse-E1",
    0xD4B: "Cortex-A78C", 0xD4C: "Cortex-X1C", 0xD4D: "Cortex-A715", 0xD4E: "Cortex-X3", 0xD4F: "Neoverse-V2",
    0xD80: "Cortex-A520", 0xD81: "Cortex-A720", 0xD82: "Cortex-X4", 0xD84: "Neoverse-V3", 0xD85: "Cortex-X925",
    0xD87: "Cortex-A725", 0xD8E: "Neoverse-N3",
}  # fmt: skip
_PARTS = {  # implementer -> (its name, part -> name)
    0x41: ("ARM", _ARM_LIMITED),
    0x48: ("HiSilicon", {0xD01: "Kunpeng-920", 0xD40: "Cortex-A76"}),
    0x46: ("Fujitsu", {0x001: "A64FX"}),
    0x4E: ("NVIDIA", {0x003: "Denver 2", 0x004: "Carmel"}),
    0x51: ("Qualcomm", {0x001: "Oryon", 0x802: "Kryo 3xx Gold", 0x803: "Kryo 3xx Silver", 0x804: "Kryo 4xx Gold",
                        0x805: "Kryo 4xx Silver"}),
    0x53: ("Samsung", {0x001: "Exynos M1", 0x002: "Exynos M3", 0x003: "Exynos M4", 0x004: "Exynos M5"}),
    0x61: ("Apple", {0x022: "Icestorm M1", 0x023: "Firestorm M1", 0x032: "Blizzard M2", 0x033: "Avalanche M2"}),
    0xC0: ("Ampere", {0xAC3: "Ampere-1", 0xAC4: "Ampere-1A"}),
}  # fmt: skip

# sysctl hw.optional.arm.FEAT_... -> what Linux calls it
_MAC_FEATURES = {
    "AdvSIMD": "asimd", "FP16": "asimdhp", "DotProd": "asimddp", "I8MM": "i8mm", "BF16": "bf16", "SME": "sme",
    "SME2": "sme2",
}  # fmt: skip
_MAC_X86 = {"SSE4.1": "sse4_1", "SSE4.2": "sse4_2", "AVX1.0": "avx", "AVX2": "avx2", "FMA": "fma", "F16C": "f16c"}
_MAC_X86.update({"AVX512F": "avx512f", "AVX512BW": "avx512bw", "AVX512VL": "avx512vl", "AVX512VNNI": "avx512_vnni"})


def describe(root: str = "/") -> dict[str, Any]:
    """`cpu_model`, `isa`, `clusters`, `caches` (bytes), `smt` (threads per core or None) and `virtual` (or None).

    `root` is where /proc and /sys are looked for.
    """
    if sys.platform == "darwin":
        return parse_sysctl(_sysctl())
    return parse_linux(Path(root))


def parse_linux(root: Path) -> dict[str, Any]:
    """The same from files under `root`. Cores of a kind are one cluster: `4 x Cortex-A76 r4p1, 2.4 GHz`."""
    common, cores = _cpuinfo(_read(root / "proc/cpuinfo") or "")
    cpus = root / "sys/devices/system/cpu"
    kinds: dict[str, list[int]] = {}
    clocks: dict[str, int] = {}
    for number, facts in sorted(cores.items()):
        fastest = _read(cpus / f"cpu{number}/cpufreq/cpuinfo_max_freq") or ""
        clock = int(fastest) if fastest.isdigit() else 0
        kind = _core_name({**common, **facts}) + (f", {clock / 1e6:.2f} GHz" if clock else "")
        kinds.setdefault(kind, []).append(number)
        clocks[kind] = clock
    names = sorted(kinds, key=lambda kind: (-clocks[kind], len(kinds[kind]), kind))  # the big ones first
    flags = set((common.get("flags") or common.get("Features") or "").split())
    for facts in cores.values():
        flags.update((facts.get("flags") or facts.get("Features") or "").split())
    return {
        "cpu_model": _model([_core_name({**common, **cores[kinds[kind][0]]}, short=True) for kind in names]),
        "isa": sorted(flags & _ISA),
        "clusters": [f"{len(kinds[kind])} x {kind}" for kind in names],
        "caches": _caches(cpus, [kinds[kind][0] for kind in names]),
        "smt": _threads_per_core(cpus, cores),
        "virtual": _virtual(root, flags),
    }


def parse_sysctl(facts: dict[str, str]) -> dict[str, Any]:
    """The same from what macOS's `sysctl hw machdep` prints."""
    isa = {
        name
        for feature, name in _MAC_FEATURES.items()
        if "1"
        in (facts.get(prefix + feature) for prefix in ("hw.optional.arm.FEAT_", "hw.optional.arm.", "hw.optional."))
    }
    words = (facts.get("machdep.cpu.features", "") + " " + facts.get("machdep.cpu.leaf7_features", "")).split()
    isa.update(_MAC_X86[word] for word in words if word in _MAC_X86)
    model = facts.get("machdep.cpu.brand_string") or facts.get("hw.model") or "unknown"
    clusters = []
    for level in range(int(facts.get("hw.nperflevels", "0") or 0)):
        key = f"hw.perflevel{level}."
        clusters.append(
            "{} x {} {}".format(facts.get(key + "physicalcpu", "?"), model, facts.get(key + "name", "core").lower())
        )
    sizes = {"L1d": "hw.l1dcachesize", "L1i": "hw.l1icachesize", "L2": "hw.l2cachesize", "L3": "hw.l3cachesize"}
    physical, logical = facts.get("hw.physicalcpu", ""), facts.get("hw.logicalcpu", "")
    known = physical.isdigit() and logical.isdigit() and int(physical) > 0
    return {
        "cpu_model": model,
        "isa": sorted(isa),
        "clusters": clusters,
        "caches": {name: int(facts[key]) for name, key in sizes.items() if facts.get(key, "").isdigit()},
        "smt": max(1, int(logical) // int(physical)) if known else None,
        "virtual": facts["kern.hv_vmm_present"] == "1" if "kern.hv_vmm_present" in facts else None,
    }


def _sysctl() -> dict[str, str]:
    try:
        said = subprocess.run(
            ["/usr/sbin/sysctl", "hw", "machdep.cpu", "kern.hv_vmm_present"],
            stdin=subprocess.DEVNULL, capture_output=True, timeout=10, check=False,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return {}
    pairs = (line.partition(":") for line in said.stdout.decode(errors="replace").splitlines())
    return {key.strip(): value.strip() for key, _, value in pairs}


def _cpuinfo(text: str) -> tuple[dict[str, str], dict[int, dict[str, str]]]:
    """(facts of the whole machine, number of the core -> its own facts)."""
    common: dict[str, str] = {}
    cores: dict[int, dict[str, str]] = {}
    for block in text.split("\n\n"):
        facts = {}
        for line in block.splitlines():
            key, colon, value = line.partition(":")
            if colon:
                facts[key.strip()] = value.strip()
        number = facts.pop("processor", "")
        if number.isdigit():
            cores[int(number)] = facts
        else:  # "Hardware", "Revision" at the end of an ARM one; or a machine that numbers its cores otherwise
            common.update(facts)
    return common, cores


def _core_name(facts: dict[str, str], short: bool = False) -> str:
    """What a core calls itself; an ARM one is decoded from implementer and part. `short` leaves out the stepping."""
    model = facts.get("model name", "")
    implementer, part = _hex(facts.get("CPU implementer")), _hex(facts.get("CPU part"))
    if implementer is not None and part is not None:
        vendor, parts = _PARTS.get(implementer, (f"implementer 0x{implementer:02x}", {}))
        name = parts.get(part) or f"{vendor} part 0x{part:03x}"
        variant, revision = _hex(facts.get("CPU variant")), facts.get("CPU revision", "")
        step = f" r{variant}p{revision}" if variant is not None and revision else ""
        return name if short else name + step
    if not model:
        return facts.get("cpu model") or platform.processor() or "unknown"
    model = " ".join(model.split())
    numbers = [facts.get(key, "") for key in ("cpu family", "model", "stepping")]
    # Cloud machines all say "Intel(R) Xeon(R) Processor": the numbers tell the generations apart.
    return model if short or not all(numbers) else "{} ({})".format(model, "-".join(numbers))


def _model(names: list[str]) -> str:
    """One name for all kinds of cores."""
    return " + ".join(dict.fromkeys(names)) or platform.processor() or "unknown"


def _caches(cpus: Path, numbers: list[int]) -> dict[str, int]:
    """Largest size in bytes that any kind of core has: "L1d", "L1i", "L2", "L3"."""
    found: dict[str, int] = {}
    for number in numbers:
        for index in sorted((cpus / f"cpu{number}/cache").glob("index*")):
            level, kind, size = (_read(index / name) or "" for name in ("level", "type", "size"))
            amount = re.match(r"^(\d+)([KM]?)$", size)
            if not level.isdigit() or amount is None:
                continue
            name = "L" + level + {"Data": "d", "Instruction": "i"}.get(kind, "")
            scale = {"": 1, "K": 1 << 10, "M": 1 << 20}[amount.group(2)]
            found[name] = max(found.get(name, 0), int(amount.group(1)) * scale)
    return found


def _threads_per_core(cpus: Path, cores: dict[int, Any]) -> int | None:
    for number in cores:
        siblings = _read(cpus / f"cpu{number}/topology/thread_siblings_list")
        if siblings:
            return len(parse_cpu_list(siblings))
    return None


def parse_cpu_list(text: str) -> list[int]:
    """`0-3,8` -> [0, 1, 2, 3, 8]. What is no such list gives an empty one."""
    numbers: list[int] = []
    for part in text.strip().split(","):
        match = re.match(r"^(\d+)(?:-(\d+))?$", part.strip())
        if match is None:
            return []
        first = int(match.group(1))
        numbers.extend(range(first, int(match.group(2) or first) + 1))
    return numbers


def _virtual(root: Path, flags: set[str]) -> bool | None:
    """Whether a hypervisor is below. ARM has no flag for it, so there a "no" is not known."""
    if "hypervisor" in flags or _read(root / "sys/hypervisor/type"):
        return True
    return False if "sse2" in flags else None


def _read(path: Path) -> str | None:
    try:
        return path.read_text(errors="replace").strip()
    except OSError:
        return None


def _hex(text: str | None) -> int | None:
    try:
        return int(text, 0) if text else None
    except ValueError:
        return None


def count() -> int:
    """How many cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
