"""What is made of the driver's answers: written down as NVML's reference gives them, for cards that were not here."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest

from hwprofiles.agent import energy, nvml

ALONE = [SimpleNamespace(pid=os.getpid(), usedGpuMemory=700 << 20)]
H200: dict[str, Any] = {
    "nvmlDeviceGetCount": 1,
    "nvmlDeviceGetHandleByIndex": "card",
    "nvmlDeviceIsMigDeviceHandle": 0,
    "nvmlDeviceGetMigMode": [0, 0],
    "nvmlDeviceGetName": "NVIDIA H200",
    "nvmlDeviceGetUUID": "GPU-11111111-2222-3333-4444-555555555555",
    "nvmlDeviceGetCudaComputeCapability": (9, 0),
    "nvmlSystemGetDriverVersion": "580.95.05",
    "nvmlSystemGetCudaDriverVersion_v2": 13000,
    "nvmlDeviceGetEnforcedPowerLimit": 700_000,
    "nvmlDeviceGetMemoryInfo": SimpleNamespace(total=150_754_820_096, used=1 << 30, free=149_681_078_272),
    "nvmlDeviceGetClockInfo": 1980,
    "nvmlDeviceGetTemperature": 41,
    "nvmlDeviceGetCurrentClocksEventReasons": 0x4,
    "nvmlDeviceGetViolationStatus": SimpleNamespace(violationTime=2_000_000_000, referenceTime=1),
    "nvmlDeviceGetPowerUsage": 412_500,
    "nvmlDeviceGetTotalEnergyConsumption": 5_000_500,
    "nvmlDeviceGetComputeRunningProcesses": ALONE,
}


class Failed(Exception):
    """As `pynvml.NVMLError`: `value` is the nvmlReturn_t."""

    def __init__(self, value: int) -> None:
        super().__init__(f"nvml error {value}")
        self.value = value


class Recorded:
    """A driver that gives one answer for each function; a number of nvmlReturn_t in `refuses` is raised."""

    NVMLError = Failed

    def __init__(self, answers: Mapping[str, Any], refuses: Mapping[str, int] | None = None) -> None:
        self._answers, self._refuses = answers, refuses or {}

    def __getattr__(self, name: str) -> Any:
        if name in self._refuses:

            def refuse(*_: Any) -> Any:
                raise Failed(self._refuses[name])

            return refuse
        if name not in self._answers:
            raise AttributeError(name)
        return lambda *_: self._answers[name]


def card(changes: Mapping[str, Any] | None = None, refuses: Mapping[str, int] | None = None) -> nvml.Card:
    return nvml.pick(Recorded({**H200, **(changes or {})}, refuses))


@pytest.fixture(autouse=True)
def on_the_machine_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(nvml, "in_container", lambda: False)


def test_says_what_the_card_is() -> None:
    told = card().identity()
    assert told.pop("uuid_hash") not in ("", H200["nvmlDeviceGetUUID"])
    assert told == {
        "name": "NVIDIA H200",
        "compute_capability": "9.0",
        "driver": "580.95.05",
        "cuda": "13.0",
        "power_limit_w": 700.0,
        "mig": False,
        "memory_bytes": 150_754_820_096,
    }
    said = nvml.sentence(card().identity())
    begin = "NVIDIA H200, 143771 MiB, compute capability 9.0, driver 580.95.05, CUDA 13.0, limit 700 W, card "
    assert said.removeprefix(begin) == card().identity()["uuid_hash"]
    other = card({"nvmlDeviceGetUUID": "GPU-2", "nvmlDeviceGetMigMode": [1, 1]}).identity()
    assert "divided by MIG" in nvml.sentence(other) and said != nvml.sentence(other)


def test_reads_the_state_in_si_units() -> None:
    told = card().reading()
    told.pop("at")
    assert told == {
        "clock_hz": 1.98e9,
        "memory_clock_hz": 1.98e9,
        "temperature_c": 41.0,
        "reasons": ["power cap"],
        "thermal_seconds": 2.0,
        "power_w": 412.5,
        "energy_j": 5000.5,
        "used_bytes": 1 << 30,
        "processes": [{"pid": os.getpid(), "bytes": 700 << 20}],
    }


def test_what_a_card_does_not_tell_is_none_and_never_an_error() -> None:
    not_supported = {name: 3 for name in H200 if name.startswith("nvmlDeviceGet") and "Handle" not in name}
    del not_supported["nvmlDeviceGetCount"]
    mute = card(refuses=not_supported)
    assert set(mute.reading().values()) - {mute.reading()["at"]} >= {None}
    assert [key for key, value in mute.reading().items() if value is not None] == ["at"]
    told = mute.identity()
    assert told["driver"] == "580.95.05" and told["name"] == "" and told["memory_bytes"] is None
    assert mute.held_bytes(1) == {"nvml:process": None, "nvml:device": None}
    assert energy.CardCounter(mute, [1]).source == ""


def test_all_reasons_for_lower_clocks_are_named_and_only_slowing_ones_count() -> None:
    told = card({"nvmlDeviceGetCurrentClocksEventReasons": 0x1FF | 1 << 12}).reading()["reasons"]
    assert len(told) == 10 and told[-1] == "reason 0x1000"
    quiet, hot = card().reading(), card({"nvmlDeviceGetCurrentClocksEventReasons": 0x44}).reading()
    assert nvml.throttled(quiet, quiet) == []  # the power cap is where clocks under load come from
    assert nvml.throttled(quiet, hot) == ["hardware thermal slowdown"]
    assert nvml.throttled(hot, quiet) == ["hardware thermal slowdown"]
    older = Recorded({**H200, "nvmlDeviceGetCurrentClocksThrottleReasons": 0x80})
    del older._answers["nvmlDeviceGetCurrentClocksEventReasons"]  # type: ignore[attr-defined]
    assert nvml.pick(older).reading()["reasons"] == ["power brake"]


def test_heat_between_two_readings_is_seen_too() -> None:
    before = {**card().reading(), "at": 100.0}
    after = {**before, "at": 110.0, "thermal_seconds": before["thermal_seconds"] + 3.0}
    assert nvml.throttled(before, after) == ["heat held its clocks down for 3.0 s"]
    assert nvml.throttled(before, {**after, "thermal_seconds": before["thermal_seconds"] + 0.05}) == []


def test_another_process_on_the_card_is_told() -> None:
    guest = SimpleNamespace(pid=4_000_000, usedGpuMemory=512 << 20)
    before, after = card().reading(), card({"nvmlDeviceGetComputeRunningProcesses": [*ALONE, guest]}).reading()
    assert nvml.disturbances(before, before, [os.getpid()]) == []
    assert nvml.disturbances(before, after, [os.getpid()]) == ["1 other process on the card, with 512 MiB"]
    assert nvml.disturbances(before, after, []) == ["2 other processes on the card, with 1212 MiB"]
    assert nvml.others(after, [os.getpid()]) == 1 and nvml.others(before, [os.getpid()]) == 0


def test_in_a_container_our_own_process_has_a_number_that_we_do_not_know(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nvml, "in_container", lambda: True)
    mine = SimpleNamespace(pid=777_777, usedGpuMemory=None)
    one = card({"nvmlDeviceGetComputeRunningProcesses": [mine]})
    two = card({"nvmlDeviceGetComputeRunningProcesses": [mine, mine]})
    hidden = card({"nvmlDeviceGetComputeRunningProcesses": []})
    assert nvml.disturbances(one.reading(), one.reading(), [os.getpid()]) == []
    assert nvml.disturbances(one.reading(), two.reading(), [os.getpid()]) == ["1 other process on the card"]
    assert nvml.others(hidden.reading(), [os.getpid()]) is None
    assert one.held_bytes(os.getpid()) == {"nvml:process": None, "nvml:device": 1 << 30}


def test_memory_of_a_process_or_else_of_the_device() -> None:
    assert card().held_bytes(os.getpid()) == {"nvml:process": 700 << 20, "nvml:device": 1 << 30}
    assert card().held_bytes(1)["nvml:process"] == 0  # it has no context
    gone = card(refuses={"nvmlDeviceGetComputeRunningProcesses": 4})
    assert gone.held_bytes(os.getpid()) == {"nvml:process": None, "nvml:device": 1 << 30}
    assert gone.reading()["processes"] is None
    never = [SimpleNamespace(pid=os.getpid(), usedGpuMemory=(1 << 64) - 1)]  # NVML_VALUE_NOT_AVAILABLE
    hidden = card({"nvmlDeviceGetComputeRunningProcesses": never}).held_bytes(os.getpid())
    assert hidden == {"nvml:process": None, "nvml:device": 1 << 30}


def test_a_mig_instance_has_its_own_memory_and_the_cards_energy() -> None:
    divided = {
        "nvmlDeviceIsMigDeviceHandle": 1,
        "nvmlDeviceGetDeviceHandleFromMigDeviceHandle": "whole",
        "nvmlDeviceGetName": "NVIDIA H200 MIG 1g.18gb",
        "nvmlDeviceGetMemoryInfo": SimpleNamespace(total=18 << 30, used=1 << 28),
    }
    found = card(divided)
    assert found.identity()["mig"] is True and found.identity()["memory_bytes"] == 18 << 30
    assert energy.CardCounter(found, [os.getpid()]).source == "nvml:energy of the card, divided by MIG"


def test_energy_of_a_shared_card_says_so() -> None:
    assert energy.CardCounter(card(), [os.getpid()]).source == "nvml:energy"
    assert energy.CardCounter(card(), []).source == "nvml:energy of the card, with 1 other process(es) on it"
    told = Recorded(dict(H200))
    counter = energy.CardCounter(nvml.pick(told), [os.getpid()])
    told._answers["nvmlDeviceGetTotalEnergyConsumption"] += 12_500  # type: ignore[index]
    assert counter.joules() == pytest.approx(12.5)
    del told._answers["nvmlDeviceGetTotalEnergyConsumption"]  # type: ignore[attr-defined]
    with pytest.raises(OSError, match="energy counter"):
        counter.joules()


@pytest.mark.parametrize(
    ("chosen", "index", "said"),
    [("", 0, "hides card 0"), ("-1", 0, "hides card 0"), ("0", 1, "hides card 1"), ("0,-1,1", 1, "hides card 1")],
)
def test_a_hidden_card_is_named(monkeypatch: pytest.MonkeyPatch, chosen: str, index: int, said: str) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", chosen)
    with pytest.raises(nvml.NvmlProblem, match=said):
        nvml.pick(Recorded(H200), index)


def test_follows_cudas_choice_of_cards(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    def hand(which: Any) -> str:
        asked.append(which)
        return "card"

    driver = Recorded({**H200, "nvmlDeviceGetCount": 4})
    driver.nvmlDeviceGetHandleByIndex = hand  # type: ignore[attr-defined]
    driver.nvmlDeviceGetHandleByUUID = hand  # type: ignore[attr-defined]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,GPU-1111")
    nvml.pick(driver, 0)
    nvml.pick(driver, 1)
    assert asked == [3, "GPU-1111"]


class Divided(Recorded):
    """A card with two MIG instances, as NVML knows them: each has a UUID of its own, and its own memory."""

    UUIDS: ClassVar[dict[Any, str]] = {"whole": "GPU-aaaa-1", 0: "MIG-bbbb-1", 2: "MIG-cccc-1"}

    def __init__(self) -> None:
        super().__init__({**H200, "nvmlDeviceGetMigMode": [1, 1], "nvmlDeviceGetMaxMigDeviceCount": 7})

    def nvmlDeviceGetHandleByIndex(self, index: int) -> str:
        return "whole"

    def nvmlDeviceGetHandleByUUID(self, uuid: str) -> Any:
        for handle, known in self.UUIDS.items():
            if known == uuid:
                return handle
        raise Failed(6)

    def nvmlDeviceGetMigDeviceHandleByIndex(self, whole: Any, index: int) -> int:
        assert whole == "whole"
        if index not in self.UUIDS:
            raise Failed(6)
        return index

    def nvmlDeviceIsMigDeviceHandle(self, handle: Any) -> int:
        return int(handle != "whole")

    def nvmlDeviceGetDeviceHandleFromMigDeviceHandle(self, handle: Any) -> str:
        return "whole"

    def nvmlDeviceGetUUID(self, handle: Any) -> str:
        return self.UUIDS[handle]

    def nvmlDeviceGetMemoryInfo(self, handle: Any) -> Any:
        size = 150_754_820_096 if handle == "whole" else 18 << 30
        return SimpleNamespace(total=size, used=1 << 28)


@pytest.mark.parametrize(
    ("environment", "uuid", "expected"),
    [
        (None, "GPU-bbbb-1", "MIG-bbbb-1"),  # as CUDA spells an instance
        (None, "GPU-cccc-1", "MIG-cccc-1"),
        ("MIG-cccc-1", "GPU-aaaa-1", "MIG-cccc-1"),  # an old driver told CUDA the whole card's
        ("MIG-cccc-1", "GPU-cccc-1", "MIG-cccc-1"),
        ("MIG-cc", "", "MIG-cccc-1"),  # CUDA takes the beginning of one
        ("0", "GPU-cccc-1", "MIG-cccc-1"),
        (None, "GPU-aaaa-1", "MIG-bbbb-1"),  # the first, as CUDA has it
        (None, "", "MIG-bbbb-1"),
    ],
)
def test_the_mig_instance_that_cuda_uses_is_the_one_that_is_read(
    monkeypatch: pytest.MonkeyPatch, environment: str | None, uuid: str, expected: str
) -> None:
    if environment is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", environment)
    found = nvml.pick(Divided(), uuid=uuid)
    told = found.identity()
    assert told["memory_bytes"] == 18 << 30 and told["mig"] is True
    assert told["uuid_hash"] == nvml._hash(expected)
    assert found.held_bytes(os.getpid())["nvml:device"] == 1 << 28


@pytest.mark.parametrize("error", [4, 15])
def test_a_card_of_others_does_not_hide_ours(error: int) -> None:
    """NVML counts cards that this user may not open, and lost ones."""

    class Shared(Recorded):
        def nvmlDeviceGetHandleByUUID(self, uuid: str) -> str:
            if uuid != "GPU-ours":
                raise Failed(6)
            return "card"

        def nvmlDeviceGetHandleByIndex(self, index: int) -> str:
            if index == 0:
                raise Failed(error)
            return "card"

        def nvmlDeviceGetUUID(self, handle: Any) -> str:
            return "GPU-ours"

    found = nvml.pick(Shared({**H200, "nvmlDeviceGetCount": 2}), uuid="GPU-ours")
    assert found.identity()["uuid_hash"] == nvml._hash("GPU-ours")


@pytest.mark.parametrize(
    ("answers", "refuses", "said"),
    [
        ({"nvmlDeviceGetCount": 0}, {}, "the driver shows no card"),
        ({}, {"nvmlDeviceGetCount": 9}, "not loaded"),
        ({}, {"nvmlDeviceGetHandleByIndex": 4}, "may not use the card"),
        ({}, {"nvmlDeviceGetHandleByIndex": 15}, "fallen off the bus"),
        ({}, {"nvmlDeviceGetCount": 18}, "updated under way"),
        ({}, {"nvmlDeviceGetCount": 999}, "cannot be asked: nvml error 999"),
    ],
)
def test_what_keeps_a_card_from_being_asked_is_one_line(
    answers: dict[str, Any], refuses: dict[str, int], said: str
) -> None:
    with pytest.raises(nvml.NvmlProblem, match=said) as raised:
        card(answers, refuses)
    assert "\n" not in str(raised.value) and ";" in str(raised.value)


def test_a_card_that_is_lost_later_is_an_error() -> None:
    with pytest.raises(nvml.NvmlProblem, match="fallen off the bus"):
        card(refuses={"nvmlDeviceGetClockInfo": 15}).reading()


def test_without_the_package_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)
    with pytest.raises(nvml.NvmlProblem, match=r"-m pip install 'nvidia-ml-py>=13\.580,<14'"):
        nvml.open_card()


def test_without_a_driver_the_real_library_says_so() -> None:
    """The real package on a machine without a card."""
    pynvml = pytest.importorskip("pynvml", reason="nvidia-ml-py is not installed here")
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError_LibraryNotFound:
        with pytest.raises(nvml.NvmlProblem, match=r"no NVIDIA driver here: libnvidia-ml\.so\.1 is not found"):
            nvml.open_card()
    else:
        pytest.skip("this machine has a card")


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (
            "NVIDIA L4, GPU-1, 8.9, 570.86.15, 72.00, [N/A], 23034",
            ("NVIDIA L4", "8.9", "570.86.15", 72.0, None, 23034 << 20),
        ),
        (
            "NVIDIA A100, GPU-2, 8.0, 550.1, 400.00, Enabled, 81920",
            ("NVIDIA A100", "8.0", "550.1", 400.0, True, 80 << 30),
        ),
        ("No devices were found", None),
    ],
)
def test_the_drivers_tool_tells_the_identity_too(line: str, expected: tuple[Any, ...] | None) -> None:
    told = nvml.parse_program(line, "| NVIDIA-SMI 570.86.15   CUDA Version: 12.8  |")
    if expected is None:
        assert told is None
        return
    assert told is not None and told["cuda"] == "12.8"
    keys = ("name", "compute_capability", "driver", "power_limit_w", "mig", "memory_bytes")
    assert tuple(told[key] for key in keys) == expected


def test_the_tool_is_asked_where_the_package_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)
    tool = tmp_path / "nvidia-smi"
    tool.write_text('#!/bin/sh\necho "NVIDIA L4, GPU-1, 8.9, 570.86.15, 72.00, [N/A], 23034"\n')
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    assert nvml.identity()["name"] == "NVIDIA L4"
    tool.write_text("#!/bin/sh\necho broken; exit 9\n")
    with pytest.raises(nvml.NvmlProblem, match="pip install"):
        nvml.identity()
