"""What NVIDIA's driver tells of a card: identity, clocks, temperature, energy, memory, processes. Read only.

Source: NVML API Reference, NVIDIA (docs.nvidia.com/deploy/nvml-api), through its package `nvidia-ml-py`, whose module
is `pynvml`. Runs on the device; Python 3.9. What a card, a driver or a container does not tell is None, never an error;
only that there is no card at all is one.
"""

from __future__ import annotations

import hashlib
import importlib
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping
from typing import Any

PACKAGE = "nvidia-ml-py>=13.580,<14"
OF_PROCESS = "nvml:process"  # who told the bytes that a process holds

# Bits of nvmlDeviceGetCurrentClocksEventReasons (nvml.h, nvmlClocksEventReasons).
_REASONS = {
    0x1: "idle",
    0x2: "application clocks",
    0x4: "power cap",
    0x8: "hardware slowdown",
    0x10: "sync boost",
    0x20: "software thermal slowdown",
    0x40: "hardware thermal slowdown",
    0x80: "power brake",
    0x100: "display clocks",
}
# A card under load runs into its power cap as a rule: that is how fast it is. These say that it is slower than that.
_THROTTLING = frozenset({"hardware slowdown", "software thermal slowdown", "hardware thermal slowdown", "power brake"})
_THERMAL_POLICY = 1  # NVML_PERF_POLICY_THERMAL: time for which heat held the clocks down
_THERMAL_SHARE = 0.01  # of the time between two readings

_SM, _MEMORY, _CORE = 1, 2, 0  # NVML_CLOCK_SM, NVML_CLOCK_MEM, NVML_TEMPERATURE_GPU

# nvmlReturn_t
_NO_PERMISSION, _DRIVER_NOT_LOADED, _LIBRARY_NOT_FOUND, _GPU_LOST, _MISMATCH = 4, 9, 12, 15, 18

_INITIAL_NAMESPACE = 0xEFFFFFFC  # inode of the machine's own pid namespace (Linux, include/linux/proc_ns.h)


class NvmlProblem(Exception):
    """There is no card that can be asked; one line that says why and what to do."""


class Card:
    """One card, or one MIG instance of it. `nvml` is the module `pynvml`."""

    def __init__(self, nvml: Any, handle: Any) -> None:
        self._nvml = nvml
        self._handle = handle  # has the memory and the processes
        whole = self._ask("nvmlDeviceGetDeviceHandleFromMigDeviceHandle", handle) if self._instance() else None
        self._card = handle if whole is None else whole  # has clocks, temperature, power and energy

    @property
    def mig(self) -> bool | None:
        """Whether the card is divided by MIG; None where it does not tell."""
        if self._card is not self._handle:
            return True
        mode = self._ask("nvmlDeviceGetMigMode", self._card)
        return None if mode is None else bool(mode[0])

    def identity(self) -> dict[str, Any]:
        """What stays the same while the card, its driver and its settings do."""
        uuid = self._ask("nvmlDeviceGetUUID", self._handle)
        version = self._ask("nvmlDeviceGetCudaComputeCapability", self._card)
        cuda = self._ask("nvmlSystemGetCudaDriverVersion_v2") or self._ask("nvmlSystemGetCudaDriverVersion")
        limit = self._ask("nvmlDeviceGetEnforcedPowerLimit", self._card)
        memory = self._ask("nvmlDeviceGetMemoryInfo", self._handle)
        return {
            "name": _text(self._ask("nvmlDeviceGetName", self._handle)),
            "uuid_hash": _hash(_text(uuid)),
            "compute_capability": "{}.{}".format(*version) if version else "",
            "driver": _text(self._ask("nvmlSystemGetDriverVersion")),
            "cuda": f"{cuda // 1000}.{cuda % 1000 // 10}" if cuda else "",
            "power_limit_w": None if limit is None else limit / 1e3,
            "mig": self.mig,
            "memory_bytes": None if memory is None else int(memory.total),
        }

    def reading(self) -> dict[str, Any]:
        """The state of this moment. Hertz, degrees Celsius, watts, joules since the driver was loaded, bytes, seconds.

        `processes` are those with a CUDA context: their number as the driver counts and their bytes; None if hidden.
        """
        clock = self._ask("nvmlDeviceGetClockInfo", self._card, _SM)
        memory_clock = self._ask("nvmlDeviceGetClockInfo", self._card, _MEMORY)
        power = self._ask("nvmlDeviceGetPowerUsage", self._card)
        heat = self._ask("nvmlDeviceGetViolationStatus", self._card, _THERMAL_POLICY)
        memory = self._ask("nvmlDeviceGetMemoryInfo", self._handle)
        energy = self._ask("nvmlDeviceGetTotalEnergyConsumption", self._card)
        return {
            "at": time.monotonic(),
            "clock_hz": None if clock is None else clock * 1e6,
            "memory_clock_hz": None if memory_clock is None else memory_clock * 1e6,
            "temperature_c": self._temperature(),
            "reasons": self._reasons(),
            "thermal_seconds": None if heat is None else heat.violationTime / 1e9,
            "power_w": None if power is None else power / 1e3,
            "energy_j": None if energy is None else energy / 1e3,
            "used_bytes": None if memory is None else int(memory.used),
            "processes": self._processes(),
        }

    def joules(self) -> float | None:
        """Joules that the whole card has used since the driver was loaded (Volta and later), or None."""
        spent = self._ask("nvmlDeviceGetTotalEnergyConsumption", self._card)
        return None if spent is None else spent / 1e3

    def held_bytes(self, pid: int) -> dict[str, int | None]:
        """What is held on the card: "nvml:process" by process `pid`, "nvml:device" by everybody.

        Of the latter only a difference means something. The former is None where the driver does not tell processes
        apart: in containers, with MIG, on Windows; it may be known before a process uses the card and not afterwards.
        Where the driver lists others and not `pid` it is 0: that process uses no card yet, or is not shown.
        """
        return {OF_PROCESS: self._process_bytes(pid), "nvml:device": self._device_bytes()}

    def _process_bytes(self, pid: int) -> int | None:
        processes = self._processes()
        if processes is None:
            return None
        mine = [process["bytes"] for process in processes if process["pid"] == pid]
        if mine:
            return None if None in mine else sum(mine)
        return None if in_container() else 0

    def _device_bytes(self) -> int | None:
        memory = self._ask("nvmlDeviceGetMemoryInfo", self._handle)
        return None if memory is None else int(memory.used)

    def _instance(self) -> bool:
        return bool(self._ask("nvmlDeviceIsMigDeviceHandle", self._handle))

    def _temperature(self) -> float | None:
        found = self._ask("nvmlDeviceGetTemperatureV", self._card, _CORE)
        if found is None:
            found = self._ask("nvmlDeviceGetTemperature", self._card, _CORE)
        return None if found is None else float(found)

    def _reasons(self) -> list[str] | None:
        bits = self._ask("nvmlDeviceGetCurrentClocksEventReasons", self._card)
        if bits is None:  # drivers and packages before 12.x
            bits = self._ask("nvmlDeviceGetCurrentClocksThrottleReasons", self._card)
        if bits is None:
            return None
        unknown = [f"reason {1 << place:#x}" for place in range(9, 64) if bits >> place & 1]
        return [word for bit, word in _REASONS.items() if bits & bit] + unknown

    def _processes(self) -> list[dict[str, Any]] | None:
        found = self._ask("nvmlDeviceGetComputeRunningProcesses", self._handle)
        if found is None:
            return None
        return [{"pid": int(entry.pid), "bytes": _bytes(entry.usedGpuMemory)} for entry in found]

    def _ask(self, function: str, *arguments: Any) -> Any:
        """The answer, or None where package, driver or card does not have it. Raises `NvmlProblem` for a lost card."""
        call = getattr(self._nvml, function, None)
        if call is None:
            return None
        try:
            return call(*arguments)
        except self._nvml.NVMLError as error:
            if getattr(error, "value", None) == _GPU_LOST:
                raise NvmlProblem("the card has fallen off the bus; the machine must be restarted") from error
            return None


def open_card(index: int = 0, uuid: str = "") -> Card:
    """Card number `index` as CUDA counts here, or the one with this `uuid`. Raises `NvmlProblem`.

    CUDA_VISIBLE_DEVICES is followed. CUDA puts the fastest card first and NVML goes by the bus: on a machine with
    different cards give `uuid`, or set CUDA_DEVICE_ORDER=PCI_BUS_ID.
    """
    try:
        nvml = importlib.import_module("pynvml")
    except ImportError as error:
        raise NvmlProblem(
            f"{sys.executable} cannot read the card's driver: {error}; {sys.executable} -m pip install '{PACKAGE}'"
        ) from error
    try:
        nvml.nvmlInit()
    except nvml.NVMLError as error:
        raise NvmlProblem(_why(error)) from error
    return pick(nvml, index, uuid)


def pick(nvml: Any, index: int = 0, uuid: str = "") -> Card:
    """`open_card` with the library given and started."""
    try:
        wanted = _visible(index)
        # A MIG instance has a UUID of its own, which CUDA spells as a card's. The environment knows it as NVML does,
        # and comes first: old drivers tell CUDA the UUID of the whole card.
        names = [wanted if isinstance(wanted, str) else "", uuid.replace("GPU-", "MIG-", 1), uuid]
        for name in filter(None, names):
            handle = _by_uuid(nvml, name)
            if handle is not None:
                return Card(nvml, _part(nvml, handle))
        if isinstance(wanted, str):
            raise NvmlProblem(f"the driver shows no card {wanted}; nvidia-smi -L lists them")
        count = nvml.nvmlDeviceGetCount()
        if not count:
            raise NvmlProblem(
                "the driver shows no card; give the container one (docker run --gpus all), or look at nvidia-smi -L"
            )
        if wanted >= count:
            raise NvmlProblem(f"card {wanted} was asked for, but the driver shows {count}; count from 0")
        return Card(nvml, _part(nvml, nvml.nvmlDeviceGetHandleByIndex(wanted)))
    except nvml.NVMLError as error:
        raise NvmlProblem(_why(error)) from error


def identity(index: int = 0, uuid: str = "") -> dict[str, Any]:
    """`Card.identity`, from `nvidia-smi` where the package `nvidia-ml-py` is not there. Raises `NvmlProblem`."""
    try:
        return open_card(index, uuid).identity()
    except NvmlProblem:
        told = from_program(index)
        if told is None:
            raise
        return told


def sentence(card: Mapping[str, Any]) -> str:
    """What `identity` gives, in one line: all of it, because speed depends on all of it.

    `NVIDIA L4, 23034 MiB, compute capability 8.9, driver 570.86.15, CUDA 12.8, limit 72 W, card 5f0c3a9d1b2e4f60`.
    """
    size, limit = card["memory_bytes"], card["power_limit_w"]
    words = [card["name"], "unknown memory" if size is None else f"{size >> 20} MiB"]
    words += [f"compute capability {card['compute_capability']}", f"driver {card['driver']}"]
    words += [f"CUDA {card['cuda']}"] if card["cuda"] else []
    words += [] if limit is None else [f"limit {limit:g} W"]
    words += ["divided by MIG"] if card["mig"] else []
    words += [f"card {card['uuid_hash']}"] if card["uuid_hash"] else []
    return ", ".join(words)


def from_program(index: int = 0) -> dict[str, Any] | None:
    """What `nvidia-smi` tells of the card, in the form of `Card.identity`; None where it tells nothing."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return None
    fields = "name,uuid,compute_cap,driver_version,power.limit,mig.mode.current,memory.total"
    asked = [program, "--query-gpu=" + fields, "--format=csv,noheader,nounits"]
    try:
        wanted = _visible(index)
        return parse_program(_said([*asked, f"--id={wanted}"]), _said([program]))
    except (OSError, subprocess.SubprocessError, NvmlProblem):
        return None


def parse_program(line: str, table: str = "") -> dict[str, Any] | None:
    """`from_program` from the line that it printed for the card and from its table, which has the CUDA version."""
    facts = [fact.strip() for fact in line.strip().split(",")]
    if len(facts) != 7:
        return None
    name, uuid, capability, driver, limit, mig, memory = facts
    cuda = re.search(r"CUDA Version: *([0-9.]+)", table)
    return {
        "name": name,
        "uuid_hash": _hash(uuid),
        "compute_capability": capability,
        "driver": driver,
        "cuda": cuda.group(1) if cuda else "",
        "power_limit_w": _float(limit),
        "mig": {"Enabled": True, "Disabled": False}.get(mig),
        "memory_bytes": None if _float(memory) is None else int(float(memory) * 2**20),
    }


def others(reading: Mapping[str, Any], own_pids: Iterable[int]) -> int | None:
    """How many processes of others have a context on the card; None where the driver does not tell.

    In a container the driver counts processes as the machine does, so that our own cannot be known among them: one of
    them is held to be ours.
    """
    found = _foreign(reading, set(own_pids))
    return None if found is None else len(found)


def disturbances(before: Mapping[str, Any], after: Mapping[str, Any], own_pids: Iterable[int]) -> list[str]:
    """Who else was on the card at one of two readings, in words; nothing where the driver does not tell."""
    own = set(own_pids)
    most: list[Mapping[str, Any]] = []
    for reading in (before, after):
        found = _foreign(reading, own) or []
        most = found if len(found) > len(most) else most
    if not most:
        return []
    sizes = [process["bytes"] for process in most]
    held = f", with {sum(sizes) >> 20} MiB" if sizes and None not in sizes else ""
    plural = "other process" if len(most) == 1 else "other processes"
    return [f"{len(most)} {plural} on the card{held}"]


def throttled(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    """Why the card ran slower than it can, by the driver's reasons at two readings and its count between them.

    Its power cap is not among them: under load that is where a card's clocks come from.
    """
    found = sorted({word for reading in (before, after) for word in reading["reasons"] or ()} & _THROTTLING)
    start, end = before.get("thermal_seconds"), after.get("thermal_seconds")
    span = after["at"] - before["at"]
    if not found and start is not None and end is not None and span > 0 and (end - start) / span > _THERMAL_SHARE:
        found.append(f"heat held its clocks down for {end - start:.1f} s")
    return found


def in_container() -> bool:
    """Whether this process counts processes differently than the machine, and so than the driver."""
    try:
        return os.stat("/proc/self/ns/pid").st_ino != _INITIAL_NAMESPACE  # noqa: PTH116  (the link's target)
    except OSError:
        return False


def _foreign(reading: Mapping[str, Any], own: set[int]) -> list[Mapping[str, Any]] | None:
    processes = reading["processes"]
    if processes is None:
        return None
    rest = [process for process in processes if process["pid"] not in own]
    if in_container() and len(rest) == len(processes):
        return rest[1:] if rest else None  # an empty list hides even ourselves
    return rest


def _visible(index: int) -> int | str:
    """The number that NVML has for CUDA's card `index`, or its UUID. Raises `NvmlProblem` if CUDA may not see one."""
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    if chosen is None:
        return index
    entries = [entry.strip() for entry in chosen.split(",")]
    usable: list[str] = []
    for entry in entries:
        if not entry or entry.startswith("-") or not (entry.isdigit() or entry.startswith(("GPU-", "MIG-"))):
            break  # CUDA sees those before the first that is wrong, and no other
        usable.append(entry)
    if index >= len(usable):
        raise NvmlProblem(f"CUDA_VISIBLE_DEVICES={chosen} hides card {index}; unset it, or name a card there")
    return int(usable[index]) if usable[index].isdigit() else usable[index]


def _by_uuid(nvml: Any, uuid: str) -> Any:
    """The handle of "GPU-..." or "MIG-...", or None; CUDA takes the beginning of one too."""
    try:
        return nvml.nvmlDeviceGetHandleByUUID(uuid)
    except nvml.NVMLError:
        for number in range(nvml.nvmlDeviceGetCount()):
            try:
                whole = nvml.nvmlDeviceGetHandleByIndex(number)
                for handle in [whole, *_parts(nvml, whole)]:
                    if _text(nvml.nvmlDeviceGetUUID(handle)).startswith(uuid):
                        return handle
            except nvml.NVMLError:
                continue  # another user's, or lost: not the one that is looked for
    return None


def _part(nvml: Any, handle: Any) -> Any:
    """The MIG instance that CUDA uses of a card that is named whole: the first. The card itself where it has none."""
    return next(iter(_parts(nvml, handle)), handle)


def _parts(nvml: Any, handle: Any) -> list[Any]:
    """A card's MIG instances; none where it is not divided, or is one itself."""
    found = []
    try:
        if nvml.nvmlDeviceIsMigDeviceHandle(handle) or not nvml.nvmlDeviceGetMigMode(handle)[0]:
            return []
        for number in range(nvml.nvmlDeviceGetMaxMigDeviceCount(handle)):
            try:
                found.append(nvml.nvmlDeviceGetMigDeviceHandleByIndex(handle, number))
            except nvml.NVMLError:
                continue  # the numbers have gaps
    except (AttributeError, nvml.NVMLError):  # an old package; a card that cannot be divided
        return []
    return found


def _why(error: Any) -> str:
    """One line for a person for an NVMLError that ends the asking."""
    code = getattr(error, "value", None)
    known: dict[Any, str] = {
        _LIBRARY_NOT_FOUND: "no NVIDIA driver here: libnvidia-ml.so.1 is not found; install the driver, or start the "
        "container with it (docker run --gpus all, NVIDIA_DRIVER_CAPABILITIES=compute,utility)",
        _DRIVER_NOT_LOADED: "the NVIDIA driver is installed but not loaded; load it (modprobe nvidia) or restart",
        _NO_PERMISSION: "this user may not use the card: /dev/nvidia* is closed to it; join the group of those files",
        _MISMATCH: "the NVIDIA driver was updated under way: its library and its kernel module differ in version; "
        "restart the machine, or the container",
        _GPU_LOST: "the card has fallen off the bus; the machine must be restarted",
    }
    return known.get(code, f"the NVIDIA driver cannot be asked: {error}; look at nvidia-smi")


def _said(command: list[str]) -> str:
    answer = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=10, check=True)
    return answer.stdout.decode(errors="replace")


def _hash(uuid: str) -> str:
    """A card's UUID names its owner's machine; a piece of its digest tells cards apart as well."""
    return hashlib.sha256(uuid.encode()).hexdigest()[:16] if uuid else ""


def _text(value: Any) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value or "")


def _bytes(value: Any) -> int | None:
    """Old packages tell "not available" as the largest 64-bit number."""
    return None if value is None or value >= (1 << 64) - 1 else int(value)


def _float(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None
