"""What the layers of an engine really are, from TensorRT's engine inspector or its builder's log. Python 3.9, stdlib.

Sources: `EngineInspector` (NVIDIA TensorRT Python API) gives JSON with `Layers`, whose `Metadata` names the ONNX nodes
that a layer was made of as "[ONNX Layer: name]", one after the other. The builder's verbose log has the same facts on
one line per layer, and without a card. Keys changed between versions: "Format/Datatype" became "Datatype" and "Format".
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from typing import Any

LOGGED = "Layers:\n"  # how the builder's message begins

_NODE = re.compile(r"\[ONNX Layer: (.*?)\](?=\[ONNX Layer:|[\x00-\x1f]|$)")
_LIST = r"\[\]|\[ .*?\}\]"
_LINE = re.compile(
    rf"Name: (?P<Name>.*?), LayerType: (?P<LayerType>[^,]*), Inputs: (?P<Inputs>{_LIST}), "
    rf"(?:Constants: (?P<Constants>{_LIST}), )?Outputs: (?P<Outputs>{_LIST}), (?:.*?, )?"
    r"TacticName: (?P<TacticName>.*?), StreamId: \d+, Metadata: ?(?P<Metadata>.*)"
)
_TENSOR = re.compile(r"\{ Name: (.*?), Dimensions: \[([-0-9, ]*)\].*?Datatype: (\w+)")

# Spellings of element types, the narrow ones first: "BFloat16" also says Float16, and that Float.
_TYPES = (
    ("bfloat16", ("bfloat16", "bf16")),
    ("float16", ("float16", "fp16", "half")),
    ("fp8", ("fp8", "float8", "e4m3")),
    ("fp4", ("fp4", "float4", "e2m1")),
    ("int4", ("int4",)),
    ("uint8", ("uint8",)),
    ("int8", ("int8",)),
    ("int64", ("int64",)),
    ("int32", ("int32",)),
    ("bool", ("bool",)),
    ("float32", ("float32", "fp32", "float")),
)
_BITS = {"fp4": 4, "int4": 4, "fp8": 8, "int8": 8, "uint8": 8, "float16": 16, "bfloat16": 16, "float32": 32}
_INDICES = frozenset({"int32", "int64", "bool"})

# Layer types of a network that multiply matrices: what is asked for a layer of a model is asked for one of these.
PRODUCTS = frozenset({"CONVOLUTION", "DECONVOLUTION", "MATRIX_MULTIPLY", "EINSUM"})

# Layer types of a network, by what they are called in ONNX; the first that a fused layer has names it.
_HEAVY = {
    "CONVOLUTION": "Conv",
    "DECONVOLUTION": "ConvTranspose",
    "MATRIX_MULTIPLY": "MatMul",
    "EINSUM": "Einsum",
    "SOFTMAX": "Softmax",
    "NORMALIZATION": "Normalization",
    "POOLING": "Pool",
    "REDUCE": "Reduce",
    "ELEMENTWISE": "Elementwise",
    "ACTIVATION": "Activation",
    "QUANTIZE": "QuantizeLinear",
    "DEQUANTIZE": "DequantizeLinear",
}


def inspected(text: str) -> list[dict[str, Any]]:
    """Layers of the inspector's JSON. Empty where the engine was built without their details, or it is no JSON."""
    try:
        layers = json.loads(text).get("Layers", [])
    except (ValueError, TypeError, AttributeError):  # none at all, or a name of a layer that was not escaped
        return []
    return [layer for layer in layers if isinstance(layer, dict)]


def logged(text: str) -> list[dict[str, Any]]:
    """The same from the builder's message that begins with `LOGGED`."""
    found = []
    for line in text.splitlines():
        match = _LINE.match(line.strip())
        if match is None:
            continue
        layer: dict[str, Any] = {key: value or "" for key, value in match.groupdict().items()}
        for key in ("Inputs", "Constants", "Outputs"):
            layer[key] = [
                {"Name": name, "Dimensions": [int(d) for d in dims.split(",") if d.strip()], "Datatype": kind}
                for name, dims, kind in _TENSOR.findall(layer[key])
            ]
        found.append(layer)
    return found


def kernel(layer: Mapping[str, Any], provider: str, types: Mapping[str, str], seconds: float) -> dict[str, Any]:
    """One layer of an engine as a `hwprofiles.measurement.Kernel`.

    `node`: the names of its ONNX nodes, with " + " between them; its own name where it has none. `op`: what it is, and
    the narrowest type that it reads, weights or activations: "Conv:int8", "MatMul:int4". One with several products in
    it (a region that Myelin compiled, as it does with transformers) has all of its types, the narrowest first, for
    nothing tells which product got which: "MatMul:int8+float16". `types`: ONNX node -> layer type of the network.
    """
    nodes = nodes_of(layer)
    several = sum(types.get(node) in PRODUCTS for node in nodes) > 1
    inputs = [*_tensors(layer, "Inputs"), *_tensors(layer, "Constants")]
    return {
        "node": " + ".join(nodes) or str(layer.get("Name", "")),
        "op": f"{_kind(layer, nodes, types)}:{'+'.join(precisions(layer)) if several else precision(layer)}",
        "provider": provider,
        "seconds": seconds,
        "inputs": [_spell(tensor) for tensor in inputs],
        "outputs": [_spell(tensor) for tensor in _tensors(layer, "Outputs")],
    }


def nodes_of(layer: Mapping[str, Any]) -> list[str]:
    """Names of the ONNX nodes that became this layer, each once."""
    return list(dict.fromkeys(_NODE.findall(str(layer.get("Metadata", "")))))


def precision(layer: Mapping[str, Any]) -> str:
    """The narrowest floating-point or quantised type that it reads; what it writes where it reads none of them."""
    return precisions(layer)[0]


def precisions(layer: Mapping[str, Any]) -> list[str]:
    """All such types, the narrowest first; never empty."""
    for group in (("Inputs", "Constants"), ("Outputs",)):
        kinds = {_type(tensor) for key in group for tensor in _tensors(layer, key)} - _INDICES - {""}
        if kinds:
            return sorted(kinds, key=lambda kind: (_BITS[kind], kind))
    return sorted({_type(tensor) for tensor in _tensors(layer, "Inputs")} - {""})[:1] or ["unknown"]


def _kind(layer: Mapping[str, Any], nodes: Iterable[str], types: Mapping[str, str]) -> str:
    found = [types[node] for node in nodes if node in types]
    for name, spelled in _HEAVY.items():
        if name in found:
            return spelled
    return str(layer.get("LayerType") or "unknown")


def _tensors(layer: Mapping[str, Any], key: str) -> list[Mapping[str, Any]]:
    return [tensor for tensor in layer.get(key) or () if isinstance(tensor, dict)]


def _type(tensor: Mapping[str, Any]) -> str:
    said = str(tensor.get("Datatype") or tensor.get("DataType") or tensor.get("Format/Datatype") or "").lower()
    return next((kind for kind, words in _TYPES if any(word in said for word in words)), "")


def _spell(tensor: Mapping[str, Any]) -> str:
    return "{}[{}]".format(_type(tensor) or "unknown", ",".join(str(d) for d in tensor.get("Dimensions") or ()))
