"""Device side of ONNX Runtime on an NVIDIA card, with inputs and outputs that stay on the card; Python 3.9.

What differs from the plain runtime with the provider CUDAExecutionProvider: copies to the card and back are no part of
the time (they are in `end_to_end`), the card's own events tell the time, and a CUDA graph is replayed where one can be
captured. Source: ONNX Runtime, "CUDA Execution Provider" (onnxruntime.ai/docs/execution-providers).
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import importlib.util
import io
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy
import onnxruntime

from hwprofiles.agent import card_block, card_facts, cuda, cuda_events
from hwprofiles.runtimes import onnxruntime_backend as plain

Feed = dict[str, Any]

PROVIDER = "CUDAExecutionProvider"
_PLACE = "cuda"
_CALM = "-1"  # `gpu_graph_id` of an inference that neither captures nor replays
_MOST_EVENTS = 4096
_SMALL = 1e-2  # of the largest number of an output: what a replay may differ from a plain run


class Unready(plain.WrongProvider):
    """The provider cannot run here."""


class Unfit(Exception):
    """This runtime cannot run such a model."""


ERRORS: tuple[type[Exception], ...] = (*plain.ERRORS, Unready, Unfit, cuda.CudaProblem)
kernels = plain.kernels


def describe(options: dict[str, Any]) -> dict[str, Any]:
    """As the plain runtime does, and the card. Raises `Unready` or `CudaProblem` where there is none to be used."""
    there = options["provider"] in onnxruntime.get_available_providers()
    lacks = f"onnxruntime {onnxruntime.__version__} there has no {options['provider']}"
    try:
        seen = cuda.probe()
    except cuda.CudaProblem as error:
        if there:
            raise
        raise cuda.CudaProblem(error.kind, f"{error}; and {lacks}", False) from error
    if not there:
        raise Unready(lacks)
    told = plain.describe({**options, "provider": plain._CPU})
    load_libraries()
    return {
        **told,
        **card_facts.told(seen),
        "runtime": "onnxruntime-cuda",
        "timer": "host" if cuda_events.open_clock() is None else "cuda-events",
        "cuda_graph": options["cuda_graph"],
        "transfers": False,
    }


def check(options: dict[str, Any]) -> None:
    """Raise `Unready`, saying which library is missing, unless the provider really runs a small model."""
    try:
        plain.check(options)
    except plain.WrongProvider as error:
        missing = _missing_library()
        raise Unready(_cannot_load(missing) if missing else str(error)) from error


def load_libraries() -> None:
    """CUDA's and cuDNN's libraries, from wherever they are; torch brings them too, and is imported only for that."""
    if not hasattr(onnxruntime, "preload_dlls"):
        return
    with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(Exception):
        onnxruntime.preload_dlls()  # those beside it
        for folder in _library_folders():
            onnxruntime.preload_dlls(directory=folder)
        if _missing_library() and importlib.util.find_spec("torch") is not None:
            importlib.import_module("torch")
            onnxruntime.preload_dlls()


def _library_folders() -> list[str]:
    """Where NVIDIA's packages put libraries, also in an environment that this one sees; CUDA's before cuDNN's."""
    found = importlib.util.find_spec("nvidia")
    places = [] if found is None else list(found.submodule_search_locations or ())
    return [str(folder) for place in places for folder in sorted(Path(place).glob("cu*/lib"))]


def _missing_library() -> str:
    """What the loader says of the provider's library; "" if it can be loaded."""
    library = Path(onnxruntime.__file__).parent / "capi" / "libonnxruntime_providers_cuda.so"
    try:
        ctypes.CDLL(str(library))
    except OSError as error:
        text = str(error)
        return "" if "undefined symbol" in text else text  # symbols of onnxruntime's own come from its loader
    return ""


def _cannot_load(missing: str) -> str:
    return f"onnxruntime {onnxruntime.__version__} there has {PROVIDER} but cannot load it: {missing}"


class Session:
    """One opened model. `conditions` and `notes` say whether its graph was captured, and what runs on the CPU."""

    def __init__(self, path: str, options: dict[str, Any]) -> None:
        self.conditions: dict[str, Any] = {"cuda_graph": False, "transfers": False}
        self._notes: list[str] = []
        self._launching: list[str] = []  # what the last block says of asking
        self._path, self._options = path, options
        load_libraries()
        self._clock = cuda_events.open_clock() if _PLACE == "cuda" else None
        self._bound: list[_Bound] = []
        self._feeds: list[Feed] = []
        self._captured: list[_Bound] = []  # all that have a graph: ONNX Runtime replays onto their memory from then on
        self._first = 0.0
        self._wants_graph = bool(options["cuda_graph"])
        start = time.perf_counter()
        try:
            self._session = self._open(self._wants_graph)
        except ERRORS as error:
            if not self._wants_graph or isinstance(error, plain.WrongProvider) or not _about_graphs(error):
                raise
            self._give_up_graph(error)
        self.load_seconds = time.perf_counter() - start
        self.inputs = [plain._describe(port) for port in self._session.get_inputs()]
        self.outputs = [plain._describe(port) for port in self._session.get_outputs()]
        self._notes += fallbacks(self._session, options["provider"])

    @property
    def notes(self) -> list[str]:
        """What a person should know of this session."""
        return [*self._notes, *self._launching]

    def close(self) -> None:
        """Give back the stream and its events, after what was put on them."""
        self._bound, self._feeds, self._captured = [], [], []
        self._session = None
        clock, self._clock = self._clock, None
        if clock is not None:
            with contextlib.suppress(RuntimeError):
                clock.close()

    def run(self, feed: Feed) -> list[Any]:
        """One inference with its copies; the outputs in the order of `outputs`."""
        return list(self._guarded(self._session.run, None, feed, self._settings(_CALM)))

    def time_block(self, feeds: list[Feed], count: int) -> dict[str, Any]:
        """Seconds of `count` inferences; see `card_block.time_block`.

        The next inference is asked for while one runs (as trtexec does), so that the card does not wait for us unless
        asking takes longer. A replay that ONNX Runtime waits for cannot be asked for ahead; `notes` tell it.
        """
        bound = self._bind(feeds)
        measure = self._on_card if self._clock is not None else self._on_host
        told = card_block.time_block(
            count,
            _MOST_EVENTS // 2,
            lambda part: self._guarded(measure, bound, part),
            lambda some: self._guarded(self._asking, bound, some),
            lambda some: self._guarded(self._end_to_end, bound, feeds, some),
        )
        self._launching = card_block.launch_notes(told, may_wait=self._wants_graph)
        return {**told, "load": self.load_seconds, "first": self._first}

    def accelerator_memory(self, feed: Feed) -> dict[str, Any]:
        """ONNX Runtime tells none of them; the process's memory on the card is read by the agent."""
        return {"plan": None, "weights": None, "activations": None}

    def _open(self, graph: bool) -> Any:
        settings = onnxruntime.SessionOptions()
        settings.intra_op_num_threads = self._options["threads"]
        settings.inter_op_num_threads = 1
        settings.log_severity_level = 3
        with contextlib.suppress(Exception):  # tells which node runs where; from ONNX Runtime 1.24 on
            settings.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
        provider = self._options["provider"]
        wanted: dict[str, str] = {}
        if provider == PROVIDER:
            wanted = {"device_id": "0", "enable_cuda_graph": "1" if graph else "0"}
            wanted["use_tf32"] = "1" if self._options["tf32"] else "0"
            if self._clock is not None:
                wanted["user_compute_stream"] = str(self._clock.stream)
        session = onnxruntime.InferenceSession(self._path, settings, providers=[(provider, wanted)], enable_fallback=0)
        session.disable_fallback()
        used = session.get_providers()[0]
        if used != provider:
            missing = _missing_library()
            said = f"onnxruntime opened the model on {used}, not on {provider}"
            raise Unready(_cannot_load(missing) if missing else said)
        return session

    def _give_up_graph(self, error: object) -> None:
        """Go on without a CUDA graph, and say why."""
        self._wants_graph = False
        self.conditions["cuda_graph"] = False
        self._notes.append(f"no CUDA graph: {' '.join(str(error).split())[:200]}")
        self._session = None
        self._bound, self._feeds, self._captured = [], [], []  # the graphs went with the session
        self._session = self._open(graph=False)

    def _bind(self, feeds: list[Feed]) -> list[_Bound]:
        """Inputs and outputs of each feed on the card. The feeds of the last block are kept: they come again."""
        if self._feeds is not feeds:
            self._bound, self._feeds = [], []
            free = list(self._captured)
            self._bound = [self._place(feed, free) for feed in feeds]
            if self._wants_graph:
                problem = self._capture()
                if problem:
                    self._give_up_graph(problem)
                    self._bound = [self._place(feed, []) for feed in feeds]
            self._feeds = feeds
        return self._bound

    def _place(self, feed: Feed, free: list[_Bound]) -> _Bound:
        """A feed in memory of its own, after a plain inference. What is in `free` and has the same shapes is used
        again, with its graph. Raises `Unfit` for a model with an output that is no tensor."""
        for made in free:
            if made.takes(feed):
                free.remove(made)
                made.give(feed)
                self._guarded(self._session.run_with_iobinding, made.binding, self._settings(_CALM))
                return made
        start = time.perf_counter()
        made = _Bound(self._session, feed, [port["name"] for port in self.outputs], self._settings(_CALM))
        self._guarded(made.first)
        self._first = self._first or time.perf_counter() - start
        return made

    def _capture(self) -> str:
        """Capture a graph of each feed and hold its answers against those of a plain run; what is wrong, or "".

        ONNX Runtime keeps one graph for each id as long as the session lives, with the addresses that it was captured
        with: no id is given twice, and nothing that has a graph is let go of.
        """
        for bound in self._bound:
            answers = [value.numpy().copy() for value in bound.outputs]
            try:
                if bound.graph == _CALM:
                    self._captured.append(bound)
                    bound.graph = str(len(self._captured))
                    for _ in range(2):  # one to warm up, one that is captured
                        self._guarded(self._session.run_with_iobinding, bound.binding, self._settings(bound.graph))
                for value, answer in zip(bound.outputs, answers):  # noqa: B905  (Python 3.9; equally long)
                    value.update_inplace(numpy.where(answer == 0, 1, 0).astype(answer.dtype))  # other than the answer
                self._guarded(self._session.run_with_iobinding, bound.binding, self._settings(bound.graph))
            except ERRORS as error:
                return str(error)
            for ours, theirs in zip(answers, (value.numpy() for value in bound.outputs)):  # noqa: B905
                if not _alike(ours, theirs):
                    return "its replays gave other outputs than a plain run"
        self.conditions["cuda_graph"] = True
        return ""

    def _on_card(self, bound: list[_Bound], count: int) -> list[float]:
        """Seconds on the card of each inference, one of them asked for ahead."""
        clock, session = self._clock, self._session
        assert clock is not None
        clock.reserve(2 * count)
        settings = [self._settings(one.graph, wait=False) for one in bound]
        for index in range(count):
            one, setting = bound[index % len(bound)].binding, settings[index % len(bound)]
            clock.stamp(2 * index)
            session.run_with_iobinding(one, setting)
            clock.stamp(2 * index + 1)
            if index:
                self._guarded(clock.wait, 2 * index - 1)
        self._guarded(clock.wait, 2 * count - 1)
        return clock.seconds([(2 * index, 2 * index + 1) for index in range(count)])

    def _asking(self, bound: list[_Bound], count: int) -> list[float]:
        """Seconds of asking; none by the host's clock, which cannot tell asking from computing."""
        clock, session = self._clock, self._session
        if clock is None:
            return []
        clock.reserve(1)
        calls = [(one.binding, self._settings(one.graph, wait=False)) for one in bound]

        def settle() -> None:
            clock.stamp(0)
            self._guarded(clock.wait, 0)

        return card_block.asking(lambda index: session.run_with_iobinding(*calls[index % len(calls)]), settle, count)

    def _on_host(self, bound: list[_Bound], count: int) -> list[float]:
        """The same by the host's clock, each inference waited for."""
        took = []
        for index in range(count):
            one = bound[index % len(bound)]
            start = time.perf_counter()
            self._session.run_with_iobinding(one.binding, self._settings(one.graph))
            took.append(time.perf_counter() - start)
        return took

    def _end_to_end(self, bound: list[_Bound], feeds: list[Feed], count: int) -> list[float]:
        took = []
        for index in range(count):
            one, feed = bound[index % len(bound)], feeds[index % len(bound)]
            start = time.perf_counter()
            one.give(feed)
            self._session.run_with_iobinding(one.binding, self._settings(one.graph))
            for value in one.outputs:
                value.numpy()
            took.append(time.perf_counter() - start)
        return took

    def _settings(self, graph: str, wait: bool = True) -> Any:
        settings = onnxruntime.RunOptions()
        settings.log_severity_level = 3
        if self._wants_graph:
            settings.add_run_config_entry("gpu_graph_id", graph)
        if not wait:
            settings.add_run_config_entry("disable_synchronize_execution_providers", "1")
        return settings

    def _guarded(self, call: Any, *arguments: Any) -> Any:
        try:
            return call(*arguments)
        except ERRORS as error:
            cuda_events.refuse_broken(error)
            raise


class _Bound:
    """The inputs and outputs of one feed on the card, at addresses that do not change. `graph`: id of its capture."""

    def __init__(self, session: Any, feed: Feed, outputs: list[str], settings: Any) -> None:
        self.graph = _CALM
        self._names = outputs
        self._like = _like(feed)
        self._session, self._settings = session, settings
        self.binding = session.io_binding()
        self._inputs = {}
        for name, value in feed.items():
            self._inputs[name] = onnxruntime.OrtValue.ortvalue_from_numpy(numpy.ascontiguousarray(value), _PLACE, 0)
            self.binding.bind_ortvalue_input(name, self._inputs[name])
        self.outputs: list[Any] = []

    def first(self) -> None:
        """One inference that finds out the outputs' shapes; they are written to the same memory from then on."""
        for name in self._names:
            self.binding.bind_output(name, _PLACE, 0)
        self._session.run_with_iobinding(self.binding, self._settings)
        self.outputs = list(self.binding.get_outputs())
        if not all(value.is_tensor() for value in self.outputs):
            raise Unfit("an output is no tensor, which cannot stay on a card; use the runtime 'onnxruntime'")
        self.binding.clear_binding_outputs()
        for name, value in zip(self._names, self.outputs):  # noqa: B905  (Python 3.9)
            self.binding.bind_ortvalue_output(name, value)

    def takes(self, feed: Feed) -> bool:
        """Whether a feed has the names, shapes and types of this one."""
        return self._like == _like(feed)

    def give(self, feed: Feed) -> None:
        """Copy a feed's arrays to the card."""
        for name, value in feed.items():
            self._inputs[name].update_inplace(numpy.ascontiguousarray(value))


def fallbacks(session: Any, provider: str) -> list[str]:
    """Nodes that run elsewhere than on `provider`, by provider and operator; none where ONNX Runtime does not tell."""
    silent: tuple[type[Exception], ...] = (AttributeError, *plain.ERRORS)  # before ONNX Runtime 1.24
    try:
        assigned = session.get_provider_graph_assignment_info()
    except silent:
        return []
    found: dict[str, Counter[str]] = {}
    for part in assigned:
        if part.ep_name != provider:
            found.setdefault(part.ep_name, Counter()).update(node.op_type for node in part.get_nodes())
    return [
        f"{sum(ops.values())} node(s) on {name}: " + ", ".join(f"{op} x{count}" for op, count in sorted(ops.items()))
        for name, ops in found.items()
    ]


def classify(error: Exception, stage: str) -> str:
    """The kind of Failure that this exception is."""
    if isinstance(error, cuda.CudaProblem):
        return error.kind
    if isinstance(error, Unfit):
        return "unsupported"
    if cuda_events.is_full(str(error)):
        return "oom"
    return plain.classify(error, stage)


def explain(error: Exception) -> str:
    """One line for a person."""
    if cuda_events.is_full(str(error)):
        return f"the card's memory is used up: {' '.join(str(error).split())[:400]}"
    return plain.explain(error)


def _like(feed: Feed) -> list[tuple[Any, ...]]:
    return sorted((name, value.shape, str(value.dtype)) for name, value in feed.items())


def _about_graphs(error: object) -> bool:
    text = str(error).lower()
    return "graph capture" in text or "cuda graph" in text or "cudagraph" in text


def _alike(ours: Any, theirs: Any) -> bool:
    if ours.dtype.kind not in "fc":
        return bool(numpy.array_equal(ours, theirs))
    room = _SMALL * float(numpy.max(numpy.abs(ours), initial=0.0, where=numpy.isfinite(ours)))
    return bool(numpy.allclose(ours, theirs, rtol=_SMALL, atol=room, equal_nan=True))
