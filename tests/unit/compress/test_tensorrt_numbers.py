"""Dialect `tensorrt`: what its artifacts compute, against references in numpy."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from autotune.compress.zoo.graph import Graph
from tests.unit.compress.card_models import Made, chain, constants, product, run
from tests.unit.small_floats import E2M1, e4m3, half, half_up, nearest

HALF_STEP = 2.0**-11  # relative error of one rounding to float16


def x_of(*shape: int) -> np.ndarray:
    """Within the range of `Made`, and a little beyond it."""
    return np.random.default_rng(7).uniform(-4.5, 4.5, shape).astype(np.float32)


def expected(choice: str, x: np.ndarray, weight: np.ndarray, bias: np.ndarray, peak: float = 4.0) -> np.ndarray:
    """x Wᵀ + b with everything rounded as the choice says; `weight` [outputs, inputs]."""
    w, b = weight.astype(np.float64), half(bias)
    channel = np.abs(w).max(axis=1, keepdims=True)
    x = half(x)
    if choice == "float16":
        return np.asarray(x @ half(w).T + b)
    if choice in ("int8-static", "w8-load"):
        step = half_up(channel / 127)
        w = np.clip(np.rint(w / step), -127, 127) * step
    else:
        step = half_up(channel / 448)
        w = nearest((w / step).astype(np.float32).astype(np.float64), e4m3()) * step
    if choice == "int8-static":
        step = half_up(np.array(peak / 127))
        x = np.clip(np.rint((x / step).astype(np.float16).astype(np.float64)), -128, 127) * step
    if choice == "fp8-static":
        step = half_up(np.array(peak / 448))
        x = nearest(x / step, e4m3()) * step
    return np.asarray(half(x) @ half(w).T + b)


@pytest.mark.parametrize("choice", ["float16", "int8-static", "fp8-static", "w8-load"])
def test_computes_what_numpy_does(choice: str) -> None:
    model = product()
    given = constants(model)
    x = x_of(5, 64)
    found = run(Made(model).uniform(choice), {"x": x})
    wanted = expected(choice, x, given["fc.weight"], given["fc.bias"])
    assert found.dtype == np.float32
    # float16 products of the reference runtime may round once per output, and a value between two levels may fall
    # either way where x / scale is itself rounded to float16.
    tie = 0.0 if choice in ("float16", "w8-load") else 0.004
    assert np.abs(found - wanted).max() <= (2 * HALF_STEP + tie) * np.abs(wanted).max()


@pytest.mark.parametrize(
    ("model", "choice"),
    [
        pytest.param(model, choice, id=f"{op}-{choice}")
        for op, model, choices in (
            ("gemm", product(256, 32), ("w4-b32", "w4-b128", "w8-load")),
            ("matmul", chain("a"), ("w4-b32", "w8-load")),  # its rows of 32 have no blocks of 128
        )
        for choice in choices
    ],
)
def test_blocks_of_weights_are_as_near_as_their_bits_allow(model: onnx.ModelProto, choice: str) -> None:
    made = Made(model)
    (layer,) = made.layers.values()
    artifact = made.uniform(choice)
    weight = constants(made.ingested.model)[layer.weight]
    levels = constants(artifact)[f"{layer.name}/levels"].astype(np.float64)
    scales = constants(artifact)[f"{layer.name}/scale"].astype(np.float64)
    assert (scales > 0).all() and levels.shape == weight.shape
    if scales.ndim == 1:
        real = levels * np.expand_dims(scales, 1 - layer.output_axis)
        assert np.abs(real - weight).max() <= 0.501 * scales.max()
    else:
        block = weight.shape[1 - layer.output_axis] // scales.shape[1 - layer.output_axis]
        real = levels * scales.repeat(block, axis=1 - layer.output_axis)
        assert np.sqrt(np.square(real - weight).mean() / np.square(weight).mean()) < 0.11
        assert levels.min() >= -8 and levels.max() <= 7
    x = np.random.default_rng(3).standard_normal((5, weight.shape[1 - layer.output_axis])).astype(np.float32)
    matrix = half(real) if layer.output_axis == 1 else half(real).T
    bias = next((v for n, v in constants(made.ingested.model).items() if n.endswith("bias")), np.zeros(1))
    wanted = half(x) @ matrix + half(bias)
    wanted = wanted if layer.op == "Gemm" else np.maximum(wanted, 0)
    assert np.abs(run(artifact, {"x": x}) - wanted).max() <= 3 * HALF_STEP * np.abs(wanted).max()


def test_nvfp4_weights_are_what_the_format_says() -> None:
    """E2M1 times E4M3 times one float32, unpacked from the raw bytes by hand."""
    made = Made(product(64, 32))
    artifact = made.uniform("nvfp4")
    weight = constants(made.ingested.model)["fc.weight"].astype(np.float64)
    tensors = {tensor.name: tensor for tensor in artifact.graph.initializer}
    assert tensors["fc/levels"].data_type == TensorProto.FLOAT4E2M1 and list(tensors["fc/levels"].dims) == [32, 64]
    raw = np.frombuffer(tensors["fc/levels"].raw_data, np.uint8)
    codes = np.stack([raw & 15, raw >> 4], axis=-1).reshape(32, 64)
    values = np.where(codes & 8, -1, 1) * E2M1[codes & 7]
    eighths = np.frombuffer(tensors["fc/scale"].raw_data, np.uint8).reshape(32, 4)
    assert (eighths < 0x7F).all(), "scales are positive and finite"
    whole = numpy_helper.to_array(tensors["fc/whole"]).astype(np.float64)
    scales = e4m3()[eighths] * whole
    assert whole.shape == () and np.isclose(float(whole), np.abs(weight).max() / (6 * 448), rtol=1e-6)
    blocks = weight.reshape(32, 4, 16)
    wanted = nearest(np.abs(blocks).max(axis=-1) / 6 / whole, e4m3()) * whole
    assert np.allclose(scales, wanted, rtol=1e-6)
    ratio = (blocks / scales[..., None]).astype(np.float32).astype(np.float64)
    assert np.array_equal(values.reshape(32, 4, 16), nearest(ratio, E2M1))
    assert artifact.ir_version >= 11 and {o.domain: o.version for o in artifact.opset_import} == {"": 23, "trt": 1}


def test_bfloat16_keeps_the_range_that_float16_has_not() -> None:
    g = Graph(17, x=(2, 16))
    g.constant("w", np.full((16, 16), 1e6, np.float32))
    made = Made(g.model(g.add("MatMul", "x", "w", name="fc")))
    weight = constants(made.uniform("bfloat16"))["fc/bfloat16"]
    assert weight.dtype == ml_dtypes.bfloat16 and np.allclose(weight.astype(np.float32), 1e6, rtol=2**-8)
    clipped = constants(made.uniform("float16"))["fc/float16"]
    assert clipped.dtype == np.float16 and (clipped == np.finfo(np.float16).max).all()


def test_bodies_and_outputs_read_float32() -> None:
    """A tensor that is computed in float16 is read by the body of an If, and is an output at the same time."""
    body = [helper.make_node("Mul", ["h", "two"], ["then"], name="inner")]
    other = [helper.make_node("Neg", ["h"], ["else"], name="inner2")]
    made = [
        helper.make_graph(body, "then", [], [helper.make_tensor_value_info("then", TensorProto.FLOAT, [3, 32])]),
        helper.make_graph(other, "else", [], [helper.make_tensor_value_info("else", TensorProto.FLOAT, [3, 32])]),
    ]
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["h"], name="fc"),
        helper.make_node("If", ["flag"], ["y"], name="branch", then_branch=made[0], else_branch=made[1]),
    ]
    weight = np.random.default_rng(0).standard_normal((32, 32)).astype(np.float32)
    graph = helper.make_graph(
        nodes,
        "captured",
        [
            helper.make_tensor_value_info("x", TensorProto.FLOAT, [3, 32]),
            helper.make_tensor_value_info("flag", TensorProto.BOOL, []),
        ],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [3, 32])],
        [numpy_helper.from_array(weight, "w"), numpy_helper.from_array(np.array(2, np.float32), "two")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    x = np.random.default_rng(1).standard_normal((3, 32)).astype(np.float32)
    found = run(Made(model).uniform("float16"), {"x": x, "flag": np.array(True)})
    np.testing.assert_allclose(found, 2 * (x @ weight), rtol=0.01, atol=0.05)
