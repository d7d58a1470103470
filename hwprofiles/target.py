"""A Target: device + runtime + transport, registered under a name."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

Provenance = Literal["hardware", "emulated", "software", "simulated"]


class _Table(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


_SCALES = {"": 1, "b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "kib": 2**10, "mib": 2**20, "gib": 2**30}


def _bytes(value: Any) -> Any:
    """A text such as "8 GiB" as a number; anything else as it is."""
    if not isinstance(value, str):
        return value
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([A-Za-z]*)\s*", value)
    if match is None or match[2].lower() not in _SCALES:
        raise ValueError('is not an amount of memory; write a number of bytes or a text such as "8 GiB"')
    return int(float(match[1]) * _SCALES[match[2].lower()])


Bytes = Annotated[int, BeforeValidator(_bytes)]


class Declared(_Table):
    """What the source of a profile says the hardware is; `probe` holds it against what is really there."""

    cpu: str = ""  # a part of the name of its CPU, of one kind of its cores or of the board, e.g. "Cortex-A76"
    isa: tuple[str, ...] = ()  # instruction sets it must have, spelled as in a fingerprint
    lacks: tuple[str, ...] = ()  # instruction sets that it does not have
    cores: int | None = Field(default=None, ge=1)
    memory: Bytes | None = Field(default=None, ge=1)
    accelerator: str = ""  # whole words of the name that its driver gives it, e.g. "L4"
    accelerator_memory: Bytes | None = Field(default=None, ge=1)
    compute_capability: str = Field(default="", pattern=r"^([0-9]+\.[0-9]+)?$")  # "8.9" of NVIDIA's SM 8.9
    power_limit_w: float | None = Field(default=None, gt=0)  # of the card as it is sold: a lower one makes it slower


class Policy(_Table):
    """How the device is to be used while it measures: phones throttle, and their cores differ.

    `cpus`: "big" (the cores with the highest clock), "all", or a list such as "4-7,9"; None leaves it to the system.
    Temperatures in degrees Celsius, battery in per cent, times in seconds.
    """

    cpus: str | None = Field(default=None, pattern=r"^(big|all|[0-9]+(-[0-9]+)?(,[0-9]+(-[0-9]+)?)*)$")
    cooldown: float = Field(default=0.0, ge=0, le=3600)  # pause before each measurement
    max_temperature: float | None = Field(default=None, gt=0, le=150)  # hotter: wait up to `cool_wait`, then flag
    cool_wait: float = Field(default=300.0, ge=0, le=7200)
    min_battery: int | None = Field(default=None, ge=0, le=100)  # emptier and not charging: refuse to measure
    screen_off: bool = False  # refuse to measure while the screen is on


class Target(_Table):
    """What to measure on, as written in a TOML profile. Unknown keys are refused.

    `threads` is the number of intra-op threads of every measurement on this target. `memory_limit` is in
    bytes and bounds the measured process. `timeout` (seconds) bounds each single request to it.
    """

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    description: str = ""
    runtime: str = "onnxruntime"
    dialect: str = "ort-cpu"  # how decisions are written in ONNX for this runtime family
    provider: str = "CPUExecutionProvider"
    transport: str = "local"
    python: str | None = None  # interpreter on the device that has the runtime; None: the transport's own idea
    threads: int = Field(default=1, ge=1, le=1024)
    memory_limit: Bytes = Field(default=8 << 30, ge=64 << 20)
    timeout: float = Field(default=120.0, gt=0)
    provenance: Provenance = "hardware"
    label: str = ""  # what a reader must know of the numbers, e.g. "android-glibc-bundle"
    source: str = ""  # where the facts of a shipped profile come from
    sources: dict[str, str] = Field(default_factory=dict)  # declared fact -> its source, where it is another one
    declares: Declared = Declared()
    policy: Policy = Policy()
    # Of transport and runtime: each documents its own and refuses what it does not know.
    options: dict[str, str | int | float | bool | tuple[str, ...]] = Field(default_factory=dict)
