"""A model that torch has opened: on the CPU, and what a card's session adds to. Travels to the device."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import torch

from autotune.errors import DataError
from autotune.recover.flat_program import move, place_of, write_down
from autotune.recover.graph import OnnxModule
from hwprofiles.agent import cuda_events

Feed = dict[str, Any]
Tensor = torch.Tensor

_PROGRAMS = 32  # shapes whose programs are kept
_MOST_COMPILED = 1 << 14  # programs that one process may compile


class Unfit(Exception):
    """torch, or this way of running it, cannot compute the model."""


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
        self._there = {place_of(value): value.to(self._device) for value in self._module.buffers() if value.numel()}
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

    def nodes(self) -> list[tuple[str, str]]:
        """(name, operator) of the model's nodes that are computed in each inference, in the types that the file says.

        Their time stands under the names of torch's own operators.
        """
        constant = set(self._module._slots)
        found = []
        for step in self._module._program.steps:
            if step.needs <= constant:
                constant.update(step.node.outputs)
            else:
                found.append((step.node.name, step.node.op))
        return found

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


def _let_compile() -> None:
    """Every model and shape is a program of its own, which torch counts as compiling one function again and again."""
    limits: Any = torch._dynamo.config
    limits.recompile_limit = max(limits.recompile_limit, _MOST_COMPILED)
    limits.accumulated_recompile_limit = max(limits.accumulated_recompile_limit, _MOST_COMPILED)


def _read(path: str) -> onnx.ModelProto:
    """Raises ValueError for what is no model."""
    try:
        model = onnx.load(path)
        if not model.graph.output:
            raise ValueError("it has no output")
    except Exception as error:  # protobuf's own errors have no public root
        raise ValueError(f"it cannot be read as an ONNX model: {' '.join(str(error).split())[:200]}") from error
    return model


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
