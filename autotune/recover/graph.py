"""An ONNX graph as a torch module with gradients."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from contextlib import nullcontext
from typing import Any, Protocol

import numpy as np
import onnx
import torch

from autotune.errors import DataError
from autotune.recover.constants import trainable
from autotune.recover.operators.node import Tensor
from autotune.recover.program import Missing, Program, Step, Values

Change = Callable[[Tensor], Tensor]
_FOLDED = 1 << 20  # numbers: a larger result of constants is computed anew rather than kept


class Packed(Protocol):
    """A weight as its format holds it."""

    def __len__(self) -> int:
        """Rows, where its outputs are axis 0."""
        ...

    @property
    def bytes(self) -> int:
        """What it takes in memory."""
        ...

    def restore(self) -> Tensor:
        """The numbers, float32 in the shape of the weight; made anew at every call."""
        ...

    def rows(self, places: Tensor) -> Tensor:
        """Only these of its rows, int64 [n] from 0 on: float32 [n, ...]. For weights whose outputs are axis 0."""
        ...


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
        self._packed: dict[str, Packed] = {}
        self._derived: dict[str, tuple[str, Change, Change]] = {}  # alias -> constant, change, the same once more
        self._on_read: dict[tuple[str, int], Change] = {}
        self._on_write: dict[str, Change] = {}
        self._aliases: dict[tuple[str, str], str] = {}  # (node, tensor) -> what it reads in its place
        self._fold()

    # -- running

    def forward(self, inputs: Mapping[str, Tensor], keep: Collection[str] = ()) -> dict[str, Tensor]:
        """Outputs by name, and the tensors in `keep`."""
        values: Values = {name: inputs[name] for name in self.inputs}
        values.update({name: self.constant(name) for name in self._slots if name not in self._packed})
        for alias, (source, change, _) in self._derived.items():
            if source not in self._packed:
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
        packed = self._packed.get(name)
        tensor: Tensor = getattr(self, self._slots[name]) if packed is None else packed.restore()
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

    def pack(self, name: str, packed: Packed) -> None:
        """Hold a weight as `packed` from now on. It is made whole, with its changes and what is derived of it, for one
        node at a time and not kept; for the gradients it is made once more."""
        delattr(self, self._slots[name])
        del self.weights[name], self._program.constants[name]
        self._packed[name] = packed

    def packed(self, name: str) -> bool:
        """Whether a constant is held packed."""
        return name in self._packed

    def settled(self, name: str) -> bool:
        """Whether a constant is held packed and nothing changes it: it is what its format makes of it already."""
        return name in self._packed and name not in self._changes

    def readers(self, name: str) -> set[str]:
        """The nodes that need a constant; "" where it is an output of the graph."""
        found = {step.node.name for step in self._program.steps if name in step.needs}
        return found | ({""} if name in self.outputs else set())

    def derive(self, name: str, nodes: Iterable[str], change: Change, again: Change | None = None) -> None:
        """Let `nodes`, and only them, read `change` of a constant; it is computed once per run.

        `again` gives without gradients what `change` gave last, where calling it once more would not.
        """
        alias = f"{name}:for:{len(self._derived)}"
        self._derived[alias] = (name, change, again or change)
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
        whole: dict[str, Tensor] = {}  # of what is packed
        for position, name in enumerate(step.reads):
            if name in self._packed:
                if name not in changed:
                    changed |= self._rows(step, name, values) or {name: whole.setdefault(name, self._whole(node, name))}
            elif (node, name) in self._aliases:
                changed[name] = values[self._aliases[node, name]]
            if (node, position) in self._on_read:
                changed[name] = self._on_read[node, position](changed[name] if name in changed else values[name])
        if changed:
            seen = {name: changed[name] if name in changed else values[name] for name in step.needs}
        with self._not_saved(node, whole) if whole else nullcontext():
            results = step.run(seen)
        for name, result in zip(step.node.outputs, results, strict=False):
            if name:
                values[name] = self._on_write[name](result) if name in self._on_write else result

    def _whole(self, node: str, name: str, *, again: bool = False) -> Tensor:
        """What a node reads of a packed constant."""
        tensor, alias = self.constant(name), self._aliases.get((node, name))
        if alias is not None:
            _, change, once_more = self._derived[alias]
            tensor = (once_more if again else change)(tensor)
        return tensor.contiguous()

    def _rows(self, step: Step, name: str, values: Values) -> dict[str, Tensor]:
        """Of a packed table that rows are looked up in, and that is read as it is: these rows, and their places among
        them. {} for all else."""
        node = step.node
        looked_up = node.op == "Gather" and node.get("axis", 0) == 0 and step.reads[0] == name
        if not looked_up or name in self._changes or (node.name, name) in self._aliases:
            return {}
        places = values[step.reads[1]]
        flat = places.reshape(-1).to(torch.int64)
        count = len(self._packed[name])
        found = self._packed[name].rows(torch.where(flat < 0, flat + count, flat))
        return {name: found, step.reads[1]: torch.arange(len(flat)).reshape(places.shape)}

    def _not_saved(self, node: str, whole: Mapping[str, Tensor]) -> torch.autograd.graph.saved_tensors_hooks:
        """Within it what is `whole` is not kept for the gradients, but made anew when they are computed."""
        names = {tensor.untyped_storage().data_ptr(): name for name, tensor in whole.items()}

        def keep(tensor: Tensor) -> object:
            name = names.get(tensor.untyped_storage().data_ptr())
            return tensor if name is None else (name, tensor.size(), tensor.stride(), tensor.storage_offset())

        def make(kept: Any) -> Any:
            if isinstance(kept, Tensor):
                return kept
            name, size, stride, offset = kept
            with torch.no_grad():
                return self._whole(node, name, again=True).as_strided(size, stride, offset)

        return torch.autograd.graph.saved_tensors_hooks(keep, make)

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
