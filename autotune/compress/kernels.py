"""What was asked for and what ran: kernels that a runtime reported, attributed to layers."""

from __future__ import annotations

import re
from collections.abc import Container, Iterable, Mapping, Sequence

import onnx

from autotune.layers import Layer
from autotune.trial import LayerOutcome
from hwprofiles.measurement import Kernel

# How ONNX Runtime renames a node when an optimiser replaces it.
# "/outliers" and "/outlier-inputs" are nodes that our own dialect puts beside a product.
_SUFFIXES = re.compile(r"(_token_\d+|/[A-Za-z]+Fusion/?|_transformed|_\d+|/outlier(?:s|-inputs))$")
_PREFIXES = re.compile(r"^(fused |MatMul_With_|Fused_)")
# Element-wise nodes that may be fused into the layer in front of them; the fused node carries their output's name.
_FUSED = frozenset(
    [
        "Relu",
        "Clip",
        "LeakyRelu",
        "Sigmoid",
        "Tanh",
        "HardSigmoid",
        "HardSwish",
        "Elu",
        "Add",
        "Mul",
        "Sum",
        "Identity",
        "Cast",
        "QuickGelu",
        "Gelu",
        "BatchNormalization",
        "Softplus",
        "PRelu",
    ]
)
_HOPS = 4
# A runtime that fuses nodes into kernels of its own tells "<kind of kernel>:<precision>", and the names of all nodes
# that are in it, with this between them.
_AND = " + "
_ANY = "*"
# Types of a kernel with several products in it, the narrowest first: which of them got which is not told.
_INSIDE = "+"


def layer_outcomes(
    artifact: onnx.ModelProto,
    layers: Sequence[Layer],
    decisions: Mapping[str, str],
    expected: Mapping[str, frozenset[str]],
    kernels: Sequence[Kernel],
) -> tuple[LayerOutcome, ...]:
    """One outcome per layer. `expected`: layer name -> kernels that may run, as `Dialect.kernels` names them. A layer
    no kernel can be found for is not honoured: nothing is assumed."""
    names, tensors = _owners(artifact, layers)
    found: dict[str, list[Kernel]] = {layer.name: [] for layer in layers}
    anything = frozenset().union(*expected.values()) | _MISTAKES
    by_precision = any(name.startswith(_ANY) for name in anything)
    mixed: set[int] = set()  # kernels that hold layers of different requests, by `id`
    for kernel in kernels:
        if kernel.op not in anything and not by_precision:
            continue
        inside = _attributed(kernel.node, names, tensors)
        if len({expected[name] for name in inside if _ANY not in expected[name]}) > 1 and len(_types(kernel.op)) > 1:
            mixed.add(id(kernel))
        for layer_name in inside:
            found[layer_name].append(kernel)
    return tuple(
        _outcome(layer, decisions.get(layer.name, "none"), expected[layer.name], found[layer.name], mixed)
        for layer in layers
    )


# Kernels that would show that something else than the recipe ran.
_MISTAKES = frozenset(
    [
        "QLinearConv",
        "ConvInteger",
        "MatMulInteger",
        "MatMulIntegerToFloat",
        "QLinearMatMul",
        "QGemm",
        "DynamicQuantizeMatMul",
        "MatMulNBits",
        "Conv",
        "FusedConv",
        "NhwcFusedConv",
        "MatMul",
        "FusedMatMul",
        "Gemm",
        "FusedGemm",
        "ConvTranspose",
        "Gather",
        "GatherBlockQuantized",
    ]
)


def _outcome(
    layer: Layer, asked: str, expected: frozenset[str], kernels: Iterable[Kernel], mixed: Container[int]
) -> LayerOutcome:
    ran = list(kernels)
    if not ran:
        note = "no kernel of this layer was seen; it may be fused into another or lie on a path that was not taken"
        return LayerOutcome(layer=layer.name, asked=asked, ran="not seen", honoured=False, seconds=0.0, note=note)
    regions = [kernel for kernel in ran if id(kernel) in mixed]
    ops = {kernel.op for kernel in ran if id(kernel) not in mixed}
    honoured: bool | None = _ANY in expected or (bool(ops) and _honoured(ops, expected))
    note = "" if honoured else f"expected {' or '.join(sorted(expected))}"
    if not honoured and any(f"{_ANY}:{kind}" in expected for kernel in regions for kind in _types(kernel.op)):
        honoured = None
        note = "the runtime compiled layers of different requests into one, and does not tell which got which type"
    told = [*ops, *(f"in a fused region ({', '.join(_types(kernel.op))} inside)" for kernel in regions)]
    return LayerOutcome(
        layer=layer.name,
        asked=asked,
        ran=" + ".join(sorted(set(told))),
        honoured=honoured,
        seconds=sum(kernel.seconds for kernel in ran),
        note=note,
    )


def _honoured(ops: Iterable[str], expected: frozenset[str]) -> bool:
    """Kernels by name: all of them must be expected. By precision ("*:int8"): one is enough, for others may convert;
    of a kernel with several products the narrowest type counts, for all in it were asked for the same."""
    if any(name.startswith(_ANY) for name in expected):
        return _ANY in expected or any(f"{_ANY}:{_types(op)[0]}" in expected for op in ops)
    return set(ops) <= expected


def _types(op: str) -> list[str]:
    """Of a kernel's "<kind>:<types>"."""
    return op.rpartition(":")[2].split(_INSIDE)


def _owners(artifact: onnx.ModelProto, layers: Sequence[Layer]) -> tuple[dict[str, str], dict[str, str]]:
    """(node name -> layer, tensor -> layer); tensors include those of nodes that may be fused into the layer."""
    names = {node: layer.name for layer in layers for node in layer.nodes}
    readers: dict[str, list[onnx.NodeProto]] = {}
    for node in artifact.graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    tensors: dict[str, str] = {}
    ahead: list[tuple[str, str]] = []
    for node in artifact.graph.node:
        if node.name in names:
            tensors[node.output[0]] = names[node.name]
            ahead.append((node.output[0], names[node.name]))
    for _ in range(_HOPS):
        following: list[tuple[str, str]] = []
        for tensor, layer in ahead:
            for node in readers.get(tensor, []):
                if node.op_type in _FUSED and node.output[0] not in tensors:
                    tensors[node.output[0]] = layer
                    following.append((node.output[0], layer))
        ahead = following
    return names, tensors


def _attributed(node: str, names: Mapping[str, str], tensors: Mapping[str, str]) -> list[str]:
    """The layers that a kernel does the work of, each once."""
    one = _attribute(node, names, tensors)
    if one is not None or _AND not in node:
        return [] if one is None else [one]
    layers = (_attribute(part, names, tensors) for part in node.split(_AND))
    return list(dict.fromkeys(layer for layer in layers if layer is not None))


def _attribute(node: str, names: Mapping[str, str], tensors: Mapping[str, str]) -> str | None:
    """The layer that a reported node belongs to, or None."""
    if node.endswith("_nchwc"):
        tensor = node.removesuffix("_nchwc")
        return tensors.get(tensor) or names.get(tensor)
    candidates = [node]
    for _ in range(_HOPS):
        shorter = _PREFIXES.sub("", _SUFFIXES.sub("", candidates[-1]))
        if shorter == candidates[-1]:
            break
        candidates.append(shorter)
    return next((names[c] for c in candidates if c in names), None)
