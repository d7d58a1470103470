"""The float64 reference: every node of a model, one at a time, without the rounding of float32.

Built on `onnx.reference`; operators that it lacks, computes in float32 or computes slowly are in the `ops_` modules.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from autotune.parity import ops_contrib, ops_float, ops_quantised, ops_window
from autotune.parity.promotion import captured, has_body, promoted, widened

Values = dict[str, Any]  # tensor name -> array (a list for a sequence)

_OPS = [*ops_window.OPS, *ops_float.OPS, *ops_quantised.OPS, *ops_contrib.OPS]
_RANDOM = frozenset(
    ["RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Multinomial", "Bernoulli"]
)
# Runtimes leave it in the graph, to be fused into what reads it: with a constant input it is no constant to them.
_KEPT = frozenset({"DequantizeLinear"})
# What onnx.reference answers with to a node that it cannot build or compute; it has no root of its own.
_ANSWERS = (
    ArithmeticError, AssertionError, AttributeError, LookupError, MemoryError, NotImplementedError, RuntimeError,
    TypeError, ValueError,
)  # fmt: skip


@dataclass(frozen=True, eq=False)
class Step:
    """One node: its place in the graph, and everything it reads, also inside of its subgraphs."""

    number: int
    node: onnx.NodeProto
    reads: frozenset[str]
    writes: tuple[str, ...]

    @classmethod
    def of(cls, number: int, node: onnx.NodeProto) -> Step:
        reads = frozenset({*node.input} | captured(node)) - {""}
        return cls(number, node, reads, tuple(name for name in node.output if name))


class NoReference(Exception):
    """The float64 reference cannot compute a node; the message names its operator."""


class Reference:
    """A model that is computed node by node in float64.

    `constants` are the initializers and what follows from them alone, computed once. `steps` are the other nodes, in
    order. Weights must be inside of the model. A loop is never computed ahead: it may have no end, and a target has to
    find that out first, in a process of its own.
    """

    def __init__(self, model: onnx.ModelProto) -> None:
        self._opsets = {o.domain if o.domain != "ai.onnx" else "": o.version for o in model.opset_import}
        self._opsets.setdefault("", 1)
        self._made: dict[int, ReferenceEvaluator] = {}
        self.constants: Values = {t.name: widened(numpy_helper.to_array(t)) for t in model.graph.initializer}
        self.halves = frozenset(t.name for t in model.graph.initializer if t.data_type == onnx.TensorProto.FLOAT16)
        self.steps: list[Step] = []
        self.unsupported: dict[int, str] = {}  # number of the node -> why it has no reference
        known = set(self.constants)
        for step in map(Step.of, itertools.count(), model.graph.node):
            try:
                self._evaluator(step)
                if step.reads <= known and step.node.op_type not in _KEPT and not has_body(step.node):
                    self.constants.update(self.compute(step, self.constants))
                    known.update(step.writes)
                    continue
            except NoReference as error:
                self.unsupported[step.number] = str(error)
            self.steps.append(step)

    @property
    def gap(self) -> str:
        """Why there is no float64 reference of the whole model; "" if there is one."""
        return next(iter(self.unsupported.values()), "")

    def compute(self, step: Step, values: Mapping[str, Any]) -> Values:
        """Outputs of one node from float64 `values`. Raises `NoReference`."""
        try:
            feeds = {name: values[name] for name in step.reads}
            with np.errstate(all="ignore"):
                results = self._evaluator(step).run(list(step.writes), feeds)
        except _ANSWERS as error:
            raise NoReference(f"no float64 reference: op {operator(step.node)} ({_line(error)})") from error
        return {name: _wide(value) for name, value in zip(step.writes, results, strict=True)}

    def walk(self, feed: Mapping[str, np.ndarray]) -> Iterator[tuple[Step, Values]]:
        """Each node with its outputs, in order. Values are dropped after their last use. Raises `NoReference`."""
        live: Values = {**self.constants, **{name: widened(np.asarray(array)) for name, array in feed.items()}}
        last = self.last_uses()
        for index, step in enumerate(self.steps):
            outputs = self.compute(step, live)
            live.update(outputs)
            yield step, outputs
            for name in last.get(index, ()):
                live.pop(name, None)

    def last_uses(self) -> dict[int, list[str]]:
        """Index in `steps` -> tensors that no later node reads, without the constants."""
        last: dict[str, int] = {}
        for index, step in enumerate(self.steps):
            for name in (*step.reads, *step.writes):
                last[name] = index
        uses: dict[int, list[str]] = {}
        for name, index in last.items():
            if name not in self.constants:
                uses.setdefault(index, []).append(name)
        return uses

    def run(self, feed: Mapping[str, np.ndarray], outputs: Iterable[str]) -> Values:
        """The model's outputs. Raises `NoReference`."""
        wanted = {*outputs}
        found = {name: self.constants[name] for name in wanted if name in self.constants}
        found.update({name: widened(np.asarray(feed[name])) for name in wanted if name in feed})
        for _, made in self.walk(feed):
            found.update({name: value for name, value in made.items() if name in wanted})
        return found

    def _evaluator(self, step: Step) -> ReferenceEvaluator:
        if step.number not in self._made:
            node = step.node
            if node.op_type in _RANDOM:
                raise NoReference(f"no float64 reference: op {operator(node)} (it draws random numbers)")
            outputs = [onnx.ValueInfoProto(name=name) for name in step.writes]
            graph = helper.make_graph([promoted(node)], "node", [], outputs)
            graph.node[0].domain = "" if node.domain == "ai.onnx" else node.domain
            try:
                self._made[step.number] = ReferenceEvaluator(graph, opsets=self._opsets, new_ops=_OPS)
            except _ANSWERS as error:
                raise NoReference(f"no float64 reference: op {operator(node)}") from error
        return self._made[step.number]


def operator(node: onnx.NodeProto) -> str:
    """`Conv`, `com.microsoft.MatMulNBits`."""
    return node.op_type if node.domain in ("", "ai.onnx") else f"{node.domain}.{node.op_type}"


def _wide(value: Any) -> Any:
    if isinstance(value, list):
        return [_wide(item) for item in value]
    return widened(value) if isinstance(value, np.ndarray) else value


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())[:160] or type(error).__name__
