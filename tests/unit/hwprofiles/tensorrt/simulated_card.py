"""A simulated card for the session of the TensorRT backend: where this runs there is none.

Its memory is this machine's, its clock advances by what a test says, and an inference computes y = relu(x @ w) in
numpy. It has streams: what is put on one waits there, in order, until the host waits for that stream, and nothing
orders two of them. Each has a queue, which the host waits for when it is full, and there is a clock of the host, for a
test to put in the place of `time.perf_counter`. Nothing that it times is a measurement. What uses it as torch or as
cuda-bindings do is in `simulated_cuda`.
"""

from __future__ import annotations

import ast
import ctypes
import time
from collections import deque
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np

WEIGHTS = np.arange(32, dtype=np.float32).reshape(8, 4) - 16


class _Stream:
    """A queue: when it is empty, the ends of what is on it, and what is to be done."""

    def __init__(self) -> None:
        self.now = 0.0
        self.ends: deque[float] = deque()
        self.work: deque[Callable[[], None]] = deque()


class Card:
    """The clocks and what was done: `seconds` of the card for an inference, `inferences` that ran.

    `asking`: seconds of the host for each inference that it puts on the queue, on which `queue` things fit. `cold`:
    seconds of load without a pause after which its clocks are up; until then everything takes three times as long.
    `drift`: part of an inference's time by which it is slower after each second, as a card that warms up. `memory`:
    bytes that are left on it; `weights`: bytes that an engine takes of them while it is loaded.
    """

    def __init__(
        self,
        seconds: float = 1e-3,
        *,
        graphs: bool = True,
        memory: int = 1 << 30,
        asking: float = 0.0,
        queue: int = 1024,
        cold: float = 0.0,
        drift: float = 0.0,
        weights: int = 0,
    ) -> None:
        self.streams = {0: _Stream()}  # the first is the default stream
        self.host = 0.0
        self.asking, self.queue = asking, queue
        self.cold, self.drift = cold, drift
        self.waits = False  # inside a replay, until it is done
        self.speeds: dict[bytes, float] = {}  # plan -> seconds of an inference
        self.loaded: list[bytes] = []  # plans, in the order in which they were loaded
        self.frozen: list[tuple[float, Callable[[], None] | None]] = []  # of what is captured now: seconds and work
        self._load = 0.0
        self.seconds = seconds
        self.graphs = graphs
        self.memory = memory
        self.weights = weights
        self.no_context = ""  # why there is none, in TensorRT's words
        self.no_runtime = False
        self.inferences = 0
        self.replayed = 0
        self.capturing: int | None = None  # the stream that is
        self.compiled = 0  # kernels that TensorRT-RTX has compiled; each is in its runtime cache from then on
        self.capturable = True

    @property
    def now(self) -> float:
        """When the card is done with all that was asked for."""
        return max(stream.now for stream in self.streams.values())

    def new_stream(self) -> int:
        """The number of a stream."""
        number = 6 + len(self.streams)
        self.streams[number] = _Stream()
        return number

    def mark(self, stream: int = 0, work: Callable[[], None] | None = None) -> float:
        """Put an event on the queue; when it happens."""
        return self.launch(0.0, asking=0.0, stream=stream, work=work)

    def launch(
        self, seconds: float, asking: float | None = None, stream: int = 0, work: Callable[[], None] | None = None
    ) -> float:
        """Put so much work of the card on the queue of a stream; when it is done."""
        queue = self.streams[stream]
        if self.capturing == stream:
            self.frozen.append((seconds, work))
            return queue.now
        self.host += self.asking if asking is None else asking
        while queue.ends and queue.ends[0] <= self.host:
            queue.ends.popleft()
        if len(queue.ends) >= self.queue:
            self.host = queue.ends.popleft()
        start = max(queue.now, self.host)
        if start - self.now > 0.01:
            self._load = 0.0
        slow = 3.0 if self._load < self.cold else 1.0
        spent = seconds * slow * (1 + self.drift * start)
        queue.now = start + spent
        self._load += spent
        queue.ends.append(queue.now)
        if work is not None:
            queue.work.append(work)
        return queue.now

    def settle(self, stream: int | None = None) -> None:
        """What the host does when it waits for a stream, or for the card: only now is its work done."""
        for queue in list(self.streams.values()) if stream is None else [self.streams[stream]]:
            self.host = max(self.host, queue.now)
            queue.ends.clear()
            while queue.work:
                queue.work.popleft()()

    def begin_capture(self, stream: int) -> None:
        """What is put on this stream from now on goes into a graph."""
        self.capturing, self.frozen = stream, []

    def end_capture(self) -> Callable[[int], None]:
        """What launches the graph on a stream."""
        frozen, self.capturing = self.frozen, None  # the kernels and addresses of that moment, whatever comes later

        def replay(stream: int) -> None:
            self.replayed += 1
            self.launch(
                sum(seconds for seconds, _ in frozen),
                stream=stream,
                work=lambda: [work() for _, work in frozen if work is not None] and None,
            )
            if self.waits:
                self.settle(stream)

        return replay

    def take(self, size: int) -> bool:
        """Whether the card had so many bytes left; they are taken."""
        if size > self.memory:
            return False
        self.memory -= size
        return True

    def clock(self) -> Any:
        """What stands for the module `time`, with the host's clock of the simulation."""
        return SimpleNamespace(
            perf_counter=lambda: self.host, process_time=time.process_time, thread_time=time.thread_time
        )

    def module(self, **changes: Any) -> Any:
        """What stands for the module `tensorrt`."""
        names = SimpleNamespace(INPUT="in", OUTPUT="out")
        return SimpleNamespace(
            __version__="simulated",
            ILogger=type("ILogger", (), {"ERROR": 1, "INTERNAL_ERROR": 0, "WARNING": 2, "__init__": lambda self: None}),
            IProfiler=type("IProfiler", (), {"__init__": lambda self: None}),
            Runtime=lambda log: _runtime(self, log, changes.get("refuses", ())),
            TensorIOMode=names,
            EngineStat=SimpleNamespace(TOTAL_WEIGHTS_SIZE=0),
            LayerInformationFormat=SimpleNamespace(JSON=1),
            DynamicShapesKernelSpecializationStrategy=SimpleNamespace(LAZY=0, EAGER=1, NONE=2),
            ComputeCapability=SimpleNamespace(__members__={"SM89": 89}, CURRENT=1),
        )


def _runtime(card: Card, log: Any, refuses: Any) -> Any:
    if card.no_runtime:
        log.log(1, "CUDA initialization failure with error: 2. Please check your CUDA installation")
        raise TypeError("pybind11::init(): factory function returned nullptr")
    return _Runtime(card, log, refuses)


class _Runtime:
    def __init__(self, card: Card, log: Any, refuses: Any) -> None:
        self._card = card
        self._log = log
        self._refuses = refuses

    def deserialize_cuda_engine(self, plan: bytes) -> Any:
        if plan in self._refuses:
            self._log.log(
                1, "Serialization assertion stdVersionRead == kSERIALIZATION_VERSION failed. Version mismatch"
            )
            return None
        if not self._card.take(self._card.weights):
            self._log.log(1, f"Error Code 2: OutOfMemory (Requested size was {self._card.weights} bytes.)")
            return None
        self._card.loaded.append(plan)
        self._card.host = max(self._card.host, self._card.now) + 0.05  # the card rests meanwhile
        self._card.seconds = self._card.speeds.get(plan, self._card.seconds)
        return _Engine(self._card, self._log)


class _Engine:
    num_io_tensors = 2
    device_memory_size_v2 = 4096

    def __init__(self, card: Card, log: Any) -> None:
        self._card = card
        self._log = log

    def __del__(self) -> None:
        self._card.memory += self._card.weights

    def get_tensor_name(self, index: int) -> str:
        return "xy"[index]

    def get_tensor_mode(self, name: str) -> str:
        return "in" if name == "x" else "out"

    def get_tensor_dtype(self, name: str) -> Any:
        return SimpleNamespace(name="FLOAT")

    def get_engine_stat(self, which: int) -> int:
        return WEIGHTS.nbytes

    def create_runtime_config(self) -> Any:
        return _RuntimeConfig()

    def create_execution_context(self, config: Any) -> Any:
        if self._card.no_context:
            self._log.log(1, self._card.no_context)
            return None
        return _Context(self._card, config)


class _RuntimeConfig:
    """TensorRT-RTX's: lazy by default."""

    dynamic_shapes_kernel_specialization_strategy = 0
    cache: Any = None

    def create_runtime_cache(self) -> Any:
        return _RuntimeCache()

    def set_runtime_cache(self, cache: Any) -> bool:
        self.cache = cache
        return True


class _RuntimeCache:
    """The shapes that there are kernels for."""

    def __init__(self) -> None:
        self.shapes: set[tuple[int, ...]] = set()

    def serialize(self) -> bytes:
        return repr(sorted(self.shapes)).encode()

    def deserialize(self, blob: bytes) -> bool:
        if not blob.startswith(b"["):
            return False
        self.shapes |= set(ast.literal_eval(blob.decode()))
        return True


class _Context:
    def __init__(self, card: Card, config: Any) -> None:
        self._card = card
        self._config = config
        self._asked = 0
        self._shape: tuple[int, ...] = ()
        self._at: dict[str, int] = {}

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        self._shape = shape
        return True

    def infer_shapes(self) -> list[str]:
        return []

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return (self._shape[0], 4)

    def set_tensor_address(self, name: str, pointer: int) -> None:
        self._at[name] = pointer

    def execute_async_v3(self, stream: int) -> bool:
        x, y = _array(self._at["x"], self._shape), _array(self._at["y"], (self._shape[0], 4))

        def compute() -> None:
            y[:] = np.maximum(x @ WEIGHTS, 0)

        self._asked += 1
        waits = self._config.dynamic_shapes_kernel_specialization_strategy == 0 and self._asked < 100
        if not waits and self._shape not in self._config.cache.shapes:
            self._config.cache.shapes.add(self._shape)
            self._card.compiled += 1
        self._card.inferences += self._card.capturing != stream
        self._card.launch(self._card.seconds * (10 if waits else 1), stream=stream, work=compute)  # a stand-in is slow
        return True

    def is_stream_capturable(self, stream: int) -> bool:
        return self._card.capturable


def _array(pointer: int, shape: tuple[int, ...]) -> Any:
    kind = ctypes.c_float * int(np.prod(shape))
    return np.ctypeslib.as_array(kind.from_address(pointer)).reshape(shape)
