"""The fake quantiser of NVFP4 against the artifact's own bytes and against the definition of its numbers."""

from __future__ import annotations

from pathlib import Path

import ml_dtypes
import numpy as np
import onnx
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from autotune.compress.dialects.tensorrt import TensorRt
from autotune.compress.zoo.graph import Graph
from autotune.recipe import Recipe
from autotune.recover import fake, rounding
from autotune.recover.formats import Formats
from autotune.recover.graph import OnnxModule
from tests.unit.recover.reference import tensors
from tests.unit.recover.test_fake import error, knowing

# The sixteen codes of E2M1: OCP Microscaling Formats (MX) specification 1.0, section 5.3.3.
_E2M1 = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6, -0.0, -0.5, -1, -1.5, -2, -3, -4, -6])


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1), st.floats(1e-3, 50.0))
def test_activations_are_rounded_to_the_nearest_number_that_there_is(seed: int, size: float) -> None:
    rng = np.random.default_rng(seed)
    x = (size * rng.standard_normal((3, 2, 32)) * rng.uniform(0, 1, (3, 2, 32)) ** 3).astype(np.float32)
    x[0, 0, :16] = 0
    whole = np.float32(np.abs(x).max() / (448 * 6))
    found = rounding.blocks_e2m1(torch.from_numpy(x), float(whole)).numpy()
    blocks = x.reshape(-1, 16)
    wanted = np.clip(np.abs(blocks).max(axis=1, keepdims=True) / (6 * whole), 2.0**-9, 448).astype(np.float32)
    scales = wanted.astype(ml_dtypes.float8_e4m3fn).astype(np.float32) * whole
    expected = (blocks / scales).clip(-6, 6).astype(ml_dtypes.float4_e2m1fn).astype(np.float32) * scales
    assert np.allclose(found.reshape(-1, 16), expected, rtol=1e-6, atol=0)
    away = np.abs(found.reshape(-1, 16, 1) - blocks[..., None])[..., 0]
    least = np.abs(_E2M1 * scales[..., None] - blocks[..., None]).min(axis=-1)
    assert (away <= least + 1e-5 * scales).all()


def test_a_gradient_passes_where_the_largest_scale_does_not_clip() -> None:
    x = torch.zeros(32)
    x[:3], x[16] = torch.tensor([3000.0, -0.4, 5.0]), -2690.0
    x.requires_grad_(True)
    rounded = rounding.blocks_e2m1(x, 1.0)
    assert rounded[0].item() == 448 * 6 and rounded[16].item() == -448 * 6
    rounded.sum().backward()  # type: ignore[no-untyped-call]
    assert x.grad is not None and [x.grad[i].item() for i in (0, 1, 2, 16, 17)] == [0, 1, 1, 0, 1]


@pytest.mark.parametrize("transposed", [False, True])
def test_the_student_computes_with_the_numbers_of_its_artifact(transposed: bool, tmp_path: Path) -> None:
    """Decoded by hand from the artifact: two codes per byte, an E4M3 scale for sixteen, one for the tensor."""
    g = Graph(17, x=(4, 32))
    model = g.model(g.gemm("x", "only", 32, 48) if transposed else g.linear("x", "only", 32, 48, bias=False))
    feeds = {"x": np.random.default_rng(3).standard_normal((4, 32)).astype(np.float32)}
    made = knowing(model, feeds, tmp_path, "nearest")
    (layer,) = made.source.layers.values()
    decisions = {layer.name: "nvfp4"}
    artifact = onnx.load_from_string(made.sibling(TensorRt()).assemble(Recipe({"quantize": decisions})))
    parts = {tensor.name.removeprefix(f"{layer.name}/"): tensor for tensor in artifact.graph.initializer}
    packed = np.frombuffer(parts["levels"].raw_data, np.uint8)
    numbers = _E2M1[np.stack([packed & 15, packed >> 4], -1).reshape(tuple(parts["levels"].dims))]
    eighths = np.frombuffer(parts["scale"].raw_data, ml_dtypes.float8_e4m3fn).astype(np.float64)
    scales = eighths.reshape(tuple(parts["scale"].dims)) * onnx.numpy_helper.to_array(parts["whole"]).item()
    weight = (numbers * np.repeat(scales, 16, axis=1 - layer.output_axis)).astype(np.float16).astype(np.float32)
    student = onnx.load_from_string(made.assemble(Recipe()))
    module = OnnxModule(student)
    ranges = made.ranges[Recipe().digest]
    fake.attach(module, student.graph, Formats((layer,), decisions, ranges, dialect=TensorRt()))
    (answer,) = module(tensors(feeds)).values()
    source = student.graph.node[0].input[0]
    found = ranges[source]
    whole = max(-found.low, found.high) / (448 * 6)
    x = rounding.blocks_e2m1(torch.from_numpy(feeds["x"]).half().float(), whole).half().float().numpy()
    product = x @ (weight if layer.output_axis == 1 else weight.T)
    plain = OnnxModule(student)(tensors(feeds))
    (original,) = plain.values()
    if layer.bias is not None:
        (bias,) = (onnx.numpy_helper.to_array(t) for t in student.graph.initializer if t.name == layer.bias)
        product = product + bias
    assert error(answer.detach().numpy(), product) < 1e-3
    assert error(answer.detach().numpy(), original.detach().numpy()) > 0.03
    answer.square().sum().backward()
    gradient = module.weights[layer.weight].grad
    assert gradient is not None and gradient.abs().sum() > 0
