"""What was asked for and what ran: kernels that a runtime reported, attributed to layers."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence

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
    for kernel in kernels:
        if kernel.op not in anything and not by_precision:
            continue
        for layer_name in _attributed(kernel.node, names, tensors):
            found[layer_name].append(kernel)
    return tuple(
        _outcome(layer, decisions.get(layer.name, "none"), expected[layer.name], found[layer.name]) for layer in layers
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


def _outcome(layer: Layer, asked: str, expected: frozenset[str], kernels: Iterable[Kernel]) -> LayerOutcome:
    ran = list(kernels)
    if not ran:
        note = "no kernel of this layer was seen; it may be fused into another or lie on a path that was not taken"
        return LayerOutcome(layer=layer.name, asked=asked, ran="not seen", honoured=False, seconds=0.0, note=note)
    ops = sorted({kernel.op for kernel in ran})
    honoured = _honoured(ops, expected)
    note = "" if honoured else f"expected {' or '.join(sorted(expected))}"
    seconds = sum(kernel.seconds for kernel in ran)
    return LayerOutcome(
        layer=layer.name, asked=asked, ran=" + ".join(ops), honoured=honoured, seconds=seconds, note=note
    )


def _honoured(ops: Iterable[str], expected: frozenset[str]) -> bool:
    """Kernels by name: all of them must be expected. By precision ("*:int8"): one is enough, for others may convert."""
    if any(name.startswith(_ANY) for name in expected):
        return _ANY in expected or any(f"{_ANY}:{op.rpartition(':')[2]}" in expected for op in ops)
    return set(ops) <= expected


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
