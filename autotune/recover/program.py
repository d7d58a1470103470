"""A graph as a list of steps that torch carries out, branches and loops included."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import onnx
import torch
from onnx import helper, numpy_helper

from autotune.errors import DataError
from autotune.recover.operators.node import Node, Operator, Tensor, Unsupported
from autotune.recover.operators.table import OPERATORS

Values = dict[str, Tensor]
Missing = dict[str, str]  # operator (and what of it) -> a node that has it
_FLOW = ("If", "Loop")


@dataclass(eq=False)
class Step:
    """One node. `reads` are the tensors it takes in order ("" for none), `needs` those and what its bodies take."""

    node: Node
    reads: tuple[str, ...]
    needs: frozenset[str]
    operator: Operator | None  # None: a branch or a loop
    bodies: Mapping[str, Program]

    def run(self, values: Mapping[str, Tensor]) -> tuple[Tensor, ...]:
        """The outputs. Raises `DataError` that names the node where torch cannot compute it."""
        given = [values[name] if name else None for name in self.reads]
        try:
            if self.operator is None:
                return self._branch(given, values) if self.node.op == "If" else self._loop(given, values)
            result = self.operator(*given)
        except (RuntimeError, ValueError, IndexError, TypeError, Unsupported) as error:
            cause = " ".join(str(error).split())[:200]
            raise DataError(f"recover: node {self.node.name!r} ({self.node.op}) cannot be computed: {cause}") from error
        return result if isinstance(result, tuple) else (result,)

    def _branch(self, given: list[Tensor | None], values: Mapping[str, Tensor]) -> tuple[Tensor, ...]:
        (condition,) = given
        name = "then_branch" if condition is not None and bool(condition) else "else_branch"
        return self.bodies[name].results({}, values)

    def _loop(self, given: list[Tensor | None], values: Mapping[str, Tensor]) -> tuple[Tensor, ...]:
        trips, condition, *states = given
        body = self.bodies["body"]
        scans: list[list[Tensor]] = [[] for _ in body.outputs[1 + len(states) :]]
        going, turn = condition is None or bool(condition), 0
        while going and (trips is None or turn < int(trips)):
            feed = [torch.tensor(turn), torch.tensor(going), *states]
            results = body.results({n: t for n, t in zip(body.inputs, feed, strict=True) if t is not None}, values)
            going, turn = bool(results[0]), turn + 1
            states = list(results[1 : 1 + len(states)])
            for scan, result in zip(scans, results[1 + len(states) :], strict=True):
                scan.append(result)
        if any(not scan for scan in scans):
            raise Unsupported("a loop that collects results and is never entered")
        return (*(state for state in states if state is not None), *(torch.stack(scan) for scan in scans))


class Program:
    """The steps of a graph in order. `constants` are its initializers."""

    def __init__(self, graph: onnx.GraphProto, opsets: Mapping[str, int], missing: Missing) -> None:
        """Operators that are not there are noted in `missing`; the program cannot run then."""
        self.inputs = tuple(value.name for value in graph.input)
        self.outputs = tuple(value.name for value in graph.output)
        self.constants: Values = {}
        for tensor in graph.initializer:
            if tensor.data_type != onnx.TensorProto.STRING:
                self.constants[tensor.name] = torch.from_numpy(np.array(numpy_helper.to_array(tensor)))
        self.steps = [step for node in graph.node if (step := _step(node, opsets, missing)) is not None]
        self.free = self.last_uses()

    def needs(self) -> frozenset[str]:
        """Tensors of the graph around it."""
        own = {*self.inputs, *self.constants, *(name for step in self.steps for name in step.node.outputs)}
        return frozenset(name for step in self.steps for name in step.needs if name not in own) | (
            frozenset(self.outputs) - own
        )

    def take(self, step: Step, values: Values) -> None:
        """Carry out one step."""
        for name, result in zip(step.node.outputs, step.run(values), strict=False):
            if name:
                values[name] = result

    def results(self, inputs: Values, around: Mapping[str, Tensor]) -> tuple[Tensor, ...]:
        """The outputs as a body of a graph whose values are `around`."""
        values = {**around, **self.constants, **inputs}
        for step in self.steps:
            self.take(step, values)
        return tuple(values[name] for name in self.outputs)

    def last_uses(self) -> dict[int, list[str]]:
        """Number of a step -> tensors that no later one needs."""
        last: dict[str, int] = {}
        for index, step in enumerate(self.steps):
            for name in (*step.needs, *step.node.outputs):
                last[name] = index
        free: dict[int, list[str]] = {}
        for name, index in last.items():
            if name not in self.outputs:
                free.setdefault(index, []).append(name)
        return free


def _step(proto: onnx.NodeProto, opsets: Mapping[str, int], missing: Missing) -> Step | None:
    node = Node.of(proto, opsets)
    reads = list(node.inputs)
    while reads and not reads[-1]:
        reads.pop()
    needs = {name for name in reads if name}
    bodies: dict[str, Program] = {}
    operator: Operator | None = None
    if node.op in _FLOW:
        bodies = {name: Program(graph, opsets, missing) for name, graph in _graphs(proto)}
        needs |= {name for body in bodies.values() for name in body.needs()}
    elif node.op not in OPERATORS:
        missing.setdefault(node.op, node.name)
        return None
    else:
        try:
            operator = OPERATORS[node.op](node)
        except Unsupported as reason:
            missing.setdefault(f"{node.op} with {reason}", node.name)
            return None
    return Step(node, tuple(reads), frozenset(needs), operator, bodies)


def _graphs(node: onnx.NodeProto) -> Iterator[tuple[str, onnx.GraphProto]]:
    for attribute in node.attribute:
        if attribute.type == onnx.AttributeProto.GRAPH:
            yield attribute.name, helper.get_attribute_value(attribute)
