"""What a target can really run: a tiny model per choice is built, run there, and its kernels read. A table (`runs` of a
dialect) only spares what a card cannot have; it never says that something runs.

The answers are kept in `$XDG_CACHE_HOME/hw-autotune/capabilities` under the target's fingerprint, for all studies.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
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
from autotune.techniques.moments import Moments
from autotune.techniques.quantize import ALL_CHOICES, NEED_MOMENTS, Quantize
from hwprofiles.errors import DeviceFailure
from hwprofiles.fingerprint import Fingerprint
from hwprofiles.measurement import Kernel

_OPS: tuple[LayerOp, ...] = ("MatMul", "Gemm", "Conv", "ConvTranspose", "Gather")
_PROBE_VERSION = 4  # raise it when the dialect writes something else, or the file says something else
UNWRITABLE = "the dialect cannot write it"  # why a choice is refused that no target was asked about
# Failures that are an answer about a choice. A time-out or a full disk is none, and is not remembered.
_ANSWERS = frozenset({"bad_model", "unsupported"})


class KernelReader(Protocol):
    """The part of a device that a probe needs."""

    @property
    def fingerprint(self) -> Fingerprint: ...

    def kernels(self, model: Path, inputs: Mapping[str, np.ndarray], *, runs: int = 2) -> tuple[Kernel, ...]: ...


@dataclass(frozen=True)
class Probed:
    """Capabilities of one target: pairs (op, choice) that ran with the kernels they stand for, and why others not."""

    runs: frozenset[tuple[str, str]]
    refused: Mapping[str, str]  # "op choice" -> reason
    kernels: Mapping[str, str] = field(default_factory=dict)  # "op choice" that runs -> the kernels that ran

    def supports(self, op: str, choice: str) -> bool:
        """True when the target ran `choice` on a layer of type `op`."""
        return (op, choice) in self.runs


@dataclass(frozen=True)
class Offered:
    """Capabilities of a study: what every dialect can write for a layer and every target runs.

    The recipe is the same for all targets, so what one of them cannot have is no choice for any.
    """

    targets: Sequence[Probed]
    assemblers: Sequence[Assembler]  # one for each dialect

    def supports(self, layer: Layer, choice: str) -> bool:
        """See `autotune.techniques.protocol.Capabilities`."""
        runs = all(target.supports(layer.op, choice) for target in self.targets)
        return runs and all(assembler.offers(layer, choice) for assembler in self.assemblers)


def probe(device: KernelReader, dialect: Dialect, fingerprint_key: str, folder: Path) -> Probed:
    """Find out what `device` runs, with models written to `folder`; the answer is cached under the fingerprint.

    Raises `TargetUnavailable` and `TargetBusy` as the device does.
    """
    path = cache_folder() / "capabilities" / f"{dialect.name}-{fingerprint_key}-{_PROBE_VERSION}.json"
    cached = _read(path)
    if cached is not None:
        return cached
    folder.mkdir(parents=True, exist_ok=True)
    found = _Found()
    for choice in ALL_CHOICES:
        if not _has_format(dialect, device.fingerprint, choice):
            found.refused.update(dict.fromkeys([(op, choice) for op in _OPS], "the card does not have the format"))
            continue
        _probe_choice(device, dialect, choice, _OPS, folder, found)
    result = Probed(frozenset(found.kernels), _spelled(found.refused), _spelled(found.kernels))
    if found.certain:
        _write(path, result)
    return result


def _has_format(dialect: Dialect, fingerprint: Fingerprint, choice: str) -> bool:
    """What the dialect knows of cards of this compute capability; True where it, or the card, does not tell."""
    told = re.search(r"compute capability (\d+\.\d+)", fingerprint.accelerator)
    runs = getattr(dialect, "runs", None)
    return told is None or runs is None or bool(runs(told[1], choice))


def cache_folder() -> Path:
    """The user's cache of this program (it need not exist)."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "hw-autotune"


@dataclass
class _Found:
    """What has been found out so far; both by (op, choice)."""

    kernels: dict[tuple[str, str], str] = field(default_factory=dict)
    refused: dict[tuple[str, str], str] = field(default_factory=dict)
    certain: bool = True


def _spelled(found: Mapping[tuple[str, str], str]) -> dict[str, str]:
    return {f"{op} {choice}": said for (op, choice), said in found.items()}


def _read(path: Path) -> Probed | None:
    try:
        data = json.loads(path.read_text("utf-8"))
        kernels, refused = ({str(k): str(v) for k, v in data[name].items()} for name in ("kernels", "refused"))
        runs = [tuple(name.split(" ")) for name in kernels]
        return Probed(frozenset((op, choice) for op, choice in runs), refused, kernels)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None  # not there, or not ours: probing again costs a second


def _write(path: Path, probed: Probed) -> None:
    """Whole or not at all; another study may be probing the same target right now."""
    text = json.dumps({"kernels": dict(probed.kernels), "refused": dict(probed.refused)}, indent=1)
    with contextlib.suppress(OSError):  # a cache that cannot be written costs a second each time
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, part = tempfile.mkstemp(dir=path.parent, suffix=".part")
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                file.write(text)
            Path(part).replace(path)
        finally:
            Path(part).unlink(missing_ok=True)


def _probe_choice(
    device: KernelReader, dialect: Dialect, choice: str, ops: Sequence[LayerOp], folder: Path, found: _Found
) -> None:
    """All ops in one model; one by one if that model is refused as a whole."""
    model, layers, inputs = _probe_model(ops)
    assembler = Assembler(model, layers, dialect, {"quantize": Quantize()})
    if choice in NEED_MOMENTS:
        assembler.tell_moments({x.name: _made_up(x) for x in layers if x.op in ("MatMul", "Gemm")})
    everything = Recipe()
    assembler.ranges[everything.digest] = {n: Range(-8.0, 8.0) for n in assembler.calibration_tensors(everything)}
    offered = [layer for layer in layers if assembler.offers(layer, choice)]
    for layer in layers:
        if layer not in offered:
            found.refused[layer.op, choice] = UNWRITABLE
    if not offered:
        return
    decisions = {layer.name: choice for layer in offered}
    recipe = Recipe({"quantize": decisions})
    data = assembler.assemble(recipe)
    path = folder / f"probe-{choice}-{len(ops)}.onnx"
    path.write_bytes(data)
    try:
        kernels = device.kernels(path, inputs)
    except DeviceFailure as error:
        if len(offered) > 1:
            for layer in offered:
                _probe_choice(device, dialect, choice, [layer.op], folder, found)
        else:
            found.refused[offered[0].op, choice] = error.failure.message
            found.certain = found.certain and error.failure.kind in _ANSWERS
        return
    finally:
        path.unlink(missing_ok=True)
    artifact, expected = onnx.load_from_string(data), assembler.expected_kernels(recipe)
    wanted = device.fingerprint.provider
    own = [kernel for kernel in kernels if kernel.provider == wanted]
    anywhere = layer_outcomes(artifact, layers, decisions, expected, kernels)
    there = layer_outcomes(artifact, layers, decisions, expected, own)
    for outcome, where in zip(anywhere, there, strict=True):
        if outcome.layer not in decisions:
            continue
        if outcome.honoured is False:
            found.refused[outcome.layer, choice] = f"{outcome.ran} ran instead"
        elif (where.ran, where.honoured) != (outcome.ran, outcome.honoured):
            # The runtime put the layer, or a part of it, on the CPU in silence.
            found.refused[outcome.layer, choice] = f"{outcome.ran} did not run on {wanted}"
        else:
            found.kernels[outcome.layer, choice] = outcome.ran


def _made_up(layer: Layer) -> Moments:
    """Moments of independent inputs."""
    inputs = layer.parameters // layer.shape[layer.output_axis]
    return Moments(np.eye(inputs, dtype=np.float32)[None], np.zeros((1, inputs), np.float32), 1)


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
