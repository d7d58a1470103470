"""Fake quantisers: the student computes with the numbers that its artifact will hold, and learns with them.

A dialect whose layers compute in 16 bit says what is rounded and how (`fake_sixteen`). All others are taken to compute
in float32 around their formats, as the CPU does: every format of it, weights rounded with compensation (GPTQ) and
products with outliers in float32 included. There, two things are left as they are, because they are far below the
rounding of the weights: the 8 bits to which the kernels of packed weights bring activations inside of a product, and
the order in which integers are added.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import onnx
import torch

from autotune.compress.calibration import Range
from autotune.compress.dialects import ort_cpu_outliers as outliers
from autotune.errors import TrialFailure, UsageError, did_you_mean
from autotune.layers import Layer
from autotune.recover import fake_sixteen
from autotune.recover import rounding as values
from autotune.recover.compensating import Compensated
from autotune.recover.formats import Formats
from autotune.recover.graph import Change, OnnxModule
from autotune.recover.operators.node import Tensor
from autotune.techniques.nodes import attribute
from autotune.techniques.quantize import parse_choice
from autotune.techniques.rounding import NF4, Rounding
from hwprofiles.errors import Failure

_FUSED_ACTIVATIONS = ("Relu", "Clip")
_CARDS_ONLY = ("bfloat16", "fp8-static", "nvfp4")
_SEARCH_EVERY = 16  # runs between two searches for the clipping factors of blocks


def attach(module: OnnxModule, graph: onnx.GraphProto, formats: Formats) -> None:
    """Put the quantisers that `formats` ask for into the module of `graph`.

    Raises `UsageError` for an unknown layer or choice, `TrialFailure` where a static choice has no calibrated range,
    where nothing is known about what a layer with outliers reads, and for formats that only cards compute in.
    """
    known, decisions, dialect = formats.named, formats.chosen, formats.sixteen
    nodes = {node.name: node for node in graph.node}
    for name in decisions.keys() - known.keys():
        raise UsageError(f"recover: no layer is named {name!r}; " + did_you_mean(name, known))
    if dialect is not None:
        tables = {name for name in decisions if known[name].op == "Gather" and _rows(known[name], nodes)}
        fake_sixteen.attach(module, graph, formats, dialect, tables)
        return
    static: dict[str, Layer] = {}
    for name, choice in decisions.items():
        layer = known[name]
        if choice != outliers.CHOICE:
            _format(choice)
        if layer.op == "Gather" and _rows(layer, nodes):
            for node in layer.nodes if not module.settled(layer.weight) else ():
                module.on_write(nodes[node].output[0], _gathered(choice))
            continue
        rounding = formats.rounding(layer)
        if choice == outliers.CHOICE:
            _attach_outliers(module, layer, rounding)
            continue
        change = _weight(layer, choice, rounding)
        if not module.settled(layer.weight):
            again = change.again if isinstance(change, _Weight) else None
            module.derive(layer.weight, layer.nodes, change, again)
        if choice == "int8-dynamic":
            for node in layer.nodes:
                module.on_read(node, 0, values.dynamic_uint8)
        elif choice == "int8-static":
            static[name] = layer
    _attach_static(module, graph, nodes, static, formats)


def _weight(layer: Layer, choice: str, rounding: Rounding) -> _Weight | Compensated:
    """What rounds a layer's weight. Half precision has no levels to choose between."""
    if rounding.method == "nearest" or rounding.moments is None or choice == "float16":
        return _Weight(layer, choice)
    return Compensated(layer, choice, rounding)


def _attach_outliers(module: OnnxModule, layer: Layer, rounding: Rounding) -> None:
    """The inputs that stay float32 pass beside both quantisers: there the others are 0, which stays 0."""
    if rounding.moments is None:
        message = f"layer {layer.name!r}: what it reads is not known, so {outliers.CHOICE} cannot be trained with"
        raise TrialFailure(Failure(kind="unsupported", stage="recover", message=message))
    kept = torch.ones(rounding.moments.squares.shape[1])
    kept[torch.from_numpy(outliers.chosen(rounding.moments))] = 0
    rest = replace(rounding, moments=rounding.moments.scale(kept.numpy()))
    rounded = _weight(layer, "int8-dynamic", rest)
    rows = kept[:, None] if layer.output_axis == 1 else kept
    module.derive(layer.weight, layer.nodes, lambda weight: rounded(weight * rows) + weight * (1 - rows))
    for node in layer.nodes:
        module.on_read(node, 0, lambda x: values.dynamic_uint8(x * kept) + x * (1 - kept))


class _Weight:
    """Rounds a layer's weight; one that is not trained only once.

    While training, the clipping factors of blocks are searched anew every `_SEARCH_EVERY` runs only; their scales
    follow the weight at every run.
    """

    def __init__(self, layer: Layer, choice: str) -> None:
        self._layer, self._choice = layer, choice
        self._bits, self._block = _format(choice)
        self._fixed: Tensor | None = None
        self._factors: Tensor | None = None
        self._runs = 0

    def __call__(self, weight: Tensor) -> Tensor:
        if isinstance(weight, torch.nn.Parameter) and not weight.requires_grad:
            if self._fixed is None:
                self._fixed = self._rounded(weight, search=True)
            return self._fixed
        if not torch.is_grad_enabled():
            return self._rounded(weight, search=True)
        self._runs += 1
        return self._rounded(weight, search=self._runs % _SEARCH_EVERY == 1)

    def again(self, weight: Tensor) -> Tensor:
        """What the last call made of the same weight."""
        return self._rounded(weight, search=False)

    def _rounded(self, weight: Tensor, *, search: bool) -> Tensor:
        layer = self._layer
        if self._choice == "float16":
            return values.half(weight)
        if not self._block:
            return values.per_channel(weight, layer.output_axis)
        moved = weight.movedim(layer.output_axis, 0)
        rows = moved.reshape(moved.shape[0], -1)
        block = self._block
        if self._choice.endswith("-load"):
            block = min(block, -(-rows.shape[1] // 4) * 4)  # a short row is one block
        if self._choice.startswith("nf4"):
            found = values.codebook(rows, NF4.values, block)
        else:
            found, self._factors = values.in_blocks(rows, self._bits, block, None if search else self._factors)
        return values.straight_through(weight, found.reshape(moved.shape).movedim(0, layer.output_axis))


def _format(choice: str) -> tuple[int, int]:
    """(bits, block) of the weights; block 0 is one scale per channel. Raises `UsageError` for an unknown choice."""
    if choice == "float16":
        return 16, 0
    if choice in ("int8-static", "int8-dynamic"):
        return 8, 0
    if choice in _CARDS_ONLY:
        message = f"{choice} is computed on cards only and cannot be trained with; recover a recipe without it"
        raise TrialFailure(Failure(kind="unsupported", stage="recover", message=message))
    return parse_choice(choice)


def _rows(layer: Layer, nodes: Mapping[str, onnx.NodeProto]) -> bool:
    """A table whose rows are rounded each by itself: only those that are looked up need be."""
    whole = all(attribute(nodes[node], "axis", 0) == 0 for node in layer.nodes)
    return whole and len(layer.shape) == 2 and layer.output_axis == 0


def _gathered(choice: str) -> Change:
    bits, block = _format(choice)

    def run(found: Tensor) -> Tensor:
        rows = found.reshape(-1, found.shape[-1])
        if bits == 16:
            return values.half(found)
        if not block:
            return values.per_channel(rows, 0).reshape(found.shape)
        size = min(block, -(-rows.shape[1] // 4) * 4) if choice.endswith("-load") else block
        if choice.startswith("nf4"):
            rounded = values.codebook(rows, NF4.values, size)
        else:
            rounded, _ = values.in_blocks(rows, bits, size)
        return values.straight_through(found, rounded.reshape(found.shape))

    return run


# -- activations of static choices


def _attach_static(
    module: OnnxModule,
    graph: onnx.GraphProto,
    nodes: Mapping[str, onnx.NodeProto],
    static: Mapping[str, Layer],
    formats: Formats,
) -> None:
    readers: dict[str, list[onnx.NodeProto]] = {}
    for node in graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    outputs = {value.name for value in graph.output}
    for layer in static.values():
        for name in layer.nodes:
            node = nodes[name]
            scale, zero = _scale(formats.range_of(node.input[0], layer))
            module.on_read(name, 0, _activation(scale, zero))
            if layer.op != "Conv":
                continue
            if len(node.input) > 2 and node.input[2]:
                module.on_read(name, 2, _bias(module, layer, scale))
            tensor = node.output[0]
            following = readers.get(tensor, [])
            if tensor not in outputs and len(following) == 1 and following[0].op_type in _FUSED_ACTIVATIONS:
                tensor = following[0].output[0]
            module.on_write(tensor, _activation(*_scale(formats.range_of(tensor, layer))))


def _scale(known: Range) -> tuple[float, int]:
    scale, zero = known.uint8()
    return float(scale), int(zero)


def _activation(scale: float, zero: int) -> Change:
    return lambda x: values.static_uint8(x, scale, zero)


def _bias(module: OnnxModule, layer: Layer, scale: float) -> Change:
    """int32 in steps of the scale of the input times that of the weight."""

    def run(bias: Tensor) -> Tensor:
        with torch.no_grad():
            steps = (values.channel_scales(module.constant(layer.weight), 0) * scale).clamp(min=2.0**-126)
            rounded = torch.round(bias / steps) * steps
        return values.straight_through(bias, rounded)

    return run
