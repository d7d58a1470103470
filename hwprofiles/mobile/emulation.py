"""A bundle under qemu's user emulation: for answers, never for times. An emulator inverts the ranking of models.

NOTE: ONNX Runtime asks its CPU library how many caches of which size there are. Under qemu before version 9 that
library reads /sys of the machine below, an x86, and crashes. The emulator is therefore given a folder (`-L`) in which
it finds a /sys and a /proc/cpuinfo of an aarch64 machine; whatever is not in there it takes from the real system.
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

from hwprofiles.errors import HardwareError
from hwprofiles.mobile.build import unpack_here
from hwprofiles.mobile.bundle import Bundle

NAME = "aarch64-emulated"
CPU = "neoverse-n1"  # has the dot products of 8-bit integers that phones have; "max" trips numpy's overflow checks
_EMULATORS = ("qemu-aarch64-static", "qemu-aarch64")
_FEATURES = "fp asimd evtstrm aes pmull sha1 sha2 crc32 atomics fphp asimdhp cpuid asimdrdm lrcpc dcpop asimddp"


def find_emulator() -> str:
    """Path of qemu's user emulator for aarch64. Raises `HardwareError` with what to do."""
    found = next((path for name in _EMULATORS if (path := shutil.which(name))), None)
    if found is None:
        raise HardwareError("qemu-aarch64-static is not there; install the package qemu-user-static")
    return found


def prepare_emulation(bundle: Bundle, root: Path) -> Path:
    """Unpack the bundle to `root`, with the folders that the emulator needs, and write a profile beside it.

    The profile is `aarch64-emulated.toml` in the folder of `root`; returns its path. What is there is replaced. Raises
    `HardwareError` if there is no emulator, `BadProfile` for a damaged bundle, `OSError` of the disk.
    """
    emulator = find_emulator()
    root = root.absolute()
    unpack_here(bundle, root)
    write_system(root, os.cpu_count() or 1)
    profile = root.parent / f"{NAME}.toml"
    profile.write_text(_profile(bundle, root, emulator), "utf-8")
    return profile


def emulator_words(root: Path, emulator: str) -> list[str]:
    """The words in front of an aarch64 program, `root` having what `write_system` writes."""
    # Paths for this machine's Python mean nothing to the other one.
    return ["env", "-u", "PYTHONPATH", "-u", "PYTHONHOME", emulator, "-cpu", CPU, "-L", str(root)]


def write_system(root: Path, cores: int) -> None:
    """What an aarch64 kernel tells of `cores` equal cores, as files under `root`."""
    system = root / "sys" / "devices" / "system" / "cpu"
    every = "0" if cores == 1 else f"0-{cores - 1}"
    entries = []
    for core in range(cores):
        topology = system / f"cpu{core}" / "topology"
        topology.mkdir(parents=True, exist_ok=True)
        facts = {"core_id": core, "physical_package_id": 0, "core_siblings_list": every, "package_cpus_list": every}
        for name, fact in {**facts, "thread_siblings_list": core, "core_cpus_list": core}.items():
            (topology / name).write_text(f"{fact}\n")
        entries.append(
            f"processor\t: {core}\nBogoMIPS\t: 50.00\nFeatures\t: {_FEATURES}\nCPU implementer\t: 0x41\n"
            "CPU architecture: 8\nCPU variant\t: 0x3\nCPU part\t: 0xd0c\nCPU revision\t: 1\n"
        )
    for name in ("possible", "present", "online"):
        (system / name).write_text(f"{every}\n")
    (system / "kernel_max").write_text(f"{cores - 1}\n")
    (root / "proc").mkdir(exist_ok=True)
    (root / "proc" / "cpuinfo").write_text("\n".join(entries))


def _profile(bundle: Bundle, root: Path, emulator: str) -> str:
    """A target over the transport `command`."""
    *loader, python, _, _ = bundle.command(str(root))
    words = [*emulator_words(root, emulator), *loader]
    quoted = [json.dumps(word, ensure_ascii=False) for word in words]
    runtime = bundle.manifest.version_of("onnxruntime")
    return f"""\
# Made by `autotune targets bundle --emulate`; the paths are those of this machine.
description = "ONNX Runtime {runtime} for aarch64 under qemu: answers only, its times mean nothing"
transport = "command"
python = {json.dumps(python, ensure_ascii=False)}
threads = 1
timeout = 300.0
provenance = "emulated"
label = "{bundle.label}, qemu-user -cpu {CPU}"

[options]
prefix = [
    {", ".join(quoted)},
]
shared = true
quiet_wait = 0.0
quiet_wait_final = 0.0
"""
