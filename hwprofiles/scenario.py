"""A Scenario: under which conditions a model is measured."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


class Scenario(BaseModel):
    """Protocol of one latency and memory measurement (times in seconds).

    Candidate and baseline are timed in randomised interleaved pairs of blocks. A block runs for at least
    `block_seconds` and `block_iterations`. Measuring stops as soon as at least `min_pairs` pairs are there
    and the half width of the 95 % interval of the ratio is at most `precision`, or at `max_pairs`, or after
    `max_seconds`. Every `generation_pairs` pairs (fewer, if `min_pairs` would then be less than five openings) both
    models are closed and opened afresh in random order, in the final phase in a fresh process, because where their
    memory lies changes their speed by more than the pairs within one opening show.

    `shapes` names what is measured: label -> input -> dimensions. Empty: whatever shapes the inputs have. With shapes
    `max_seconds` holds for each. `batch` that is not given is the first dimension of the inputs, if they share one.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    phase: Literal["search", "final"] = "search"
    batch: int = Field(default=1, ge=1)  # items in one inference: what throughput counts
    shapes: dict[str, dict[str, tuple[int, ...]]] = Field(default_factory=dict)
    warmup_seconds: float = Field(default=0.5, ge=0)
    warmup_iterations: int = Field(default=20, ge=1)
    warmup_cap: float = Field(default=10.0, gt=0)
    block_seconds: float = Field(default=0.1, gt=0)
    block_iterations: int = Field(default=10, ge=1)
    min_pairs: int = Field(default=20, ge=3)
    max_pairs: int = Field(default=50, ge=3)
    generation_pairs: int = Field(default=3, ge=1)
    precision: float = Field(default=0.01, gt=0)
    max_seconds: float = Field(default=60.0, gt=0)
    memory_runs: int = Field(default=1, ge=0)  # fresh processes for peak memory; the largest counts
    energy_seconds: float = Field(default=0.0, ge=0)  # of steady inference and of rest; 0: energy is not measured
    seed: int = 0


SEARCH = Scenario()
FINAL = Scenario(
    phase="final",
    min_pairs=50,
    max_pairs=100,
    generation_pairs=5,
    precision=0.005,
    max_seconds=600.0,
    memory_runs=3,
)
