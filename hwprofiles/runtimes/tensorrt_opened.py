"""An engine that is loaded on the card, of TensorRT or TensorRT-RTX, and what it tells of itself. Python 3.9.

RTX compiles kernels on the card at the first inference. For inputs of open shapes it does so lazily by default: a
stand-in that takes every shape runs at first, and a CUDA graph that was captured then would hold on to it. So it is
told to compile at once, and what it has compiled is kept beside the engine, as NVIDIA advises (TensorRT-RTX
documentation, "Working with Dynamic Shapes", "Working with Runtime Cache").
"""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

from hwprofiles.agent import cuda_events
from hwprofiles.runtimes import tensorrt_build, tensorrt_layers


class TensorRtProblem(Exception):
    """One line for a person. `kind` is that of a Failure; `advised`: it says what to do."""

    def __init__(self, kind: str, message: str, advised: bool = False) -> None:
        super().__init__(" ".join(message.split())[:600])
        self.kind = kind
        self.advised = advised


class Opened:
    """`engine` and `context`, ready to run. `product`: name of the runtime.

    `kernels`: file of what RTX has compiled for the engine; None keeps nothing.

    Raises `TensorRtProblem` for a plan that cannot be loaded ("unavailable") or has no room ("oom"), and `CardBroken`
    where TensorRT says that the card's context is lost.
    """

    def __init__(self, trt: Any, plan: bytes, product: str, kernels: Path | None = None) -> None:
        self._trt = trt
        self._product = product
        self._log = tensorrt_build.messages(trt)
        self._looked = 0  # messages that were there before what is done now
        try:
            runtime = trt.Runtime(self._log)
        except (TypeError, RuntimeError) as error:  # a null pointer in its bindings
            raise self._problem("unavailable", f"{product} has no runtime here ({error})") from error
        self.engine = runtime.deserialize_cuda_engine(plan)
        if self.engine is None:
            raise self._problem("unavailable", f"{product} does not load the engine")
        self._runtime = runtime  # must live as long as the engine
        self._kernels = kernels
        self._known = b""  # what lies in the file
        self.runtime_cache: Any = None
        self._looked = len(self._log.errors)
        self.context = self._make_context()
        if self.context is None:
            raise self._problem("unavailable", f"{product} makes no execution context of the engine")

    def _make_context(self) -> Any:
        if self._product != "tensorrt-rtx":
            return self.engine.create_execution_context()
        runtime_config = self.engine.create_runtime_config()
        trt = self._trt
        runtime_config.dynamic_shapes_kernel_specialization_strategy = (
            trt.DynamicShapesKernelSpecializationStrategy.EAGER
        )
        self.runtime_cache = runtime_config.create_runtime_cache()
        with contextlib.suppress(OSError):  # there is none yet
            data = b"" if self._kernels is None else self._kernels.read_bytes()
            if data and self.runtime_cache.deserialize(data):  # no: of another card or version; it is written anew
                self._known = data
        if not runtime_config.set_runtime_cache(self.runtime_cache):
            self.runtime_cache = None
        return self.engine.create_execution_context(runtime_config)

    def keep_kernels(self) -> None:
        """Write what RTX has compiled since it was opened. Raises OSError."""
        if self.runtime_cache is None or self._kernels is None:
            return
        blob = self.runtime_cache.serialize()
        data = b"" if blob is None else bytes(memoryview(blob))
        if data and data != self._known:
            tensorrt_build.save(self._kernels, data)
            self._known = data

    def start(self, stream: int) -> None:
        """Put one inference on the stream."""
        self._looked = len(self._log.errors)
        if not self.context.execute_async_v3(stream):
            raise self._problem("crash", "the inference was refused")

    def may_be_captured(self, stream: int) -> bool:
        """Whether a CUDA graph of the next inference can be captured; only RTX tells beforehand."""
        return self._product != "tensorrt-rtx" or bool(self.context.is_stream_capturable(stream))

    def inputs(self) -> list[str]:
        """Names of the engine's inputs."""
        return self._names(self._trt.TensorIOMode.INPUT)

    def outputs(self) -> list[str]:
        """Names of its outputs."""
        return self._names(self._trt.TensorIOMode.OUTPUT)

    def memory(self) -> dict[str, int | None]:
        """Bytes of the weights, and of what the engine reserves for activations."""
        weights = int(self.engine.get_engine_stat(self._trt.EngineStat.TOTAL_WEIGHTS_SIZE))
        return {"weights": weights if weights >= 0 else None, "activations": int(self.engine.device_memory_size_v2)}

    def layers(self) -> list[dict[str, Any]]:
        """What the engine's inspector tells; empty where it tells nothing."""
        inspector = self.engine.create_engine_inspector()
        inspector.execution_context = self.context
        text = inspector.get_engine_information(self._trt.LayerInformationFormat.JSON)
        return tensorrt_layers.inspected(text)

    def profile(self) -> dict[str, float]:
        """Seconds of each layer, to which every inference from now on adds its own."""
        profiler = _profiler(self._trt)
        self.context.profiler = profiler
        self.context.enqueue_emits_profile = True
        seconds: dict[str, float] = profiler.seconds
        return seconds

    def last(self) -> str:
        """What TensorRT said last."""
        return " ".join(self._log.errors[-1].split()) if self._log.errors else "it does not say why"

    def _problem(self, otherwise: str, what: str) -> TensorRtProblem:
        """Of the kind "oom" where TensorRT has just said so, else of the kind `otherwise`."""
        said = self._log.errors[self._looked :]
        problem = TensorRtProblem("oom" if tensorrt_build.is_full(said) else otherwise, f"{what}: {self.last()}")
        for text in said:
            cuda_events.refuse_broken(RuntimeError(text))
        return problem

    def _names(self, mode: Any) -> list[str]:
        names = [self.engine.get_tensor_name(index) for index in range(self.engine.num_io_tensors)]
        return [name for name in names if self.engine.get_tensor_mode(name) == mode]


def _profiler(trt: Any) -> Any:
    """Adds up what TensorRT tells of its layers' times: `seconds` by layer."""

    class Profiler(trt.IProfiler):  # type: ignore[misc]  # the module is only known here
        def __init__(self) -> None:
            trt.IProfiler.__init__(self)
            self.seconds: dict[str, float] = {}

        def report_layer_time(self, layer_name: str, ms: float) -> None:
            self.seconds[layer_name] = self.seconds.get(layer_name, 0.0) + ms / 1e3

    return Profiler()
