"""How long a measurement waits for a machine that others use."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any, cast

import pytest

from hwprofiles import quiet
from hwprofiles.agent.client import AgentClient
from hwprofiles.quiet import Patience
from hwprofiles.scenario import FINAL, SEARCH
from hwprofiles.target import Target

HERE = Target(name="here")


class Machine:
    """Tells its counters as an agent does, of a machine whose work ends after some glances; keeps the time itself."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now, self.busy_glances = 0.0, 0
        self.asked: list[float] = []
        monkeypatch.setattr(quiet, "monotonic", lambda: self.now)

    def request(self, _op: str, *, stage: str, seconds: float) -> tuple[dict[str, Any], dict[str, Any]]:
        self.asked.append(seconds)
        began, waited = self.now, seconds if self.busy_glances > 0 else 0.0
        self.now += seconds
        self.busy_glances -= 1
        return {"before": self._counters(began, 0.0), "after": self._counters(self.now, waited)}, {}

    @contextlib.contextmanager
    def reading(self, _stage: str) -> Iterator[None]:
        yield

    def _counters(self, clock: float, waited: float) -> dict[str, Any]:
        unknown = dict.fromkeys(("psi_avg10", "steal_total", "throttle_count"))
        return {"clock": clock, "load": 1.0, "psi_total": waited, **unknown}


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    return Machine(monkeypatch)


def waited(patience: Patience, machine: Machine, scenario: Any = SEARCH, target: Target = HERE) -> float:
    return patience.wait(cast(AgentClient, machine), target, scenario)


def test_a_quiet_machine_costs_one_glance(machine: Machine) -> None:
    assert waited(Patience(), machine) == pytest.approx(0.1)


def test_waits_until_the_work_ends(machine: Machine) -> None:
    machine.busy_glances = 3
    assert waited(Patience(), machine) == pytest.approx(0.1 + 3 * 0.5)


def test_each_wait_in_vain_halves_the_next_and_quiet_restores_it(machine: Machine) -> None:
    patience, most = Patience(), []
    for _ in range(4):
        machine.busy_glances = 10**6
        most.append(patience.seconds(HERE, SEARCH))
        assert most[-1] <= waited(patience, machine) <= most[-1] + 0.5
    assert most == [3.0, 1.5, 0.75, 0.375]
    machine.busy_glances = 0
    waited(patience, machine)
    assert patience.seconds(HERE, SEARCH) == 3.0


def test_final_measurements_have_patience_of_their_own(machine: Machine) -> None:
    patience = Patience()
    machine.busy_glances = 10**6
    waited(patience, machine)
    assert patience.seconds(HERE, FINAL) == 20.0
    waited(patience, machine, FINAL)
    assert (patience.seconds(HERE, SEARCH), patience.seconds(HERE, FINAL)) == (1.5, 10.0)


def test_the_target_may_forbid_waiting(machine: Machine) -> None:
    machine.busy_glances = 10**6
    none = Target(name="here", options={"quiet_wait": 0})
    assert waited(Patience(), machine, target=none) == 0.0 and machine.asked == []
    longer = Target(name="here", options={"quiet_wait": "6"})
    assert Patience().seconds(longer, SEARCH) == 6.0
