"""Rounding of weights to levels: grids, rounding to nearest and with compensation, packing. numpy and scipy only."""

from autotune.techniques.rounding.gptq import compensated
from autotune.techniques.rounding.grids import CHANNEL, NF4, Channel, Codebook, Grid, HalfSteps, Steps, half_scales
from autotune.techniques.rounding.nearest import Blocks, in_blocks, per_channel_int8, to_nearest
from autotune.techniques.rounding.packing import pack_bits
from autotune.techniques.rounding.weights import METHODS, NEAREST, Method, Rounding, output_shift, round_weight

__all__ = [
    "CHANNEL",
    "METHODS",
    "NEAREST",
    "NF4",
    "Blocks",
    "Channel",
    "Codebook",
    "Grid",
    "HalfSteps",
    "Method",
    "Rounding",
    "Steps",
    "compensated",
    "half_scales",
    "in_blocks",
    "output_shift",
    "pack_bits",
    "per_channel_int8",
    "round_weight",
    "to_nearest",
]
