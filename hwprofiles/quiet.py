"""Waiting until nobody else uses the machine, for as long as waiting has been worth it."""

from __future__ import annotations

from time import monotonic

from hwprofiles.agent.client import AgentClient
from hwprofiles.agent.readings import disturbances
from hwprofiles.collect import counters
from hwprofiles.scenario import Scenario
from hwprofiles.target import Target

_LONGEST = {"search": 3.0, "final": 20.0}  # seconds, unless the target's options say otherwise
_OPTION = {"search": "quiet_wait", "final": "quiet_wait_final"}
_GLANCES = 0.1, 0.5  # seconds that the machine is watched for, at first and again


class Patience:
    """How long to wait for a quiet machine: what the target says, halved by each wait in a row that was in vain.

    A machine that always does other work would otherwise cost the whole wait with every measurement, for nothing. One
    quiet moment restores it. Waits of a search and of final measurements count apart.
    """

    def __init__(self) -> None:
        self._vain = dict.fromkeys(_LONGEST, 0)

    def seconds(self, target: Target, scenario: Scenario) -> float:
        """The most that the next wait takes."""
        given = target.options.get(_OPTION[scenario.phase], _LONGEST[scenario.phase])
        longest = float(given) if isinstance(given, (int, float, str)) else 0.0
        return longest * 0.5 ** self._vain[scenario.phase]

    def wait(self, agent: AgentClient, target: Target, scenario: Scenario) -> float:
        """Seconds waited until nobody else used the machine, or there was no more patience."""
        began, patience = monotonic(), self.seconds(target, scenario)
        if patience <= 0:
            return 0.0
        glance, again = _GLANCES
        while busy(agent, glance):
            if monotonic() - began >= patience:
                self._vain[scenario.phase] += 1
                return monotonic() - began
            glance = min(again, patience)
        self._vain[scenario.phase] = 0
        return monotonic() - began


def busy(agent: AgentClient, seconds: float) -> bool:
    """Whether anything else used the machine while it was watched for so long."""
    reply, _ = agent.request("pressure", stage="latency", seconds=seconds)
    with agent.reading("latency"):
        return bool(disturbances(counters(reply["before"]), counters(reply["after"])))
