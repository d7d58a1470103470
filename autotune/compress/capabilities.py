"""What a target can really run: a tiny model per choice is built, run there, and its kernels read. Never a table."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from autotune.compress.assembly import Assembler
from autotune.compress.calibration import Range
from autotune.compress.dialects.protocol import Dialect
from autotune.compress.kernels import layer_outcomes
from autotune.layers import Layer, LayerOp
from autotune.recipe import Recipe
from autotune.techniques.quantize import CHOICES, Quantize
from hwprofiles.errors import DeviceFailure
from hwprofiles.measurement import Kernel

_OPS: tuple[LayerOp, ...] = ("MatMul", "Gemm", "Conv", "ConvTranspose", "Gather")
_PROBE_VERSION = 1  # raise it when the dialect writes something else


class KernelReader(Protocol):
    """The part of a device that a probe needs."""

    def kernels(self, model: Path, inputs: Mapping[str, np.ndarray], *, runs: int = 2) -> tuple[Kernel, ...]: ...


@dataclass(frozen=True)
class Probed:
    """Capabilities of one target: pairs (op, choice) that ran with the kernels they stand for, and why others not."""

    runs: frozenset[tuple[str, str]]
    refused: Mapping[str, str]  # "op choice" -> reason

    def supports(self, op: str, choice: str) -> bool:
        """True when the target ran `choice` on a layer of type `op`."""
        return (op, choice) in self.runs


@dataclass(frozen=True)
class Offered:
    """Capabilities of a study: what the dialect can write for a layer and every target runs."""

    targets: Sequence[Probed]
    assembler: Assembler

    def supports(self, layer: Layer, choice: str) -> bool:
        """See `autotune.techniques.protocol.Capabilities`."""
        return all(t.supports(layer.op, choice) for t in self.targets) and self.assembler.offers(layer, choice)


def probe(device: KernelReader, dialect: Dialect, fingerprint_key: str, folder: Path) -> Probed:
    """Find out what `device` runs; the answer is cached in `folder` under the fingerprint."""
    path = folder / f"capabilities-{dialect.name}-{fingerprint_key}-{_PROBE_VERSION}.json"
    cached = _read(path)
    if cached is not None:
        return cached
    runs: set[tuple[str, str]] = set()
    refused: dict[str, str] = {}
    for choice in CHOICES:
        for op, reason in _probe_choice(device, dialect, choice, _OPS, folder).items():
            if reason:
                refused[f"{op} {choice}"] = reason
            else:
                runs.add((op, choice))
    result = Probed(frozenset(runs), refused)
    path.write_text(json.dumps({"runs": sorted(runs), "refused": refused}, indent=1))
    return result


def _read(path: Path) -> Probed | None:
    try:
        data = json.loads(path.read_text())
        return Probed(frozenset((op, choice) for op, choice in data["runs"]), data["refused"])
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return None  # not there, or torn: probing again costs a second


def _probe_choice(
    device: KernelReader, dialect: Dialect, choice: str, ops: Sequence[LayerOp], folder: Path
) -> dict[str, str]:
    """Op -> reason why not, "" where it ran. All ops in one model; one by one if that model is refused as a whole."""
    model, layers, inputs = _probe_model(ops)
    assembler = Assembler(model, layers, dialect, {"quantize": Quantize()})
    everything = Recipe()
    assembler.ranges[everything.digest] = {n: Range(-8.0, 8.0) for n in assembler.calibration_tensors(everything)}
    reasons: dict[str, str] = {
        layer.op: "the dialect cannot write it" for layer in layers if not assembler.offers(layer, choice)
    }
    decisions = {layer.name: choice for layer in layers if layer.op not in reasons}
    if not decisions:
        return reasons
    recipe = Recipe({"quantize": decisions})
    data = assembler.assemble(recipe)
    path = folder / f"probe-{choice}-{len(ops)}.onnx"
    path.write_bytes(data)
    try:
        kernels = device.kernels(path, inputs)
    except DeviceFailure as error:
        if len(decisions) == 1:
            return reasons | dict.fromkeys((next(iter(decisions)),), error.failure.message)
        for op in decisions:
            reasons.update(_probe_choice(device, dialect, choice, [op], folder))  # type: ignore[list-item]
        return reasons
    finally:
        path.unlink(missing_ok=True)
    expected = assembler.expected_kernels(recipe)
    for outcome in layer_outcomes(onnx.load_from_string(data), layers, decisions, expected, kernels):
        if outcome.layer in decisions:
            reasons[outcome.layer] = "" if outcome.honoured else f"{outcome.ran} ran instead"
    return reasons


def _probe_model(ops: Sequence[LayerOp]) -> tuple[onnx.ModelProto, list[Layer], dict[str, np.ndarray]]:
    """One independent branch per op, each layer named like its op."""
    rng = np.random.default_rng(0)
    shapes: dict[str, tuple[tuple[int, ...], tuple[int, ...], int]] = {  # op -> (input, weight, output axis)
        "MatMul": ((1, 4, 256), (256, 64), 1),
        "Gemm": ((4, 256), (256, 64), 1),
        "Conv": ((1, 32, 8, 8), (32, 32, 3, 3), 0),
        "ConvTranspose": ((1, 32, 8, 8), (32, 32, 2, 2), 1),
        "Gather": ((1, 4), (64, 256), 0),
    }
    nodes, inputs, outputs, weights, layers = [], [], [], [], []
    feeds: dict[str, np.ndarray] = {}
    for op in ops:
        shape, weight, axis = shapes[op]
        kind = TensorProto.INT64 if op == "Gather" else TensorProto.FLOAT
        source, target = f"{op}.in", f"{op}.out"
        inputs.append(helper.make_tensor_value_info(source, kind, shape))
        outputs.append(helper.make_tensor_value_info(target, TensorProto.FLOAT, None))
        weights.append(numpy_helper.from_array(rng.normal(size=weight).astype(np.float32), f"{op}.weight"))
        reads = [f"{op}.weight", source] if op == "Gather" else [source, f"{op}.weight"]
        nodes.append(helper.make_node(op, reads, [target], name=f"{op}.node"))
        values = rng.integers(0, 64, shape) if op == "Gather" else rng.normal(size=shape).astype(np.float32)
        feeds[source] = values
        size = int(np.prod(weight))
        layers.append(Layer(op, op, (f"{op}.node",), f"{op}.weight", weight, axis, size))
    graph = helper.make_graph(nodes, "probe", inputs, outputs, weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10), layers, feeds
