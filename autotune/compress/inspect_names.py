"""Names of layers: torch module names where the file tells them, else derived from weight or node names."""

from __future__ import annotations

import ast
import re

import onnx_ir as ir

from autotune.compress.normalise_fold import ORIGIN

_SCOPES, _CLASSES = "pkg.torch.onnx.name_scopes", "pkg.torch.onnx.class_hierarchy"
_MODULES = re.compile(r"(Linear|Conv\w*|Embedding\w*)$")  # class names of modules that hold one weight

# What exporters append to the module's or variable's name to name its weight.
_WEIGHT_SUFFIX = re.compile(
    r"(\.weight|\.w_\d+|[_/.]weights?|/ReadVariableOp(:\d+)?(/resource(:\d+)?)?|[_/]kernel(:\d+)?|\.w)$",
    re.IGNORECASE,
)
_FOLDED_SUFFIX = re.compile(r"(\.folded|_folded)_*$")
_MEANINGLESS = re.compile(
    r"^(onnx::.*|val_\d+|[\W_]*\d+|(const|constant|initializer|tensor|node|value)[\W_]*\w*\d*)$", re.I
)
_UNSAFE = re.compile(r"[^\w.\-]+")
_MAX = 120


def layer_name(node: ir.Node, weight: ir.Value) -> str:
    """The name of the layer of `node`: not yet unique.

    torch's exporter writes the modules around each node. The innermost one is the layer when its class holds a weight;
    after BatchNormalization was folded it is the BatchNorm, and then the weight's name tells the Conv.
    """
    scope, kind = _scope(node)
    stem = _stem(weight)
    if scope and _MODULES.search(kind):
        return clean(scope)
    if stem:
        return clean(stem)
    return clean(scope or _node_path(node) or str(weight.name))


def node_name(node: ir.Node) -> str:
    """A name for something that is not searchable, from its module, path or output."""
    scope, _ = _scope(node)
    return clean(scope or _node_path(node) or next((o.name for o in node.outputs if o.name), node.op_type))


def clean(name: str) -> str:
    """A name of letters, digits, `_`, `.` and `-` only, at most 120 characters."""
    text = _UNSAFE.sub(".", name).strip(".")
    text = re.sub(r"\.{2,}", ".", text)
    return text[-_MAX:].strip(".") or "layer"


def unique(name: str, taken: set[str]) -> str:
    """`name`, or `name_2`, `name_3`, ... where it is taken; `taken` grows."""
    result, count = name, 1
    while result in taken:
        count += 1
        result = f"{name}_{count}"
    taken.add(result)
    return result


def _scope(node: ir.Node) -> tuple[str, str]:
    """Name and class of the innermost torch module around a node, ("", "") where unknown."""
    scopes = _list(node.metadata_props.get(_SCOPES, ""))
    classes = _list(node.metadata_props.get(_CLASSES, ""))
    # The last entry of both is the operator itself.
    scope = scopes[-2] if len(scopes) > 1 else ""
    return scope, classes[-2] if len(classes) > 1 else ""


def _list(text: str) -> list[str]:
    if len(text) > 10_000:
        return []
    try:
        value = ast.literal_eval(text) if text else []
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return []
    return [item for item in value if isinstance(item, str)] if isinstance(value, list) else []


def _stem(weight: ir.Value) -> str:
    """The weight's name without what exporters append; "" when the name says nothing."""
    name = str(weight.meta.get(ORIGIN) or _FOLDED_SUFFIX.sub("", weight.name or ""))
    if _MEANINGLESS.match(name):
        return ""
    stem = _WEIGHT_SUFFIX.sub("", name)
    return stem if stem != name else ""


def _node_path(node: ir.Node) -> str:
    """`/encoder/layer.0/query/MatMul` is `encoder.layer.0.query`; a name without a path is itself."""
    name = node.name or ""
    if _MEANINGLESS.match(name):
        return ""
    head, _, tail = name.strip("/").rpartition("/")
    return head.replace("/", ".") if head and re.match(rf"{node.op_type}(_\d+)?$", tail) else name
