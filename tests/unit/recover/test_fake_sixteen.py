"""Fake quantisers of dialects that compute in 16 bit, against the artifacts as ONNX Runtime runs them.

Without graph optimisation: the optimiser is made for other graphs (it rounds the biases of fp8 convolutions, for one).
"""

from __future__ import annotations

from pathlib import Path

import ml_dtypes
import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from autotune.compress.assembly import Assembler
from autotune.compress.dialects.ort_cuda import OrtCuda
from autotune.compress.dialects.protocol import Dialect
from autotune.compress.dialects.tensorrt import TensorRt
from autotune.errors import TrialFailure, UsageError
from autotune.recipe import Recipe
from autotune.recover import fake, rounding
from autotune.recover.graph import OnnxModule
from autotune.techniques.rounding import NEAREST, Method
from tests.unit import zoo
from tests.unit.recover.reference import run, tensors
from tests.unit.recover.test_fake import MODELS, error, knowing, roundings

_CHOICES = [
    *((TensorRt(), c) for c in ("float16", "bfloat16", "int8-static", "fp8-static", "w8-load", "w4-b32")),
    *((OrtCuda(), c) for c in ("float16", "bfloat16", "w8-b32", "w4-b32", "w2-b32-load", "nf4-b64-load")),
]


def widened(artifact: bytes, kind: str = "bfloat16") -> onnx.ModelProto:
    """The artifact for a runtime that lacks bfloat16 kernels: computed in float32, every result rounded to bfloat16."""
    model = onnx.load_from_string(artifact)
    graph, suffix = model.graph, f":{kind}"
    kind = {"bfloat16": TensorProto.BFLOAT16, "float16": TensorProto.FLOAT16}[kind]
    for tensor in graph.initializer:
        if tensor.data_type == kind:
            values = numpy_helper.to_array(tensor).astype(np.float32)
            tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    nodes = []
    for node in graph.node:
        made = [name for name in node.output if name.endswith(suffix)]
        for name in made:
            node.output[list(node.output).index(name)] = f"{name}/wide"
        if made and node.op_type == "Cast":
            node.attribute[0].i = TensorProto.FLOAT
        nodes.append(node)
        for name in made:
            nodes.append(helper.make_node("Cast", [f"{name}/wide"], [f"{name}/narrow"], to=kind))
            nodes.append(helper.make_node("Cast", [f"{name}/narrow"], [name], to=TensorProto.FLOAT))
    del graph.node[:]
    graph.node.extend(nodes)
    return model


def student_of(
    made: Assembler, decisions: dict[str, str], dialect: Dialect | None, method: Method = "nearest"
) -> OnnxModule:
    student = onnx.load_from_string(made.assemble(Recipe()))
    module = OnnxModule(student)
    known = roundings(made, method) if method != "nearest" else dict.fromkeys(decisions, NEAREST)
    ranges = made.ranges[Recipe().digest]
    fake.attach(module, student.graph, made.source.layers.values(), decisions, ranges, known, dialect)
    return module


@pytest.mark.parametrize("method", ["nearest", "gptq"])
@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize(("dialect", "choice"), _CHOICES, ids=lambda v: v if isinstance(v, str) else v.name)
def test_the_student_computes_what_its_artifact_does(
    name: str, dialect: Dialect, choice: str, method: Method, tmp_path: Path
) -> None:
    feeds = zoo.feeds(MODELS[name](), size=4)
    made = knowing(MODELS[name](), feeds, tmp_path, method)
    card = made.sibling(dialect)
    decisions = {name: choice for name, layer in made.source.layers.items() if card.offers(layer, choice)}
    if not decisions:
        pytest.skip(f"no layer of {name} takes {choice}")
    written = card.assemble(Recipe({"quantize": decisions}))
    artifact = run(widened(written) if choice == "bfloat16" else written, feeds)
    original = run(made.assemble(Recipe()), feeds)
    with torch.no_grad():
        answers = student_of(made, decisions, dialect, method)(tensors(feeds))
    for output, tensor in answers.items():
        print("WIDE", choice, name, error(tensor.numpy(), run(widened(written, kind=choice), feeds)[output])) if choice == "float16" else 0
        print("MEASURE", dialect.name, choice, name, method, error(tensor.numpy(), artifact[output]), error(original[output], artifact[output]))
