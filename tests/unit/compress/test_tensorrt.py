"""Dialect `tensorrt`: what stands in its artifacts, and what they compute, against references in numpy.

Artifacts run in ONNX Runtime as they are written, without optimisation: its optimiser is made for other graphs (it
rounds the biases of fp8 convolutions, for one).
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any, ClassVar

import ml_dtypes
import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from autotune.compress.assembly import Assembler
from autotune.compress.calibration import Range
from autotune.compress.capabilities import probe
from autotune.compress.conformance import TechniqueConformance
from autotune.compress.dialects.ort_cpu import OrtCpu
from autotune.compress.dialects.ort_cuda import OrtCuda
from autotune.compress.dialects.protocol import Dialect
from autotune.compress.dialects.tensorrt import TensorRt, runs
from autotune.compress.dialects.tensorrt_grids import HalfSteps, Minifloat, Nvfp4
from autotune.compress.ingest import load_model
from autotune.compress.zoo import build
from autotune.compress.zoo.graph import Graph
from autotune.errors import TrialFailure
from autotune.layers import Layer
from autotune.recipe import Recipe
from autotune.techniques.quantize import ALL_CHOICES, Quantize
from autotune.techniques.rounding import to_nearest
from hwprofiles.fingerprint import Fingerprint
from hwprofiles.measurement import Kernel

HALF_STEP = 2.0**-11  # relative error of one rounding to float16
Feeds = dict[str, np.ndarray]


class Made:
    """A model in a dialect; all activations have the range [-`peak`, `peak`]."""

    def __init__(self, model: onnx.ModelProto, dialect: Dialect | None = None, peak: float = 4.0) -> None:
        self.ingested = load_model(model)
        self.layers = {layer.name: layer for layer in self.ingested.inspection.layers}
        self.assembler = Assembler(
            self.ingested.model, self.layers.values(), dialect or TensorRt(), {"quantize": Quantize()}
        )
        wanted = self.assembler.calibration_tensors(Recipe())
        self.assembler.ranges[Recipe().digest] = {name: Range(-peak / 2, peak) for name in wanted}

    def artifact(self, decisions: dict[str, str]) -> onnx.ModelProto:
        model = onnx.load_from_string(self.assembler.assemble(Recipe({"quantize": decisions})))
        onnx.checker.check_model(model, full_check=True)
        return model

    def uniform(self, choice: str) -> onnx.ModelProto:
        found = {name: choice for name, layer in self.layers.items() if self.assembler.offers(layer, choice)}
        assert found, f"no layer takes {choice}"
        return self.artifact(found)


def run(model: onnx.ModelProto, feeds: Feeds) -> np.ndarray:
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    (found,) = session.run(None, feeds)
    assert isinstance(found, np.ndarray)
    return found


def constants(model: onnx.ModelProto) -> Feeds:
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}


def ops(model: onnx.ModelProto) -> Counter[str]:
    return Counter(node.op_type for node in model.graph.node)


def readers(model: onnx.ModelProto, tensor: str) -> list[onnx.NodeProto]:
    return [node for node in model.graph.node if tensor in node.input]


def producer(model: onnx.ModelProto, tensor: str) -> onnx.NodeProto:
    return next(node for node in model.graph.node if tensor in node.output)


def product(inputs: int = 64, outputs: int = 32) -> onnx.ModelProto:
    """One Gemm, its weight as torch stores it."""
    g = Graph(17, x=(5, inputs))
    return g.model(g.gemm("x", "fc", inputs, outputs))


def chain(*names: str) -> onnx.ModelProto:
    """Products with a Relu between them."""
    g = Graph(17, x=("batch", 32))
    x = "x"
    for name in names:
        x = g.add("Relu", g.linear(x, name, 32, 32))
    return g.model(x)


def x_of(*shape: int) -> np.ndarray:
    """Within the range of `Made`, and a little beyond it."""
    return np.random.default_rng(7).uniform(-4.5, 4.5, shape).astype(np.float32)


# -- numbers: independent references in float64


def e4m3() -> np.ndarray:
    """All non-negative finite E4M3 numbers, from the definition: 4 bits of exponent with bias 7, 3 of mantissa."""
    small = [m / 8 * 2.0**-6 for m in range(8)]
    normal = [(1 + m / 8) * 2.0 ** (e - 7) for e in range(1, 16) for m in range(8)]
    return np.array(small + normal[:-1])  # the last one is NaN


E2M1 = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6])


def nearest(values: np.ndarray, table: np.ndarray) -> np.ndarray:
    """Nearest of the table's magnitudes, saturating; of two equally near the one with the even index."""
    size = np.abs(values)[..., None]
    distance = np.abs(size - table)
    first = distance.argmin(axis=-1)
    second = np.minimum(first + 1, len(table) - 1)
    tie = np.take_along_axis(distance, second[..., None], -1)[..., 0] == distance.min(axis=-1)
    index = np.where(tie & (first % 2 == 1), second, first)
    return np.asarray(np.sign(values) * table[index])


def half_up(value: np.ndarray) -> np.ndarray:
    """The smallest float16 that is not below."""
    half = value.astype(np.float16)
    return np.where(half < value, np.nextafter(half, np.float16(np.inf)), half).astype(np.float64)


def half(values: np.ndarray) -> np.ndarray:
    return values.astype(np.float16).astype(np.float64)


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


@pytest.mark.parametrize("choice", ["w4-b32", "w4-b128", "w8-load"])
@pytest.mark.parametrize("model", [product(256, 32), chain("a")], ids=["gemm", "matmul"])
def test_blocks_of_weights_are_as_near_as_their_bits_allow(choice: str, model: onnx.ModelProto) -> None:
    made = Made(model)
    (layer,) = made.layers.values()
    if not made.assembler.offers(layer, choice):
        pytest.skip("rows of 32 have no blocks of 128")
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


@pytest.mark.parametrize("values", [np.zeros(32), np.full(32, 1e-9), np.full(32, 1e-30), np.r_[1e-7, np.zeros(31)]])
@pytest.mark.parametrize("grid", [HalfSteps(8, full=False), HalfSteps(4), Minifloat(), Nvfp4(1e-3)])
def test_tiny_weights_have_scales_and_stay_tiny(grid: Any, values: np.ndarray) -> None:
    made = to_nearest(values[None].astype(np.float32), grid, 16)
    assert (made.scales > 0).all() and np.isfinite(made.scales).all()
    assert np.abs(made.restore() - values).max() <= max(np.abs(values).max(), 1e-30)


def test_every_code_of_a_minifloat_survives() -> None:
    for grid, table in ((Minifloat(), e4m3()), (Minifloat(np.dtype(ml_dtypes.float4_e2m1fn)), E2M1)):
        values = np.r_[-table[::-1], table].astype(np.float32)
        levels = grid.levels(values, np.ones(1)).astype(np.int8)
        assert np.array_equal(grid.restore(levels, np.ones(1, np.float32)), values)
        middle = ((values[1:] + values[:-1]) / 2).astype(np.float32)
        found = grid.restore(grid.levels(middle, np.ones(1)).astype(np.int8), np.ones(1, np.float32))
        assert np.array_equal(found, nearest(middle.astype(np.float64), table))


# -- what stands in the graph


def test_none_is_the_model_itself() -> None:
    made = Made(build("residual"))
    assert made.assembler.assemble(Recipe()) == made.assembler.original().to_bytes()
    assert made.assembler.assemble(Recipe({"quantize": {}})) == made.assembler.assemble(Recipe())


@pytest.mark.parametrize("choice", ["float16", "bfloat16"])
@pytest.mark.parametrize("model", ["residual", "grouped", "hard_swish", "embedding", "shared_weight"])
def test_casts_stand_at_the_borders_only(model: str, choice: str) -> None:
    artifact = Made(build(model)).uniform(choice)
    inputs = {value.name for value in artifact.graph.input}
    outputs = {value.name for value in artifact.graph.output}
    casts = [node for node in artifact.graph.node if node.op_type == "Cast"]
    assert casts and all(set(node.input) <= inputs or set(node.output) <= outputs for node in casts)
    assert {tensor.data_type for tensor in artifact.graph.initializer} <= {
        TensorProto.INT64,
        TensorProto.FLOAT16 if choice == "float16" else TensorProto.BFLOAT16,
    }


@pytest.mark.parametrize(
    ("decisions", "types"),
    [
        ({"a": "float16", "b": "float16"}, [10, 1]),
        ({"a": "float16", "b": "bfloat16"}, [10, 16, 1]),
        ({"b": "float16"}, [10, 1]),
        ({"a": "float16", "c": "float16"}, [10, 1, 10, 1]),
        ({"a": "w8-load", "b": "float16"}, [10, 1]),
        ({"a": "bfloat16", "b": "int8-static"}, [16, 10, 1]),
    ],
)
def test_one_cast_where_neighbours_differ(decisions: dict[str, str], types: list[int]) -> None:
    artifact = Made(chain("a", "b", "c")).artifact(decisions)
    casts = [node for node in artifact.graph.node if node.op_type == "Cast"]
    assert [helper.get_attribute_value(node.attribute[0]) for node in casts] == types


def test_float32_layers_stay_what_they_were() -> None:
    made = Made(chain("a", "b", "c"))
    artifact = made.artifact({"b": "int8-static"})
    x = np.random.default_rng(1).standard_normal((3, 32)).astype(np.float32)
    weights = constants(made.ingested.model)
    left = np.maximum(x @ weights["a.weight"] + weights["a.bias"], 0)
    assert constants(artifact)["a.weight"].dtype == np.float32
    probe_model = onnx.ModelProto()
    probe_model.CopyFrom(artifact)
    del probe_model.graph.output[:]
    source = producer(artifact, next(n.input[0] for n in artifact.graph.node if n.op_type == "Cast"))
    probe_model.graph.output.append(onnx.ValueInfoProto(name=source.output[0]))
    np.testing.assert_allclose(run(probe_model, {"x": x}), left, rtol=1e-5, atol=1e-6)


def test_quantisers_are_symmetric_and_leave_biases_alone() -> None:
    for choice, kind in (("int8-static", np.dtype(np.int8)), ("fp8-static", np.dtype(ml_dtypes.float8_e4m3fn))):
        artifact = Made(build("residual")).uniform(choice)
        held = constants(artifact)
        for node in artifact.graph.node:
            if node.op_type in ("QuantizeLinear", "DequantizeLinear") and len(node.input) > 2:
                zero = held[node.input[2]]
                assert zero.dtype == kind and zero.shape == () and float(zero) == 0
            if node.op_type == "Conv":
                assert held[node.input[2]].dtype == np.float16, "the bias is no integer"
                assert producer(artifact, node.input[0]).op_type == "DequantizeLinear"
                weight = producer(artifact, node.input[1])
                assert held[weight.input[1]].shape == (held[weight.input[0]].shape[0],), "one scale per channel"
                assert helper.get_attribute_value(weight.attribute[0]) == 0


def test_nothing_stands_between_a_convolution_and_its_activation() -> None:
    artifact = Made(build("residual")).uniform("int8-static")
    for node in artifact.graph.node:
        if node.op_type == "Conv":
            (reader,) = readers(artifact, node.output[0])
            assert reader.op_type in ("Relu", "Add"), reader.op_type


def test_the_other_branch_of_a_residual_sum_is_quantised_where_int8_reads_the_sum() -> None:
    made = Made(build("residual"))
    artifact = made.uniform("int8-static")
    first, second = (node for node in artifact.graph.node if node.op_type == "Add")
    kinds = sorted(producer(artifact, name).op_type for name in first.input)
    assert kinds == ["Conv", "DequantizeLinear"], "the identity is int8, the convolution's own output is not touched"
    skip = next(name for name in first.input if producer(artifact, name).op_type == "DequantizeLinear")
    assert {node.op_type for node in readers(artifact, skip)} == {"Add", "Conv"}, "one Q/DQ serves both"
    assert [producer(artifact, name).op_type for name in second.input] == ["Conv", "Conv"], "nobody reads it as int8"
    # Without an int8 reader of the first sum its skip stays float, too.
    others = {name: "int8-static" for name in made.layers if name not in ("two.first", "two.short")}
    plain = made.artifact(others)
    sums = [node for node in plain.graph.node if node.op_type == "Add"]
    assert "DequantizeLinear" not in {producer(plain, name).op_type for name in sums[0].input}


def test_of_two_convolutions_the_later_one_takes_the_sum_in() -> None:
    g = Graph(17, x=("batch", 8, 6, 6))
    left, right = g.conv("x", "early", 8, 8, 1, 1), g.conv("x", "late", 8, 8, 1, 1)
    artifact = Made(g.model(g.conv(g.add("Relu", g.add("Add", right, left)), "last", 8, 8, 1, 1))).uniform(
        "int8-static"
    )
    (total,) = (node for node in artifact.graph.node if node.op_type == "Add")
    kinds = [producer(artifact, name) for name in total.input]
    assert [node.op_type for node in kinds] == ["Conv", "DequantizeLinear"] and kinds[0].name == "late"


def test_sums_powers_and_what_float16_cannot_hold_stay_float32() -> None:
    g = Graph(17, x=("batch", "seq", 32))
    scores = g.linear("x", "scores", 32, 32)
    masked = g.add("Add", scores, g.constant("mask", np.where(np.eye(32), 0, -3.4e38).astype(np.float32)))
    tiny = g.add("Add", g.linear("x", "other", 32, 32), g.scalar("tiny", 1e-12))
    far = g.add("Mul", "x", g.scalar("far", -1e9))  # what exporters make of a mask that is an input
    moved = g.add("Add", g.linear("x", "third", 32, 32), far)
    total = g.add("Add", g.add("Add", masked, tiny), g.add("Pow", moved, g.scalar("two", 2)))
    artifact = Made(g.model(total)).uniform("float16")
    held = constants(artifact)
    assert {"mask", "tiny", "far"} <= {n for n, a in held.items() if a.dtype == np.float32}
    for name in ("mask", "tiny", "far"):
        assert all(":" not in i for i in readers(artifact, name)[0].input)
    for node in artifact.graph.node:
        if node.op_type == "Pow":
            assert all(":" not in name for name in node.input)


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


def test_a_model_that_stays_at_an_old_opset_is_refused_with_the_reason() -> None:
    made = Made(product())
    plan = made.assembler.original()
    plan.opsets[""] = 12
    with pytest.raises(TrialFailure, match="needs opset 21 and the model stays at 12"):
        TensorRt().write(plan, {"fc": "w8-load"})


def test_an_activation_beyond_float16_is_refused_with_the_reason() -> None:
    with pytest.raises(TrialFailure, match="reaches 1e\\+05, and int8-static is computed from float16"):
        Made(product(), peak=1e5).uniform("int8-static")


# -- what is offered


def test_the_documented_table_is_true() -> None:
    """docs/techniques.md: a dash where no layer can be written, something else where one can."""
    text = Path(__file__).parents[3].joinpath("docs", "techniques.md").read_text("utf-8")
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if line.startswith("| `")]
    table = {name: row[2:] for row in rows if len(row) == 5 for name in row[0].replace("`", "").split(", ")}
    assert set(table) == set(ALL_CHOICES)
    layers = [
        layer("MatMul", 256, 64), layer("Gemm", 64, 256), layer("Conv", 32, 32, 3, 3), layer("Gather", 64, 256),
    ]  # fmt: skip
    for choice, cells in table.items():
        for dialect, cell in zip((OrtCpu(), TensorRt(), OrtCuda()), cells, strict=True):
            found = [
                each for each in layers if dialect.offers(each, choice, helper.make_node(each.op, ["x", "w"], ["y"]))
            ]
            assert bool(found) == (cell != "-"), (choice, dialect.name)


def layer(op: Any, *shape: int, group: int = 1) -> Layer:
    axis = {"MatMul": 1, "ConvTranspose": 1}.get(op, 0)
    return Layer("a", op, ("a",), "w", shape, axis, int(np.prod(shape)), group=group)


OFFERED = {
    "float16 bfloat16 w8-load w4-b128 w4-b32 int8-static fp8-static nvfp4": layer("MatMul", 256, 64),
    "float16 bfloat16 w8-load w4-b32 int8-static fp8-static": layer("Gemm", 10, 32),
    "float16 bfloat16 w8-load int8-static fp8-static": layer("Conv", 8, 3, 3, 3),
    "float16 w8-load int8-static": layer("ConvTranspose", 8, 4, 2, 2),
    "float16": layer("ConvTranspose", 8, 4, 2, 2, group=2),
    "float16 bfloat16 w8-load w4-b128 w4-b32": layer("Gather", 100, 128),
}


@pytest.mark.parametrize(("choices", "of"), OFFERED.items())
def test_offers_what_it_can_write(choices: str, of: Layer) -> None:
    node = helper.make_node(of.op, ["x", "w"], ["y"])
    assert {c for c in ALL_CHOICES if TensorRt().offers(of, c, node)} == set(choices.split())


@pytest.mark.parametrize("choice", ["bfloat16", "fp8-static", "nvfp4"])
@pytest.mark.parametrize("op", ["MatMul", "Conv", "Gather"])
def test_the_cpu_is_not_offered_what_it_has_not(op: Any, choice: str) -> None:
    shape = (64, 64, 3, 3) if op == "Conv" else (64, 64)
    assert not OrtCpu().offers(layer(op, *shape), choice, helper.make_node(op, ["x", "w"], ["y"]))


def test_cards_have_their_formats() -> None:
    table = {card: {c for c in ALL_CHOICES if runs(card, c)} for card in ("7.5", "8.0", "8.9", "9.0", "10.0", "12.0")}
    assert "bfloat16" not in table["7.5"] and "int8-static" in table["7.5"]
    assert "bfloat16" in table["8.0"] and "fp8-static" not in table["8.0"]
    assert "fp8-static" in table["8.9"] and table["9.0"] == table["8.9"] and "nvfp4" not in table["9.0"]
    assert table["10.0"] == table["12.0"] == set(ALL_CHOICES)
    assert not OrtCuda().runs("7.5", "bfloat16") and OrtCuda().runs("7.5", "w4-b32")


class Card:
    """A card of some compute capability that computes every layer in the precision it is given here."""

    def __init__(self, capability: str, precision: str) -> None:
        self.precision = precision
        self.asked: list[str] = []
        self.fingerprint = Fingerprint(
            machine="x86_64", system="Linux", cpu_model="made up", cores=1, memory_total=1 << 30, threads=1,
            accelerator=f"Made up, 1 MiB, compute capability {capability}, driver 1", runtime="tensorrt",
            runtime_version="0", provider="TensorRT", python="3.11", numpy="2",
        )  # fmt: skip

    def kernels(self, model: Path, inputs: Feeds, *, runs: int = 2) -> tuple[Kernel, ...]:
        self.asked.append(model.name)
        names = [node.name for node in onnx.load(model).graph.node]
        fused = " + ".join(name for name in names if name.endswith(".node") and name != "Conv.node")
        made = [Kernel(node=fused, op=f"myelin:{self.precision}", provider="TensorRT", seconds=1e-6)]
        made.append(Kernel(node="Conv.node", op="Conv:float32", provider="TensorRT", seconds=1e-6))
        return tuple(made)


def test_a_probe_reads_precisions_and_spares_what_the_card_has_not(tmp_path: Path) -> None:
    card = Card("8.6", "int8")
    found = probe(card, TensorRt(), "made-up-8.6", tmp_path)
    assert found.supports("MatMul", "int8-static") and found.supports("Gemm", "w8-load")
    assert found.refused["Conv int8-static"] == "Conv:float32 ran instead"
    assert found.refused["MatMul float16"] == "myelin:int8 ran instead"
    assert found.refused["MatMul fp8-static"] == "the card does not have the format"
    assert not any("fp8" in name or "nvfp4" in name for name in card.asked)


# -- the techniques' suite in this dialect: what ONNX Runtime runs of it


class _InDialect(TechniqueConformance):
    dialect: ClassVar[Dialect] = TensorRt()

    def bound(self, choice: str) -> float:
        return float(4 * 2.0 ** -{"float16": 11, "int8-static": 6, "w8-load": 8}.get(choice, 4))

    def bytes_at_most(self, layer: Layer, choice: str) -> int:
        outputs = layer.shape[layer.output_axis]
        if choice == "float16":
            return 2 * layer.parameters
        bits, block = (4, 32) if choice == "w4-b32" else (8, layer.parameters // outputs)
        return layer.parameters * bits // 8 + 2 * layer.parameters // block + 4 * outputs


class TestInTensorRt(_InDialect):
    make = staticmethod(lambda: Quantize(choices=("float16", "int8-static", "w8-load", "w4-b32")))


class TestInTensorRtWithCompensation(_InDialect):
    make = staticmethod(lambda: Quantize(("int8-static", "w4-b32"), rounding="gptq", bias_correction=True))


class TestInOrtCuda(_InDialect):
    dialect: ClassVar[Dialect] = OrtCuda()
    make = staticmethod(lambda: Quantize(choices=("float16", "w8-load", "w4-b32", "w8-b128")))

    def bytes_at_most(self, layer: Layer, choice: str) -> int | None:
        return None if choice.startswith("w8-b") else super().bytes_at_most(layer, choice) + 4 * layer.shape[0] + 4 * 64
