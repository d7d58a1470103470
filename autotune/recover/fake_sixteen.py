"""Fake quantisers of layers that compute in 16 bit, as cards do; what is rounded and how, the dialect says.

Rounded are a layer's weight, inputs, bias and outputs. What lies between layers stays float32, in which it is nearly
always rounded again where the next layer reads it.
"""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
import onnx
import torch

from autotune.compress.dialects.sixteen import ComputesInSixteen, Sixteen, Static
from autotune.layers import Layer
from autotune.recover import rounding as values
from autotune.recover.compensating import Compensated
from autotune.recover.formats import Formats
from autotune.recover.graph import Change, OnnxModule
from autotune.recover.operators.node import Tensor
from autotune.recover.packed import nearest
from autotune.techniques.rounding import Grid, Rounding, to_nearest

_STATIC = {"int8": values.static_int8, "e4m3": values.static_e4m3, "e2m1-blocks": values.blocks_e2m1}


def attach(
    module: OnnxModule,
    graph: onnx.GraphProto,
    formats: Formats,
    dialect: ComputesInSixteen,
    looked_up: Collection[str],
) -> None:
    """Put the quantisers that `formats` ask for into the module of `graph`, as `dialect` computes.

    `looked_up` are the layers that are tables of rows, of which only those that are read need be rounded.

    Raises `TrialFailure` for a choice that cannot be trained with, and for a static one without a calibrated range.
    """
    layers, decisions = formats.named, formats.chosen
    nodes = {node.name: node for node in graph.node}
    for name, choice in decisions.items():
        layer, made = layers[name], dialect.sixteen(layers[name], choice)
        last = _narrow(made)
        if name in looked_up:
            rows = last if module.settled(layer.weight) else _rows(made)
            for node in layer.nodes:
                module.on_write(nodes[node].output[0], rows)
            continue
        if module.settled(layer.weight):
            module.derive(layer.weight, layer.nodes, last)
        elif module.packed(layer.weight):
            module.derive(layer.weight, layer.nodes, _merged(layer, made))
        else:
            module.derive(layer.weight, layer.nodes, _weight(layer, choice, made, formats.rounding(layer)))
        for node in layer.nodes:
            module.on_write(nodes[node].output[0], last)
            if layer.op == "Gather":
                continue
            source = nodes[node].input[0]
            module.on_read(node, 0, _read(made, _static(made, formats, source, layer)))
            if len(nodes[node].input) > 2 and nodes[node].input[2]:
                module.on_read(node, 2, last)
    outputs = {value.name for value in graph.output}
    sums = dialect.quantised_sums(list(graph.node), outputs, formats.ranges.keys(), layers, decisions)
    for (node, tensor), (choice, layer) in sums.items():
        made = dialect.sixteen(layer, choice)
        place = list(nodes[node].input).index(tensor)
        module.on_read(node, place, _read(made, _static(made, formats, tensor, layer)))


def _narrow(made: Sixteen) -> Change:
    return values.half if made.kind == "float16" else values.bfloat16


def _weight(layer: Layer, choice: str, made: Sixteen, rounding: Rounding) -> Change:
    narrow, grid = _narrow(made), made.fits or made.grid
    if grid is None:
        return narrow
    rounded = Compensated(layer, choice, rounding, (grid, made.block))
    return lambda weight: narrow(rounded(weight))


def _merged(layer: Layer, made: Sixteen) -> Change:
    """For a weight that is made anew whenever it is read: nothing of it is kept."""
    narrow = _narrow(made)

    def run(weight: Tensor) -> Tensor:
        numbers: np.ndarray = weight.detach().numpy()
        grid = made.grid if made.fits is None else made.fits(numbers)
        if grid is None:
            return narrow(weight)
        rounded = torch.from_numpy(nearest(layer, numbers, grid, made.block))
        return narrow(values.straight_through(weight, rounded))

    return run


def _rows(made: Sixteen) -> Change:
    """Rows of a table, each rounded by itself."""
    narrow, grid = _narrow(made), made.grid
    if grid is None:
        return narrow
    return lambda found: narrow(_in_rows(found, grid, made.block))


def _in_rows(found: Tensor, grid: Grid, block: int) -> Tensor:
    rows = found.detach().reshape(-1, found.shape[-1])
    rounded = torch.from_numpy(to_nearest(rows.numpy(), grid, block).restore())
    return values.straight_through(found, rounded.reshape(found.shape))


def _static(made: Sixteen, formats: Formats, tensor: str, layer: Layer) -> tuple[Static, float] | None:
    """The static format of an activation and its scale."""
    if made.activation is None:
        return None
    return made.activation, made.activation.scale(formats.range_of(tensor, layer))


def _read(made: Sixteen, static: tuple[Static, float] | None) -> Change:
    narrow = _narrow(made)
    if static is None:
        return narrow
    format, scale = static
    rounded = _STATIC[format.kind]
    return lambda x: narrow(rounded(narrow(x), scale))
