"""Raise a model's opset step by step, in place, keeping every name and all metadata.

Why not `onnx.version_converter`: it drops node metadata (module names), and it turns the linear Upsample-9 and
Resize-10 into a half-pixel Resize, a model with other outputs. Here each step N -> N+1 looks at the operators that
changed in N+1. A change that only adds optional things is compatible by its schemas; anything else needs an adapter
from `normalise_adapters`; where that has none for a node, the model stays at N and the reason is told.
"""

from __future__ import annotations

from collections import defaultdict
from functools import cache

import onnx_ir as ir
from onnx import defs
from onnx_ir.passes import common

from autotune.compress.ingest_checks import MAX_OPSET, show
from autotune.compress.normalise_adapters import ADAPTERS, RANK_MATTERS, Edit, NoAdapter
from autotune.errors import DataError

WORKING_OPSET = 21  # the first with int4 QuantizeLinear and DequantizeLinear and their block_size
OLDEST_OPSET = 7  # what onnxruntime promises to run
_DATA_PROPAGATION_NODES = 5000  # above, propagating the values of shapes takes seconds
_OPTIONAL = (defs.OpSchema.FormalParameterOption.Optional, defs.OpSchema.FormalParameterOption.Variadic)


def fit_opset(model: ir.Model) -> str | None:
    """Bring `model` to the working opset, or as near as is certain; returns a note on what was done.

    Models between the working opset and the newest that onnxruntime loads stay as they are; newer ones are lowered when
    none of their operators needs the newer version, else `DataError`.
    """
    start = model.opset_imports.get("")
    if start is None or WORKING_OPSET <= start <= MAX_OPSET:
        return None
    if start > MAX_OPSET:
        _lower(model, start)
        return f"opset {start} was lowered to {MAX_OPSET}"
    if start < OLDEST_OPSET:
        return f"opset {start} is older than {OLDEST_OPSET} and stays as it is"
    reached, reason = _raise(model, start)
    if reason is None:
        return f"opset {start} was converted to {reached}"
    return f"opset {start} {'was converted to' if reached > start else 'stays at'} {reached}: {reason}"


def _raise(model: ir.Model, version: int) -> tuple[int, str | None]:
    if model.functions:
        return version, "the model has functions that could not be inlined"
    late: list[Edit] = []
    reason = None
    while version < WORKING_OPSET and reason is None:
        try:
            edits = [(n, edit) for n in model.graph.all_nodes() if (edit := _step(n, version + 1)) is not None]
        except NoAdapter as problem:
            reason = str(problem)
            continue
        version += 1
        model.opset_imports[""] = version
        for node, edit in edits:
            if node.op_type in RANK_MATTERS:
                late.append(edit)
            else:
                edit()
    if late:
        infer_shapes(model)  # newer versions of the operators around them tell onnx more than older ones
    for edit in late:
        edit()
    return version, reason


def infer_shapes(model: ir.Model) -> None:
    """Attach inferred types and shapes to values, where inference works; where it does not, they stay unknown."""
    small = model.graph.num_nodes() <= _DATA_PROPAGATION_NODES
    common.ShapeInferencePass(check_type=False, strict_mode=False, data_prop=small)(model)


def _step(node: ir.Node, version: int) -> Edit | None:
    """What must be done to `node` to mean the same in opset `version`; None when nothing. Raises `NoAdapter`."""
    if node.domain != "" or version not in _versions()[node.op_type]:
        return None
    adapter = ADAPTERS.get((node.op_type, version))
    if adapter is not None:
        return adapter(node)
    if not _compatible(node.op_type, version):
        raise NoAdapter(f"{node.op_type} changed in opset {version} and node {show(node.name or '')} has no adapter")
    return None


@cache
def _versions() -> dict[str, frozenset[int]]:
    found: dict[str, set[int]] = defaultdict(set)
    for schema in defs.get_all_schemas_with_history():
        if schema.domain == "":
            found[schema.name].add(schema.since_version)
    return defaultdict(frozenset, {name: frozenset(versions) for name, versions in found.items()})


@cache
def _compatible(op: str, version: int) -> bool:
    """True when the schema of `version` only adds optional inputs, outputs, attributes or types."""
    if min(_versions()[op]) == version:
        return True  # an operator that some exporters used before it was standard (LayerNormalization)
    old, new = defs.get_schema(op, version - 1, ""), defs.get_schema(op, version, "")
    if new.deprecated or len(new.inputs) < len(old.inputs) or len(new.outputs) < len(old.outputs):
        return False
    if any(i.option not in _OPTIONAL for i in list(new.inputs)[len(old.inputs) :]):
        return False
    if any(a.option in _OPTIONAL and b.option not in _OPTIONAL for a, b in zip(old.inputs, new.inputs, strict=False)):
        return False
    for name, attribute in old.attributes.items():
        if name not in new.attributes or new.attributes[name].default_value != attribute.default_value:
            return False
    return not any(a.required for name, a in new.attributes.items() if name not in old.attributes)


def _lower(model: ir.Model, start: int) -> None:
    for node in model.graph.all_nodes():
        newest = max((v for v in _versions()[node.op_type] if v <= start), default=0)
        if node.domain == "" and newest > MAX_OPSET:
            raise DataError(
                f"opset {start} is newer than onnxruntime loads ({MAX_OPSET}) and {node.op_type} needs it; "
                f"export the model at opset {WORKING_OPSET}"
            )
    model.opset_imports[""] = MAX_OPSET
