"""The base under adapters: the recipe's rounded weights, frozen, held in the few bits of their formats.

What is trained is round(base + adapters) with straight-through gradients, as in L4Q (Jeon et al. 2024, arXiv
2402.04902): so merging loses nothing of what validation saw. What is given up is the part of the original weights that
the first rounding took: the base is what the recipe ships.
"""

from __future__ import annotations

import numpy as np
import torch

from autotune.compress.dialects import ort_cpu_outliers as outliers
from autotune.compress.dialects.ort_cpu_weights import grid_of
from autotune.compress.dialects.sixteen import ComputesInSixteen
from autotune.layers import Layer
from autotune.recover import rounding as values
from autotune.recover.formats import Formats
from autotune.recover.graph import OnnxModule, Packed
from autotune.recover.packed import PackedHalf, levels_of

_SIXTEEN = {"float16": torch.float16, "bfloat16": torch.bfloat16}


def freeze(module: OnnxModule, formats: Formats) -> None:
    """Hold the weights of layers with a format as that format does; see `fake.attach`.

    Left whole, in float32, is what would be another weight if it were rounded twice, because its scales are not found
    from what it is rounded to: weights rounded with compensation (GPTQ). So are layers with outliers in float32, and
    weights that other nodes read as well.
    """
    for layer in formats.layers:
        choice, rounding = formats.decisions.get(layer.name, "none"), formats.rounding(layer)
        compensated = rounding.method != "nearest" and rounding.moments is not None and choice not in _SIXTEEN
        if choice in ("none", outliers.CHOICE) or compensated or layer.weight not in module.weights:
            continue
        if module.readers(layer.weight) <= set(layer.nodes):
            weight = module.weights[layer.weight].detach()
            module.pack(layer.weight, _packed(layer, choice, weight, formats.sixteen))


def _packed(layer: Layer, choice: str, weight: torch.Tensor, dialect: ComputesInSixteen | None) -> Packed:
    if choice in _SIXTEEN:
        rounded = values.half(weight) if choice == "float16" else weight
        return PackedHalf(rounded.to(_SIXTEEN[choice]))
    array: np.ndarray = weight.numpy()
    if dialect is None:
        return levels_of(layer, array, *grid_of(layer, choice))
    made = dialect.sixteen(layer, choice)
    grid = made.grid if made.fits is None else made.fits(array)
    if grid is None:
        return PackedHalf(weight.to(_SIXTEEN[made.kind]))
    return levels_of(layer, array, grid, made.block)
