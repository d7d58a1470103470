"""Fake quantisers against the artifacts that they stand for, as ONNX Runtime runs them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from autotune.compress import moments
from autotune.compress.assembly import Assembler
from autotune.compress.dialects.ort_cpu_weights import grid_of
from autotune.compress.ingest import load_model
from autotune.errors import TrialFailure, UsageError
from autotune.layers import Layer
from autotune.recipe import Recipe
from autotune.recover import compensating, fake, rounding
from autotune.recover.formats import Formats
from autotune.recover.graph import OnnxModule
from autotune.techniques import rounding as written
from autotune.techniques.matrices import from_matrix
from autotune.techniques.quantize import ALL_CHOICES, NEED_MOMENTS, Quantize
from autotune.techniques.rounding import Method, Rounding, round_weight
from tests.unit import zoo
from tests.unit.compress.assembling import assembler_of
from tests.unit.recover.reference import run, tensors

MODELS = {
    "residual": zoo.conv_residual, "convolutions": zoo.convolutions, "mlp": zoo.mlp, "attention": zoo.attention,
    "embedding": zoo.embedding, "shared": zoo.shared_weight,
}  # fmt: skip


def mlp() -> tuple[onnx.ModelProto, Layer]:
    """The model and its first layer."""
    loaded = load_model(zoo.mlp())
    return loaded.model, loaded.inspection.layers[0]


def error(found: np.ndarray, expected: np.ndarray) -> float:
    return float(np.linalg.norm(found - expected) / np.linalg.norm(expected))


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("choice", [choice for choice in ALL_CHOICES if choice not in NEED_MOMENTS])
def test_the_student_computes_what_its_artifact_does(name: str, choice: str, tmp_path: Path) -> None:
    model = MODELS[name]()
    feeds = zoo.feeds(model, size=4)
    made = assembler_of(model, feeds, tmp_path)
    decisions = {name: choice for name, layer in made.source.layers.items() if made.offers(layer, choice)}
    if not decisions:
        pytest.skip(f"no layer of {name} takes {choice}")
    student = onnx.load_from_string(made.assemble(Recipe()))
    module = OnnxModule(student)
    formats = Formats(tuple(made.source.layers.values()), decisions, made.ranges[Recipe().digest])
    fake.attach(module, student.graph, formats)
    artifact = run(made.assemble(Recipe({"quantize": decisions})), feeds, optimised=True)
    original = run(student, feeds)
    for output, tensor in module(tensors(feeds)).items():
        found = tensor.detach().numpy()
        damage = error(original[output], artifact[output])
        # Kernels of packed weights round activations to 8 bits too; one step of a static activation may fall elsewhere.
        bound = {"n": 1e-6, "w": 0.02, "i": 0.01, "f": 1e-6}[choice[0]] if not choice.endswith("-load") else 1e-6
        assert error(found, artifact[output]) < bound, output
        assert choice.startswith("w8-b") or error(found, artifact[output]) < 0.25 * damage, (output, damage)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from([2, 4, 8]), st.sampled_from([16, 32, 128]), st.integers(1, 70))
def test_blocks_are_rounded_as_they_are_written(seed: int, bits: int, block: int, length: int) -> None:
    rows = np.random.default_rng(seed).standard_normal((5, length)).astype(np.float32)
    rows[0] = 0
    found, factors = rounding.in_blocks(torch.from_numpy(rows), bits, block)
    expected = written.in_blocks(rows, bits, block)
    assert np.allclose(found.numpy(), expected.restore(), atol=1e-6)
    again, _ = rounding.in_blocks(torch.from_numpy(rows), bits, block, factors)
    assert torch.equal(found, again)


@pytest.mark.parametrize("length", [3, 64, 100])
def test_codebooks_are_rounded_to_as_they_are_written(length: int) -> None:
    rows = np.random.default_rng(length).standard_normal((5, length)).astype(np.float32)
    rows[0] = 0
    found = rounding.codebook(torch.from_numpy(rows), written.NF4.values, 64)
    assert np.allclose(found.numpy(), written.to_nearest(rows, written.NF4, 64).restore(), atol=1e-7)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_channels_are_rounded_as_they_are_written(axis: int) -> None:
    weight = zoo.weight(4, 5, 3)
    weight[1, 2, 0] = 0
    levels, scales = written.per_channel_int8(weight, axis)
    shape = [1, 1, 1]
    shape[axis] = -1
    found = rounding.per_channel(torch.from_numpy(weight), axis).numpy()
    assert np.allclose(found, levels * scales.reshape(shape), atol=1e-7)


def test_gradients_pass_through_rounding_and_stop_where_a_range_clips() -> None:
    x = torch.tensor([-3.0, -0.4, 0.3, 5.0], requires_grad=True)
    y = rounding.static_uint8(x, 2 / 255, 128)
    y.sum().backward()
    assert x.grad is not None and x.grad.tolist() == [0, 1, 1, 0]
    weight = torch.randn(3, 40, requires_grad=True)
    values, _ = rounding.in_blocks(weight, 2, 32)
    rounding.straight_through(weight, values).sum().backward()
    assert weight.grad is not None and torch.equal(weight.grad, torch.ones(3, 40))


def test_scales_follow_the_weights_while_training() -> None:
    model, layer = mlp()
    module = OnnxModule(model)
    fake.attach(module, model.graph, Formats((layer,), {layer.name: "w2-b32"}))
    feeds = tensors(zoo.feeds(model))
    before = module(feeds)["y"].detach()
    with torch.no_grad():
        module.weights[layer.weight].mul_(3.0)
    after = module(feeds)["y"].detach()
    assert not torch.allclose(before, after)
    with torch.no_grad():  # a fresh search for clipping factors finds the same: they do not depend on the size
        assert torch.allclose(after, module(feeds)["y"], atol=1e-5)


def test_a_static_choice_without_a_range_names_the_activation() -> None:
    model, layer = mlp()
    with pytest.raises(TrialFailure, match="'x' has no calibrated range"):
        fake.attach(OnnxModule(model), model.graph, Formats((layer,), {layer.name: "int8-static"}))


@pytest.mark.parametrize("choice", NEED_MOMENTS)
def test_choices_that_depend_on_what_was_read_say_so(choice: str) -> None:
    model, layer = mlp()
    with pytest.raises(TrialFailure, match="what it reads is not known"):
        fake.attach(OnnxModule(model), model.graph, Formats((layer,), {layer.name: choice}))


# -- what depends on the calibration data


def knowing(model: onnx.ModelProto, feeds: dict[str, np.ndarray], folder: Path, method: Method) -> Assembler:
    """An assembler that rounds by `method` and knows ranges and moments of `feeds`."""
    made = assembler_of(model, feeds, folder)
    made.techniques["quantize"] = Quantize(choices=ALL_CHOICES, rounding=method)

    def runs(wanted: tuple[str, ...]) -> list[dict[str, np.ndarray]]:
        shown = onnx.load_from_string(made.assemble(Recipe()))
        there = {value.name for value in [*shown.graph.output, *shown.graph.input]}
        shown.graph.output.extend(onnx.ValueInfoProto(name=name) for name in wanted if name not in there)
        seen = run(shown, feeds) | feeds
        return [{name: seen[name] for name in wanted}]

    made.tell_moments(moments.collect(made.source, runs, folder / "moments"))
    return made


def roundings(made: Assembler, method: Method) -> dict[str, Rounding]:
    return {name: Rounding(method, moments=known) for name, known in made.source.moments.items()}


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("choice", ["float16", "int8-static", "w8-load", "w4-b32-load", "w2-b32", "nf4-b64-load"])
def test_compensated_weights_are_those_of_the_artifact(name: str, choice: str, tmp_path: Path) -> None:
    model = MODELS[name]()
    feeds = zoo.feeds(model, size=4)
    made = knowing(model, feeds, tmp_path, "gptq")
    decisions = {name: choice for name, layer in made.source.layers.items() if made.offers(layer, choice)}
    if not decisions:
        pytest.skip(f"no layer of {name} takes {choice}")
    student = onnx.load_from_string(made.assemble(Recipe()))
    module = OnnxModule(student)
    layers, ranges = tuple(made.source.layers.values()), made.ranges[Recipe().digest]
    fake.attach(module, student.graph, Formats(layers, decisions, ranges, roundings(made, "gptq")))
    recipe = Recipe({"quantize": decisions})
    artifact = run(made.assemble(recipe), feeds, optimised=True)
    for output, tensor in module(tensors(feeds)).items():
        bound = {"w2-b32": 0.02, "int8-static": 0.01}.get(choice, 1e-6)
        assert error(tensor.detach().numpy(), artifact[output]) < bound, output


def test_compensation_makes_a_difference_that_training_sees(tmp_path: Path) -> None:
    """Otherwise the test above would pass with rounding to nearest."""
    model = zoo.mlp()
    feeds = zoo.feeds(model, size=4)
    made = knowing(model, feeds, tmp_path, "gptq")
    decisions = dict.fromkeys(made.source.layers, "w2-b32-load")
    student = onnx.load_from_string(made.assemble(Recipe()))
    artifact = run(made.assemble(Recipe({"quantize": decisions})), feeds)
    module = OnnxModule(student)
    fake.attach(module, student.graph, Formats(tuple(made.source.layers.values()), decisions))
    for output, tensor in module(tensors(feeds)).items():
        assert error(tensor.detach().numpy(), artifact[output]) > 0.01


@pytest.mark.parametrize("method", ["nearest", "gptq"])
def test_outliers_stay_as_they_are(method: Method, tmp_path: Path) -> None:
    """Inputs of very different sizes, so that rounding them together would cost much."""
    weights = {"a": zoo.weight(64, 48), "b": zoo.weight(48, 24)}
    nodes = [
        zoo.node("MatMul", ["x", "a"], ["h"], name="first"),
        zoo.node("Gemm", ["h", "b"], ["y"], name="second"),
    ]
    model = zoo.model_of(nodes, [zoo.floats("x", "batch", 64)], ["y"], weights, 21)
    x = np.random.default_rng(0).standard_normal((16, 64)).astype(np.float32)
    x[:, ::9] *= 40
    feeds = {"x": x}
    made = knowing(model, feeds, tmp_path, method)
    decisions = {
        name: NEED_MOMENTS[0] for name, each in made.source.layers.items() if made.offers(each, NEED_MOMENTS[0])
    }
    assert len(decisions) == 2
    student = onnx.load_from_string(made.assemble(Recipe()))
    module = OnnxModule(student)
    layers = tuple(made.source.layers.values())
    fake.attach(module, student.graph, Formats(layers, decisions, {}, roundings(made, method)))
    artifact = run(made.assemble(Recipe({"quantize": decisions})), feeds, optimised=True)["y"]
    plain = run(made.assemble(Recipe({"quantize": dict.fromkeys(decisions, "int8-dynamic")})), feeds)["y"]
    found = module(tensors(feeds))["y"].detach().numpy()
    assert error(found, artifact) < 1e-5
    assert error(found, plain) > 10 * error(found, artifact)


def test_compensated_weights_are_trained_between_two_roundings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Levels follow their weights in between, and the exact rounding comes back where nothing learns."""
    monkeypatch.setattr(compensating, "_WORK", 1)  # as seldom as for a wide layer
    model, layer = mlp()
    feeds = zoo.feeds(model, size=4)
    made = knowing(model, feeds, tmp_path, "gptq")
    rounding = Rounding("gptq", moments=made.source.moments[layer.name])
    change = compensating.Compensated(layer, "w4-b32-load", rounding)
    weight = torch.from_numpy(made.original().weight(layer).copy()).requires_grad_()
    grid, block = grid_of(layer, "w4-b32-load")

    def exact() -> np.ndarray:
        restored = round_weight(layer, weight.detach().numpy(), grid, block, rounding).restore()
        return from_matrix(layer, restored, layer.shape)

    first = change(weight)
    first.sum().backward()
    assert weight.grad is not None and torch.equal(weight.grad, torch.ones_like(weight))
    assert np.allclose(first.detach().numpy(), exact(), atol=1e-7)
    step = np.abs(round_weight(layer, weight.detach().numpy(), grid, block, rounding).scales).min()
    with torch.no_grad():
        weight -= 0.3 * float(step) * torch.sign(weight)
    assert torch.allclose(change(weight), first, atol=1e-7)  # less than half a step: the level stays
    with torch.no_grad():
        weight -= 3 * float(step) * torch.sign(weight)
    assert (change(weight) - first).abs().max() > step
    with torch.no_grad():
        assert np.allclose(change(weight).numpy(), exact(), atol=1e-7)


@pytest.mark.parametrize("choice", ["bfloat16", "fp8-static", "nvfp4"])
def test_formats_of_cards_are_refused(choice: str) -> None:
    model, layer = mlp()
    with pytest.raises(TrialFailure, match="computed on cards only"):
        fake.attach(OnnxModule(model), model.graph, Formats((layer,), {layer.name: choice}))


def test_unknown_names_get_the_nearest() -> None:
    model, layer = mlp()
    with pytest.raises(UsageError, match="did you mean"):
        fake.attach(OnnxModule(model), model.graph, Formats((layer,), {layer.name + "x": "w8-load"}))
    with pytest.raises(UsageError, match="w9000"):
        fake.attach(OnnxModule(model), model.graph, Formats((layer,), {layer.name: "fp8-w9000"}))
