"""Device side of TensorRT and TensorRT-RTX: travels inside the agent as `agent_backend`; Python 3.9, numpy.

Which of the two is an option; they have the same Python API, and their numbers are never mixed. The order of things
matters: with no driver TensorRT's runtime crashes instead of saying so, so CUDA itself is asked before any of its
objects is made. Engines are built in a process of their own (`tensorrt_engines`) and run in this one.

Time is that of the card: CUDA events around replays of a CUDA graph, as `trtexec` measures by default. Copies to and
from the card are left out of it and told apart, and so is the host's time of asking.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy

from hwprofiles.agent import cuda, nvml
from hwprofiles.runtimes import tensorrt_build, tensorrt_engines, tensorrt_layers
from hwprofiles.runtimes.tensorrt_build import BuildProblem

Feed = dict[str, Any]

_LEAST_CUDA = 13000  # TensorRT 11 and TensorRT-RTX 1.7 are built with CUDA 13
_SHORT, _SPAN = 20e-6, 100e-6  # seconds: below the first, replays fill the second between two events (0.5 us apart)
_CHUNK = 1000  # samples between two looks at the clock of the card: events are made once and used again
_TRANSFERS = 3  # inferences with their copies, timed after each block
_SETS = 256 << 20  # bytes of buffers that inputs are spread over, beyond the first two sets
_CHOOSING = 50  # inferences that tell which of several builds is the fastest

# TensorRT's element types in numpy. bfloat16 is none there: values go in and out as float32.
_NUMPY = {
    "FLOAT": numpy.float32,
    "HALF": numpy.float16,
    "BF16": numpy.float32,
    "INT8": numpy.int8,
    "UINT8": numpy.uint8,
    "INT32": numpy.int32,
    "INT64": numpy.int64,
    "BOOL": numpy.bool_,
}


class TensorRtProblem(Exception):
    """One line for a person. `kind` is that of a Failure; `advised`: it says what to do."""

    def __init__(self, kind: str, message: str, advised: bool = False) -> None:
        super().__init__(" ".join(message.split())[:600])
        self.kind = kind
        self.advised = advised


ERRORS: tuple[type[Exception], ...] = (TensorRtProblem, BuildProblem, cuda.CudaProblem, MemoryError)


def describe(options: dict[str, Any]) -> dict[str, Any]:
    """What would run a model here. Raises `CudaProblem` without a card, `TensorRtProblem` without TensorRT."""
    card = _card(options)
    trt = _load(options)
    return {
        "runtime": options["runtime"],
        "version": str(trt.__version__),
        "providers": [options["provider"]],
        "compiled": [options["provider"]],
        "build": "CUDA {}, {}".format(card["cuda"], _spell(options["builder"])),
        "accelerator": nvml.sentence(card),
        "card": card,
        "card_uuid": card["uuid"],
        "timer": "cuda-events",
        "builds": options["builds"],
        "arena": "default",
        "memory_pattern": None,
        "cuda_graph": True,
        "transfers": False,
    }


def _card(options: dict[str, Any]) -> dict[str, Any]:
    """What CUDA and, where it can be asked, the driver say of the card. Raises `CudaProblem`."""
    try:
        found = cuda.probe(_LEAST_CUDA)
    except cuda.CudaProblem as error:
        if not tensorrt_build.installed(options["runtime"]):
            raise cuda.CudaProblem(error.kind, f"{error}; {_missing(options, '')}") from error
        raise
    try:
        named = nvml.open_card(uuid=found["uuid"]).identity()
    except nvml.NvmlProblem:
        unknown = {"driver": "CUDA " + found["cuda"], "uuid_hash": "", "power_limit_w": None, "mig": None}
        return {**unknown, **found}
    return {**found, **{key: value for key, value in named.items() if value not in ("", None) or key not in found}}


def _load(options: dict[str, Any]) -> Any:
    try:
        return tensorrt_build.load(options["runtime"])
    except (ImportError, OSError) as error:
        raise TensorRtProblem("unavailable", _missing(options, f" ({error})"), True) from error


def _missing(options: dict[str, Any], why: str) -> str:
    said = f"cannot be imported{why}" if why else "is not installed there either"
    return "{} {}; try: {}".format(options["runtime"], said, options["install"])


def _open_engines(options: dict[str, Any]) -> tensorrt_engines.Engines:
    card, trt = _card(options), _load(options)
    identity = [str(trt.__version__), card["name"], card["compute_capability"], card["driver"], card["memory_bytes"]]
    request = {
        "runtime": options["runtime"],
        "builder": options["builder"],
        "capability": card["compute_capability"],
    }
    scratch = Path(options["scratch"])
    folder = tensorrt_engines.cache_folder()
    return tensorrt_engines.Engines(
        folder, scratch, request, identity, options["build_seconds"], options["cache_bytes"]
    )


class _Opened:
    """An engine that is loaded and ready to run."""

    def __init__(self, trt: Any, built: tensorrt_engines.Engine, provider: str) -> None:
        self.log = tensorrt_build.messages(trt)
        runtime = trt.Runtime(self.log)
        self.engine = runtime.deserialize_cuda_engine(built.plan)
        if self.engine is None:
            raise TensorRtProblem("unavailable", f"{provider} does not load the engine: {_last(self.log)}")
        self.context = self.engine.create_execution_context()
        if self.context is None:
            raise TensorRtProblem(_kind(self.log, "oom"), f"no execution context: {_last(self.log)}")
        self._runtime = runtime  # must live as long as the engine

    def start(self, stream: int) -> None:
        """Put one inference on the stream."""
        if not self.context.execute_async_v3(stream):
            raise TensorRtProblem(_kind(self.log, "crash"), f"the inference was refused: {_last(self.log)}")


class _Set:
    """Buffers of one feed on the card and here, and how to start an inference with them."""

    def __init__(self) -> None:
        self.inputs: list[tuple[str, Any, Any]] = []  # name, memory here, memory there
        self.outputs: list[tuple[str, Any, Any, Any, tuple[int, ...]]] = []  # and element type and shape
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.replay: Any = None


class Session:
    """A model as an engine on the card. `conditions` and `notes` say how it really runs."""

    def __init__(self, path: str, options: dict[str, Any]) -> None:
        self._path = path
        self._provider = options["provider"]
        self._engines = _open_engines(options)
        self._trt = _load(options)
        self._cuda: Any = None  # not before the engine is built: until then the card's memory is the builder's
        self.conditions: dict[str, Any] = {"cuda_graph": True}
        self._notes: list[str] = []
        self.load_seconds = 0.0
        self.first_seconds = 0.0
        self._sets: list[_Set] = []
        self._loaded: Any = None  # the feeds that are in the sets
        self._replays = 0  # inferences between two events; 0: not known yet
        self._events: list[Any] = []
        self._opened: _Opened | None = None
        self._shapes: dict[str, list[list[int]]] = {}
        if options.get("shapes"):
            self._open(tensorrt_engines.ranges(options["shapes"]))
            self.inputs, self.outputs = self._engine.inputs, self._engine.outputs
        else:
            told = self._engines.describe(path)
            self.inputs, self.outputs = told["inputs"], told["outputs"]

    @property
    def notes(self) -> list[str]:
        """What a person should know of this session."""
        return [*self._engines.notes, *self._notes]

    def run(self, feed: Feed) -> list[Any]:
        """One inference; the outputs in the order of `outputs`."""
        return self.run_all([feed])[0]

    def run_all(self, feeds: list[Feed]) -> list[list[Any]]:
        """One inference per feed. Feeds that the engine was not built for make it be built anew, for both."""
        self._fit(feeds)
        return [self._run(feed) for feed in feeds]

    def time_block(self, feeds: list[Feed], count: int) -> dict[str, Any]:
        """About `count` inferences: seconds of the card for each sample (`wall`), of asking (`enqueue`), and of a few
        with their copies (`end_to_end`). Inputs are used in turn, each in buffers of its own."""
        self._fit(feeds)
        self._spread(feeds)
        replays = max(1, self._replays)
        samples = max(1, count // replays)
        thread, process = time.thread_time(), time.process_time()
        wall, enqueue = self._time(samples, replays)
        cpu, thread_cpu = time.process_time() - process, time.thread_time() - thread
        typical = float(numpy.median(wall))
        if not self._replays and len(wall) >= 10:
            self._replays = 1 if typical >= _SHORT else int(numpy.ceil(_SPAN / typical))
        if float(numpy.median(enqueue)) > typical:
            self._note("asking for an inference takes the host longer than the card needs for it")
        return {
            "wall": wall,
            "enqueue": enqueue,
            "end_to_end": [self._with_copies(index) for index in range(_TRANSFERS)],
            "inferences": samples * replays + _TRANSFERS,
            "cpu": cpu,
            "thread_cpu": thread_cpu,
            "load": self.load_seconds,
            "first": self.first_seconds,
        }

    def accelerator_memory(self, feed: Feed) -> dict[str, int | None]:
        """Bytes of the plan, of its weights, and of what the engine reserves for activations."""
        self._fit([feed])
        engine = self._ready().engine
        weights = int(engine.get_engine_stat(self._trt.EngineStat.TOTAL_WEIGHTS_SIZE))
        return {
            "plan": len(self._engine.plan),
            "weights": weights if weights >= 0 else None,
            "activations": int(engine.device_memory_size_v2),
        }

    def builds(self) -> list[dict[str, Any]]:
        """Every build that was tried for this engine; the first is the one that runs."""
        return self._engine.builds

    def engine(self) -> bytes:
        """The plan that really runs."""
        self._ready()
        return self._engine.plan

    def layers(self, feed: Feed, runs: int) -> list[dict[str, Any]]:
        """Every layer of the engine as a Kernel. Their seconds are from runs that the profiler watches, one by one."""
        self._fit([feed])
        opened = self._ready()
        inspector = opened.engine.create_engine_inspector()
        inspector.execution_context = opened.context
        text = inspector.get_engine_information(self._trt.LayerInformationFormat.JSON)
        found = tensorrt_layers.inspected(text) or self._engine.layers
        if not found:
            raise TensorRtProblem("unsupported", f"{self._provider} does not tell the layers of its engine")
        self._run(feed)  # what is loaded at the first run must not count as a layer's time
        profiler = _profiler(self._trt)
        opened.context.profiler = profiler
        opened.context.enqueue_emits_profile = True
        for _ in range(runs):
            self._run(feed)
        seconds = {name: total / runs for name, total in profiler.seconds.items()}
        return [
            tensorrt_layers.kernel(told, self._provider, self._engine.types, seconds.get(str(told.get("Name")), 0.0))
            for told in found
        ]

    def _ready(self) -> _Opened:
        if self._opened is None:
            raise TensorRtProblem("bad_model", "the model was opened without the shapes of its inputs")
        return self._opened

    def _open(self, shapes: dict[str, list[list[int]]]) -> None:
        """Get the engine for these shapes and load it; build it anew if what the cache had is of another version."""
        self._sets, self._loaded, self._opened = [], None, None
        self._engine = self._engines.get(self._path, shapes)
        self._cuda = self._cuda or cuda.open_cuda()
        start = time.perf_counter()
        try:
            self._opened = _Opened(self._trt, self._engine, self._provider)
        except TensorRtProblem as error:
            if self._engine.seconds or error.kind != "unavailable":
                raise
            why = f"the engine in the cache could not be loaded and was built anew: {error}"
            self._engine = self._engines.again(self._path, shapes, why)
            start = time.perf_counter()
            self._opened = _Opened(self._trt, self._engine, self._provider)
        self.load_seconds = time.perf_counter() - start
        self._shapes = shapes
        self.first_seconds = 0.0

    def _fit(self, feeds: list[Feed]) -> None:
        """See that the engine takes these feeds. Raises `BuildProblem` if the model does not."""
        wanted = [{name: list(value.shape) for name, value in feed.items()} for feed in feeds]
        if self._opened is not None and all(tensorrt_engines.fits(self._shapes, feed) for feed in wanted):
            return
        if self._opened is None:
            self._open(tensorrt_engines.ranges(wanted))
            return
        self._note("inputs of several shapes: the engine was built for a range of them")
        self._open(tensorrt_engines.widen(self._shapes, wanted))

    def _run(self, feed: Feed) -> list[Any]:
        start = time.perf_counter()
        buffers = self._place(feed)
        self._address(buffers)
        for _, here, there in buffers.inputs:
            self._cuda.upload(there, here)
        self._ready().start(self._cuda.stream)
        for _, here, there, _, _ in buffers.outputs:
            self._cuda.download(here, there)
        self._cuda.synchronize()
        self.first_seconds = self.first_seconds or time.perf_counter() - start
        found = {name: _read(here, kind, shape) for name, here, _, kind, shape in buffers.outputs}
        return [found[port["name"]] for port in self.outputs]

    def _place(self, feed: Feed) -> _Set:
        """Buffers for a feed, with its values already in those of this machine."""
        opened, trt = self._ready(), self._trt
        found = _Set()
        names = [opened.engine.get_tensor_name(index) for index in range(opened.engine.num_io_tensors)]
        for name in names:
            if opened.engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT:
                data = _typed(feed[name], name, opened.engine.get_tensor_dtype(name).name)
                here = self._cuda.pinned(data.nbytes)
                here.array[:] = data.reshape(-1).view(numpy.uint8)
                found.inputs.append((name, here, self._cuda.buffer(data.nbytes)))
                found.shapes[name] = tuple(data.shape)
                if not opened.context.set_input_shape(name, tuple(data.shape)):
                    raise TensorRtProblem(
                        "bad_model", f"input {name!r} may not be {list(data.shape)}: {_last(opened.log)}"
                    )
        missing = opened.context.infer_shapes()
        if missing:
            raise TensorRtProblem("bad_model", f"the shapes of the inputs do not decide on {', '.join(missing)}")
        for name in names:
            if opened.engine.get_tensor_mode(name) == trt.TensorIOMode.OUTPUT:
                shape = tuple(opened.context.get_tensor_shape(name))
                if any(size < 0 for size in shape):
                    raise TensorRtProblem("unsupported", f"the shape of output {name!r} depends on the data")
                kind = opened.engine.get_tensor_dtype(name).name
                size = _bytes(kind, shape, name)
                found.outputs.append((name, self._cuda.pinned(size), self._cuda.buffer(size), kind, shape))
        return found

    def _address(self, buffers: _Set) -> None:
        """Tell the context where the inputs and outputs of the next inference lie."""
        context = self._ready().context
        for name, shape in buffers.shapes.items():
            context.set_input_shape(name, shape)
        for name, _, there in buffers.inputs:
            context.set_tensor_address(name, there.pointer)
        for name, _, there, _, _ in buffers.outputs:
            context.set_tensor_address(name, there.pointer)

    def _spread(self, feeds: list[Feed]) -> None:
        """Each feed in buffers of its own on the card, at least two sets, each with its graph if there can be one."""
        if self._loaded is feeds and self._sets:
            return
        self._sets, self._loaded = [], feeds
        used = 0
        for index in range(max(2, len(feeds))):
            buffers = self._place(feeds[index % len(feeds)])
            used += sum(there.size for _, _, there in buffers.inputs)
            used += sum(there.size for _, _, there, _, _ in buffers.outputs)
            for _, here, there in buffers.inputs:
                self._cuda.upload(there, here)
            self._address(buffers)
            start = time.perf_counter()
            self._ready().start(self._cuda.stream)  # the first inference loads what it needs: no graph can hold that
            self._cuda.synchronize()
            self.first_seconds = self.first_seconds or time.perf_counter() - start
            buffers.replay = self._capture()
            self._sets.append(buffers)
            if len(self._sets) >= 2 and used > _SETS:
                self._note(f"{len(self._sets)} of {len(feeds)} inputs were used: more would not fit beside the model")
                break
        if any(buffers.replay is None for buffers in self._sets):
            for buffers in self._sets:
                buffers.replay = None  # one protocol for all

    def _capture(self) -> Any:
        """A graph of one inference, or None where the engine takes none."""
        if not self.conditions["cuda_graph"]:
            return None
        opened = self._ready()
        try:
            return self._cuda.capture(lambda: opened.start(self._cuda.stream))
        except (TensorRtProblem, cuda.CudaProblem) as error:
            if getattr(error, "kind", "") == "oom":
                raise
            self.conditions["cuda_graph"] = False
            self._note(f"no CUDA graph could be captured, inferences are asked for one by one: {error}")
            return None

    def _start(self, buffers: _Set) -> None:
        if buffers.replay is not None:
            buffers.replay()
        else:
            self._address(buffers)
            self._ready().start(self._cuda.stream)

    def _time(self, samples: int, replays: int) -> tuple[list[float], list[float]]:
        """Seconds of the card and of asking for one inference, per sample."""
        wall: list[float] = []
        enqueue: list[float] = []
        while len(self._events) < 2 * min(samples, _CHUNK):
            self._events.append(self._cuda.event())
        clock, record, turn = time.perf_counter, self._cuda.record, 0
        while len(wall) < samples:
            size = min(_CHUNK, samples - len(wall))
            for index in range(size):
                record(self._events[2 * index])
                start = clock()
                for _ in range(replays):
                    self._start(self._sets[turn % len(self._sets)])
                    turn += 1
                enqueue.append((clock() - start) / replays)
                record(self._events[2 * index + 1])
            self._cuda.synchronize()
            for index in range(size):
                spent = self._cuda.elapsed(self._events[2 * index], self._events[2 * index + 1])
                wall.append(max(spent, 1e-9) / replays)
        return wall, enqueue

    def _with_copies(self, turn: int) -> float:
        """Seconds from the inputs here to the outputs here."""
        buffers = self._sets[turn % len(self._sets)]
        start = time.perf_counter()
        for _, here, there in buffers.inputs:
            self._cuda.upload(there, here)
        self._start(buffers)
        for _, here, there, _, _ in buffers.outputs:
            self._cuda.download(here, there)
        self._cuda.synchronize()
        return time.perf_counter() - start

    def _note(self, text: str) -> None:
        if text not in self._notes:
            self._notes.append(text)


def prepare(path: str, options: dict[str, Any], count: int, feeds: list[Feed]) -> None:
    """Build `count` times with every kernel timed anew, and keep the fastest: builders choose by noisy times.

    Once is enough: what was measured must be what is exported, however often it is measured.
    """
    engines = _open_engines(options)
    shapes = tensorrt_engines.ranges(options["shapes"])
    there = engines.known(path, shapes)
    if there is not None and len(there.builds) >= count:
        return
    tried = [engines.build(path, shapes, fresh=True) for _ in range(count)]
    for built in tried:
        engines.choose(path, shapes, [built])
        session = Session(path, options)
        session.time_block(feeds, _CHOOSING)
        built.builds[0]["latency"] = float(numpy.median(session.time_block(feeds, _CHOOSING)["wall"]))
        del session
    engines.choose(path, shapes, sorted(tried, key=lambda built: float(built.builds[0]["latency"])))


def kernels(path: str, options: dict[str, Any], feed: Feed, runs: int, scratch: str) -> list[dict[str, Any]]:
    """Every layer of the engine, with the type it really computes in; see `tensorrt_layers.kernel`."""
    del scratch
    shapes = [{name: list(value.shape) for name, value in feed.items()}]
    return Session(path, {**options, "shapes": shapes}).layers(feed, runs)


def classify(error: Exception, stage: str) -> str:
    """The kind of Failure that this exception is."""
    del stage
    return "oom" if isinstance(error, MemoryError) else str(getattr(error, "kind", "bad_model"))


def explain(error: Exception) -> str:
    """One line for a person."""
    return " ".join(str(error).split())[:600]


def _profiler(trt: Any) -> Any:
    """Adds up what TensorRT tells of its layers' times: `seconds` by layer."""

    class Profiler(trt.IProfiler):  # type: ignore[misc]  # the module is only known here
        def __init__(self) -> None:
            trt.IProfiler.__init__(self)
            self.seconds: dict[str, float] = {}

        def report_layer_time(self, layer_name: str, ms: float) -> None:
            self.seconds[layer_name] = self.seconds.get(layer_name, 0.0) + ms / 1e3

    return Profiler()


def _typed(value: Any, name: str, kind: str) -> Any:
    """An input as the engine takes it. Raises `TensorRtProblem` for another element type."""
    if kind not in _NUMPY:
        raise TensorRtProblem("unsupported", f"input {name!r} is of the type {kind}")
    if value.dtype != _NUMPY[kind]:
        raise TensorRtProblem(
            "bad_model", f"input {name!r} is {value.dtype}; the model takes {numpy.dtype(_NUMPY[kind])}"
        )
    data = numpy.ascontiguousarray(value)
    if kind != "BF16":
        return data
    bits = data.view(numpy.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(numpy.uint16)  # to nearest, ties to even


def _bytes(kind: str, shape: tuple[int, ...], name: str) -> int:
    if kind not in _NUMPY:
        raise TensorRtProblem("unsupported", f"output {name!r} is of the type {kind}")
    width = 2 if kind == "BF16" else numpy.dtype(_NUMPY[kind]).itemsize
    return int(numpy.prod(shape, dtype=numpy.int64)) * width


def _read(memory: Any, kind: str, shape: tuple[int, ...]) -> Any:
    """What came back, as an array of its own."""
    if kind == "BF16":
        bits = memory.array.view(numpy.uint16).astype(numpy.uint32) << 16
        return bits.view(numpy.float32).reshape(shape)
    return memory.array.view(_NUMPY[kind]).reshape(shape).copy()


def _kind(log: Any, otherwise: str) -> str:
    text = " ".join(log.errors[-3:]).lower()
    return "oom" if "memory" in text and ("out of" in text or "alloc" in text) else otherwise


def _last(log: Any) -> str:
    return " ".join(log.errors[-1].split()) if log.errors else "it does not say why"


def _spell(options: dict[str, Any]) -> str:
    """Builder options as text: they are part of what was measured."""
    set_ones = {key: value for key, value in options.items() if value is not None}
    return ", ".join(f"{key} {value}" for key, value in sorted(set_ones.items())) or "default builder options"
