"""What is really there now: facts read from the device, not declared in a profile."""

from __future__ import annotations

import hashlib
import json

from pydantic import BaseModel, ConfigDict, Field


class Fingerprint(BaseModel):
    """Identity of device + runtime at the time of a measurement.

    Only equal `key`s may be pooled or compared.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    machine: str  # x86_64, aarch64
    system: str  # Linux 6.1
    cpu_model: str
    isa: tuple[str, ...] = ()  # avx2, avx512_vnni, amx_int8, asimddp, ...
    cores: int
    memory_total: int  # bytes
    runtime: str = Field(min_length=1)  # onnxruntime
    runtime_version: str = Field(min_length=1)
    provider: str = Field(min_length=1)
    python: str
    numpy: str
    threads: int = Field(ge=1)
    boot_id: str | None = None
    environment: dict[str, str | float | int | None] = Field(default_factory=dict)  # governor, load, pressure, ...

    @property
    def key(self) -> str:
        """Digest over what changes speed or numerics; not over boot id and momentary environment."""
        facts = self.model_dump(exclude={"environment", "boot_id"}, mode="json")
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]
