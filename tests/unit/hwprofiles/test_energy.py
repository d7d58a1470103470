"""Energy counters that wrap, zones that would count twice, and joules of one inference above rest."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from hwprofiles.agent import counters, energy
from hwprofiles.agent.energy import Counters
from hwprofiles.footprint import summarise

LIMIT = 1_000_000


def zone(root: Path, folder: str, name: str, microjoules: int) -> Path:
    made = root / folder
    made.mkdir(parents=True)
    (made / "name").write_text(name + "\n")
    (made / "max_energy_range_uj").write_text(f"{LIMIT}\n")
    (made / "energy_uj").write_text(f"{microjoules}\n")
    return made / "energy_uj"


def test_packages_and_memory_are_summed_and_nothing_is_counted_twice(tmp_path: Path) -> None:
    package = zone(tmp_path, "intel-rapl:0", "package-0", 100)
    core = zone(tmp_path, "intel-rapl:0:0", "core", 50)
    memory = zone(tmp_path, "intel-rapl:0:1", "dram", 10)
    platform = zone(tmp_path, "intel-rapl:1", "psys", 500)
    found = Counters(str(tmp_path))
    for path in (core, platform):
        path.write_text("900000\n")
    package.write_text("200010\n")
    memory.write_text("110\n")
    assert found.source == "rapl:package-0+dram"
    assert found.joules() == pytest.approx((200010 - 100 + 100) / 1e6)


def test_a_counter_that_wraps_goes_on(tmp_path: Path) -> None:
    counter = zone(tmp_path, "intel-rapl:0", "package-0", 999_000)
    found = Counters(str(tmp_path))
    counter.write_text("500\n")
    assert found.joules() == pytest.approx((LIMIT + 1 - 999_000 + 500) / 1e6)
    counter.write_text("1500\n")
    assert found.joules() == pytest.approx((LIMIT + 1 - 999_000 + 1500) / 1e6)


def test_no_counter_no_source(tmp_path: Path) -> None:
    assert Counters(str(tmp_path / "none")).source == ""
    zone(tmp_path, "intel-rapl:0", "package-0", 5).write_text("")  # as for everybody but root
    assert Counters(str(tmp_path)).source == ""


def test_a_counter_that_disappears_is_an_error(tmp_path: Path) -> None:
    counter = zone(tmp_path, "intel-rapl:0", "package-0", 5)
    found = Counters(str(tmp_path))
    counter.unlink()
    with pytest.raises(OSError, match="energy counter"):
        found.joules()


def test_rest_is_subtracted_from_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that takes 2 W at rest and 0.5 mJ more for each inference, whose counter wraps twice a second."""
    counter = zone(tmp_path, "intel-rapl:0", "package-0", 0)
    now, joules = [0.0], [0.0]

    def sleep(seconds: float) -> None:
        now[0] += seconds
        joules[0] += 2 * seconds
        counter.write_text(str(round(joules[0] * 1e6) % (LIMIT + 1)))

    def work() -> int:
        joules[0] += 10 * 0.0005
        sleep(0.002)
        return 10

    monkeypatch.setattr(energy, "time", SimpleNamespace(monotonic=lambda: now[0], sleep=sleep))
    found = summarise("rapl:package-0", energy.spend(Counters(str(tmp_path)), work, seconds=0.4, slices=4))
    assert found.joules.value == pytest.approx(0.0005, rel=0.001) and found.idle_watts == pytest.approx(2, rel=0.001)
    assert found.source == "rapl:package-0"


def test_work_without_an_inference_is_garbage() -> None:
    rest = {"joules": 1.0, "seconds": 1.0, "count": 0}
    with pytest.raises(ValueError, match="without an inference"):
        summarise("rapl:package-0", [{"rest": rest, "work": rest}])


def test_counters_of_this_process_are_numbers_or_unknown() -> None:
    clock, age, peak = counters.clock(), counters.age(), counters.cgroup_peak()
    assert clock is None or 1e7 < clock < 1e11
    assert (clock is not None) == Path("/sys/devices/system/cpu/cpu0/cpufreq/scaling_cur_freq").exists()
    assert age is None or age >= 0
    assert peak is None or peak > 1 << 20
