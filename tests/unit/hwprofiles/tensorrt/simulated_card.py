"""A simulated card for the session of the TensorRT backend: where this runs there is none.

Its memory is this machine's, its clock advances by what a test says, and an inference computes y = relu(x @ w) in
numpy. It has a queue, which the host waits for when it is full, and a clock of the host, for a test to put in the place
of `time.perf_counter`. Nothing that it times is a measurement.
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

from hwprofiles.agent.cuda import CudaProblem

WEIGHTS = np.arange(32, dtype=np.float32).reshape(8, 4) - 16


class Card:
    """The clocks and what was done: `seconds` of the card for an inference, `inferences` that ran.

    `asking`: seconds of the host for each inference that it puts on the queue, on which `queue` things fit. `cold`:
    seconds of load without a pause after which its clocks are up; until then everything takes three times as long.
    `drift`: part of an inference's time by which it is slower after each second, as a card that warms up.
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
    ) -> None:
        self.now = 0.0  # when the card is done with all that was asked for
        self.host = 0.0
        self.asking, self.queue = asking, queue
        self.cold, self.drift = cold, drift
        self.waits = False  # inside a replay, until it is done
        self.speeds: dict[bytes, float] = {}  # plan -> seconds of an inference
        self.loaded: list[bytes] = []  # plans, in the order in which they were loaded
        self.frozen = 0.0  # seconds of what was captured last
        self._ends: deque[float] = deque()
        self._load = 0.0
        self.seconds = seconds
        self.graphs = graphs
        self.memory = memory
        self.inferences = 0
        self.replayed = 0
        self.capturing = False
        self.compiled = 0  # kernels that TensorRT-RTX has compiled; each is in its runtime cache from then on
        self.capturable = True

    def mark(self) -> float:
        """Put an event on the queue; when it happens."""
        return self.launch(0.0, asking=0.0)

    def launch(self, seconds: float, asking: float | None = None) -> float:
        """Put so much work of the card on its queue; when it is done."""
        if self.capturing:
            self.frozen += seconds
            return self.now
        self.host += self.asking if asking is None else asking
        while self._ends and self._ends[0] <= self.host:
            self._ends.popleft()
        if len(self._ends) >= self.queue:
            self.host = self._ends.popleft()
        start = max(self.now, self.host)
        if start - self.now > 0.01:
            self._load = 0.0
        slow = 3.0 if self._load < self.cold else 1.0
        spent = seconds * slow * (1 + self.drift * start)
        self.now = start + spent
        self._load += spent
        self._ends.append(self.now)
        return self.now

    def settle(self) -> None:
        """What the host does when it waits for the card."""
        self.host = max(self.host, self.now)
        self._ends.clear()

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
            Runtime=lambda log: _Runtime(self, log, changes.get("refuses", ())),
            TensorIOMode=names,
            EngineStat=SimpleNamespace(TOTAL_WEIGHTS_SIZE=0),
            LayerInformationFormat=SimpleNamespace(JSON=1),
            DynamicShapesKernelSpecializationStrategy=SimpleNamespace(LAZY=0, EAGER=1, NONE=2),
            ComputeCapability=SimpleNamespace(__members__={"SM89": 89}, CURRENT=1),
        )


class Cuda:
    """What `hwprofiles.agent.cuda.open_cuda` gives."""

    stream = 7

    def __init__(self, card: Card) -> None:
        self._card = card

    def buffer(self, size: int) -> Any:
        if size > self._card.memory:
            raise CudaProblem("oom", "out of memory on the card: simulated", False)
        self._card.memory -= size
        array = np.zeros(size, np.uint8)
        return SimpleNamespace(pointer=array.ctypes.data, size=size, array=array)

    def pinned(self, size: int) -> Any:
        array = np.zeros(size, np.uint8)
        return SimpleNamespace(pointer=array.ctypes.data, size=size, array=array)

    def upload(self, buffer: Any, pinned: Any) -> None:
        buffer.array[:] = pinned.array

    def download(self, pinned: Any, buffer: Any) -> None:
        pinned.array[:] = buffer.array

    def synchronize(self) -> None:
        self._card.settle()

    def event(self) -> Any:
        return SimpleNamespace(at=0.0)

    def record(self, event: Any) -> None:
        event.at = self._card.mark()

    def elapsed(self, first: Any, last: Any) -> float:
        return float(last.at - first.at)

    def capture(self, work: Callable[[], None]) -> Callable[[], None]:
        if not self._card.graphs:
            raise CudaProblem("crash", "CUDA failed: operation not permitted when stream is capturing", False)
        self._card.capturing = True
        self._card.frozen = 0.0
        work()
        frozen = self._card.frozen  # the kernels of that moment, whatever comes later
        self._card.capturing = False

        def replay() -> None:
            self._card.replayed += 1
            self._card.launch(frozen)
            if self._card.waits:
                self._card.settle()

        return replay


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
        self._card.loaded.append(plan)
        self._card.host = max(self._card.host, self._card.now) + 0.05  # the card rests meanwhile
        self._card.seconds = self._card.speeds.get(plan, self._card.seconds)
        return _Engine(self._card)


class _Engine:
    num_io_tensors = 2
    device_memory_size_v2 = 4096

    def __init__(self, card: Card) -> None:
        self._card = card

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
        assert stream == Cuda.stream
        x = _array(self._at["x"], self._shape)
        _array(self._at["y"], (self._shape[0], 4))[:] = np.maximum(x @ WEIGHTS, 0)
        self._asked += 1
        waits = self._config.dynamic_shapes_kernel_specialization_strategy == 0 and self._asked < 100
        if not waits and self._shape not in self._config.cache.shapes:
            self._config.cache.shapes.add(self._shape)
            self._card.compiled += 1
        self._card.launch(self._card.seconds * (10 if waits else 1))  # a stand-in is slow
        self._card.inferences += not self._card.capturing
        return True

    def is_stream_capturable(self, stream: int) -> bool:
        return self._card.capturable


def _array(pointer: int, shape: tuple[int, ...]) -> Any:
    kind = ctypes.c_float * int(np.prod(shape))
    return np.ctypeslib.as_array(kind.from_address(pointer)).reshape(shape)
