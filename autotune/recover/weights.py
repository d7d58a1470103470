"""What of the student learns: all weights, vectors only, or low-rank adapters; and zeros that stay zero."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import torch

from autotune.errors import UsageError
from autotune.layers import Layer
from autotune.recover.graph import OnnxModule
from autotune.recover.operators.node import Tensor
from autotune.recover.settings import Settings

_SMALLEST = 1e-3  # unit of a bias that is next to nothing, and of a tensor of zeros
_FASTER = 4.0  # than weights: adapters start at nothing, and over rounded weights have to move them by half a step
_ZEROS = 0.3  # a layer with a larger share of zeros was pruned on purpose


class LowRank(torch.nn.Module):
    """weight + up @ down, seen as a matrix [outputs, inputs] (Hu et al. 2021, LoRA). Starts as the weight itself."""

    def __init__(self, layer: Layer, rank: int, generator: torch.Generator) -> None:
        super().__init__()
        self._axis = layer.output_axis
        outputs = layer.shape[layer.output_axis]
        inputs = math.prod(layer.shape) // outputs
        rank = min(rank, outputs, inputs)
        bound = math.sqrt(3 / inputs)
        start = torch.empty(rank, inputs).uniform_(-bound, bound, generator=generator)
        self.down = torch.nn.Parameter(start)
        self.up = torch.nn.Parameter(torch.zeros(outputs, rank))

    def units(self, size: Tensor) -> tuple[Tensor, Tensor]:
        """Units of `up` and `down` for a weight of a root mean square of `size`: `up`, which starts at 0, moves the
        product by four times as much in a step as the weight itself would move."""
        rank, inputs = self.down.shape
        return _FASTER * size * math.sqrt(inputs / rank), _size(self.down)

    def forward(self, weight: Tensor) -> Tensor:
        moved = weight.movedim(self._axis, 0)
        return weight + (self.up @ self.down).reshape(moved.shape).movedim(0, self._axis)


class Mask:
    """Zeros of a weight stay zero."""

    def __init__(self, weight: Tensor) -> None:
        self._there = weight.detach() != 0

    def __call__(self, weight: Tensor) -> Tensor:
        return weight * self._there


@dataclass(frozen=True)
class Trained:
    """What learns: `parameters`, the `units` in which a step of each is measured, and the constants that they change,
    by their `names`."""

    parameters: list[torch.nn.Parameter]
    units: list[Tensor]
    names: list[str]


def prepare(module: OnnxModule, layers: Iterable[Layer], settings: Settings) -> Trained:
    """Freeze what is not trained and put adapters and masks in place.

    The unit of a parameter is its root mean square, of an adapter that of the weight it changes; 1 where the settings
    give an absolute rate.

    Raises `UsageError` where nothing is left to train.
    """
    layers = [layer for layer in layers if layer.weight in module.weights]
    tables = {layer.weight for layer in layers}
    if settings.lora_rank:
        trained, units, names = _adapters(module, layers, settings)
    else:
        trained, units, names = [], [], []
        for name, parameter in module.weights.items():
            vector = parameter.numel() == max(parameter.shape, default=1)
            if settings.train == "norms-and-biases" and (name in tables or not vector):
                parameter.requires_grad_(False)
                continue
            trained.append(parameter)
            units.append(_size(parameter))
            names.append(name)
    if not trained:
        what = "products or 1x1 convolutions" if settings.lora_rank else "weights"
        raise UsageError(f"recover: the model has no {what} that could be trained; leave recovery out")
    if settings.keep_zeros:
        for name in dict.fromkeys(layer.weight for layer in layers if layer.weight in names):
            weight = module.weights[name]
            if (weight == 0).float().mean() > _ZEROS:
                module.change(name, Mask(weight))
    if settings.learning_rate is not None:
        units = [torch.ones(()) for _ in trained]
    return Trained(trained, units, names)


def _size(parameter: Tensor) -> Tensor:
    """Root mean square of a tensor; of a pruned one without its zeros."""
    values = parameter.detach()
    there = (values != 0).sum().clamp(min=1)
    size = (values.square().sum() / there).sqrt()
    vector = values.numel() == max(values.shape, default=1)
    return size.clamp(min=_SMALLEST) if vector or not size > 0 else size


def _adapters(
    module: OnnxModule, layers: Iterable[Layer], settings: Settings
) -> tuple[list[torch.nn.Parameter], list[Tensor], list[str]]:
    generator = torch.Generator().manual_seed(settings.seed)
    for parameter in module.weights.values():
        parameter.requires_grad_(False)
    trained: list[torch.nn.Parameter] = []
    units: list[Tensor] = []
    names: list[str] = []
    for layer in layers:
        point = layer.op == "Conv" and layer.group == 1 and all(n == 1 for n in layer.shape[2:])
        product = layer.op in ("MatMul", "Gemm") and len(layer.shape) == 2
        if (point or product) and layer.weight not in names:
            adapter = LowRank(layer, settings.lora_rank, generator)
            module.change(layer.weight, adapter)
            trained += [adapter.up, adapter.down]
            units += adapter.units(_size(module.weights[layer.weight]))
            names.append(layer.weight)
    return trained, units, names
