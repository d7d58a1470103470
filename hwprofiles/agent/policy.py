"""How a device is used while it measures: which cores, how warm, how full, screen on or off. Runs on the device.

Python 3.9, standard library only. What a device does not tell is None, never an error.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

_CPU = "sys/devices/system/cpu"
_DUMP = 10.0  # seconds for one dumpsys
_WARMEST = 150.0  # degrees; what is above is no temperature
# Zones that say how warm the cores are, best first; a phone has thirty others (modem, battery, camera).
_CORE_ZONES = (r"x86_pkg_temp|coretemp|k10temp|cpu", r"soc|cluster|tsens|big|little|mid", r"skin|thermal")
_HAL_CPU, _HAL_SKIN = 0, 3  # types in what `dumpsys thermalservice` prints


class NotPossible(ValueError):
    """The device refuses what is asked of it; the text says why."""


def serve(request: dict[str, Any], root: Path = Path("/")) -> dict[str, Any]:
    """The operation "policy": pin as `request["cpus"]` says (None: not at all), then read `state`."""
    facts: dict[str, Any] = {"cpus": None, "refused": None}
    try:
        facts["cpus"] = pin(choose_cpus(request["cpus"], root))
    except NotPossible as error:
        facts["refused"] = str(error)
    return {**facts, **state(root)}


def choose_cpus(wanted: str | None, root: Path = Path("/")) -> list[int] | None:
    """Numbers of the cores meant by "big", "all" or a list such as "4-7,9".

    None if nothing is asked for, and for "big" where all cores are equal or the system does not tell. Raises
    `NotPossible` for cores that are not there.
    """
    if wanted is None:
        return None
    online = _parse_list(_read(root / _CPU / "online") or "") or sorted(range(os.cpu_count() or 1))
    if wanted == "all":
        return online
    if wanted == "big":
        return _big(online, root)
    asked = _parse_list(wanted)
    absent = sorted(set(asked) - set(online))
    if absent or not asked:
        there = _spell_list(online)
        raise NotPossible(f"cores {_spell_list(absent)} are not there or asleep; there are {there}")
    return asked


def pin(cpus: list[int] | None) -> list[int] | None:
    """Confine every thread of this process, and so all that they start, to `cpus`; what was really set.

    Raises `NotPossible`.
    """
    if cpus is None:
        return None
    if not hasattr(os, "sched_setaffinity"):
        raise NotPossible("this system has no affinity of processes to cores")
    threads = [int(name) for name in os.listdir("/proc/self/task")]  # noqa: PTH208
    for thread in threads:
        try:
            os.sched_setaffinity(thread, cpus)
        except ProcessLookupError:
            continue  # it has ended meanwhile
        except OSError as error:
            raise NotPossible(f"cannot use the cores {_spell_list(cpus)}: {error.strerror}") from error
    return sorted(os.sched_getaffinity(0))


def state(root: Path = Path("/")) -> dict[str, Any]:
    """Momentary facts.

    temperature_c        of the cores, the warmest; degrees Celsius
    temperature_zone     which sensor said so
    thermal_status       Android's: 0 none, 1 light, 2 moderate, 3 severe, 4 critical, 5 emergency, 6 shutdown
    battery_percent, charging, screen_on
    """
    thermal = _dump("thermalservice")
    temperature, zone = _temperature(root)
    if temperature is None and thermal is not None:
        temperature, zone = _hal_temperature(thermal)
    percent, charging = _battery(root)
    if percent is None:
        percent, charging = _dumped_battery(_dump("battery"))
    return {
        "temperature_c": temperature,
        "temperature_zone": zone,
        "thermal_status": _number(r"Thermal Status:\s*(\d+)", thermal),
        "battery_percent": percent,
        "charging": charging,
        "screen_on": _screen(_dump("power")),
    }


def _big(online: list[int], root: Path) -> list[int] | None:
    """The cores with the highest capacity, or else clock."""
    for name in ("cpu_capacity", "cpufreq/cpuinfo_max_freq"):
        rated = {core: _read(root / _CPU / f"cpu{core}" / name) for core in online}
        known = {core: int(text) for core, text in rated.items() if text and text.isdigit()}
        if len(known) == len(online) and len(set(known.values())) > 1:
            best = max(known.values())
            return [core for core in online if known[core] == best]
    return None


def _temperature(root: Path) -> tuple[float | None, str | None]:
    found: list[tuple[str, float]] = []
    for zone in sorted((root / "sys/class/thermal").glob("thermal_zone*")):
        name, degrees = _read(zone / "type") or zone.name, _degrees(_read(zone / "temp"))
        if degrees is not None:
            found.append((name, degrees))
    for pattern in _CORE_ZONES:
        fitting = [(degrees, name) for name, degrees in found if re.search(pattern, name, re.I)]
        if fitting:
            degrees, name = max(fitting)
            return degrees, name
    return None, None


def _degrees(text: str | None) -> float | None:
    """Drivers give thousandths of a degree, some tenths or whole ones."""
    if not text or not re.fullmatch(r"-?\d+", text):
        return None
    value = float(text)
    for scale in (1.0, 10.0, 1000.0):
        if abs(value) / scale <= _WARMEST:
            # A sensor that is off gives 0 or a value far below.
            return value / scale if value / scale > 0 else None
    return None


def _hal_temperature(text: str) -> tuple[float | None, str | None]:
    """The current ones, without the cached ones that come before."""
    text = text.partition("Current temperatures from HAL")[2] or text
    entries = re.findall(r"mValue=(-?[\d.]+), mType=(\d+), mName=([^,}]*)", text)
    for kind in (_HAL_CPU, _HAL_SKIN):
        values = [
            (float(value), name) for value, of, name in entries if int(of) == kind and 0 < float(value) < _WARMEST
        ]
        if values:
            return max(values)
    return None, None


def _battery(root: Path) -> tuple[int | None, bool | None]:
    """Of the machine, not of its mouse."""
    percent: int | None = None
    charging: bool | None = None
    plugged = False
    for supply in sorted((root / "sys/class/power_supply").glob("*")):
        kind = _read(supply / "type")
        if kind == "Battery" and _read(supply / "scope") != "Device" and percent is None:
            level = _read(supply / "capacity")
            percent = int(level) if level and level.isdigit() else None
            status = _read(supply / "status")
            charging = None if status in (None, "Unknown") else status in ("Charging", "Full")
        elif kind in ("Mains", "USB", "Wireless") and _read(supply / "online") == "1":
            plugged = True
    if percent is None:
        return None, None
    return percent, True if plugged else charging


def _dumped_battery(text: str | None) -> tuple[int | None, bool | None]:
    percent = _number(r"^\s*level:\s*(\d+)", text)
    if text is None or percent is None:
        return None, None
    status = _number(r"^\s*status:\s*(\d+)", text)  # 2 charging, 3 discharging, 4 not charging, 5 full
    plugged = re.search(r"^\s*(AC|USB|Wireless|Dock) powered:\s*true", text, re.M) is not None
    return percent, plugged or status in (2, 5)


def _screen(text: str | None) -> bool | None:
    if text is None:
        return None
    for pattern, on in ((r"Display Power: state=(\w+)", ("ON",)), (r"mWakefulness=(\w+)", ("Awake", "Dreaming"))):
        found = re.search(pattern, text)
        if found:
            return found.group(1) in on
    return None


def _dump(service: str) -> str | None:
    """What Android's `dumpsys` says of a service; None elsewhere or if it does not answer."""
    tool = shutil.which("dumpsys") or shutil.which("/system/bin/dumpsys")
    if tool is None:
        return None
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        found = subprocess.run(
            [tool, service],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            timeout=_DUMP,
            check=False,
        )
        if found.returncode == 0:
            return found.stdout.decode("utf-8", "replace")
    return None


def _number(pattern: str, text: str | None) -> int | None:
    found = re.search(pattern, text or "", re.M)
    return int(found.group(1)) if found else None


def _parse_list(text: str) -> list[int]:
    """ "4-7,9" as numbers; what is no such list has none."""
    found: set[int] = set()
    for part in filter(None, text.strip().split(",")):
        low, _, high = part.partition("-")
        if not (low.isdigit() and (high or low).isdigit()):
            return []
        found |= set(range(int(low), int(high or low) + 1))
    return sorted(found)


def _spell_list(cpus: list[int]) -> str:
    return ",".join(map(str, cpus)) or "none"


def _read(path: Path) -> str | None:
    try:
        return path.read_text(errors="replace").strip()
    except OSError:
        return None
