"""Where the inputs and outputs of an engine lie, on the card and here. Python 3.9, numpy."""

from __future__ import annotations

from typing import Any

import numpy

from hwprofiles.runtimes.tensorrt_opened import Opened, TensorRtProblem

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


class Buffers:
    """Memory for one feed, whose values are in that of this machine already. `size`: its bytes on the card.

    Raises `TensorRtProblem` for a feed that the engine does not take, and `CudaProblem`.
    """

    def __init__(self, opened: Opened, cuda: Any, feed: dict[str, Any]) -> None:
        self._opened = opened
        self._cuda = cuda
        self._inputs: list[tuple[str, Any, Any, tuple[int, ...]]] = []  # name, memory here, memory there, shape
        self._outputs: list[tuple[str, Any, Any, tuple[int, ...], str]] = []  # and element type
        engine, context = opened.engine, opened.context
        for name in opened.inputs():
            if name not in feed:
                raise TensorRtProblem("bad_model", f"the model takes {name!r}; it was given {', '.join(feed)}")
            data = typed(feed[name], name, engine.get_tensor_dtype(name).name)
            here = cuda.pinned(data.nbytes)
            here.array[:] = data.reshape(-1).view(numpy.uint8)
            self._inputs.append((name, here, cuda.buffer(data.nbytes), tuple(data.shape)))
            if not context.set_input_shape(name, tuple(data.shape)):
                raise TensorRtProblem("bad_model", f"input {name!r} may not be {list(data.shape)}: {opened.last()}")
        try:
            missing = context.infer_shapes()
        except RuntimeError as error:  # its bindings raise here, unlike elsewhere
            raise TensorRtProblem("bad_model", f"no shapes of outputs for these inputs: {opened.last()}") from error
        if missing:
            raise TensorRtProblem("bad_model", f"the shapes of the inputs do not decide on {', '.join(missing)}")
        for name in opened.outputs():
            shape = tuple(context.get_tensor_shape(name))
            if any(size < 0 for size in shape):
                raise TensorRtProblem("unsupported", f"the shape of output {name!r} depends on the data")
            kind = engine.get_tensor_dtype(name).name
            size = _bytes(kind, shape, name)
            self._outputs.append((name, cuda.pinned(size), cuda.buffer(size), shape, kind))
        self.size = sum(there.size for there in self._there().values())

    def address(self) -> None:
        """Tell the context that the next inference's inputs and outputs are these."""
        context = self._opened.context
        for name, _, _, shape in self._inputs:
            context.set_input_shape(name, shape)
        for name, there in self._there().items():
            context.set_tensor_address(name, there.pointer)

    def _there(self) -> dict[str, Any]:
        return {**{port[0]: port[2] for port in self._inputs}, **{port[0]: port[2] for port in self._outputs}}

    def upload(self) -> None:
        for _, here, there, _ in self._inputs:
            self._cuda.upload(there, here)

    def download(self) -> None:
        for _, here, there, *_ in self._outputs:
            self._cuda.download(here, there)

    def answers(self) -> dict[str, Any]:
        """What was downloaded, by output, as arrays of their own."""
        return {name: _read(here, kind, shape) for name, here, _, shape, kind in self._outputs}


def typed(value: Any, name: str, kind: str) -> Any:
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
    if kind == "BF16":
        bits = memory.array.view(numpy.uint16).astype(numpy.uint32) << 16
        return bits.view(numpy.float32).reshape(shape)
    return memory.array.view(_NUMPY[kind]).reshape(shape).copy()
