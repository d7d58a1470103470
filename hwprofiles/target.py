"""A Target: device + runtime + transport, registered under a name."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

Provenance = Literal["hardware", "emulated", "software", "simulated"]


class Target(BaseModel):
    """What to measure on, as written in a TOML profile. Unknown keys are refused.

    `threads` is the number of intra-op threads of every measurement on this target. `memory_limit` is in
    bytes and bounds the measured process. `timeout` (seconds) bounds each single request to it.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    description: str = ""
    runtime: str = "onnxruntime"
    dialect: str = "ort-cpu"  # how decisions are written in ONNX for this runtime family
    provider: str = "CPUExecutionProvider"
    transport: str = "local"
    python: str | None = None  # interpreter that has the runtime; None: the one that runs us
    threads: int = Field(default=1, ge=1, le=1024)
    memory_limit: int = Field(default=8 << 30, ge=64 << 20)
    timeout: float = Field(default=120.0, gt=0)
    provenance: Provenance = "hardware"
    source: str = ""  # where the facts of a shipped profile come from
    options: dict[str, str | int | float | bool] = Field(default_factory=dict)  # transport and runtime options
