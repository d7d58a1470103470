"""The model under test: its bytes as one message, its reference and the names of its layers."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir

from autotune.compress.ingest_files import load_external, parse, read_file
from autotune.compress.normalise import inline_functions
from autotune.errors import DataError
from autotune.parity.exposure import layer_names
from autotune.parity.reference import Reference

Feed = Mapping[str, np.ndarray]


class Subject:
    """`path` is what the targets run; `proto` is the same graph with weights and functions inside."""

    def __init__(self, path: Path, inputs: Sequence[Feed]) -> None:
        self.path = path
        try:
            content = read_file(path)
            self.proto = parse(content)
            load_external(self.proto, path.parent)
            if self.proto.functions:
                self.proto = inline_functions(self.proto)
        except DataError as error:
            raise DataError(f"{path}: {error}") from error
        self.digest = hashlib.sha256(content).hexdigest()
        self.outputs = tuple(value.name for value in self.proto.graph.output)
        self._check(inputs)
        self.reference = Reference(self.proto)
        self.makers = {name: step.node.op_type for step in self.reference.steps for name in step.writes}
        try:
            self.names = layer_names(self.proto, self.reference)
        except (ir.serde.SerdeError, ValueError, TypeError, KeyError):
            self.names = {}  # a graph that is odd but runs; nodes have names of their own

    def _check(self, inputs: Sequence[Feed]) -> None:
        if not inputs:
            raise DataError("no inputs to compare answers on; give at least one sample")
        weights = {tensor.name for tensor in self.proto.graph.initializer}
        wanted = {value.name for value in self.proto.graph.input} - weights
        for index, feed in enumerate(inputs):
            if not wanted <= set(feed) or set(feed) - wanted - weights:
                raise DataError(
                    f"sample {index} gives {sorted(feed)}, {self.path} takes {sorted(wanted)}; rename the inputs"
                )

    def accuracy_notes(self) -> tuple[str, ...]:
        """What operators of this model permit a runtime to round."""
        lax = [n for n in self.proto.graph.node if n.op_type == "MatMulNBits" and _level(n) >= 2]
        if not lax:
            return ()
        many = "1 MatMulNBits node permits" if len(lax) == 1 else f"{len(lax)} MatMulNBits nodes permit"
        return (
            f"{many} the runtime to round activations (accuracy_level {max(map(_level, lax))}); "
            "up to 2 % of distance at such a node is counted as rounding",
        )


def _level(node: onnx.NodeProto) -> int:
    return next((int(a.i) for a in node.attribute if a.name == "accuracy_level"), 0)
