"""A Measurement: samples and memory on one target, with its protocol and provenance, or the failure."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from hwprofiles.errors import Failure
from hwprofiles.fingerprint import Fingerprint
from hwprofiles.scenario import Scenario
from hwprofiles.target import Provenance

Quality = Literal["ok", "noisy", "contended", "throttled", "short"]


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Estimate(_Record):
    """A number with its 95 % interval (`low <= value <= high`); SI units."""

    value: float
    low: float
    high: float

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        slack = 1e-9 * max(1.0, abs(self.value))  # rounding; NaN is refused too
        if not self.low - slack <= self.value <= self.high + slack:
            raise ValueError(f"an estimate of {self.value} outside of its interval [{self.low}, {self.high}]")
        return self


class Latency(_Record):
    """Wall time of one inference, in seconds.

    `median` is the geometric mean of the openings' medians of block medians; its interval is that over openings.
    The interval knows nothing of a machine that is slower for longer than the measurement took: compare ratios.
    """

    median: Estimate
    p90: float | None  # None below 64 samples
    p99: float | None  # None below 662 samples (MLPerf early-stopping floor)
    cpu_median: float  # CPU seconds of the process for one inference
    cv: float  # coefficient of variation of the single-inference samples
    iterations: int
    blocks: tuple[float, ...]  # block medians, seconds, in order of measuring
    load_seconds: float  # opening the model, median of the openings
    first_seconds: float  # first inference after opening, likewise
    cold_seconds: float | None = None  # from the start of a process to its first answer
    throughput: float | None = None  # items (inferences x batch) per second, one after the other
    openings: tuple[int, ...] = ()  # number of the opening (generation) that each block belongs to

    @model_validator(mode="after")
    def _enough_samples(self) -> Self:
        for name, floor in (("p90", 64), ("p99", 662)):
            if getattr(self, name) is not None and self.iterations < floor:
                raise ValueError(f"{name} from {self.iterations} samples; it needs {floor}")
        return self


class Ratio(_Record):
    """candidate / baseline from paired blocks: exp of the mean, over openings, of the median log ratio of their pairs.

    The interval is the t interval over openings (`hwprofiles.statistics.interval_over_openings`).
    """

    estimate: Estimate
    cpu: float  # the same from CPU time
    pairs: int
    log_ratios: tuple[float, ...]
    openings: tuple[int, ...] = ()  # number of the opening (generation) that each pair belongs to


class Memory(_Record):
    """Bytes, from a fresh process by VmHWM. `peak` = run_peak - import_only: model and its working memory."""

    peak: int
    load_peak: int
    run_peak: int
    import_only: int
    runs: int


class Energy(_Record):
    """Joules of one inference above rest, from counters of the machine over seconds of steady inference."""

    joules: Estimate
    idle_watts: float
    source: str  # which counter: "rapl:package-0"


class Conditions(_Record):
    """Without these a latency says nothing (all are required). None or "unknown" is an answer, leaving out is not."""

    runtime: str = Field(min_length=1)
    runtime_version: str = Field(min_length=1)
    provider: str = Field(min_length=1)
    threads: int = Field(ge=1)
    batch: int = Field(ge=1)
    arena: str = Field(min_length=1)  # the runtime's allocator: "default", "off"
    cuda_graph: bool | None  # None: not a CUDA runtime
    transfers: bool | None  # are copies to and from the accelerator part of the time? None: there are none
    clocks: str = Field(min_length=1)  # governor and frequency, or "unknown"


class Build(_Record):
    """One of several builds of the same artifact for an accelerator: builders choose among kernels by timing them."""

    digest: str  # sha256 of the plan (engine) that was built
    seconds: float  # that building took; 0 where it came out of the cache
    latency: float | None = None  # median of one inference, seconds; None for a build that was not timed


class AcceleratorMemory(_Record):
    """Bytes on the card, four numbers that are never one. None: this runtime or this card does not tell."""

    plan: int | None = None  # the serialised engine
    weights: int | None = None  # of it, weights
    activations: int | None = None  # what the runtime reserves for intermediate tensors
    reserved: int | None = None  # torch: what its allocator took from the driver at most, for all of its tensors
    process: int | None = None  # what the card's used memory grew by while the model was open and ran, the process's
    # CUDA context included (hundreds of MB, whatever the model): it is made when the first model is opened
    process_source: str = ""  # "nvml:process", or "nvml:device" where the driver does not tell processes apart


class Accelerator(_Record):
    """What a latency on an accelerator is worth: the card's state while it was measured, and where the time went.

    The latency of the measurement itself is that of the card's computation. `enqueue` and `end_to_end` are medians in
    seconds over the same openings, apart from it; None where the runtime cannot tell.
    """

    card: str = Field(min_length=1)  # the driver's name of it
    driver: str = Field(min_length=1)
    timer: Literal["cuda-events", "host"]  # what told the latency
    enqueue: float | None = None  # host time of asking for one inference with nothing before it in the card's queue
    end_to_end: float | None = None  # with copies to the card and back
    clock_hz: tuple[float, float] | None = None  # lowest and highest of the multiprocessors that was read
    temperature: tuple[float, float] | None = None  # degrees Celsius, likewise
    throttled: tuple[str, ...] = ()  # reasons that the driver gave for lower clocks while it was measured
    others: int | None = None  # processes of others on the card; None where the driver does not tell
    memory: AcceleratorMemory = AcceleratorMemory()
    builds: tuple[Build, ...] = ()  # the first is the one that was measured, and that is exported


class ShapeResult(_Record):
    """The answer for one of the scenario's shapes."""

    label: str
    shapes: dict[str, tuple[int, ...]]  # input -> dimensions
    latency: Latency
    baseline_latency: Latency | None = None
    ratio: Ratio | None = None


class Kernel(_Record):
    """One kernel that really ran, in the order of execution."""

    node: str  # name of the node in the optimised graph
    op: str  # MatMulNBits, QLinearConv, ...
    provider: str
    seconds: float  # mean duration over the profiled runs
    inputs: tuple[str, ...] = ()  # element types and shapes, e.g. "float[1,3,48,320]"
    outputs: tuple[str, ...] = ()


class Measurement(_Record):
    """The answer to: what does this model cost on this target? Either the numbers or `failure`.

    `latency`, `baseline_latency` and `ratio` are those of the scenario's first shape; `by_shape` has all of them.
    """

    target: str
    model: str  # sha256 of the file that was measured
    baseline: str | None  # sha256 of what it was paired with
    scenario: Scenario
    fingerprint: Fingerprint
    provenance: Provenance
    label: str = ""  # the target's: what a reader must know of the numbers
    latency: Latency | None = None
    baseline_latency: Latency | None = None
    ratio: Ratio | None = None
    by_shape: tuple[ShapeResult, ...] = ()
    memory: Memory | None = None
    energy: Energy | None = None
    conditions: Conditions | None = None  # required with a latency
    accelerator: Accelerator | None = None
    quality: tuple[Quality, ...] = ("ok",)
    failure: Failure | None = None
    started_at: str  # UTC, ISO 8601
    seconds: float  # duration of the whole measurement
    environment: dict[str, str | float | int | None] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _numbers_or_failure(self) -> Self:
        if (self.latency is None) == (self.failure is None):
            raise ValueError("a measurement has either a latency or a failure")
        if self.latency is not None and self.baseline is not None and self.ratio is None:
            raise ValueError("a measurement against a baseline has a ratio")
        if self.latency is not None and self.conditions is None:
            raise ValueError("a latency without the conditions under which it was measured says nothing")
        return self
