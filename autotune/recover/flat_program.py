"""An ONNX graph as a flat list of torch's own operators (`make_fx`), for one shape of its inputs.

Travels to the device with the runtimes of torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx

from autotune.recover.graph import OnnxModule

Tensor = torch.Tensor

_SHAPES = frozenset({"Shape", "Size"})  # operators whose result does not depend on the numbers that they read


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
                copied = there.get(place_of(kept))
                program.register_buffer(node.target, kept.detach().to(device) if copied is None else copied)
        elif "device" in node.kwargs:
            node.kwargs = {**node.kwargs, "device": device}
    program.recompile()


def place_of(tensor: Tensor) -> tuple[Any, ...]:
    """Tells a tensor that lives as long as the model from others."""
    return tensor.data_ptr(), tuple(tensor.shape), tensor.stride(), tensor.dtype
