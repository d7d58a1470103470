"""Energy counters that wrap, zones that would count twice, and joules of one inference above rest."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from hwprofiles.agent import counters, energy
from hwprofiles.agent.energy import CardCounter, Counters, TooShort
from hwprofiles.collect import Fact, Model
from hwprofiles.footprint import measure_energy, summarise

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


class Card:
    """A made-up card: 70 W at rest, 120 W for 1.5 s after a load, 400 W under one; its counter moves every
    0.1 s. `restless`: a power that never settles. An inference takes a millisecond."""

    mig = False

    def __init__(self, restless: bool = False) -> None:
        self.now = self.spent = self.busy_until = 0.0
        self._restless = restless
        self._told = (0.0, 0.0)
        self._looks = 0

    def _watts(self) -> float:
        if self._restless:
            return 200.0 + 100.0 * (self._looks % 2)
        return 70.0 if self.now - self.busy_until > 1.5 else 120.0

    def sleep(self, seconds: float) -> None:
        for _ in range(round(seconds * 1000)):
            self.now += 1e-3
            self.spent += self._watts() * 1e-3

    def work(self) -> int:
        for _ in range(10):
            self.now += 1e-3
            self.spent += 0.4
        self.busy_until = self.now
        return 10

    def joules(self) -> float:
        if self.now - self._told[0] >= 0.1:
            self._told = (self.now, self.spent)
        return self._told[1]

    def reading(self) -> dict[str, object]:
        self._looks += 1
        busy = self.now == self.busy_until and not self._restless
        return {"power_w": 400.0 if busy else self._watts(), "processes": []}


@pytest.fixture
def on_card(monkeypatch: pytest.MonkeyPatch) -> Callable[[Card], CardCounter]:
    def put(card: Card) -> CardCounter:
        monkeypatch.setattr(energy, "time", SimpleNamespace(monotonic=lambda: card.now, sleep=card.sleep))
        return CardCounter(card, [1])  # type: ignore[arg-type]

    return put


def test_a_card_s_rest_begins_when_it_is_at_rest(on_card: Callable[[Card], CardCounter]) -> None:
    card = Card()
    counter = on_card(card)
    card.work()
    slices = energy.slices_within(counter, 8.0, 6)
    found = summarise(counter.source, energy.spend(counter, card.work, 8.0, slices))
    assert slices == 4 and found.idle_watts == pytest.approx(70, rel=0.05)
    assert found.joules.value == pytest.approx(0.330, rel=0.05), "400 W less 70 W, for a millisecond"


@pytest.mark.parametrize(("seconds", "slices"), [(4.0, 2), (5.0, 2), (12.0, 6), (60.0, 6)])
def test_slices_of_a_card_are_as_long_as_its_counter_needs(
    on_card: Callable[[Card], CardCounter], tmp_path: Path, seconds: float, slices: int
) -> None:
    assert energy.slices_within(on_card(Card()), seconds, 6) == slices
    assert energy.slices_within(Counters(str(tmp_path)), 0.1, 6) == 6, "a processor's counter moves every millisecond"


def test_too_short_a_time_is_no_energy_but_a_reason(on_card: Callable[[Card], CardCounter]) -> None:
    with pytest.raises(TooShort, match=r"^not measured: 3.9 s of load are too short .* needs 4 s or more"):
        energy.slices_within(on_card(Card()), 3.9, 6)


def test_a_card_whose_power_does_not_settle_is_not_waited_for_without_end(
    on_card: Callable[[Card], CardCounter],
) -> None:
    card = Card(restless=True)
    on_card(card).settle(lambda seconds: card.sleep(seconds) or 0)  # type: ignore[func-returns-value]
    assert 6.0 <= card.now < 6.2


def test_why_there_is_no_energy_is_in_the_measurement() -> None:
    class Agent:
        """What the agent answers of a card that there is no time for."""

        def open(self, *_: object) -> None:
            pass

        def request(self, *_: object, **__: object) -> tuple[dict[str, object], dict[str, object]]:
            return {"source": "", "slices": [], "why": "not measured: too short"}, {}

        def reading(self, stage: str) -> contextlib.nullcontext[None]:
            return contextlib.nullcontext()

    environment: dict[str, Fact] = {}
    model = Model(Path("model.onnx"), "0" * 64)
    assert measure_energy(Agent(), model, [], 10, 1.0, environment) is None  # type: ignore[arg-type]
    assert environment == {"energy": "not measured: too short"}


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
