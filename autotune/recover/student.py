"""The graph that learns."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

import numpy as np
import onnx
import torch

from autotune.recover import fake, frozen, weights
from autotune.recover.batching import Batch
from autotune.recover.descent import Descent, DescentState
from autotune.recover.formats import Formats
from autotune.recover.graph import OnnxModule
from autotune.recover.lessons import inputs_of
from autotune.recover.operators.node import Tensor
from autotune.recover.settings import Settings

StudentState = tuple[list[Tensor], DescentState]


class Student:
    """A float graph with what is trained of it, the fake quantisers of its formats, and the descent of its weights."""

    def __init__(self, module: OnnxModule, graph: onnx.GraphProto, formats: Formats, settings: Settings) -> None:
        """`module` was made of `graph`, of which only the nodes are kept. Raises what `weights.prepare` and
        `fake.attach` do."""
        self._module = module
        trained = weights.prepare(self._module, formats.layers, settings)
        self._parameters, self._names = trained.parameters, trained.names
        self._descent = Descent(trained.parameters, trained.units)
        if settings.lora_rank:
            frozen.freeze(self._module, formats)
        self._graph, self._formats = _without_weights(graph), formats
        self._quantise()

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of what the graph gives."""
        return self._module.outputs

    def answer(self, batch: Batch, names: Collection[str]) -> dict[str, Tensor]:
        """The outputs and the tensors `names`, with gradients where these are on."""
        return self._module(inputs_of(batch), names)  # type: ignore[no-any-return]

    def clear(self) -> None:
        """Forget the gradients of the last step."""
        self._descent.clear()

    def step(self, rate: float) -> None:
        """Move what is trained along its gradients."""
        self._descent.step(rate)

    def tensors(self) -> Mapping[str, np.ndarray]:
        """The constants that training changes, as they are now: adapters merged, not rounded."""
        return self._module.merged(self._names)

    def weights(self) -> list[Tensor]:
        """A copy of what is trained, for `put`."""
        return [parameter.detach().clone() for parameter in self._parameters]

    def put(self, tensors: Iterable[Tensor]) -> None:
        """Let what is trained be `tensors`, with new quantisers: those that were there hold scales, and what weights
        were moved by, of the weights that are left behind."""
        with torch.no_grad():
            for parameter, tensor in zip(self._parameters, tensors, strict=True):
                parameter.copy_(tensor)
        self._module.unquantise()
        self._quantise()

    def state(self) -> StudentState:
        """All that steps change."""
        return self.weights(), self._descent.state()

    def restore(self, state: StudentState) -> None:
        """Be again what `state` was taken of."""
        self.put(state[0])
        self._descent.restore(state[1])

    def _quantise(self) -> None:
        fake.attach(self._module, self._graph, self._formats)


def _without_weights(graph: onnx.GraphProto) -> onnx.GraphProto:
    """Its nodes and outputs."""
    found = onnx.GraphProto()
    found.node.extend(graph.node)
    found.output.extend(graph.output)
    return found
