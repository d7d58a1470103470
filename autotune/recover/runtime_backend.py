"""Device side of the runtimes `torch-cuda` and `torch-cpu`: an ONNX file as torch computes it, eager or compiled.

Travels inside the agent with the interpreter of `autotune.recover.graph`. For each shape of the inputs the graph is
gone through once on the CPU, without its numbers, and written down as a flat list of torch's own operators (`make_fx`),
which is what is timed: what depends on shapes only is a constant in it. Needs Python 3.11, torch and onnx.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import onnx
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx

from autotune.errors import DataError
from autotune.recover.graph import OnnxModule
from hwprofiles.agent import card_block, card_facts, cuda, cuda_events

Feed = dict[str, Any]
Tensor = torch.Tensor

_cuda: Any = torch.cuda  # partly without types
_cudnn: Any = torch.backends.cudnn
_PROGRAMS = 32  # shapes whose programs are kept
_SHAPES = frozenset({"Shape", "Size"})  # operators whose result does not depend on the numbers that they read
_MOST_EVENTS = 2048
_MOST_COMPILED = 1 << 14  # programs that one process may compile


class Unready(Exception):
    """This torch cannot use a card."""


class Unfit(Exception):
    """torch, or this way of running it, cannot compute the model."""


ERRORS: tuple[type[Exception], ...] = (
    cuda.CudaProblem,
    Unready,
    Unfit,
    DataError,
    RuntimeError,
    ValueError,
    TypeError,
    MemoryError,
    KeyError,
    AssertionError,  # torch's compiler
)


def describe(options: dict[str, Any]) -> dict[str, Any]:
    """Which torch, and for `torch-cuda` which card. Raises `CudaProblem` and `Unready`."""
    torch.set_num_threads(options["threads"])
    told: dict[str, Any] = {
        "runtime": options["runtime"],
        "version": torch.__version__,
        "providers": [options["device"]],
        "build": f"{options['mode']}, CUDA {torch.version.cuda or 'none'}, cuDNN {_cudnn.version() or 'none'}",
        "arena": "caching" if options["device"] == "cuda" else "default",
        "memory_pattern": None,
        "cuda_graph": options["cuda_graph"] if options["device"] == "cuda" else None,
        "transfers": False if options["device"] == "cuda" else None,
    }
    if options["device"] != "cuda":
        return told
    built = "it was built without CUDA" if torch.version.cuda is None else f"it needs CUDA {torch.version.cuda}"
    unfit = f"torch {torch.__version__} in {sys.executable} cannot use the card: {built}"
    try:
        seen = cuda.probe()
    except cuda.CudaProblem as error:
        if torch.version.cuda is None:
            raise cuda.CudaProblem(error.kind, f"{error}; and {unfit}", False) from error
        raise
    if not _cuda.is_available():
        raise Unready(unfit)
    return {**told, **card_facts.told(seen), "timer": "cuda-events"}


def Session(path: str, options: dict[str, Any]) -> HostSession:
    """A session on the card or, for `torch-cpu`, on the CPU."""
    return CardSession(path, options) if options["device"] == "cuda" else HostSession(path, options)


class HostSession:
    """One opened model. `notes` say what could not be had as asked for."""

    def __init__(self, path: str, options: dict[str, Any]) -> None:
        self._notes: list[str] = []
        self._launching: list[str] = []  # what the last block says of asking
        self._options = options
        self._device = torch.device(options["device"])
        self._written: dict[tuple[Any, ...], Callable[..., Any]] = {}
        start = time.perf_counter()
        model = _read(path)
        try:
            self._module = OnnxModule(model, trains=False)
        except DataError as error:
            raise Unfit(_reworded(error)) from error
        self._there = {_place_of(value): value.to(self._device) for value in self._module.buffers() if value.numel()}
        self.load_seconds = time.perf_counter() - start
        kinds = {initializer.name for initializer in model.graph.initializer}
        self.inputs = [_port(value) for value in model.graph.input if value.name not in kinds]
        self.outputs = [_port(value) for value in model.graph.output]

    @property
    def notes(self) -> list[str]:
        """What a person should know of this session."""
        return [*self._notes, *self._launching]

    def run(self, feed: Feed) -> list[Any]:
        """One inference with its copies, if any; the outputs in the order of `outputs`."""
        values = self._place(feed)
        return [_array(value) for value in self._guarded(self._written_for(feed), *values)]

    def _place(self, feed: Feed) -> list[Tensor]:
        missing = [name for name in self._module.inputs if name not in feed]
        if missing or len(feed) != len(self._module.inputs):
            raise Unfit(f"the model takes {', '.join(self._module.inputs)}; it was given {', '.join(feed)}")
        return [torch.from_numpy(np.array(feed[name])).to(self._device) for name in self._module.inputs]

    def _written_for(self, feed: Feed) -> Callable[..., Any]:
        """The program for a feed's shapes, written down on first use. Raises `Unfit`."""
        key = tuple((name, feed[name].shape, str(feed[name].dtype)) for name in sorted(feed))
        if key not in self._written:
            try:
                program = write_down(self._module, {name: torch.from_numpy(np.array(feed[name])) for name in feed})
            except DataError as error:
                raise Unfit(_reworded(error)) from error
            move(program, self._device, self._there)
            call: Callable[..., Any] = program
            if self._options["mode"] == "compiled":
                _let_compile()
                call = torch.compile(program, fullgraph=True, dynamic=False)
            while len(self._written) >= _PROGRAMS:
                del self._written[next(iter(self._written))]
            self._written[key] = call
        return self._written[key]

    def _guarded(self, call: Callable[..., Any], *arguments: Any) -> Any:
        try:
            with torch.no_grad():
                return call(*arguments)
        except RuntimeError as error:
            cuda_events.refuse_broken(error)
            raise


class CardSession(HostSession):
    """A model on a card, timed by the card's events; `conditions` say whether a CUDA graph is replayed."""

    def __init__(self, path: str, options: dict[str, Any]) -> None:
        super().__init__(path, options)
        self.conditions: dict[str, Any] = {"cuda_graph": False, "transfers": False}
        self._feeds: list[Feed] = []
        self._bound: list[_Bound] = []
        self._first = 0.0

    def time_block(self, feeds: list[Feed], count: int) -> dict[str, Any]:
        """Seconds of `count` inferences; see `card_block.time_block`.

        The next inference is asked for while one runs (as trtexec does), so that the card does not wait for us unless
        asking takes longer, as it does for small models without a CUDA graph; `notes` tell it.
        """
        bound = self._bind(feeds)
        measure = self._on_card if self._device.type == "cuda" else self._on_host
        told = card_block.time_block(
            count,
            _MOST_EVENTS,
            lambda part: self._guarded(measure, bound, part),
            lambda some: self._guarded(self._asking, bound, some),
            lambda some: [self._with_copies(feeds[index % len(feeds)]) for index in range(some)],
        )
        self._launching = card_block.launch_notes(told)
        return {**told, "load": self.load_seconds, "first": self._first}

    def accelerator_memory(self, feed: Feed) -> dict[str, Any]:
        """Weights, and what torch's allocator took at most for the rest of one inference, bytes."""
        call, values = self._written_for(feed), self._place(feed)
        weights = sum(tensor.nbytes for tensor in self._module.buffers())
        if self._device.type != "cuda":
            return {"plan": None, "weights": weights, "activations": None}
        _cuda.synchronize()
        _cuda.reset_peak_memory_stats()
        before = _cuda.memory_allocated()
        self._guarded(call, *values)
        _cuda.synchronize()
        taken = {"activations": _cuda.max_memory_allocated() - before, "reserved": _cuda.max_memory_reserved()}
        return {"plan": None, "weights": weights, **taken}

    def _bind(self, feeds: list[Feed]) -> list[_Bound]:
        """Each feed on the card, and how it is run. The feeds of the last block are kept: they come again."""
        if self._feeds is not feeds:
            self._bound, self._feeds = [], []
            for feed in feeds:
                start = time.perf_counter()
                one = _Bound(self._written_for(feed), self._place(feed))
                self._guarded(one.run)
                self._synchronize()
                self._first = self._first or time.perf_counter() - start
                self._bound.append(one)
            if self._options["cuda_graph"] and self._device.type == "cuda":
                self._capture()
            self._feeds = feeds
        return self._bound

    def _capture(self) -> None:
        try:
            for one in self._bound:
                self._guarded(one.capture)
        except RuntimeError as error:
            if cuda_events.is_full(str(error)):
                raise
            _cuda.synchronize()
            self._notes.append(f"no CUDA graph: {' '.join(str(error).split())[:200]}")
            self._options = {**self._options, "cuda_graph": False}
            for one in self._bound:
                one.replay = None
            return
        self.conditions["cuda_graph"] = True

    def _on_card(self, bound: list[_Bound], count: int) -> list[float]:
        """Seconds on the card of each inference, one of them asked for ahead."""
        events = [_cuda.Event(enable_timing=True) for _ in range(2 * count)]
        for event in events:
            event.record()  # makes it: only then is it free of cost
        _cuda.synchronize()
        for index in range(count):
            events[2 * index].record()
            bound[index % len(bound)].run()
            events[2 * index + 1].record()
            if index:
                events[2 * index - 1].synchronize()
        _cuda.synchronize()
        return [_between(events[2 * i], events[2 * i + 1]) for i in range(count)]

    def _asking(self, bound: list[_Bound], count: int) -> list[float]:
        """Seconds of asking; none on the CPU, where that is computing."""
        if self._device.type != "cuda":
            return []
        return card_block.asking(lambda index: bound[index % len(bound)].run(), _cuda.synchronize, count)

    def _on_host(self, bound: list[_Bound], count: int) -> list[float]:
        took = []
        for index in range(count):
            start = time.perf_counter()
            bound[index % len(bound)].run()
            took.append(time.perf_counter() - start)
        return took

    def _with_copies(self, feed: Feed) -> float:
        start = time.perf_counter()
        self.run(feed)
        return time.perf_counter() - start

    def _synchronize(self) -> None:
        if self._device.type == "cuda":
            _cuda.synchronize()


class _Bound:
    """A program and the inputs that it gets; `replay` in its place once a CUDA graph was captured."""

    def __init__(self, call: Callable[..., Any], values: list[Tensor]) -> None:
        self.replay: Callable[[], None] | None = None
        self._call, self._values = call, values
        self._kept: Any = None

    def run(self) -> None:
        if self.replay is not None:
            self.replay()
        else:
            self._call(*self._values)

    def capture(self) -> None:
        """Warm up on a side stream, as torch asks for, and capture (pytorch.org/docs, "CUDA Graphs")."""
        aside = _cuda.Stream()
        aside.wait_stream(_cuda.current_stream())
        with _cuda.stream(aside):
            for _ in range(3):
                self._call(*self._values)
        _cuda.current_stream().wait_stream(aside)
        graph = _cuda.CUDAGraph()
        with _cuda.graph(graph):
            self._kept = self._call(*self._values)
        self.replay = graph.replay


def _let_compile() -> None:
    """Every model and shape is a program of its own, which torch counts as compiling one function again and again."""
    limits: Any = torch._dynamo.config
    limits.recompile_limit = max(limits.recompile_limit, _MOST_COMPILED)
    limits.accumulated_recompile_limit = max(limits.accumulated_recompile_limit, _MOST_COMPILED)


def write_down(module: OnnxModule, feed: Mapping[str, Tensor]) -> torch.fx.GraphModule:
    """The model as a flat list of torch's operators for inputs of these shapes and types, in the order of its inputs.

    Steps that read only constants, and shapes of tensors, are carried out now; of all others only shapes and types are
    worked out, so that it takes no time and no memory of this machine however large the model. Raises `DataError`
    where the course of the computation depends on the numbers in the inputs.
    """
    shapes_only = FakeTensorMode(allow_non_fake_inputs=True)
    given = {name: shapes_only.from_tensor(value) for name, value in feed.items()}
    program_of, names = module._program, module.inputs
    still = {name: module.constant(name) for name in module._slots}
    values = {**still, **given}
    flows = []
    with torch.no_grad():
        for index, step in enumerate(program_of.steps):
            made = {name: value for name, value in zip(step.node.outputs, step.run(values), strict=False) if name}
            values.update(made)
            if step.needs <= still.keys() or step.node.op in _SHAPES:
                still.update(made)
            else:
                flows.append((step, program_of.free.get(index, [])))
            for name in program_of.free.get(index, ()):  # or all that lies between would be there at once
                values.pop(name, None)
    values.clear()

    def compute(*inputs: Tensor) -> tuple[Tensor, ...]:
        seen = {**still, **dict(zip(names, inputs, strict=True))}
        for step, last in flows:
            for name, result in zip(step.node.outputs, step.run(seen), strict=False):
                if name:
                    seen[name] = result
            for name in last:
                seen.pop(name, None)
        return tuple(seen[name] for name in module.outputs)

    with torch.no_grad():
        program = make_fx(compute, tracing_mode="real")(*(given[name] for name in names))
    program.graph.eliminate_dead_code()
    program.recompile()
    return program


def move(program: torch.fx.GraphModule, device: torch.device, there: Mapping[Any, Tensor]) -> None:
    """Let a program that was written down on the CPU be on `device`. `there`: copies of the model's constants on it."""
    if device.type == "cpu":
        return
    for node in program.graph.nodes:
        if node.op == "get_attr":
            kept = getattr(program, node.target)
            if isinstance(kept, Tensor) and kept.device != device:
                delattr(program, node.target)
                copied = there.get(_place_of(kept))
                program.register_buffer(node.target, kept.detach().to(device) if copied is None else copied)
        elif "device" in node.kwargs:
            node.kwargs = {**node.kwargs, "device": device}
    program.recompile()


def kernels(path: str, options: dict[str, Any], feed: Feed, runs: int, scratch: str) -> list[dict[str, Any]]:
    """torch's operators (and the card's kernels) by name, in the order of their first call, with seconds of one run;
    then the model's nodes, for layers are known by them."""
    session = Session(path, options)
    session.run(feed)
    wanted = [torch.profiler.ProfilerActivity.CPU]
    if options["device"] == "cuda":
        wanted.append(torch.profiler.ProfilerActivity.CUDA)
    with torch.profiler.profile(activities=wanted) as profile:
        for _ in range(runs):
            session.run(feed)
    found: dict[str, dict[str, Any]] = {}
    for event in profile.events():
        device = getattr(event, "self_device_time_total", 0.0)
        spent = device if options["device"] == "cuda" else event.self_cpu_time_total
        if spent <= 0:
            continue
        kernel = found.setdefault(
            event.name, {"node": event.name, "op": event.name.removeprefix("aten::"), "seconds": 0.0}
        )
        kernel["seconds"] += spent / 1e6 / runs
    named = [{"node": name, "op": op, "seconds": 0.0} for name, op in _nodes(session)]
    told = {"provider": options["device"], "inputs": [], "outputs": []}
    return [{**kernel, **told} for kernel in [*found.values(), *named]]


def _nodes(session: HostSession) -> list[tuple[str, str]]:
    """(name, operator) of the model's nodes that are computed in each inference, in the types that the file says.

    Their time stands under the names of torch's own operators.
    """
    constant = set(session._module._slots)
    found = []
    for step in session._module._program.steps:
        if step.needs <= constant:
            constant.update(step.node.outputs)
        else:
            found.append((step.node.name, step.node.op))
    return found


def classify(error: Exception, stage: str) -> str:
    """The kind of Failure that this exception is."""
    if isinstance(error, cuda.CudaProblem):
        return error.kind
    if isinstance(error, Unready):
        return "unavailable"
    if isinstance(error, MemoryError) or cuda_events.is_full(str(error)):
        return "oom"
    return "unsupported" if isinstance(error, (Unfit, DataError)) else "bad_model"


def explain(error: Exception) -> str:
    """One line for a person."""
    text = " ".join(str(error).split()) or type(error).__name__
    return f"the memory is used up: {text[:400]}" if classify(error, "") == "oom" else text[:600]


def _between(start: Any, end: Any) -> float:
    """Seconds between two events; less than a step of their clock is told as one step."""
    return max(float(start.elapsed_time(end)) / 1e3, cuda_events.RESOLUTION)


def _read(path: str) -> onnx.ModelProto:
    """Raises ValueError for what is no model."""
    try:
        model = onnx.load(path)
        if not model.graph.output:
            raise ValueError("it has no output")
    except Exception as error:  # protobuf's own errors have no public root
        raise ValueError(f"it cannot be read as an ONNX model: {' '.join(str(error).split())[:200]}") from error
    return model


def _place_of(tensor: Tensor) -> tuple[Any, ...]:
    """Tells a tensor that lives as long as the model from others."""
    return tensor.data_ptr(), tuple(tensor.shape), tensor.stride(), tensor.dtype


def _port(value: onnx.ValueInfoProto) -> dict[str, Any]:
    tensor = value.type.tensor_type
    shape = [d.dim_value if d.HasField("dim_value") else d.dim_param or "?" for d in tensor.shape.dim]
    kind = onnx.TensorProto.DataType.Name(tensor.elem_type).lower()
    return {"name": value.name, "type": f"tensor({kind})", "shape": shape}


def _array(value: Tensor) -> Any:
    return (value.float() if value.dtype == torch.bfloat16 else value).detach().cpu().numpy()


def _reworded(error: DataError) -> str:
    """The interpreter was written for training and says so."""
    text = str(error).removeprefix("recover: ")
    text = text.replace("aten._local_scalar_dense.default", "its course depends on the numbers in the inputs")
    listed = text.removeprefix("cannot train through ").removesuffix("; leave recovery out for this model")
    return f"torch cannot run {listed} here" if listed != text else text
