"""What of the student learns: all weights, vectors only, or low-rank adapters; and zeros that stay zero."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch

from autotune.errors import UsageError
from autotune.layers import Layer
from autotune.recover.graph import OnnxModule
from autotune.recover.operators.node import Tensor
from autotune.recover.settings import Settings

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

    def forward(self, weight: Tensor) -> Tensor:
        moved = weight.movedim(self._axis, 0)
        return weight + (self.up @ self.down).reshape(moved.shape).movedim(0, self._axis)


class Mask:
    """Zeros of a weight stay zero."""

    def __init__(self, weight: Tensor) -> None:
        self._there = (weight.detach() != 0).to(weight.dtype)

    def __call__(self, weight: Tensor) -> Tensor:
        return weight * self._there


def prepare(
    module: OnnxModule, layers: Iterable[Layer], settings: Settings
) -> tuple[list[torch.nn.Parameter], list[str]]:
    """Freeze what is not trained and put adapters and masks in place: (parameters to train, constants they change).

    Raises `UsageError` where nothing is left to train.
    """
    layers = [layer for layer in layers if layer.weight in module.weights]
    tables = {layer.weight for layer in layers}
    if settings.lora_rank:
        trained, names = _adapters(module, layers, settings)
    else:
        trained, names = [], []
        for name, parameter in module.weights.items():
            vector = parameter.numel() == max(parameter.shape, default=1)
            if settings.train == "norms-and-biases" and (name in tables or not vector):
                parameter.requires_grad_(False)
                continue
            trained.append(parameter)
            names.append(name)
    if not trained:
        what = "products or 1x1 convolutions" if settings.lora_rank else "weights"
        raise UsageError(f"recover: the model has no {what} that could be trained; leave recovery out")
    if settings.keep_zeros:
        for name in dict.fromkeys(layer.weight for layer in layers if layer.weight in names):
            weight = module.weights[name]
            if (weight == 0).float().mean() > _ZEROS:
                module.change(name, Mask(weight))
    return trained, names


def _adapters(
    module: OnnxModule, layers: Iterable[Layer], settings: Settings
) -> tuple[list[torch.nn.Parameter], list[str]]:
    generator = torch.Generator().manual_seed(settings.seed)
    for parameter in module.weights.values():
        parameter.requires_grad_(False)
    trained: list[torch.nn.Parameter] = []
    names: list[str] = []
    for layer in layers:
        point = layer.op == "Conv" and layer.group == 1 and all(n == 1 for n in layer.shape[2:])
        product = layer.op in ("MatMul", "Gemm") and len(layer.shape) == 2
        if (point or product) and layer.weight not in names:
            adapter = LowRank(layer, settings.lora_rank, generator)
            module.change(layer.weight, adapter)
            trained += adapter.parameters()
            names.append(layer.weight)
    return trained, names
