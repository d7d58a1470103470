"""Fake quantisers of dialects that compute in 16 bit, against the artifacts as ONNX Runtime runs them.

Without graph optimisation: the optimiser is made for other graphs (it rounds the biases of fp8 convolutions, for one).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from autotune.compress.assembly import Assembler
from autotune.compress.dialects.ort_cpu import OrtCpu
from autotune.compress.dialects.ort_cuda import OrtCuda
from autotune.compress.dialects.protocol import Dialect
from autotune.compress.dialects.tensorrt import TensorRt
from autotune.compress.zoo.graph import Graph
from autotune.errors import TrialFailure, UsageError
from autotune.recipe import Recipe
from autotune.recover import fake, rounding
from autotune.recover.batching import Batch
from autotune.recover.formats import Formats
from autotune.recover.graph import OnnxModule
from autotune.recover.settings import Settings
from autotune.recover.training import recover
from autotune.techniques.rounding import NEAREST, Method
from tests.unit import zoo
from tests.unit.recover.reference import run, tensors
from tests.unit.recover.test_fake import MODELS, error, knowing, roundings

_BELOW = [
    *((TensorRt(), choice) for choice in ("int8-static", "fp8-static", "w8-load", "w4-b32")),
    *((OrtCuda(), choice) for choice in ("w8-b32", "w4-b32", "w8-load", "w2-b32-load", "nf4-b64-load")),
]


def widened(artifact: bytes, choice: str) -> onnx.ModelProto:
    """The artifact for a runtime without kernels of 16 bit: computed in float32, every result rounded to 16 bit."""
    model = onnx.load_from_string(artifact)
    graph, suffix = model.graph, f":{choice}"
    kind = {"bfloat16": TensorProto.BFLOAT16, "float16": TensorProto.FLOAT16}[choice]
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
    layers = tuple(made.source.layers.values())
    fake.attach(module, student.graph, Formats(layers, decisions, ranges, known, dialect))
    return module


# What lies between their layers is computed in 16 bit by the artifact and in float32 by the student.
_GLUE = ("residual", "mlp", "attention")


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("choice", ["float16", "bfloat16"])
@pytest.mark.parametrize("dialect", [TensorRt(), OrtCuda()], ids=lambda d: d.name)
def test_sixteen_bits_are_those_of_the_artifact(name: str, choice: str, dialect: Dialect, tmp_path: Path) -> None:
    """Every result of the artifact is rounded to 16 bit, what it adds up is not, whatever kernels the CPU has."""
    feeds = zoo.feeds(MODELS[name](), size=4)
    made = knowing(MODELS[name](), feeds, tmp_path, "nearest")
    card = made.sibling(dialect)
    decisions = {name: choice for name, layer in made.source.layers.items() if card.offers(layer, choice)}
    if not decisions:
        pytest.skip(f"no layer of {name} takes {choice}")
    written = card.assemble(Recipe({"quantize": decisions}))
    original = run(made.assemble(Recipe()), feeds)
    artifact = run(widened(written, choice), feeds)
    step = 2.0**-11 if choice == "float16" else 2.0**-8
    with torch.no_grad():
        answers = student_of(made, decisions, dialect)(tensors(feeds))
    for output, tensor in answers.items():
        assert error(original[output], artifact[output]) > step / 4
        assert error(tensor.numpy(), artifact[output]) < (step if name in _GLUE else 1e-6), output
        if choice == "float16":
            assert error(tensor.numpy(), run(written, feeds)[output]) < 2 * step, output


@pytest.mark.parametrize("method", ["nearest", "gptq"])
@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize(("dialect", "choice"), _BELOW, ids=lambda v: v if isinstance(v, str) else v.name)
def test_the_student_computes_what_its_artifact_does(
    name: str, dialect: Dialect, choice: str, method: Method, tmp_path: Path
) -> None:
    feeds = zoo.feeds(MODELS[name](), size=4)
    made = knowing(MODELS[name](), feeds, tmp_path, method)
    card = made.sibling(dialect)
    decisions = {name: choice for name, layer in made.source.layers.items() if card.offers(layer, choice)}
    if not decisions:
        pytest.skip(f"no layer of {name} takes {choice}")
    artifact = run(card.assemble(Recipe({"quantize": decisions})), feeds)
    original = run(made.assemble(Recipe()), feeds)
    with torch.no_grad():
        answers = student_of(made, decisions, dialect, method)(tensors(feeds))
    for output, tensor in answers.items():
        damage, found = error(original[output], artifact[output]), error(tensor.numpy(), artifact[output])
        # The CPU's float16 products round their sums; one step of a static activation may fall elsewhere for that.
        assert found < (0.005 if choice.endswith("-static") else 0.0015), output
        assert found < 0.5 * damage, (output, damage)


def test_the_cpus_rounding_is_another(tmp_path: Path) -> None:
    """Otherwise the tests above would pass whatever dialect is asked; the sum that is read as int8 among it."""
    feeds = zoo.feeds(zoo.conv_residual(), size=4)
    made = knowing(zoo.conv_residual(), feeds, tmp_path, "nearest")
    decisions = dict.fromkeys(made.source.layers, "int8-static")
    artifact = run(made.sibling(TensorRt()).assemble(Recipe({"quantize": decisions})), feeds)
    ours, cpus = (student_of(made, decisions, dialect)(tensors(feeds)) for dialect in (TensorRt(), OrtCpu()))
    for output, expected in artifact.items():
        assert error(ours[output].detach().numpy(), expected) < 0.001
        assert error(cpus[output].detach().numpy(), expected) > 0.003


def test_the_other_branch_of_a_sum_is_rounded_where_the_artifact_does(tmp_path: Path) -> None:
    g = Graph(17, x=(4, 8, 6, 6))
    skip = g.conv("x", "first", 8, 8, 1, 1)
    total = g.add("Add", g.conv(skip, "second", 8, 8, 1, 1), skip)
    model = g.model(g.conv(total, "last", 8, 8, 1, 1))
    feeds = {"x": np.random.default_rng(5).standard_normal((4, 8, 6, 6)).astype(np.float32)}
    made = knowing(model, feeds, tmp_path, "nearest")
    decisions = dict.fromkeys(made.source.layers, "int8-static")
    artifact = run(made.sibling(TensorRt()).assemble(Recipe({"quantize": decisions})), feeds)

    class WithoutSums(TensorRt):
        def quantised_sums(self, *given: Any, **named: Any) -> dict[Any, Any]:
            return {}

    ours, without = (student_of(made, decisions, dialect)(tensors(feeds)) for dialect in (TensorRt(), WithoutSums()))
    for output, expected in artifact.items():
        found = error(ours[output].detach().numpy(), expected)
        assert 2 * found < error(without[output].detach().numpy(), expected)


def test_e4m3_is_rounded_as_its_definition_says_and_gradients_stop_where_it_clips() -> None:
    """Against ml_dtypes, and against itself: its own numbers stay what they are."""
    x = torch.from_numpy(np.random.default_rng(0).standard_normal(4000).astype(np.float32) * 60)
    expected = np.clip(x.numpy() / 0.25, -448, 448).astype(ml_dtypes.float8_e4m3fn).astype(np.float32) * 0.25
    found = rounding.static_e4m3(x, 0.25)
    assert np.array_equal(found.numpy(), expected)
    assert torch.equal(rounding.static_e4m3(found, 0.25), found)
    wide = torch.tensor([-500.0, -1.03, 0.3, 470.0], requires_grad=True)
    for rounded, scale in ((rounding.static_e4m3, 1.0), (rounding.static_int8, 3.0)):
        wide.grad = None
        rounded(wide, scale).sum().backward()
        assert wide.grad is not None and wide.grad.tolist() == [0, 1, 1, 0]


@pytest.mark.parametrize("choice", ["float16", "bfloat16", "int8-static", "fp8-static", "w8-load", "w4-b32"])
def test_weights_learn_through_the_rounding(choice: str, tmp_path: Path) -> None:
    feeds = zoo.feeds(zoo.mlp(), size=4)
    made = knowing(zoo.mlp(), feeds, tmp_path, "nearest")
    card = made.sibling(TensorRt())
    decisions = {name: choice for name, layer in made.source.layers.items() if card.offers(layer, choice)}
    module = student_of(made, decisions, TensorRt())
    torch.stack([each.square().sum() for each in module(tensors(feeds)).values()]).sum().backward()
    for name in decisions:
        gradient = module.weights[made.source.layers[name].weight].grad
        assert gradient is not None and torch.isfinite(gradient).all() and gradient.abs().sum() > 0


def test_what_cannot_be_trained_with_is_refused_with_the_reason(tmp_path: Path) -> None:
    feeds = zoo.feeds(zoo.mlp(), size=4)
    made = knowing(zoo.mlp(), feeds, tmp_path, "nearest")
    layer = next(iter(made.source.layers))
    with pytest.raises(UsageError, match="did you mean"):
        student_of(made, {layer + "x": "float16"}, TensorRt())
    made.ranges[Recipe().digest] = {}
    with pytest.raises(TrialFailure, match="'x' has no calibrated range"):
        student_of(made, {layer: "fp8-static"}, TensorRt())


def test_a_training_begins_with_the_rounding_of_its_dialect(tmp_path: Path) -> None:
    feeds = zoo.feeds(zoo.mlp(), size=4)
    made = knowing(zoo.mlp(), feeds, tmp_path, "nearest")
    original = onnx.load_from_string(made.assemble(Recipe()))
    batch = Batch(feeds, (None,) * 4, np.ones(4, np.float32))
    decisions = dict.fromkeys(made.source.layers, "fp8-static")
    ranges, layers = made.ranges[Recipe().digest], tuple(made.source.layers.values())
    how = Settings(steps=2, relative_rate=0.01, evaluate_every=1, compare="numbers")

    def first(dialect: Dialect, chosen: dict[str, str]) -> float:
        formats = Formats(layers, chosen, ranges, dialect=dialect)
        run = recover(original, original, formats, [batch], [batch], how)
        return next(iter(run)).validation

    assert first(TensorRt(), {}) < 1e-9 < first(TensorRt(), decisions)
    with pytest.raises(TrialFailure, match="computed on cards only"):
        first(OrtCpu(), decisions)
