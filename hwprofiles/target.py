"""A Target: device + runtime + transport, registered under a name."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

Provenance = Literal["hardware", "emulated", "software", "simulated"]


class _Table(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Declared(_Table):
    """What the source of a profile says the hardware is; `probe` holds it against what is really there."""

    cpu: str = ""  # a part of the CPU model's name, e.g. "Cortex-A76"
    isa: tuple[str, ...] = ()  # instruction sets it must have, spelled as in a fingerprint
    cores: int | None = Field(default=None, ge=1)
    memory: int | None = Field(default=None, ge=1)  # bytes
    accelerator: str = ""  # "NVIDIA T4, 16 GB, SM 7.5"


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
    memory_limit: int = Field(default=8 << 30, ge=64 << 20)
    timeout: float = Field(default=120.0, gt=0)
    provenance: Provenance = "hardware"
    label: str = ""  # what a reader must know of the numbers, e.g. "android-glibc-bundle"
    source: str = ""  # where the facts of a shipped profile come from
    declares: Declared = Declared()
    policy: Policy = Policy()
    # Of transport and runtime: each documents its own and refuses what it does not know.
    options: dict[str, str | int | float | bool | tuple[str, ...]] = Field(default_factory=dict)
