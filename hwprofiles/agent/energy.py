"""Energy counters of the machine or of a card, read before and after. Runs on the device; Python 3.9, stdlib only.

The kernel's RAPL counters (`/sys/class/powercap/intel-rapl*`; Intel, and AMD since Linux 5.8) count microjoules of a
whole processor package and start again at zero after `max_energy_range_uj`. Since 2020 only root may read them.

A card's driver counts millijoules of the whole card since it was loaded (`hwprofiles.agent.nvml`; Volta and later), in
steps of some tens of milliseconds, and a card goes on to draw more than at rest for a second and longer after its load:
a difference means something after seconds of steady load or rest, which begin when the power has settled.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Union

from hwprofiles.agent import nvml

_ZONES = "/sys/class/powercap"
_POLL = 10.0  # seconds; the smallest counters wrap after about a minute at full power
_FEWEST = 2  # slices of rest and work: with one there is no spread

# Of a card, in seconds.
_SLICE = 2.0  # of rest or of load, at least: less says nothing beside the steps of the counter
_LOOK = 0.1  # between two readings of the power
_STEADY = 1.0  # that the power must have been about the same for, after as long a wait
_PATIENCE = 6.0  # with a power that does not settle
_DRIFT, _WATTS = 0.03, 1.0  # about the same: within this part of it, or so many watts


class TooShort(Exception):
    """There is no time to read a counter so that its difference means something."""


class Counters:
    """Joules since it was made, of all zones together; `source` names them, "" if none can be read."""

    least = 0.0  # seconds of rest or of work that a difference means something after: it moves every millisecond

    def __init__(self, folder: str = _ZONES) -> None:
        self._zones: list[tuple[str, Path, int]] = []
        for zone in sorted(Path(folder).glob("intel-rapl*:*")):
            name, top = _text(zone / "name"), zone.name.count(":") == 1
            # A package holds its cores; memory is counted apart; "psys" would count all of it twice.
            if name is None or not (name.startswith("package") if top else name == "dram"):
                continue
            limit = _number(zone / "max_energy_range_uj")
            if limit and _number(zone / "energy_uj") is not None:
                self._zones.append((name, zone / "energy_uj", limit))
        self.source = "rapl:" + "+".join(name for name, _, _ in self._zones) if self._zones else ""
        self._last = [_number(path) or 0 for _, path, _ in self._zones]
        self._spent = 0

    def joules(self) -> float:
        """Call at least once a minute: between two calls a counter may start again once, not twice."""
        for index, (_, path, limit) in enumerate(self._zones):
            now = _number(path)
            if now is None:
                raise OSError(f"the energy counter {path} cannot be read any more")
            self._spent += (now - self._last[index]) % (limit + 1)
            self._last[index] = now
        return self._spent / 1e6

    def settle(self, action: Callable[[float], int]) -> None:
        """A processor's power follows its load at once."""


class CardCounter:
    """Joules since it was made, of the whole card; `source` says so where it is not all ours, "" if it cannot be read.

    With MIG, or with processes of others on the card, the energy is that of all of them.
    """

    least = _SLICE

    def __init__(self, card: nvml.Card, own_pids: Iterable[int]) -> None:
        self._card = card
        self._start = card.joules()
        strangers = nvml.others(card.reading(), own_pids)
        shared = "divided by MIG" if card.mig else f"with {strangers} other process(es) on it" if strangers else ""
        self.source = "" if self._start is None else f"nvml:energy of the card, {shared}" if shared else "nvml:energy"

    def joules(self) -> float:
        """Raises `OSError` where the card does not tell any more."""
        now = self._card.joules()
        if now is None or self._start is None:
            raise OSError("the card's energy counter cannot be read any more")
        return now - self._start

    def settle(self, action: Callable[[float], int]) -> None:
        """Go on with `action`, which is given how long it should take, until the card's power has settled; at most
        `_PATIENCE`. Raises `hwprofiles.agent.nvml.NvmlProblem`."""
        began = time.monotonic()
        window: list[tuple[float, float]] = []
        now = began
        while now - began < _PATIENCE:
            looked = now
            while now - looked < _LOOK:
                action(_LOOK)
                now = time.monotonic()
            watts = self._card.reading()["power_w"]
            if watts is None:  # only time can be waited for
                continue
            window = [(at, seen) for at, seen in window if now - at <= _STEADY] + [(now, watts)]
            least, most = min(seen for _, seen in window), max(seen for _, seen in window)
            if most - least <= max(_WATTS, _DRIFT * most) and now - began >= 2 * _STEADY:
                return


AnyCounter = Union[Counters, CardCounter]  # noqa: UP007  (Python 3.9)


def slices_within(counters: AnyCounter, seconds: float, wanted: int) -> int:
    """How many slices of rest and work, at most `wanted`, there is time for. Raises `TooShort`, saying so."""
    fitting = wanted if counters.least == 0 else min(wanted, int(seconds / counters.least + 1e-9))
    if fitting < min(_FEWEST, wanted):
        raise TooShort(
            f"not measured: {seconds:g} s of load are too short for the counter of a card, which needs "
            f"{_FEWEST * counters.least:g} s or more (energy_seconds)"
        )
    return fitting


def spend(counters: AnyCounter, work: Callable[[], int], seconds: float, slices: int) -> list[dict[str, Any]]:
    """Rest and work in turn, `slices` times, each for seconds / slices: joules and seconds of both, and the count.

    `work` does a block and returns how many inferences it was. In turn, because the power at rest drifts with the
    temperature. Each begins when the power has settled, where a counter needs that.
    """
    found = []
    for _ in range(slices):
        counters.settle(_rest)
        rest = _span(counters, lambda: _rest(min(1.0, seconds / slices)), seconds / slices)
        counters.settle(lambda _: work())
        busy = _span(counters, work, seconds / slices)
        found.append({"rest": rest, "work": busy})
    return found


def _span(counters: AnyCounter, action: Callable[[], int], seconds: float) -> dict[str, Any]:
    count = 0
    spent, began = counters.joules(), time.monotonic()
    looked = began
    while True:
        count += action()
        now = time.monotonic()
        if now - looked >= _POLL:
            counters.joules()
            looked = now
        if now - began >= seconds:
            joules = counters.joules() - spent
            return {"joules": joules, "seconds": time.monotonic() - began, "count": count}


def _rest(seconds: float) -> int:
    time.sleep(seconds)
    return 0


def _text(path: Path) -> str | None:
    try:
        return path.read_text().strip()
    except OSError:
        return None


def _number(path: Path) -> int | None:
    text = _text(path)
    return int(text) if text is not None and text.isdigit() else None
