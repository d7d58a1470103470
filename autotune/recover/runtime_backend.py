"""Device side of the runtimes `torch-cuda` and `torch-cpu`: an ONNX file as torch computes it, eager or compiled.

Travels inside the agent with the interpreter of `autotune.recover.graph`. For each shape of the inputs the graph is
gone through once on the CPU, without its numbers, and written down as a flat list of torch's own operators
(`flat_program`), which is what is timed: what depends on shapes only is a constant in it. Needs Python 3.11, torch and
onnx.
"""

from __future__ import annotations

import sys
from typing import Any

import torch

from autotune.errors import DataError
from autotune.recover.card_session import CardSession
from autotune.recover.host_session import Feed, HostSession, Unfit
from hwprofiles.agent import card_facts, cuda, cuda_events

_cuda: Any = torch.cuda  # partly without types
_cudnn: Any = torch.backends.cudnn


class Unready(Exception):
    """This torch cannot use a card."""


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
    named = [{"node": name, "op": op, "seconds": 0.0} for name, op in session.nodes()]
    told = {"provider": options["device"], "inputs": [], "outputs": []}
    return [{**kernel, **told} for kernel in [*found.values(), *named]]


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
