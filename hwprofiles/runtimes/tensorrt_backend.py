"""Device side of TensorRT and TensorRT-RTX: travels inside the agent as `agent_backend`; Python 3.9, numpy.

Which of the two is an option; they have the same Python API, and their numbers are never mixed. The order of things
matters: with no driver TensorRT's runtime crashes instead of saying so, so CUDA itself is asked before any of its
objects is made. Engines are built in a process of their own (`tensorrt_engines`) and run in this one.

How an engine is timed is in `tensorrt_timing`. Copies to and from the card are left out of its time and told apart,
and so is the host's time of asking.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from hwprofiles.agent import card_block, card_facts, cuda
from hwprofiles.runtimes import tensorrt_build, tensorrt_engines, tensorrt_layers, tensorrt_timing
from hwprofiles.runtimes.tensorrt_buffers import Buffers
from hwprofiles.runtimes.tensorrt_build import BuildProblem
from hwprofiles.runtimes.tensorrt_opened import Opened, TensorRtProblem

Feed = dict[str, Any]

_LEAST_CUDA = 13000  # TensorRT 11 and TensorRT-RTX 1.7 are built with CUDA 13
_BY_CHANCE = frozenset({"oom", "timeout", "crash"})  # kinds of a failed build after which another may succeed
_SETS = 256 << 20  # bytes of buffers that inputs are spread over, beyond the first two sets

ERRORS: tuple[type[Exception], ...] = (TensorRtProblem, BuildProblem, cuda.CudaProblem, MemoryError)


def describe(options: dict[str, Any]) -> dict[str, Any]:
    """What would run a model here. Raises `CudaProblem` without a card, `TensorRtProblem` without TensorRT."""
    told = _card(options)
    card, trt = told["card"], _load(options)
    return {
        **told,
        "runtime": options["runtime"],
        "version": str(trt.__version__),
        "providers": [options["provider"]],
        "compiled": [options["provider"]],
        "build": "CUDA {}, {}".format(card["cuda"], _spell(options["builder"])),
        "timer": "cuda-events",
        "builds": options["builds"],
        "arena": "default",
        "memory_pattern": None,
        "cuda_graph": True,
        "transfers": False,
    }


def check(options: dict[str, Any]) -> None:
    """Raise `TensorRtProblem` where TensorRT-RTX has no kernels for the card: it lists those that it has some for."""
    if options["runtime"] != "tensorrt-rtx":
        return
    trt, capability = _load(options), _card(options)["card"]["compute_capability"]
    if tensorrt_build.listed(trt, capability) is not None:
        return
    try:
        _open_engines(options).try_card()
    except BuildProblem as error:
        raise TensorRtProblem(
            "unavailable",
            f"TensorRT-RTX {trt.__version__} has no kernels for compute capability {capability}: use the runtime "
            f"tensorrt or onnxruntime-cuda for this card ({error})",
            True,
        ) from error


def _card(options: dict[str, Any]) -> dict[str, Any]:
    """What `card_facts.told` gives. Raises `CudaProblem`."""
    try:
        found = cuda.probe(_LEAST_CUDA)
    except cuda.CudaProblem as error:
        if not tensorrt_build.installed(options["runtime"]):
            raise cuda.CudaProblem(error.kind, f"{error}; {_missing(options, '')}") from error
        try:
            tensorrt_build.load(options["runtime"])
        except (ImportError, OSError) as lacks:  # its bindings without its libraries
            raise cuda.CudaProblem(error.kind, f"{error}; and {_missing(options, f' ({lacks})')}") from error
        raise
    return card_facts.told(found)


def _load(options: dict[str, Any]) -> Any:
    try:
        return tensorrt_build.load(options["runtime"])
    except (ImportError, OSError) as error:
        raise TensorRtProblem("unavailable", _missing(options, f" ({error})"), True) from error


def _missing(options: dict[str, Any], why: str) -> str:
    said = f"cannot be imported{why}" if why else "is not installed there either"
    return "{} {}; try: {}".format(options["runtime"], said, options["install"])


def _open_engines(options: dict[str, Any]) -> tensorrt_engines.Engines:
    card, trt = _card(options)["card"], _load(options)
    keys = ("name", "compute_capability", "driver", "cuda", "memory_bytes")
    identity = [str(trt.__version__), *(card[key] for key in keys)]
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


class Session:
    """A model as an engine on the card. `conditions` and `notes` say how it really runs.

    `engine`: one that was built for `options["shapes"]`, to be used in place of what the cache has.
    """

    def __init__(self, path: str, options: dict[str, Any], engine: tensorrt_engines.Engine | None = None) -> None:
        self._path, self._given = path, engine
        self._product, self._provider = options["runtime"], options["provider"]
        self._engine: tensorrt_engines.Engine | None = None
        self._engines = _open_engines(options)
        self._trt = _load(options)
        self._cuda: Any = None  # not before the engine is built: until then the card's memory is the builder's
        self.conditions: dict[str, Any] = {"cuda_graph": True}
        self._notes: list[str] = []
        self._launching: list[str] = []  # what the last block says of asking
        self.load_seconds = 0.0
        self.first_seconds = 0.0
        self._sets: list[tuple[Buffers, Any]] = []  # with the function that replays their graph, or None
        self._loaded: Any = None  # the feeds that are in the sets
        self._timer: tensorrt_timing.Timer | None = None
        self._opened: Opened | None = None
        self._shapes: dict[str, list[list[int]]] = {}
        if options.get("shapes"):
            self._open(tensorrt_engines.ranges(options["shapes"]))
            self.inputs, self.outputs = self._built().inputs, self._built().outputs
        else:
            told = self._engines.describe(path)
            self.inputs, self.outputs = told["inputs"], told["outputs"]

    @property
    def notes(self) -> list[str]:
        """What a person should know of this session."""
        failed = [] if self._engine is None else self._engine.failed
        return [*self._engines.notes, *failed, *self._notes, *self._launching]

    def close(self) -> None:
        """Give the card's memory back, also what torch would keep of it for itself."""
        self._drop()

    def run(self, feed: Feed) -> list[Any]:
        """One inference; the outputs in the order of `outputs`."""
        return self.run_all([feed])[0]

    def run_all(self, feeds: list[Feed]) -> list[list[Any]]:
        """One inference per feed. Feeds that the engine was not built for make it be built anew, for both."""
        self._fit(feeds)
        return [self._run(feed) for feed in feeds]

    def time_block(self, feeds: list[Feed], count: int) -> dict[str, Any]:
        """About `count` inferences; see `card_block.time_block`. Inputs are used in turn, each in buffers of its own.

        Short inferences share a pair of events, and `wall` has fewer samples then.
        """
        self._fit(feeds)
        self._spread(feeds)
        starts = [partial(self._start, buffers, replay) for buffers, replay in self._sets]
        told = self._clock().block(starts, count, lambda some: [self._with_copies(index) for index in range(some)])
        self._launching = card_block.launch_notes(told)
        return {**told, "load": self.load_seconds, "first": self.first_seconds}

    def sample(self, feeds: list[Feed], samples: int) -> list[float]:
        """Seconds of one inference on the card, so many samples of however many inferences."""
        return list(self.time_block(feeds, samples * max(1, self._clock().replays))["wall"][:samples])

    def accelerator_memory(self, feed: Feed) -> dict[str, int | None]:
        """Bytes of the plan, of its weights, and of what the engine reserves for activations."""
        self._fit([feed])
        return {"plan": len(self._built().plan), **self._ready().memory()}

    def builds(self) -> list[dict[str, Any]]:
        """Every build that was tried for this engine; the first is the one that runs."""
        return self._built().builds

    def engine(self) -> bytes:
        """The plan that really runs."""
        self._ready()
        return self._built().plan

    def layers(self, feed: Feed, runs: int) -> list[dict[str, Any]]:
        """Every layer of the engine as a Kernel. Their seconds are from runs that the profiler watches, one by one."""
        self._fit([feed])
        opened = self._ready()
        found = opened.layers() or self._built().layers
        if not found:
            raise TensorRtProblem("unsupported", f"{self._provider} does not tell the layers of its engine")
        self._run(feed)  # what is loaded at the first run must not count as a layer's time
        totals = opened.profile()
        for _ in range(runs):
            self._run(feed)
        seconds = {name: total / runs for name, total in totals.items()}
        return [
            tensorrt_layers.kernel(told, self._provider, self._built().types, seconds.get(str(told.get("Name")), 0.0))
            for told in found
        ]

    def _ready(self) -> Opened:
        if self._opened is None:
            raise TensorRtProblem("bad_model", "the model was opened without the shapes of its inputs")
        return self._opened

    def _built(self) -> tensorrt_engines.Engine:
        self._ready()
        assert self._engine is not None
        return self._engine

    def _drop(self) -> None:
        """Let go of everything on the card: buffers and graphs before the engine whose they are."""
        self._sets, self._loaded, self._timer, self._opened = [], None, None, None
        if self._cuda is not None:
            self._cuda.release()

    def _open(self, shapes: dict[str, list[list[int]]]) -> None:
        """Get the engine for these shapes and load it; build it anew if what the cache had is of another version."""
        self._drop()  # until it is built the card's memory is the builder's
        self._engine = self._given or self._engines.get(self._path, shapes)
        self._given = None  # other shapes want another one
        self._cuda = self._cuda or cuda.open_cuda()
        start = time.perf_counter()
        try:
            self._opened = self._load_engine(self._engine)
        except TensorRtProblem as error:
            if self._engine.seconds or error.kind != "unavailable":
                raise
            why = f"the engine in the cache could not be loaded and was built anew: {error}"
            self._engine = self._engines.again(self._path, shapes, why)
            start = time.perf_counter()
            self._opened = self._load_engine(self._engine)
        self.load_seconds = time.perf_counter() - start
        self._shapes = shapes
        self.first_seconds = 0.0

    def _load_engine(self, built: tensorrt_engines.Engine) -> Opened:
        return Opened(self._trt, built.plan, self._product, built.kernels)

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
        buffers = Buffers(self._ready(), self._cuda, feed)
        buffers.address()
        buffers.upload()
        self._ready().start(self._cuda.stream)
        buffers.download()
        self._cuda.synchronize()
        if not self.first_seconds:
            self.first_seconds = time.perf_counter() - start
            self._keep_kernels()
        found = buffers.answers()
        return [found[port["name"]] for port in self.outputs]

    def _spread(self, feeds: list[Feed]) -> None:
        """Each feed in buffers of its own on the card, at least two sets, each with its graph if there can be one."""
        if self._loaded is feeds and self._sets:
            return
        self._sets, self._loaded = [], feeds
        used = 0
        for index in range(max(2, len(feeds))):
            buffers = Buffers(self._ready(), self._cuda, feeds[index % len(feeds)])
            used += buffers.size
            buffers.upload()
            buffers.address()
            start = time.perf_counter()
            self._ready().start(self._cuda.stream)  # the first inference loads what it needs: no graph can hold that
            self._cuda.synchronize()
            self.first_seconds = self.first_seconds or time.perf_counter() - start
            self._sets.append((buffers, self._capture()))
            if len(self._sets) >= 2 and used > _SETS:
                self._note(f"{len(self._sets)} of {len(feeds)} inputs were used: more would not fit beside the model")
                break
        if any(replay is None for _, replay in self._sets):
            self._sets = [(buffers, None) for buffers, _ in self._sets]  # one protocol for all
        self._keep_kernels()

    def _capture(self) -> Any:
        """A graph of one inference, or None where the engine takes none."""
        if not self.conditions["cuda_graph"]:
            return None
        opened = self._ready()
        try:
            if not opened.may_be_captured(self._cuda.stream):
                raise TensorRtProblem("unsupported", f"{self._provider} says that this inference cannot be captured")
            return self._cuda.capture(lambda: opened.start(self._cuda.stream))
        except (TensorRtProblem, cuda.CudaProblem) as error:
            if getattr(error, "kind", "") == "oom":
                raise
            self.conditions["cuda_graph"] = False
            self._note(f"no CUDA graph could be captured, inferences are asked for one by one: {error}")
            return None

    def _start(self, buffers: Buffers, replay: Any) -> None:
        if replay is not None:
            replay()
        else:
            buffers.address()
            self._ready().start(self._cuda.stream)

    def _clock(self) -> tensorrt_timing.Timer:
        if self._timer is None:
            self._timer = tensorrt_timing.Timer(self._cuda)
        return self._timer

    def _with_copies(self, turn: int) -> float:
        """Seconds from the inputs here to the outputs here."""
        buffers, replay = self._sets[turn % len(self._sets)]
        start = time.perf_counter()
        buffers.upload()
        self._start(buffers, replay)
        buffers.download()
        self._cuda.synchronize()
        return time.perf_counter() - start

    def _keep_kernels(self) -> None:
        try:
            self._ready().keep_kernels()
        except OSError as error:
            self._note(f"what {self._provider} compiled was not kept: {error.strerror}")

    def _note(self, text: str) -> None:
        if text not in self._notes:
            self._notes.append(text)


def prepare(path: str, options: dict[str, Any], count: int, feeds: list[Feed]) -> None:
    """Build `count` times with every kernel timed anew, and keep the fastest: builders choose by noisy times.

    Once is enough: what was measured must be what is exported, however often it is measured. A build that fails, or
    whose engine does not run, is told with the others; only where all of them fail there is none. Raises one of
    `ERRORS`, of the last build that failed.
    """
    engines = _open_engines(options)
    shapes = tensorrt_engines.ranges(options["shapes"])
    there = engines.known(path, shapes)
    if there is not None and len(there.builds) + len(there.failed) >= count:
        return
    tried: dict[int, tensorrt_engines.Engine] = {}
    failed: dict[int, Exception] = {}
    for number in range(count):
        try:
            built = engines.build(path, shapes, fresh=True)
        except BuildProblem as error:
            failed[number] = error
            if not tried and error.kind not in _BY_CHANCE:
                break  # it is the model, or the machine: the next build would end likewise
            continue
        built.kernels = Path(options["scratch"]) / f"build-{number}.kernels"  # what RTX compiles, for its next opening
        tried[number] = built

    @contextlib.contextmanager
    def opening(built: tensorrt_engines.Engine) -> Iterator[Callable[[int], list[float]]]:
        session = Session(path, options, built)
        try:
            yield partial(session.sample, feeds)
        finally:
            session.close()

    found = tensorrt_timing.compare([partial(opening, built) for built in tried.values()], ERRORS)
    for number, latency in zip(list(tried), found):  # noqa: B905  (Python 3.9; equally long)
        built = tried[number]
        if built.kernels is not None:
            built.kernels.unlink(missing_ok=True)
        if isinstance(latency, Exception):
            failed[number] = latency
            del tried[number]
        else:
            built.builds[0]["latency"] = latency
    if not tried:
        raise failed[max(failed)]
    told = [f"build {number + 1} of {count} failed, the others were compared: {failed[number]}" for number in failed]
    engines.choose(path, shapes, sorted(tried.values(), key=lambda built: float(built.builds[0]["latency"])), told)


def kernels(path: str, options: dict[str, Any], feed: Feed, runs: int, scratch: str) -> list[dict[str, Any]]:
    """Every layer of the engine, with the type it really computes in; see `tensorrt_layers.kernel`."""
    del scratch
    shapes = [{name: list(value.shape) for name, value in feed.items()}]
    session = Session(path, {**options, "shapes": shapes})
    try:
        return session.layers(feed, runs)
    finally:
        session.close()


def classify(error: Exception, stage: str) -> str:
    """The kind of Failure that this exception is."""
    del stage
    return "oom" if isinstance(error, MemoryError) else str(getattr(error, "kind", "bad_model"))


def explain(error: Exception) -> str:
    """One line for a person."""
    return " ".join(str(error).split())[:600]


def _spell(options: dict[str, Any]) -> str:
    """Builder options as text: they are part of what was measured."""
    set_ones = {key: value for key, value in options.items() if value is not None}
    return ", ".join(f"{key} {value}" for key, value in sorted(set_ones.items())) or "default builder options"
