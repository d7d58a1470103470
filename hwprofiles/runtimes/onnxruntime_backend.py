"""Device side of ONNX Runtime: travels inside the agent as `agent_backend`; Python 3.9, no import of ours.

The contract of a backend is in `hwprofiles.runtimes.protocol`. Sessions get the default options and nothing
but the target's number of threads, because what is measured must be what a plain `InferenceSession(path)`
does.
"""

from __future__ import annotations

import base64
import contextlib
import json
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import onnxruntime
from onnxruntime.capi import onnxruntime_pybind11_state as _state

Feed = dict[str, Any]


class WrongProvider(Exception):
    """The provider that was asked for is not the one that runs."""


_OWN = [kind for kind in vars(_state).values() if isinstance(kind, type) and issubclass(kind, Exception)]
# What the runtime answers with; its own exceptions have no common root.
ERRORS: tuple[type[Exception], ...] = (*_OWN, WrongProvider, RuntimeError, ValueError, TypeError, MemoryError)


# y = x @ w with 8 weights, as ONNX: what `check` asks a provider to run.
_TRIAL = base64.b64decode(
    "CAcSADptChEKAXgKAXcSAXkiBk1hdE11bBIBdCorCAQIAhABQgF3SiAAAIA/AACAPwAAgD8AAIA/AACAPwAAgD8AAIA/AACAP1oTCgF4Eg4KDAgB"
    "EggKAggBCgIIBGITCgF5Eg4KDAgBEggKAggBCgIIAkIECgAQDQ=="
)
_CPU = "CPUExecutionProvider"
_NVIDIA = ("CUDAExecutionProvider", "TensorrtExecutionProvider", "NvTensorRTRTXExecutionProvider")


def describe(options: dict[str, Any] | None = None) -> dict[str, Any]:
    """What the runtime is, what can execute here, and how sessions with these options are set up.

    `providers` are those that the build has and that a session may ask for, `compiled` all that its sources know.
    """
    provider = (options or {}).get("provider", _CPU)
    build = getattr(onnxruntime, "get_build_info", None)
    return {
        "runtime": "onnxruntime",
        "version": onnxruntime.__version__,
        "providers": onnxruntime.get_available_providers(),
        "compiled": onnxruntime.get_all_providers(),
        "build": build() if build is not None else "",
        "accelerator": _nvidia() if provider in _NVIDIA else "",
        # The defaults of a session, which ours are: see `Session`.
        "arena": "default",
        "memory_pattern": True,
        "cuda_graph": False if provider in _NVIDIA else None,
        # numpy in, numpy out: with an accelerator each inference pays for its copies.
        "transfers": None if provider == _CPU else True,
    }


def check(options: dict[str, Any]) -> None:
    """Raise `WrongProvider` unless the provider really runs a small model. Being listed does not mean that it does."""
    provider = options["provider"]
    if provider == _CPU or provider not in onnxruntime.get_available_providers():
        return  # the first always runs, and what is not there at all is said better by the parent
    import numpy

    with tempfile.TemporaryDirectory(prefix="autotune-trial-") as folder:
        path = Path(folder) / "trial.onnx"
        path.write_bytes(_TRIAL)
        ran = kernels(str(path), options, {"x": numpy.ones((1, 4), numpy.float32)}, 1, folder)
    used = sorted({kernel["provider"] for kernel in ran} - {provider})
    if used or not ran:
        raise WrongProvider(
            "onnxruntime lists {} but ran a small model on {}; {}".format(
                provider, " and ".join(used) or "nothing", _remedy(provider)
            )
        )


class Session:
    """One opened model. `inputs` and `outputs` list name, element type and shape (names where dynamic)."""

    def __init__(self, path: str, options: dict[str, Any], profile_to: str | None = None) -> None:
        settings = onnxruntime.SessionOptions()
        settings.intra_op_num_threads = options["threads"]
        settings.inter_op_num_threads = 1
        settings.log_severity_level = 3  # errors only: warnings of a thousand trials help nobody
        if profile_to is not None:
            settings.enable_profiling = True
            settings.profile_file_prefix = profile_to
        self._session = _open(path, settings, options["provider"])
        self.inputs = [_describe(port) for port in self._session.get_inputs()]
        self.outputs = [_describe(port) for port in self._session.get_outputs()]
        self._names = [port["name"] for port in self.outputs]

    def run(self, feed: Feed) -> list[Any]:
        """One inference; the outputs in the order of `outputs`."""
        result: list[Any] = self._session.run(None, feed)
        return result

    def end_profiling(self) -> str:
        """Stop profiling; the path of what was recorded."""
        path: str = self._session.end_profiling()
        return path


def _open(path: str, settings: Any, provider: str) -> Any:
    """A session on this provider and no other. Raises `WrongProvider` where the runtime took another."""
    if provider in _NVIDIA and hasattr(onnxruntime, "preload_dlls"):
        with contextlib.suppress(Exception):
            onnxruntime.preload_dlls()
    session = onnxruntime.InferenceSession(path, settings, providers=[provider], enable_fallback=0)
    # Otherwise a provider that fails during an inference is replaced by the CPU, and a line on stdout says so.
    session.disable_fallback()
    used = session.get_providers()[0]
    if used != provider:
        raise WrongProvider(f"onnxruntime opened the model on {used}, not on {provider}; {_remedy(provider)}")
    return session


def _remedy(provider: str) -> str:
    if provider in _NVIDIA:
        return "look for its reason in the agent's log: a driver, CUDA or cuDNN library of another version, as a rule"
    return "choose a provider that can run models on this device"


def _nvidia() -> str:
    """`NVIDIA T4, 15360 MiB, compute capability 7.5, driver 550.54.15` of the first card; "" if unknown."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return ""
    asked = ["name", "memory.total", "compute_cap", "driver_version"]
    command = [program, "--query-gpu=" + ",".join(asked), "--format=csv,noheader", "--id=0"]
    try:
        answer = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return ""
    facts = [fact.strip() for fact in answer.stdout.decode(errors="replace").strip().split(",")]
    if len(facts) != len(asked):
        return ""
    return "{}, {}, compute capability {}, driver {}".format(*facts)


def kernels(path: str, options: dict[str, Any], feed: Feed, runs: int, scratch: str) -> list[dict[str, Any]]:
    """Every kernel that ran, in order, with its mean seconds over `runs` runs after a first one."""
    session = Session(path, options, profile_to=str(Path(scratch) / "profile"))
    for _ in range(runs + 1):
        session.run(feed)
    recorded = Path(session.end_profiling())
    events = json.loads(recorded.read_text())
    recorded.unlink()
    return _summarise(events, runs)


def classify(error: Exception, stage: str) -> str:
    """The kind of Failure that this exception is."""
    text = str(error).lower()
    if isinstance(error, WrongProvider):
        return "unavailable"
    if isinstance(error, MemoryError) or "bad_alloc" in text or "allocate memory" in text:
        return "oom"
    if type(error).__name__ == "NotImplemented" or "not implemented" in text or "not_implemented" in text:
        return "unsupported"
    return "bad_model"


def explain(error: Exception) -> str:
    """One line for a person."""
    text = " ".join(str(error).split())
    if "external" in text.lower() and "data" in text.lower():
        text = "the weights are in a separate file; save the model as one file. " + text
    return text[:600]


def _describe(port: Any) -> dict[str, Any]:
    return {"name": port.name, "type": port.type, "shape": [d if d is not None else "?" for d in port.shape]}


def _summarise(events: list[dict[str, Any]], runs: int) -> list[dict[str, Any]]:
    """Group kernel events by node. The first pass is left out of the means: it pays for the first allocations.

    A node inside a Loop or If runs any number of times per inference: its time is the sum per inference, and
    it counts as part of its parent's too.
    """
    passes = sorted(e["ts"] for e in events if e.get("cat") == "Session" and e["name"] == "model_run")
    warm_from = passes[1] if len(passes) > runs else 0
    found: dict[tuple[str, str], dict[str, Any]] = {}
    nodes = [e for e in events if e.get("cat") == "Node" and e["name"].endswith("_kernel_time")]
    for event in sorted(nodes, key=lambda e: e["ts"]):
        facts = event["args"]
        name = event["name"][: -len("_kernel_time")]
        kernel = found.setdefault(
            (name, facts.get("node_index", "")),
            {
                "node": name,
                "op": facts.get("op_name", ""),
                "provider": facts.get("provider", ""),
                "seconds": 0.0,
                "inputs": [_shape(s) for s in facts.get("input_type_shape", [])],
                "outputs": [_shape(s) for s in facts.get("output_type_shape", [])],
            },
        )
        if event["ts"] >= warm_from:
            kernel["seconds"] += event["dur"] / 1e6 / runs
    return list(found.values())


def _shape(entry: dict[str, list[int]]) -> str:
    """`{"float": [1, 3]}` -> `float[1,3]`."""
    return ",".join("{}[{}]".format(kind, ",".join(str(d) for d in dims)) for kind, dims in entry.items())
