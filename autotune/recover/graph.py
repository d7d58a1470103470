"""An ONNX graph as a torch module with gradients."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping

import numpy as np
import onnx
import torch

from autotune.errors import DataError
from autotune.recover.constants import trainable
from autotune.recover.operators.node import Tensor
from autotune.recover.program import Missing, Program, Step, Values

Change = Callable[[Tensor], Tensor]
_FOLDED = 1 << 20  # numbers: a larger result of constants is computed anew rather than kept


class OnnxModule(torch.nn.Module):
    """Runs `model` (normalised: see `autotune.compress.ingest`) in torch.

    Float32 constants that are weights (`constants.trainable`) become parameters, shared where they are shared, all
    other constants buffers; with `trains` False none is a parameter. `forward` takes and gives tensors by the names of
    the graph's inputs and outputs; further tensors can be asked for by name. Branches and loops are followed as the
    data goes; constants inside of them are not trained. Runs on the CPU.

    Raises `DataError` naming every operator that it does not have, each with a node.
    """

    def __init__(self, model: onnx.ModelProto, *, trains: bool = True) -> None:
        super().__init__()
        missing: Missing = {}
        opsets = {("" if o.domain == "ai.onnx" else o.domain): o.version for o in model.opset_import}
        self._program = Program(model.graph, opsets, missing)
        if missing:
            listed = ", ".join(f"{op} (node {name!r})" for op, name in sorted(missing.items()))
            raise DataError(f"recover: cannot train through {listed}; leave recovery out for this model")
        self.outputs = self._program.outputs
        weights = trainable(model.graph) if trains else {}
        self.inputs = tuple(name for name in self._program.inputs if name not in self._program.constants)
        self.weights: dict[str, torch.nn.Parameter] = {}
        self._slots: dict[str, str] = {}  # constant -> name of the parameter or buffer, which must hold no dot
        for number, (name, tensor) in enumerate(self._program.constants.items()):
            slot = f"constant{number}"
            if name in weights:
                self.weights[name] = torch.nn.Parameter(tensor)
                self.register_parameter(slot, self.weights[name])
            else:
                self.register_buffer(slot, tensor)
            self._slots[name] = slot
        self._changes: dict[str, Change] = {}
        self._derived: dict[str, tuple[str, Change]] = {}
        self._on_read: dict[tuple[str, int], Change] = {}
        self._on_write: dict[str, Change] = {}
        self._aliases: dict[tuple[str, str], str] = {}  # (node, tensor) -> what it reads in its place
        self._fold()

    # -- running

    def forward(self, inputs: Mapping[str, Tensor], keep: Collection[str] = ()) -> dict[str, Tensor]:
        """Outputs by name, and the tensors in `keep`."""
        values: Values = {name: inputs[name] for name in self.inputs}
        values.update({name: self.constant(name) for name in self._slots})
        for alias, (source, change) in self._derived.items():
            values[alias] = change(values[source])
        kept = {*keep, *self.outputs}
        for index, step in enumerate(self._program.steps):
            self._take(step, values)
            for name in self._program.free.get(index, ()):
                if name not in kept:
                    values.pop(name, None)
        return {name: values[name] for name in (*self.outputs, *keep)}

    def constant(self, name: str) -> Tensor:
        """A constant as the graph reads it now: with its changes, before rounding."""
        tensor: Tensor = getattr(self, self._slots[name])
        return self._changes[name](tensor) if name in self._changes else tensor

    def merged(self, names: Iterable[str]) -> dict[str, np.ndarray]:
        """Constants as they are now, float32, with changes such as adapters and masks in them."""
        with torch.no_grad():
            return {name: self.constant(name).to(torch.float32).numpy().copy() for name in names}

    # -- changing what is computed

    def change(self, name: str, change: Change) -> None:
        """Let everything that reads a constant read `change` of it; changes add up in the order they are made."""
        before = self._changes.get(name)
        self._changes[name] = change if before is None else lambda tensor: change(before(tensor))

    def derive(self, name: str, nodes: Iterable[str], change: Change) -> None:
        """Let `nodes`, and only them, read `change` of a constant; it is computed once per run."""
        alias = f"{name}:for:{len(self._derived)}"
        self._derived[alias] = (name, change)
        self._aliases.update({(node, name): alias for node in nodes})

    def on_read(self, node: str, position: int, change: Change) -> None:
        """Let one node read `change` of its input at `position`."""
        self._on_read[node, position] = change

    def on_write(self, tensor: str, change: Change) -> None:
        """Put `change` of an activation in its place, for everything that reads it."""
        self._on_write[tensor] = change

    def unquantise(self) -> None:
        """Take back all that `derive`, `on_read` and `on_write` did."""
        self._derived.clear()
        self._aliases.clear()
        self._on_read.clear()
        self._on_write.clear()

    # -- inside

    def _take(self, step: Step, values: Values) -> None:
        node = step.node.name
        seen: Mapping[str, Tensor] = values
        changed: dict[str, Tensor] = {}
        for position, name in enumerate(step.reads):
            if (node, name) in self._aliases:
                changed[name] = values[self._aliases[node, name]]
            if (node, position) in self._on_read:
                changed[name] = self._on_read[node, position](changed.get(name, values[name]))
        if changed:
            seen = {name: changed.get(name, values[name]) for name in step.needs}
        for name, result in zip(step.node.outputs, step.run(seen), strict=False):
            if name:
                values[name] = self._on_write[name](result) if name in self._on_write else result

    def _fold(self) -> None:
        """Carry out, once and for all, the steps that depend on nothing but buffers."""
        program = self._program
        known = {name: getattr(self, slot) for name, slot in self._slots.items() if name not in self.weights}
        left = []
        with torch.no_grad():
            for step in program.steps:
                made: Values = {}
                if step.operator is not None and step.needs <= known.keys():
                    made = dict(zip(step.node.outputs, step.run(known), strict=False))
                if not made or sum(tensor.numel() for tensor in made.values()) > _FOLDED:
                    left.append(step)
                    continue
                for name, tensor in made.items():
                    known[name] = tensor
                    self._slots[name] = f"folded{len(self._slots)}"
                    self.register_buffer(self._slots[name], tensor)
        program.steps = left
        program.free = program.last_uses()
