"""What is really there now: facts read from the device, not declared in a profile."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass

from pydantic import BaseModel, ConfigDict, Field

from hwprofiles.target import Target

_MEMORY_STEP = 1 << 28  # bytes; the kernel keeps a little more or less for itself at each boot
_LEAST, _MOST = 0.85, 1.05  # of the memory that a vendor declares: firmware, graphics and ECC take their share
_POWER = 0.05  # makers of cards set the limit a little differently


class Fingerprint(BaseModel):
    """Identity of device + runtime at the time of a measurement.

    Only equal `key`s may be pooled or compared.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    machine: str  # x86_64, aarch64
    system: str  # Linux 6.1
    board: str = ""  # "Raspberry Pi 5 Model B Rev 1.0", the type of a server or a cloud machine; "" if it is not told
    cpu_model: str
    isa: tuple[str, ...] = ()  # avx2, avx512_vnni, amx_int8, asimddp, ...
    clusters: tuple[str, ...] = ()  # cores of a kind, the fastest first: "4 x Cortex-A76 r4p1, 2.40 GHz"
    caches: dict[str, int] = Field(default_factory=dict)  # "L2" -> bytes; the largest where kinds of cores differ
    smt: int | None = None  # threads per core
    virtual: bool | None = None  # a hypervisor is below; None where that cannot be told
    cores: int  # that the process may use
    cpu_quota: float | None = None  # CPUs that the cgroup may use on average; None: no quota
    memory_total: int  # bytes
    accelerator: str = ""  # "NVIDIA L4, 23034 MiB, compute capability 8.9, driver 570.86.15"
    libc: str = ""  # glibc 2.36, bionic, macOS 15.1
    runtime: str = Field(min_length=1)  # onnxruntime
    runtime_version: str = Field(min_length=1)
    runtime_build: str = ""  # what the runtime says of its build
    providers: tuple[str, ...] = ()  # that a model may ask for there; no part of the key
    provider: str = Field(min_length=1)
    # How sessions are set up: `arena`, `memory_pattern`, `cuda_graph`, `transfers`; see `hwprofiles.runtimes.protocol`.
    session: dict[str, str | bool | None] = Field(default_factory=dict)
    python: str
    numpy: str
    threads: int = Field(ge=1)
    cpus: str | None = None  # cores to which the target's policy pins: "big", "all", "4-7"; None: it does not
    boot_id: str | None = None
    environment: dict[str, str | float | int | None] = Field(default_factory=dict)  # governor, load, pressure, ...

    @property
    def key(self) -> str:
        """Digest over what changes speed or numerics; not over boot id and momentary environment."""
        facts = self.model_dump(exclude={"environment", "boot_id", "providers"}, mode="json")
        facts["memory_total"] = round(self.memory_total / _MEMORY_STEP)
        if self.cpus is None:
            del facts["cpus"]  # keys of records that were made before there was a choice stay what they were
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Check:
    """One declared fact of a target held against what was found."""

    fact: str  # key under `declares`
    declared: str
    found: str
    agrees: bool


def check_declared(target: Target, found: Fingerprint) -> list[Check]:
    """Every fact that `target` declares, with what is really there. Empty if it declares nothing."""
    declared = target.declares
    kinds = " + ".join((found.cpu_model, *found.clusters, found.board))
    checks: list[Check] = []
    if declared.cpu:
        checks.append(Check("cpu", declared.cpu, found.cpu_model, declared.cpu.lower() in kinds.lower()))
    if declared.isa:
        missing = [name for name in declared.isa if name not in found.isa]
        said = f"no {', '.join(missing)}" if missing else "all of them"
        checks.append(Check("isa", " ".join(declared.isa), said, not missing))
    if declared.lacks:
        extra = [name for name in declared.lacks if name in found.isa]
        checks.append(
            Check("lacks", " ".join(declared.lacks), f"has {', '.join(extra)}" if extra else "none", not extra)
        )
    if declared.cores is not None:
        # A phone's process may be confined to some of the cores: what the hardware has is told by its clusters.
        there = sum(int(kind.split()[0]) for kind in found.clusters if kind.split()[0].isdigit()) or found.cores
        checks.append(Check("cores", str(declared.cores), str(there), there == declared.cores))
    if declared.memory is not None:
        checks.append(_memory("memory", declared.memory, found.memory_total))
    checks += _accelerator(target, found)
    return checks


def _accelerator(target: Target, found: Fingerprint) -> list[Check]:
    declared, said = target.declares, found.accelerator or "not told"
    checks = []
    if declared.accelerator:
        there = re.search(rf"(?<![\w]){re.escape(declared.accelerator)}(?![\w])", found.accelerator, re.IGNORECASE)
        checks.append(Check("accelerator", declared.accelerator, said, there is not None))
    if declared.accelerator_memory is not None:
        size = re.search(r"(\d+) MiB", found.accelerator)
        if size is None:
            checks.append(Check("accelerator_memory", _gib(declared.accelerator_memory), said, False))
        else:
            checks.append(_memory("accelerator_memory", declared.accelerator_memory, int(size[1]) << 20))
    if declared.compute_capability:
        version = re.search(r"compute capability ([\d.]+)", found.accelerator)
        there_is = version[1] if version else said
        checks.append(
            Check("compute_capability", declared.compute_capability, there_is, there_is == declared.compute_capability)
        )
    limit = re.search(r"limit ([\d.]+) W", found.accelerator)  # not every driver tells it
    if declared.power_limit_w is not None and limit is not None:
        enough = float(limit[1]) >= declared.power_limit_w * (1 - _POWER)
        checks.append(Check("power_limit_w", f"{declared.power_limit_w:g} W", f"{limit[1]} W", enough))
    return checks


def _memory(fact: str, declared: int, there: int) -> Check:
    return Check(fact, _gib(declared), _gib(there), _LEAST * declared <= there <= _MOST * declared)


def _gib(size: int) -> str:
    return f"{size / 2**30:.1f} GiB"
