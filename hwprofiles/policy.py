"""Applies a target's policy before each measurement: cores, battery, screen, cooling down. The agent reads and pins."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, Protocol

from hwprofiles.errors import TargetUnavailable
from hwprofiles.target import Policy, Target

Fact = str | float | int | None

_LOOK = 3.0  # seconds between two looks at the temperature
_MODERATE = 2  # Android's thermal status from which on it slows the device down
_STAGE = "latency"
_SCREEN = {True: "on", False: "off", None: None}


class PolicyAgent(Protocol):
    """What is needed of a connection; `hwprofiles.agent.client.AgentClient` offers it."""

    def request(self, op: str, *, stage: str, **fields: Any) -> tuple[dict[str, Any], Any]: ...

    def reading(self, stage: str) -> AbstractContextManager[None]: ...


@dataclass
class Readiness:
    """Facts for the measurement's `environment`. `throttled`: numbers taken now are those of a hot device."""

    throttled: bool = False
    facts: dict[str, Fact] = field(default_factory=dict)


def apply_policy(
    agent: PolicyAgent,
    target: Target,
    *,
    sleep: Callable[[float], None] = time.sleep,
    clock: Callable[[], float] = time.monotonic,
) -> Readiness:
    """Pin the agent's process, check battery and screen, pause, and wait until the device is cool.

    A target without a policy costs nothing. What the device does not tell is None among the facts and stops nothing.
    Raises `TargetUnavailable` with what to do if battery, screen or cores are not as the policy wants them, and
    `DeviceFailure` if the agent fails.
    """
    policy = target.policy
    if policy == Policy():
        return Readiness()
    told = _ask(agent, policy.cpus)
    _refuse(told, target)
    facts: dict[str, Fact] = {"policy_cpus": _spell(told["cpus"]), "battery_percent": told["battery_percent"]}
    began = clock()
    if policy.cooldown:
        sleep(policy.cooldown)
        told = _ask(agent, None)
    while (reason := _too_hot(told, policy)) and clock() - began < policy.cooldown + policy.cool_wait:
        sleep(_LOOK)
        told = _ask(agent, None)
    facts["cooled_seconds"] = clock() - began
    facts["temperature_c"], facts["temperature_zone"] = told["temperature_c"], told["temperature_zone"]
    facts["thermal_status"], facts["screen"] = told["thermal_status"], _SCREEN[told["screen_on"]]
    if reason:
        facts["hot"] = f"{reason}, after {facts['cooled_seconds']:.0f} s of cooling down"
    return Readiness(throttled=reason is not None, facts=facts)


def check_afterwards(agent: PolicyAgent, target: Target) -> Readiness:
    """Whether the device became too hot meanwhile. A target that bounds no temperature costs nothing."""
    if target.policy.max_temperature is None:
        return Readiness()
    told = _ask(agent, None)
    reason = _too_hot(told, target.policy)
    facts: dict[str, Fact] = {"temperature_after_c": told["temperature_c"]}
    if reason:
        facts["hot_after"] = reason
    return Readiness(throttled=reason is not None, facts=facts)


def _ask(agent: PolicyAgent, cpus: str | None) -> dict[str, Any]:
    """The agent's facts, checked. A device can report nonsense; that is the agent's failure and not ours."""
    reply, _ = agent.request("policy", stage=_STAGE, cpus=cpus)
    with agent.reading(_STAGE):
        for name in ("temperature_c", "thermal_status", "battery_percent"):
            value = reply[name]
            if value is not None and (isinstance(value, bool) or not isinstance(value, (int, float))):
                raise ValueError(f"{name} is {value!r}, not a number")
        for name in ("temperature_zone", "refused"):
            if not isinstance(reply[name], (str, type(None))):
                raise ValueError(f"{name} is {reply[name]!r}, not a text")
        for name in ("charging", "screen_on"):
            if reply[name] not in (True, False, None):
                raise ValueError(f"{name} is {reply[name]!r}, not yes or no")
        if reply["cpus"] is not None and not all(isinstance(core, int) for core in reply["cpus"]):
            raise ValueError(f"cpus are {reply['cpus']!r}, not numbers")
        return dict(reply)


def _refuse(told: Mapping[str, Any], target: Target) -> None:
    policy, who = target.policy, f"target {target.name!r}"
    if told["refused"]:
        raise TargetUnavailable(f"{who}: {told['refused']}; change policy.cpus = {policy.cpus!r} in its profile")
    level = told["battery_percent"]
    if policy.min_battery is not None and level is not None and level < policy.min_battery and not told["charging"]:
        raise TargetUnavailable(
            f"{who}: its battery is at {level} % and not charging; policy.min_battery is {policy.min_battery}"
        )
    if policy.screen_off and told["screen_on"]:
        raise TargetUnavailable(
            f"{who}: its screen is on and policy.screen_off is set; turn it off, e.g. with: "
            "adb shell input keyevent KEYCODE_SLEEP"
        )


def _too_hot(told: Mapping[str, Any], policy: Policy) -> str | None:
    """Why the device counts as hot, or None."""
    if policy.max_temperature is None:
        return None
    degrees, status = told["temperature_c"], told["thermal_status"]
    if degrees is not None and degrees > policy.max_temperature:
        return (
            f"{told['temperature_zone']} at {degrees:.1f} degrees, policy.max_temperature is {policy.max_temperature:g}"
        )
    if status is not None and status >= _MODERATE:
        return f"the system slows the device down (thermal status {status})"
    return None


def _spell(cpus: list[int] | None) -> str | None:
    return None if cpus is None else ",".join(map(str, cpus))
