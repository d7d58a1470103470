"""CUDA on the device: is there a card, and the few calls that timing a network takes. Runs on the device; Python 3.9.

`probe` asks the driver itself, through ctypes: with no driver some CUDA programs crash instead of saying so. Buffers,
events and graphs come from torch, where the interpreter has one that sees the card, else from `cuda-bindings`.

Source: CUDA Driver API and CUDA Runtime API, NVIDIA (docs.nvidia.com/cuda).
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import sys
from collections.abc import Callable, Iterator
from typing import Any, ClassVar

from hwprofiles.agent import cuda_events

PACKAGE = "cuda-bindings>=13.0,<14"

_DRIVER = "libcuda.so.1"
_MAJOR, _MINOR = 75, 76  # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR, _MINOR
_CALL_REMEDY = "look at nvidia-smi on that machine"
_NO_DEVICE, _STUB, _MISMATCH, _COMPAT = 100, 34, 803, 804  # CUresult
_OUT_OF_MEMORY = 2  # cudaErrorMemoryAllocation


class CudaProblem(Exception):
    """One line for a person. `kind` is that of a Failure; `advised`: it says what to do."""

    def __init__(self, kind: str, message: str, advised: bool = True) -> None:
        super().__init__(message)
        self.kind = kind
        self.advised = advised


def probe(least: int = 0) -> dict[str, Any]:
    """The first card that CUDA sees: name, uuid, compute_capability ("9.0"), memory_bytes, cuda ("13.0").

    `uuid` is "GPU-..." also for a MIG instance, which NVML calls "MIG-..." with the same digits.

    `least`: the CUDA version that the driver must support, as 13000 for 13.0. Raises `CudaProblem` of the kind
    "unavailable".
    """
    try:
        driver = ctypes.CDLL(_DRIVER)
    except OSError as error:
        raise CudaProblem(
            "unavailable",
            f"no NVIDIA driver here: {error}; install the driver, or start the container with it (docker run --gpus "
            "all)",
        ) from error
    version = ctypes.c_int(0)
    _drive(driver, "cuDriverGetVersion", ctypes.byref(version))
    if version.value < least:
        raise CudaProblem(
            "unavailable",
            f"the NVIDIA driver supports CUDA {_spell(version.value)}; {_spell(least)} is needed: update the driver",
        )
    _drive(driver, "cuInit", ctypes.c_uint(0))
    count = ctypes.c_int(0)
    _drive(driver, "cuDeviceGetCount", ctypes.byref(count))
    if count.value < 1:
        raise CudaProblem("unavailable", _EXPLAINED[_NO_DEVICE])
    device = ctypes.c_int(0)
    _drive(driver, "cuDeviceGet", ctypes.byref(device), ctypes.c_int(0))
    name, uuid = ctypes.create_string_buffer(256), ctypes.create_string_buffer(16)
    memory, major, minor = ctypes.c_size_t(0), ctypes.c_int(0), ctypes.c_int(0)
    _drive(driver, "cuDeviceGetName", name, ctypes.c_int(256), device)
    _drive(driver, "cuDeviceTotalMem_v2", ctypes.byref(memory), device)
    _drive(driver, "cuDeviceGetAttribute", ctypes.byref(major), ctypes.c_int(_MAJOR), device)
    _drive(driver, "cuDeviceGetAttribute", ctypes.byref(minor), ctypes.c_int(_MINOR), device)
    # The second version tells the UUID of a MIG instance, the first that of the card it is a part of (since CUDA 11.4).
    newer = hasattr(driver, "cuDeviceGetUuid_v2")
    _drive(driver, "cuDeviceGetUuid_v2" if newer else "cuDeviceGetUuid", uuid, device)
    digits = uuid.raw.hex()
    parts = [digits[:8], digits[8:12], digits[12:16], digits[16:20], digits[20:]]
    return {
        "name": name.value.decode(errors="replace"),
        "uuid": "GPU-" + "-".join(parts),
        "compute_capability": f"{major.value}.{minor.value}",
        "memory_bytes": int(memory.value),
        "cuda": _spell(version.value),
    }


_EXPLAINED = {
    _NO_DEVICE: "the NVIDIA driver shows CUDA no card; look at nvidia-smi -L and at CUDA_VISIBLE_DEVICES, or give the "
    "container one (docker run --gpus all)",
    _STUB: "libcuda.so.1 is the stub of the CUDA toolkit, not a driver; take its folder out of LD_LIBRARY_PATH",
    _MISMATCH: "the NVIDIA driver was updated under way: its library and its kernel module differ in version; restart "
    "the machine, or the container",
    _COMPAT: "this card does not take the CUDA compatibility package; remove it, or update the driver",
}


def _drive(driver: Any, function: str, *arguments: Any) -> None:
    call = getattr(driver, function, None)
    if call is None:
        raise CudaProblem("unavailable", f"{_DRIVER} has no {function}: it is too old; update the NVIDIA driver")
    code = int(call(*arguments))
    if code:
        said = _EXPLAINED.get(code, f"the NVIDIA driver says error {code} to {function}; {_CALL_REMEDY}")
        raise CudaProblem("unavailable", said)


def _spell(version: int) -> str:
    """13000 -> 13.0."""
    return f"{version // 1000}.{version % 1000 // 10}"


def open_cuda() -> Any:
    """`TorchCuda`, or `BoundCuda` where torch is not there or sees no card. Call `probe` first.

    Both put everything on a stream of their own, whose number is `stream`, and have: `buffer(size)` of the card and
    `pinned(size)` of this machine, each with `pointer`, the latter with `array` (numpy, uint8); `upload(buffer,
    pinned)`, `download(pinned, buffer)`, `synchronize()`, `event()`, `record(event)`, `elapsed(first, last)` in
    seconds; `capture(work)`, which gives a function that replays what `work` put on the stream; `on_stream()`, a
    context in which replays need not look for the stream; `release()`, which gives memory that nobody uses any more
    back to the card. All of them raise `CudaProblem`, and `cuda_events.CardBroken` where the card's context is lost.
    """
    try:
        torch = importlib.import_module("torch")
    except ImportError:
        torch = None
    if torch is not None and torch.cuda.is_available():
        return TorchCuda(torch)
    try:
        runtime = importlib.import_module("cuda.bindings.runtime")
    except ImportError as error:
        raise CudaProblem(
            "unavailable",
            f"{sys.executable} has neither torch with CUDA nor cuda-bindings ({error}); {sys.executable} -m pip "
            f"install '{PACKAGE}'",
        ) from error
    return BoundCuda(runtime)


class _Memory:
    """`size` bytes at `pointer`; given back when nobody holds it any more."""

    def __init__(self, pointer: int, size: int, keep: Any, array: Any = None) -> None:
        self.pointer = pointer
        self.size = size
        self.array = array
        self.keep = keep


class TorchCuda:
    """CUDA by torch.

    torch's copies, replays and allocations go to whatever stream is current in the thread, and several sessions live in
    one: so each of them is done inside `on_stream`, and none relies on what was current before.
    """

    _current: ClassVar[TorchCuda | None] = None  # whose stream it is, as far as `on_stream` knows

    def __init__(self, torch: Any) -> None:
        self._torch = torch
        self._stream = self._try(torch.cuda.Stream)
        self.stream = int(self._stream.cuda_stream)

    @contextlib.contextmanager
    def on_stream(self) -> Iterator[None]:
        """Make our stream the current one; inside of it once more it costs (nearly) nothing."""
        before = TorchCuda._current
        if before is self:
            yield
            return
        with self._torch.cuda.stream(self._stream):
            TorchCuda._current = self
            try:
                yield
            finally:
                TorchCuda._current = before

    def buffer(self, size: int) -> _Memory:
        tensor = self._guard(self._torch.empty, max(size, 1), dtype=self._torch.uint8, device="cuda")
        return _Memory(int(tensor.data_ptr()), size, tensor)

    def pinned(self, size: int) -> _Memory:
        tensor = self._guard(self._torch.empty, max(size, 1), dtype=self._torch.uint8, pin_memory=True)
        return _Memory(int(tensor.data_ptr()), size, tensor, tensor.numpy()[:size])

    def upload(self, buffer: _Memory, pinned: _Memory) -> None:
        self._guard(buffer.keep.copy_, pinned.keep, non_blocking=True)

    def download(self, pinned: _Memory, buffer: _Memory) -> None:
        self._guard(pinned.keep.copy_, buffer.keep, non_blocking=True)

    def synchronize(self) -> None:
        self._try(self._stream.synchronize)

    def event(self) -> Any:
        event = self._try(self._torch.cuda.Event, enable_timing=True)
        self.record(event)  # makes it: torch does that at the first record, which would be between two stamps
        return event

    def record(self, event: Any) -> None:
        self._try(event.record, self._stream)  # told where, so that nothing is done beside it

    def elapsed(self, first: Any, last: Any) -> float:
        return float(self._try(first.elapsed_time, last)) / 1e3

    def capture(self, work: Callable[[], None]) -> Callable[[], None]:
        graph = self._try(self._torch.cuda.CUDAGraph)

        refused: list[BaseException] = []

        def record() -> None:
            # As trtexec: what other threads do meanwhile is no part of it and does not end it.
            with self._torch.cuda.graph(graph, stream=self._stream, capture_error_mode="thread_local"):
                try:
                    work()
                except BaseException as error:
                    refused.append(error)
                    raise

        try:
            self._guard(record)
        except Exception as error:  # ending a capture that broke off fails too, and hides why it did
            if refused and refused[0] is not error and not isinstance(refused[0], RuntimeError):
                raise refused[0] from error
            raise

        def replay() -> None:
            if TorchCuda._current is self:  # inside of `on_stream`: the launch is timed, and nothing is done beside it
                self._try(graph.replay)
            else:
                self._guard(graph.replay)

        return replay

    def release(self) -> None:
        """torch keeps what it was given back for itself; TensorRT, in the same process, takes from the card."""
        self._guard(self._torch.cuda.empty_cache)

    def _guard(self, call: Callable[..., Any], *arguments: Any, **named: Any) -> Any:
        """Do it on our stream."""
        with self.on_stream():
            return self._try(call, *arguments, **named)

    def _try(self, call: Callable[..., Any], *arguments: Any, **named: Any) -> Any:
        try:
            return call(*arguments, **named)
        except RuntimeError as error:  # also torch.cuda.OutOfMemoryError
            cuda_events.refuse_broken(error)
            if isinstance(error, self._torch.cuda.OutOfMemoryError) or cuda_events.is_full(str(error)):
                raise CudaProblem("oom", f"out of memory on the card: {_first(error)}", False) from error
            raise CudaProblem("crash", f"CUDA failed: {_first(error)}", False) from error


class BoundCuda:
    """CUDA by NVIDIA's `cuda-bindings`. Every call is told its stream."""

    def __init__(self, runtime: Any) -> None:
        self._cuda = runtime
        self._ask(runtime.cudaSetDevice, 0)
        stream = self._ask(runtime.cudaStreamCreateWithFlags, runtime.cudaStreamNonBlocking)
        self._stream = _Owner(runtime.cudaStreamDestroy, stream)
        self.stream = int(stream)

    def on_stream(self) -> contextlib.AbstractContextManager[None]:
        """Nothing to do here."""
        return contextlib.nullcontext()

    def buffer(self, size: int) -> _Memory:
        pointer = int(self._ask(self._cuda.cudaMalloc, max(size, 1)))
        return _Memory(pointer, size, _Owner(self._cuda.cudaFree, pointer))

    def pinned(self, size: int) -> _Memory:
        pointer = int(self._ask(self._cuda.cudaHostAlloc, max(size, 1), self._cuda.cudaHostAllocDefault))
        numpy = importlib.import_module("numpy")
        array = numpy.ctypeslib.as_array((ctypes.c_uint8 * max(size, 1)).from_address(pointer))[:size]
        return _Memory(pointer, size, _Owner(self._cuda.cudaFreeHost, pointer), array)

    def upload(self, buffer: _Memory, pinned: _Memory) -> None:
        self._copy(buffer, pinned, self._cuda.cudaMemcpyKind.cudaMemcpyHostToDevice)

    def download(self, pinned: _Memory, buffer: _Memory) -> None:
        self._copy(pinned, buffer, self._cuda.cudaMemcpyKind.cudaMemcpyDeviceToHost)

    def synchronize(self) -> None:
        self._ask(self._cuda.cudaStreamSynchronize, self._stream.what)

    def event(self) -> Any:
        return _Owner(self._cuda.cudaEventDestroy, self._ask(self._cuda.cudaEventCreate))

    def record(self, event: Any) -> None:
        self._ask(self._cuda.cudaEventRecord, event.what, self._stream.what)

    def elapsed(self, first: Any, last: Any) -> float:
        return float(self._ask(self._cuda.cudaEventElapsedTime, first.what, last.what)) / 1e3

    def capture(self, work: Callable[[], None]) -> Callable[[], None]:
        cuda, stream = self._cuda, self._stream.what
        self._ask(cuda.cudaStreamBeginCapture, stream, cuda.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal)
        try:
            work()
        except BaseException:
            broken = cuda.cudaStreamEndCapture(stream)[1]  # or nothing else could run on the stream
            if broken is not None and int(broken):
                cuda.cudaGraphDestroy(broken)
            cuda.cudaGetLastError()
            raise
        graph = _Owner(cuda.cudaGraphDestroy, self._ask(cuda.cudaStreamEndCapture, stream))
        owner = _Owner(cuda.cudaGraphExecDestroy, self._ask(cuda.cudaGraphInstantiate, graph.what, 0))

        def replay() -> None:
            self._ask(cuda.cudaGraphLaunch, owner.what, self._stream.what)

        return replay

    def release(self) -> None:
        """Nothing is kept here."""

    def _copy(self, to: _Memory, of: _Memory, kind: Any) -> None:
        self._ask(self._cuda.cudaMemcpyAsync, to.pointer, of.pointer, of.size, kind, self._stream.what)

    def _ask(self, call: Callable[..., Any], *arguments: Any) -> Any:
        code, *rest = call(*arguments)
        if int(code):
            self._cuda.cudaGetLastError()  # an error that can be survived must not be told to the next call
            said = self._cuda.cudaGetErrorString(code)[1]
            text = said.decode(errors="replace") if isinstance(said, bytes) else str(said)
            if int(code) == _OUT_OF_MEMORY:
                raise CudaProblem("oom", f"out of memory on the card: {text}", False)
            problem = CudaProblem("crash", f"CUDA failed: {text} ({call.__name__})", False)
            cuda_events.refuse_broken(problem)
            raise problem
        return rest[0] if rest else None


class _Owner:
    """Gives `what` back when it goes."""

    def __init__(self, release: Callable[[Any], Any], what: Any) -> None:
        self.what = what
        self._release = release

    def __del__(self) -> None:
        self._release(self.what)


def _first(error: BaseException) -> str:
    """The first line of what an error says: CUDA's go on for a page."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
