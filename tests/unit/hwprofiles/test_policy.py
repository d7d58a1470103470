"""The policy of a target: what a device tells, and what is done about it. Trees and texts are as devices have them."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hwprofiles.agent import policy as device_side
from hwprofiles.device import Device
from hwprofiles.errors import TargetLost, TargetUnavailable
from hwprofiles.policy import apply_policy, check_afterwards
from hwprofiles.scenario import Scenario
from hwprofiles.target import Target

_THERMAL = """
IsStatusOverride: false
Thermal Status: {status}
Cached temperatures:
	Temperature{{mValue=99.0, mType=0, mName=CPU0, mStatus=0}}
HAL Ready: true
Current temperatures from HAL:
	Temperature{{mValue=41.2, mType=0, mName=CPU0, mStatus=0}}
	Temperature{{mValue=43.7, mType=0, mName=CPU7, mStatus=0}}
	Temperature{{mValue=30.1, mType=2, mName=BATTERY, mStatus=0}}
	Temperature{{mValue=36.0, mType=3, mName=SKIN, mStatus=0}}
"""
_BATTERY = """
Current Battery Service state:
  AC powered: false
  USB powered: {usb}
  Wireless powered: false
  status: {status}
  level: {level}
  scale: 100
"""
_POWER = """
POWER MANAGER (dumpsys power)
  mWakefulness={awake}
Display Power: state={display}
"""
_X = {"x": np.ones((2, 64), np.float32)}


class InProcess:
    """An agent whose device side runs here, on a tree instead of /."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.asked: list[str | None] = []
        self.garbage: dict[str, Any] = {}

    def request(self, op: str, *, stage: str, **fields: Any) -> tuple[dict[str, Any], Any]:
        assert op == "policy"
        self.asked.append(fields["cpus"])
        return {**device_side.serve(fields, self.root), **self.garbage}, {}

    @contextlib.contextmanager
    def reading(self, stage: str) -> Iterator[None]:
        try:
            yield
        except (KeyError, TypeError, ValueError) as error:
            raise TargetLost(str(error)) from error


class Clock:
    """Time that passes when somebody sleeps; `then` happens at each step."""

    def __init__(self, then: Callable[[float], None] = lambda _: None) -> None:
        self.now = 0.0
        self._then = then

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        self._then(self.now)

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def agent(tmp_path: Path) -> InProcess:
    return InProcess(tmp_path / "root")


@pytest.fixture
def dumpsys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """An Android device's `dumpsys`."""
    folder = tmp_path / "bin"
    folder.mkdir()

    def install(status: int = 0, level: int = 80, charge: int = 3, usb: bool = False, display: str = "OFF") -> None:
        texts = {
            "thermalservice": _THERMAL.format(status=status),
            "battery": _BATTERY.format(usb=str(usb).lower(), status=charge, level=level),
            "power": _POWER.format(awake="Awake" if display == "ON" else "Asleep", display=display),
        }
        for name, text in texts.items():
            (folder / name).write_text(text)
        (folder / "dumpsys").write_text(f'#!/bin/sh\nexec cat {folder}/"$1"\n')
        (folder / "dumpsys").chmod(0o755)
        monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")

    return install


def test_without_a_policy_nothing_is_asked(agent: InProcess) -> None:
    found = apply_policy(agent, Target(name="t"))
    assert not agent.asked and not found.facts and not found.throttled
    assert not check_afterwards(agent, Target(name="t")).facts and not agent.asked


def test_big_cores_by_capacity_then_by_clock(tmp_path: Path) -> None:
    _write(tmp_path, {"sys/devices/system/cpu/online": "0-3"})
    assert device_side.choose_cpus("big", tmp_path) is None  # nothing is known of them
    for core, clock in enumerate((1800000, 1800000, 2400000, 2400000)):
        _write(tmp_path, {f"sys/devices/system/cpu/cpu{core}/cpufreq/cpuinfo_max_freq": str(clock)})
    assert device_side.choose_cpus("big", tmp_path) == [2, 3]
    for core, capacity in enumerate((400, 400, 870, 1024)):  # the same clock can do more on a larger core
        _write(tmp_path, {f"sys/devices/system/cpu/cpu{core}/cpu_capacity": str(capacity)})
    assert device_side.choose_cpus("big", tmp_path) == [3]
    assert device_side.choose_cpus("all", tmp_path) == [0, 1, 2, 3]
    assert device_side.choose_cpus("1-2,3", tmp_path) == [1, 2, 3]
    assert device_side.choose_cpus(None, tmp_path) is None
    with pytest.raises(device_side.NotPossible, match=r"cores 4,5 are not there or asleep; there are 0,1,2,3"):
        device_side.choose_cpus("3-5", tmp_path)


def test_equal_cores_have_no_big_ones(tmp_path: Path) -> None:
    _write(tmp_path, {"sys/devices/system/cpu/online": "0-1"})
    for core in (0, 1):
        _write(tmp_path, {f"sys/devices/system/cpu/cpu{core}/cpu_capacity": "1024"})
    assert device_side.choose_cpus("big", tmp_path) is None


@pytest.mark.parametrize(
    ("zones", "expected"),
    [
        ({"battery": "31000", "cpu-0-0-usr": "45300", "cpu-1-7-usr": "51200", "gpuss": "88000"}, (51.2, "cpu-1-7-usr")),
        ({"x86_pkg_temp": "47000", "acpitz": "99000"}, (47.0, "x86_pkg_temp")),
        ({"soc_thermal": "453"}, (45.3, "soc_thermal")),  # tenths
        ({"cpu-thermal": "45"}, (45.0, "cpu-thermal")),
        ({"cpu-thermal": "-274000", "skin": "33000"}, (33.0, "skin")),  # switched off
        ({"cpu-thermal": "warm"}, (None, None)),
        ({"modem": "50000"}, (None, None)),  # says nothing of the cores
        ({}, (None, None)),
    ],
)
def test_temperature_is_that_of_the_cores(
    zones: dict[str, str], expected: tuple[float | None, str | None], tmp_path: Path
) -> None:
    for number, (name, value) in enumerate(zones.items()):
        folder = f"sys/class/thermal/thermal_zone{number}"
        _write(tmp_path, {f"{folder}/type": name, f"{folder}/temp": value})
    found = device_side.state(tmp_path)
    assert (found["temperature_c"], found["temperature_zone"]) == expected


def test_android_tells_by_dumpsys(agent: InProcess, dumpsys: Callable[..., None]) -> None:
    dumpsys(status=1, level=64, usb=True, display="ON")
    assert device_side.state(agent.root) == {
        "temperature_c": 43.7,
        "temperature_zone": "CPU7",
        "thermal_status": 1,
        "battery_percent": 64,
        "charging": True,
        "screen_on": True,
    }


def test_a_laptop_tells_by_files_and_its_mouse_does_not_count(tmp_path: Path) -> None:
    supply = "sys/class/power_supply"
    _write(tmp_path, {f"{supply}/AAA/type": "Battery", f"{supply}/AAA/scope": "Device", f"{supply}/AAA/capacity": "5"})
    assert device_side.state(tmp_path)["battery_percent"] is None
    _write(tmp_path, {f"{supply}/BAT0/type": "Battery", f"{supply}/BAT0/capacity": "81"})
    _write(tmp_path, {f"{supply}/BAT0/status": "Discharging"})
    found = device_side.state(tmp_path)
    assert (found["battery_percent"], found["charging"], found["screen_on"]) == (81, False, None)
    _write(tmp_path, {f"{supply}/AC/type": "Mains", f"{supply}/AC/online": "1"})
    assert device_side.state(tmp_path)["charging"] is True


def test_battery_and_screen_are_refused_with_what_to_do(agent: InProcess, dumpsys: Callable[..., None]) -> None:
    wanted = _target(min_battery=50, screen_off=True)
    dumpsys(level=49)
    with pytest.raises(
        TargetUnavailable, match=r"'t': its battery is at 49 % and not charging; policy.min_battery is 50"
    ):
        apply_policy(agent, wanted)
    dumpsys(level=49, charge=2)
    apply_policy(agent, wanted)
    dumpsys(display="ON")
    with pytest.raises(TargetUnavailable, match=r"screen is on .*KEYCODE_SLEEP"):
        apply_policy(agent, wanted)


def test_what_cannot_be_read_stops_nothing(agent: InProcess) -> None:
    found = apply_policy(agent, _target(min_battery=50, screen_off=True, max_temperature=40, cpus="big"))
    assert not found.throttled
    assert {found.facts[key] for key in ("temperature_c", "thermal_status", "battery_percent", "screen")} == {None}


def test_waits_until_it_is_cool(agent: InProcess) -> None:
    _heat(agent, 62)
    clock = Clock(lambda now: _heat(agent, 62 - now))
    found = apply_policy(agent, _target(cooldown=5, max_temperature=40, cool_wait=100), sleep=clock.sleep, clock=clock)
    assert not found.throttled and "hot" not in found.facts
    assert 22 <= clock.now <= 26 and found.facts["cooled_seconds"] == clock.now
    assert float(found.facts["temperature_c"] or 99) <= 40


def test_flags_what_stays_hot(agent: InProcess) -> None:
    _heat(agent, 62)
    clock = Clock()
    found = apply_policy(agent, _target(max_temperature=40, cool_wait=30), sleep=clock.sleep, clock=clock)
    assert found.throttled and 30 <= clock.now <= 34
    assert str(found.facts["hot"]).startswith("cpu at 62.0 degrees, policy.max_temperature is 40, after 30 s")


def test_a_system_that_throttles_counts_as_hot(agent: InProcess, dumpsys: Callable[..., None]) -> None:
    dumpsys(status=2)
    wanted = _target(max_temperature=90, cool_wait=0)
    assert apply_policy(agent, wanted).throttled
    assert check_afterwards(agent, wanted).throttled
    dumpsys(status=1)
    assert not check_afterwards(agent, wanted).throttled


@pytest.mark.parametrize(
    "garbage",
    [
        {"temperature_c": "hot"},
        {"battery_percent": [1]},
        {"charging": "maybe"},
        {"cpus": ["x"]},
        {"thermal_status": True},
    ],
)
def test_garbage_is_the_devices_fault(agent: InProcess, garbage: dict[str, Any]) -> None:
    agent.garbage = garbage
    with pytest.raises(TargetLost):
        apply_policy(agent, _target(min_battery=5))


def test_a_measurement_runs_on_the_cores_it_was_given(
    opened: Callable[..., Device], dense: Path, quick: Scenario
) -> None:
    core = sorted(os.sched_getaffinity(0))[-1]
    found = opened(policy={"cpus": str(core)}).measure(dense, [_X], scenario=quick)
    assert found.failure is None and found.environment["policy_cpus"] == str(core)


def test_a_measurement_on_a_hot_device_says_so(
    opened: Callable[..., Device], dense: Path, quick: Scenario, dumpsys: Callable[..., None]
) -> None:
    device = opened(policy={"max_temperature": 90, "cool_wait": 0})
    dumpsys(status=2)
    hot = opened(policy={"max_temperature": 90, "cool_wait": 0}).measure(dense, [_X], scenario=quick)
    assert "throttled" in hot.quality and "thermal status 2" in str(hot.environment["hot"])
    assert "thermal status 2" in str(hot.environment["hot_after"])
    cool = device.measure(dense, [_X], scenario=quick)  # its agent was started before there was a `dumpsys`
    assert "throttled" not in cool.quality and "hot" not in cool.environment


def test_cores_that_are_not_there_make_the_target_unavailable(
    opened: Callable[..., Device], dense: Path, quick: Scenario
) -> None:
    with pytest.raises(TargetUnavailable, match=r"cores 900 are not there .*policy.cpus = '900'"):
        opened(policy={"cpus": "900"}).measure(dense, [_X], scenario=quick)


def _target(**policy: Any) -> Target:
    return Target.model_validate({"name": "t", "policy": policy})


def _heat(agent: InProcess, degrees: float) -> None:
    zone = "sys/class/thermal/thermal_zone0"
    _write(agent.root, {f"{zone}/type": "cpu", f"{zone}/temp": str(int(degrees * 1000))})


def _write(root: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n")
