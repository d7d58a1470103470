"""Parses and builds models with TensorRT-RTX, in a process of its own: `python rtx_child.py JOBS`.

JOBS is a JSON list of {"name", "file", "capability", "build"}. For each a line of JSON is printed: {"name", "stage":
"parse", "build" or "done", "message", "layers"}. What the runtime crashes on has no line.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import tensorrt_rtx_bindings as trt

sys.path.insert(0, str(Path(__file__).parents[2]))
from hwprofiles.runtimes import tensorrt_layers

SIZE = 8  # of axes that vary


class _Log(trt.ILogger):  # type: ignore[misc]
    def __init__(self) -> None:
        super().__init__()
        self.errors: list[str] = []
        self.layers: list[str] = []

    def log(self, severity: Any, message: str) -> None:
        if severity in (trt.ILogger.ERROR, trt.ILogger.INTERNAL_ERROR):
            self.errors.append(message.strip())
        elif tensorrt_layers.LOGGED in message:
            self.layers.append(message)


def _run(builder: Any, log: _Log, job: dict[str, Any]) -> dict[str, Any]:
    log.errors.clear()
    log.layers.clear()
    network = builder.create_network(0)
    parser = trt.OnnxParser(network, log)
    if not parser.parse(Path(job["file"]).read_bytes()):
        said = [parser.get_error(i).desc() for i in range(parser.num_errors)]
        return {"stage": "parse", "message": "; ".join(said), "layers": []}
    if not job["build"]:
        return {"stage": "done", "message": "", "layers": []}
    config = builder.create_builder_config()
    config.builder_optimization_level = 0
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    config.num_compute_capabilities = 1
    config.set_compute_capability(getattr(trt.ComputeCapability, "SM" + job["capability"].replace(".", "")), 0)
    profile = builder.create_optimization_profile()
    for index in range(network.num_inputs):
        tensor = network.get_input(index)
        shape = [SIZE if dim < 0 else dim for dim in tensor.shape]
        profile.set_shape(tensor.name, shape, shape, shape)
    config.add_optimization_profile(profile)
    if builder.build_serialized_network(network, config) is None:
        return {"stage": "build", "message": "; ".join(log.errors), "layers": []}
    found = [layer for text in log.layers for layer in tensorrt_layers.logged(text)]
    return {"stage": "done", "message": "", "layers": [tensorrt_layers.kernel(x, "rtx", {}, 0.0) for x in found]}


def main() -> None:
    log = _Log()
    builder = trt.Builder(log)
    for job in json.loads(Path(sys.argv[1]).read_text("utf-8")):
        sys.stdout.write(json.dumps({"name": job["name"], **_run(builder, log, job)}) + "\n")
        sys.stdout.flush()


main()
