"""Fake quantisers against the artifacts that they stand for, as ONNX Runtime runs them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from autotune.compress.ingest import load_model
from autotune.errors import TrialFailure, UsageError
from autotune.layers import Layer
from autotune.recipe import Recipe
from autotune.recover import fake, rounding
from autotune.recover.graph import OnnxModule
from autotune.techniques import rounding as written
from autotune.techniques.quantize import ALL_CHOICES, NEED_MOMENTS
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
    fake.attach(module, student.graph, made.source.layers.values(), decisions, made.ranges[Recipe().digest])
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
    fake.attach(module, model.graph, [layer], {layer.name: "w2-b32"}, {})
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
        fake.attach(OnnxModule(model), model.graph, [layer], {layer.name: "int8-static"}, {})


@pytest.mark.parametrize("choice", NEED_MOMENTS)
def test_choices_that_depend_on_what_was_read_are_refused(choice: str) -> None:
    model, layer = mlp()
    with pytest.raises(TrialFailure, match="cannot be trained with"):
        fake.attach(OnnxModule(model), model.graph, [layer], {layer.name: choice}, {})


def test_unknown_names_get_the_nearest() -> None:
    model, layer = mlp()
    with pytest.raises(UsageError, match="did you mean"):
        fake.attach(OnnxModule(model), model.graph, [layer], {layer.name + "x": "w8-load"}, {})
    with pytest.raises(UsageError, match="w9000"):
        fake.attach(OnnxModule(model), model.graph, [layer], {layer.name: "fp8-w9000"}, {})
