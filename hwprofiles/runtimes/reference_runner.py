#!/usr/bin/env python3
"""A runner for `--runner`, and the example of what one must do: `reference_runner.py REQUEST.json RESULT.json`.

It opens models with ONNX Runtime for Python, so its times should agree with those of the runtime `onnxruntime`; its use
is to show the contract (docs/runner.md) and to try out the way of a native runner without building one. It needs Python
3.9, numpy and onnxruntime, nothing of ours.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import time
from pathlib import Path
from typing import Any

import numpy
import onnxruntime

SCHEMA = 1


class Refused(Exception):
    """An answer that is an error: `kind` is bad_model, unsupported, oom, nonfinite or unavailable."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind


def main() -> None:
    request_file, result_file = Path(sys.argv[1]), Path(sys.argv[2])
    request = json.loads(request_file.read_text())
    try:
        if request["schema"] != SCHEMA:
            raise Refused("unsupported", f"this runner speaks schema {SCHEMA}")
        result = answer(request, request_file.parent)
    except Refused as error:
        result = {"error": {"kind": error.kind, "message": str(error)}}
    # Written under another name first: whoever finds the result finds all of it.
    part = result_file.with_suffix(".part")
    part.write_text(json.dumps({"schema": SCHEMA, "peak_bytes": peak_memory(), **result}))
    part.replace(result_file)


def answer(request: dict[str, Any], folder: Path) -> dict[str, Any]:
    """The result of one request. Raises Refused."""
    op = request["op"]
    if op == "describe" and "model" not in request:
        return {
            "runtime": "reference-runner",
            "version": onnxruntime.__version__,
            "providers": onnxruntime.get_available_providers(),
            "arena": "default",
        }
    began = time.perf_counter()
    session = open_model(request)
    load_seconds = time.perf_counter() - began
    if op == "describe":
        return {
            "load_seconds": load_seconds,
            "inputs": [describe_port(port) for port in session.get_inputs()],
            "outputs": [describe_port(port) for port in session.get_outputs()],
        }
    feeds = [
        {name: numpy.load(str(folder / file), allow_pickle=False) for name, file in feed.items()}
        for feed in request["feeds"]
    ]
    try:
        if op == "kernels":
            return {"kernels": kernels(request, feeds[0], folder)}
        if op == "run":
            return run(session, feeds, request.get("repeat", 1), folder)
        if op == "time":
            return {"load_seconds": load_seconds, **measure(session, feeds, request)}
    except Exception as error:
        raise Refused("bad_model", " ".join(str(error).split())[:500]) from error
    raise Refused("unsupported", f"this runner has no operation {op!r}")


def open_model(request: dict[str, Any], profile_to: str = "") -> Any:
    settings = onnxruntime.SessionOptions()
    if profile_to:
        settings.enable_profiling = True
        settings.profile_file_prefix = profile_to
    settings.intra_op_num_threads = request["threads"]
    settings.inter_op_num_threads = 1
    settings.log_severity_level = 3
    try:
        session = onnxruntime.InferenceSession(request["model"], settings, providers=[request["provider"]])
    except Exception as error:
        raise Refused("bad_model", " ".join(str(error).split())[:500]) from error
    if session.get_providers()[0] != request["provider"]:  # never another one in silence
        raise Refused("unavailable", "{} was not taken".format(request["provider"]))
    return session


def describe_port(port: Any) -> dict[str, Any]:
    """Name, element type and shape; a dynamic axis by its name, or "?"."""
    return {"name": port.name, "type": port.type, "shape": ["?" if axis is None else axis for axis in port.shape]}


def run(session: Any, feeds: list[dict[str, Any]], repeat: int, folder: Path) -> dict[str, Any]:
    """The outputs for each feed as .npy files next to the request; `repeat` times, the last time counts."""
    names = [port.name for port in session.get_outputs()]
    outputs = []
    for number, feed in enumerate(feeds):
        for _ in range(repeat):
            arrays = session.run(None, feed)
        files = {}
        for index, (name, array) in enumerate(zip(names, arrays)):  # noqa: B905 - Python 3.9
            files[name] = f"output-{number}-{index}.npy"
            numpy.save(str(folder / files[name]), array, allow_pickle=False)
        outputs.append(files)
    return {"outputs": outputs}


def measure(session: Any, feeds: list[dict[str, Any]], request: dict[str, Any]) -> dict[str, Any]:
    """First inference, warm-up, then `iterations` timed ones that take the feeds in turn. Seconds."""
    clock = time.perf_counter
    start = clock()
    session.run(None, feeds[0])
    first_seconds = clock() - start
    warm, done = request["warmup"], 0
    while clock() - start < warm["seconds"] or done < warm["iterations"]:
        session.run(None, feeds[done % len(feeds)])
        done += 1
    samples = [0.0] * request["iterations"]
    process, thread = time.process_time(), time.thread_time()
    for index in range(len(samples)):
        feed = feeds[index % len(feeds)]
        start = clock()
        session.run(None, feed)
        samples[index] = clock() - start
    return {
        "first_seconds": first_seconds,
        "samples": samples,
        "cpu_seconds": time.process_time() - process,
        "thread_cpu_seconds": time.thread_time() - thread,
    }


def kernels(request: dict[str, Any], feed: dict[str, Any], folder: Path) -> list[dict[str, Any]]:
    """What ran, in order, with its mean seconds over `repeat` inferences after a first one. Optional in a runner."""
    session = open_model(request, str(folder / "profile"))
    for _ in range(request["repeat"] + 1):
        session.run(None, feed)
    found: dict[str, dict[str, Any]] = {}
    passes = -1
    for event in sorted(json.loads(Path(session.end_profiling()).read_text()), key=lambda event: event["ts"]):
        if event["name"] == "model_run":
            passes += 1
        elif event.get("cat") == "Node" and event["name"].endswith("_kernel_time"):
            name, facts = event["name"][: -len("_kernel_time")], event["args"]
            kernel = {"node": name, "op": facts["op_name"], "provider": facts["provider"], "seconds": 0.0}
            kernel = found.setdefault(name, kernel)
            if passes > 0:  # the first pays for allocations
                kernel["seconds"] += event["dur"] / 1e6 / request["repeat"]
    return list(found.values())


def peak_memory() -> int:
    """Peak of this process's resident memory in bytes. Not `ru_maxrss` on Linux: it survives from the parent."""
    if os.path.exists("/proc/self/status"):  # noqa: PTH110
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


if __name__ == "__main__":
    main()
