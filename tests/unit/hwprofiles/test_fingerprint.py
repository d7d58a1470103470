"""What is read from a machine (this one, and files of others), what counts for its identity, and what was declared."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from hwprofiles.agent import probe, processor
from hwprofiles.device import Device
from hwprofiles.fingerprint import Fingerprint, check_declared
from hwprofiles.registry import find_target
from hwprofiles.target import Declared, Target

# In the format of Linux on a Raspberry Pi 5 (arm64 has one block per core and no model name).
_PI = """processor\t: {n}
BogoMIPS\t: 108.00
Features\t: fp asimd evtstrm aes pmull sha1 sha2 crc32 atomics fphp asimdhp cpuid asimdrdm lrcpc dcpop asimddp
CPU implementer\t: 0x41
CPU architecture: 8
CPU variant\t: 0x4
CPU part\t: 0xd0b
CPU revision\t: 1

"""
_ARM = (
    "processor\t: {n}\nFeatures\t: fp asimd asimdhp asimddp i8mm bf16\nCPU implementer\t: {maker}\n"
    "CPU variant\t: 0x0\nCPU part\t: {part}\nCPU revision\t: 1\n\n"
)
_MAC = {
    "hw.optional.arm.FEAT_DotProd": "1", "hw.optional.arm.FEAT_I8MM": "1", "hw.optional.arm.FEAT_SME": "0",
    "hw.optional.AdvSIMD": "1", "machdep.cpu.brand_string": "Apple M2 Pro", "hw.nperflevels": "2",
    "hw.perflevel0.physicalcpu": "8", "hw.perflevel0.name": "Performance", "hw.perflevel1.physicalcpu": "4",
    "hw.perflevel1.name": "Efficiency", "hw.l1dcachesize": "65536", "hw.physicalcpu": "12", "hw.logicalcpu": "12",
}  # fmt: skip


def machine(root: Path, cpuinfo: str, clocks: dict[int, int] | None = None) -> Path:
    (root / "proc").mkdir()
    (root / "proc/cpuinfo").write_text(cpuinfo)
    for number, clock in (clocks or {}).items():
        folder = root / f"sys/devices/system/cpu/cpu{number}"
        (folder / "cpufreq").mkdir(parents=True)
        (folder / "cpufreq/cpuinfo_max_freq").write_text(f"{clock}\n")
        (folder / "topology").mkdir()
        (folder / "topology/thread_siblings_list").write_text(f"{number}\n")
        cache = folder / "cache/index0"
        cache.mkdir(parents=True)
        for name, text in (("level", "2"), ("type", "Unified"), ("size", "512K")):
            (cache / name).write_text(text)
    return root


def found(**changes: object) -> Fingerprint:
    facts: dict[str, object] = {
        "machine": "aarch64", "system": "Linux 6.6", "cpu_model": "Cortex-A76", "isa": ("asimd", "asimddp"),
        "clusters": ("4 x Cortex-A76 r4p1, 2.40 GHz",), "cores": 4, "memory_total": 8 << 30, "runtime": "onnxruntime",
        "runtime_version": "1.31.1", "provider": "CPUExecutionProvider", "python": "3.11.2", "numpy": "2.0.0",
        "threads": 1,
    }  # fmt: skip
    return Fingerprint.model_validate({**facts, **changes})


def test_raspberry_pi(tmp_path: Path) -> None:
    text = (
        "".join(_PI.format(n=n) for n in range(4)) + "Revision\t: d04170\nModel\t\t: Raspberry Pi 5 Model B Rev 1.0\n"
    )
    facts = processor.parse_linux(machine(tmp_path, text, dict.fromkeys(range(4), 2_400_000)))
    assert facts == {
        "cpu_model": "Cortex-A76",
        "isa": ["asimd", "asimddp", "asimdhp", "fphp"],
        "clusters": ["4 x Cortex-A76 r4p1, 2.40 GHz"],
        "caches": {"L2": 512 << 10},
        "smt": 1,
        "virtual": None,
    }


def test_phone_has_several_kinds_of_cores_the_fastest_first(tmp_path: Path) -> None:
    parts = ["0xd80"] * 2 + ["0xd81"] * 5 + ["0xd82"]
    text = "".join(_ARM.format(n=n, maker="0x41", part=part) for n, part in enumerate(parts))
    clocks = dict(enumerate([2_265_600] * 2 + [2_956_800] * 2 + [3_148_800] * 3 + [3_302_400]))
    facts = processor.parse_linux(machine(tmp_path, text, clocks))
    assert facts["clusters"] == [
        "1 x Cortex-X4 r0p1, 3.30 GHz",
        "3 x Cortex-A720 r0p1, 3.15 GHz",
        "2 x Cortex-A720 r0p1, 2.96 GHz",
        "2 x Cortex-A520 r0p1, 2.27 GHz",
    ]
    assert facts["cpu_model"] == "Cortex-X4 + Cortex-A720 + Cortex-A520"
    assert {"i8mm", "bf16", "asimddp"} <= set(facts["isa"])


@pytest.mark.parametrize(
    ("maker", "part", "name"),
    [
        ("0x51", "0x001", "Oryon"),
        ("0x41", "0xfff", "ARM part 0xfff"),
        ("0x99", "0x001", "implementer 0x99 part 0x001"),
    ],
)
def test_cores_by_number(tmp_path: Path, maker: str, part: str, name: str) -> None:
    facts = processor.parse_linux(machine(tmp_path, _ARM.format(n=0, maker=maker, part=part)))
    assert facts["cpu_model"] == name and facts["clusters"] == [f"1 x {name} r0p1"]


def test_mac() -> None:
    facts = processor.parse_sysctl(_MAC)
    assert facts["cpu_model"] == "Apple M2 Pro" and facts["isa"] == ["asimd", "asimddp", "i8mm"]
    assert facts["clusters"] == ["8 x Apple M2 Pro performance", "4 x Apple M2 Pro efficiency"]
    assert facts["caches"] == {"L1d": 65536} and facts["smt"] == 1 and facts["virtual"] is None


@pytest.mark.parametrize(
    "text", ["", "no colon\n\n:\n", "processor : x\n\nprocessor :", "processor : 0\nCPU part : zz\n"]
)
def test_strange_files_are_no_error(tmp_path: Path, text: str) -> None:
    facts = processor.parse_linux(machine(tmp_path, text))
    assert facts["isa"] == [] and isinstance(facts["cpu_model"], str) and facts["smt"] is None


@pytest.mark.parametrize(
    ("text", "numbers"), [("0-3,8", [0, 1, 2, 3, 8]), ("5", [5]), ("", []), ("a-b", []), ("1,,2", [])]
)
def test_cpu_lists(text: str, numbers: list[int]) -> None:
    assert processor.parse_cpu_list(text) == numbers


def test_this_machine_is_the_same_each_time() -> None:
    one, two = (Fingerprint(**identity(), environment=probe.environment()) for _ in range(2))
    assert one.key == two.key
    assert one.cpu_model and one.clusters and one.cores >= 1 and one.memory_total > 1 << 28 and one.libc


def identity() -> dict[str, object]:
    facts = probe.identity()
    facts.pop("interpreter")
    runtime = {"runtime": "r", "runtime_version": "1", "provider": "p", "numpy": "2", "threads": 1}
    return {**facts, **runtime}


def test_momentary_facts_are_not_part_of_the_identity() -> None:
    one = found(environment={"load": 1.0}, boot_id="a", providers=("CPUExecutionProvider",))
    assert one.key == found(environment={"load": 9.0}, boot_id="b").key
    assert one.key == found(memory_total=(8 << 30) - (40 << 20)).key, "the kernel kept a little more for itself"
    changes = [
        {"threads": 2}, {"runtime_version": "1.32"}, {"isa": ("asimd",)}, {"memory_total": 4 << 30}, {"libc": "bionic"},
        {"cpu_quota": 2.0}, {"accelerator": "NVIDIA L4"}, {"clusters": ()}, {"session": {"arena": "off"}},
        {"board": "x"}, {"cpus": "big"}, {"cpus": "4-7"},
    ]  # fmt: skip
    assert len({found(**change).key for change in changes} | {one.key}) == len(changes) + 1


def test_the_cores_of_a_policy_are_part_of_the_identity(opened: Callable[..., Device]) -> None:
    """What is measured on some of the cores is another number than that on all."""
    free, pinned = opened().fingerprint, opened(policy={"cpus": "0"}).fingerprint
    assert (free.cpus, pinned.cpus) == (None, "0")
    assert free.key != pinned.key == free.model_copy(update={"cpus": "0"}).key
    assert free.key == opened(policy={"cooldown": 0.5}).fingerprint.key


def test_the_key_of_a_target_that_is_not_pinned_stays_what_it_was() -> None:
    """Measurements that are in a store already are found under it."""
    assert found().key == "41434bd45c0b7b03"


def test_declared_facts_are_held_against_what_is_there() -> None:
    good = {
        check.fact: check.agrees
        for check in check_declared(find_target("rpi5"), found(isa=("asimd", "asimdhp", "asimddp")))
    }
    assert good == {"cpu": True, "isa": True, "cores": True}
    checks = {check.fact: check for check in check_declared(find_target("jetson-agx-orin"), found())}
    assert not any(checks[fact].agrees for fact in ("cpu", "isa", "cores", "memory"))
    assert checks["isa"].found == "no asimdhp" and checks["memory"].found == "8.0 GiB" and checks["cores"].found == "4"
    assert check_declared(Target(name="x"), found()) == []
    (lacks,) = check_declared(Target(name="x", declares=Declared(lacks=("asimddp", "sve"))), found())
    assert not lacks.agrees and lacks.found == "has asimddp"


def test_confined_to_the_big_cores_it_still_has_all() -> None:
    phone = found(clusters=("1 x Cortex-X4", "5 x Cortex-A720", "2 x Cortex-A520"), cores=1)
    (cores,) = check_declared(Target(name="x", declares=Declared(cores=8)), phone)
    assert cores.agrees


@pytest.mark.parametrize(
    ("target", "card", "differs"),
    [
        ("l4", "NVIDIA L4, 23034 MiB, compute capability 8.9, driver 570.86.15", set()),
        ("t4", "Tesla T4, 15360 MiB, compute capability 7.5, driver 550.54.15", set()),
        ("h200", "NVIDIA H200, 143771 MiB, compute capability 9.0, driver 570.86.15", set()),
        (
            "l4",
            "NVIDIA L40S, 46068 MiB, compute capability 8.9, driver 570.86.15",
            {"accelerator", "accelerator_memory"},
        ),
        ("a10", "NVIDIA A10G, 23028 MiB, compute capability 8.6, driver 1", {"accelerator"}),
        ("rtx-4090", "", {"accelerator", "accelerator_memory", "compute_capability"}),
        ("l4", "NVIDIA L4, 23034 MiB, compute capability 8.9, driver 570.86.15, CUDA 12.8, limit 72 W", set()),
        ("l4", "NVIDIA L4, 23034 MiB, compute capability 8.9, driver 570.86.15, limit 50.5 W", {"power_limit_w"}),
        (
            "rtx-4090",  # overclocked by its maker
            "NVIDIA GeForce RTX 4090, 24564 MiB, compute capability 8.9, driver 570.86.15, limit 480 W",
            set(),
        ),
    ],
)
def test_cards(target: str, card: str, differs: set[str]) -> None:
    checks = check_declared(find_target(target), found(accelerator=card))
    assert {check.fact for check in checks if not check.agrees} == differs
