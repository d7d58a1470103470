"""The float64 reference against ONNX Runtime in float32: every model and operator within float32 rounding."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest

from autotune.compress.normalise import inline_functions
from autotune.parity.reference import NoReference, Reference
from tests.unit import zoo

MODELS = {
    name: getattr(zoo, name)
    for name in (
        *("conv_residual", "convolutions", "mlp", "attention", "odd_matmuls", "embedding", "transposed_weights"),
        *("weight_norm", "shared_weight", "if_branches", "loop_with_weights", "lstm", "quantised_qlinear"),
        *("contrib_domain", "float16", "local_function", "nothing_to_compress"),
    )
}
# Operators in old forms that onnx's own reference gets wrong or does not have; none may give a wrong number.
REFUSED = {"scatter9", "gridsample16", "roialign10"}


def runtime(model: onnx.ModelProto, feeds: dict[str, Any]) -> dict[str, np.ndarray]:
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return dict(zip([o.name for o in session.get_outputs()], session.run(None, feeds), strict=True))


def agree(model: onnx.ModelProto, feeds: dict[str, Any], tolerance: float = 1e-6) -> None:
    found = runtime(model, feeds)
    truth = Reference(inline_functions(model) if model.functions else model).run(feeds, found)
    for name, array in found.items():
        assert truth[name].shape == array.shape
        if array.dtype.kind != "f":
            np.testing.assert_array_equal(truth[name], array)
            continue
        assert truth[name].dtype == np.float64
        size = np.linalg.norm(truth[name])
        assert np.linalg.norm(truth[name] - array) <= tolerance * max(size, 1e-12), name


@pytest.mark.parametrize("name", MODELS)
def test_models_agree_with_the_runtime(name: str) -> None:
    model = MODELS[name]()
    for seed in range(2):
        agree(model, zoo.feeds(model, seed=seed))


def sees_small_changes(model: onnx.ModelProto) -> None:
    """A change of the inputs far below what float32 can hold reaches the outputs: nothing on the way is narrow."""
    model = inline_functions(model) if model.functions else model
    feeds = {n: a.astype(np.float64) if a.dtype == np.float32 else a for n, a in zoo.feeds(model).items()}
    moved = {n: a * (1 + 1e-11 * np.cos(np.arange(a.size).reshape(a.shape))) if a.dtype == np.float64 else a
             for n, a in feeds.items()}  # fmt: skip
    names = [o.name for o in model.graph.output]
    before, after = Reference(model).run(feeds, names), Reference(model).run(moved, names)
    for name in names:
        change = np.linalg.norm(before[name] - after[name]) / np.linalg.norm(before[name])
        assert 1e-14 < change < 1e-9


@pytest.mark.parametrize("name", sorted(MODELS.keys() - {"embedding", "quantised_qlinear", "nothing_to_compress"}))
def test_nothing_in_a_model_is_narrower_than_float64(name: str) -> None:
    sees_small_changes(MODELS[name]())


@pytest.mark.parametrize("tied", ["transpose", "gemm"])
def test_tied_embeddings_agree(tied: str) -> None:
    model = zoo.embedding(tied=tied)
    agree(model, zoo.feeds(model))


@pytest.mark.parametrize("case", zoo.OLD_OPERATORS)
def test_old_operators_agree_or_are_refused(case: str) -> None:
    model = zoo.old_operator(case)
    feeds = zoo.feeds(model)
    if case in REFUSED:
        with pytest.raises(NoReference, match="no float64 reference: op"):
            Reference(model).run(feeds, [o.name for o in model.graph.output])
    else:
        agree(model, feeds)


def _single(op: str, shape: tuple[int, ...], weights: dict[str, np.ndarray], **attributes: Any) -> onnx.ModelProto:
    """One operator of x and constants."""
    domain = attributes.pop("domain", "")
    opset = attributes.pop("opset", 17)
    node = zoo.node(op, ["x", *weights], ["y"], domain=domain, **attributes)
    given = {name: array for name, array in weights.items() if name}
    domains = [domain] if domain else []
    return zoo.model_of([node], [zoo.floats("x", *shape)], ["y"], given, opset, domains=domains)


W = zoo.weight
SIZES = np.array([2, 3, 11, 5], np.int64)
CASES: dict[str, onnx.ModelProto] = {
    "conv_1d": _single("Conv", (2, 4, 9), {"w": W(6, 4, 3), "b": W(6)}, strides=[2], pads=[2, 1], dilations=[2]),
    "conv_3d": _single("Conv", (1, 2, 5, 6, 7), {"w": W(3, 2, 2, 2, 3)}, strides=[1, 2, 1]),
    "conv_same_lower": _single("Conv", (1, 3, 8, 9), {"w": W(4, 3, 4, 2)}, auto_pad="SAME_LOWER", strides=[2, 2]),
    "conv_same_upper": _single("Conv", (1, 3, 8, 9), {"w": W(4, 3, 4, 2)}, auto_pad="SAME_UPPER", strides=[3, 2]),
    "transposed": _single("ConvTranspose", (2, 4, 5, 6), {"w": W(4, 3, 3, 3), "b": W(3)}, strides=[2, 3],
                          pads=[1, 0, 2, 1], output_padding=[1, 0]),
    "transposed_group": _single("ConvTranspose", (1, 4, 5, 5), {"w": W(4, 2, 3, 3)}, group=2, dilations=[2, 1]),
    "transposed_shape": _single("ConvTranspose", (1, 2, 5, 5), {"w": W(2, 2, 3, 3)}, strides=[2, 2],
                                output_shape=[10, 10]),
    "maxpool_ceil": _single("MaxPool", (1, 2, 8, 7), {}, kernel_shape=[3, 3], strides=[2, 2], ceil_mode=1,
                            pads=[1, 1, 0, 0]),
    "averagepool_ceil": _single("AveragePool", (1, 2, 8, 7), {}, kernel_shape=[3, 3], strides=[2, 2], ceil_mode=1,
                                count_include_pad=1, pads=[1, 1, 1, 1]),
    "erf": _single("Erf", (3, 50), {}),
    "gelu_tanh": _single("Gelu", (3, 50), {}, approximate="tanh", opset=20),
    "layernorm": _single("LayerNormalization", (2, 3, 8), {"s": W(8) + 1, "b": W(8)}, axis=-1),
    "instancenorm": _single("InstanceNormalization", (2, 3, 8), {"s": W(3) + 1, "b": W(3)}),
    "softmax": _single("Softmax", (2, 3, 8), {}, axis=1),
    **{
        f"resize_{mode}_{transform}": _single(
            "Resize", (2, 3, 8, 9), {"": SIZES, "scales": np.array([1, 1, 1.7, 0.6], np.float32)},
            mode=mode, coordinate_transformation_mode=transform)
        for mode in ("nearest", "linear")
        for transform in ("half_pixel", "asymmetric", "align_corners", "pytorch_half_pixel")
    },
    "fused_conv": _single("FusedConv", (1, 3, 8, 8), {"w": W(4, 3, 3, 3), "b": W(4)}, domain="com.microsoft",
                          activation="Relu"),
    "fused_matmul": _single("FusedMatMul", (2, 5, 8), {"w": W(6, 8)}, domain="com.microsoft", transB=1, alpha=0.3),
    "ms_gelu": _single("Gelu", (3, 50), {}, domain="com.microsoft"),
    "bias_gelu": _single("BiasGelu", (3, 50), {"b": W(50)}, domain="com.microsoft"),
    "fast_gelu": _single("FastGelu", (3, 50), {"b": W(50)}, domain="com.microsoft"),
    "quick_gelu": _single("QuickGelu", (3, 50), {}, domain="com.microsoft"),
    "skip_layernorm": _single("SkipLayerNormalization", (2, 3, 8), {"k": W(2, 3, 8), "g": W(8), "b": W(8)},
                              domain="com.microsoft", epsilon=1e-5),
    "rms_norm": _single("SimplifiedLayerNormalization", (2, 3, 8), {"g": W(8)}, epsilon=1e-5),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_operators_agree_with_the_runtime(case: str) -> None:
    agree(CASES[case], zoo.feeds(CASES[case]), 2e-5 if "gelu" in case else 1e-6)


@pytest.mark.parametrize("case", CASES)
def test_no_operator_is_narrower_than_float64(case: str) -> None:
    sees_small_changes(CASES[case])


def _quantised(op: str, extra: dict[str, np.ndarray], tail: str = "", **attributes: Any) -> onnx.ModelProto:
    """QuantizeLinear, an operator of the QOperator format, DequantizeLinear."""
    scale, zero = np.array(0.04, np.float32), np.array(120, np.uint8)
    nodes = [
        zoo.node("QuantizeLinear", ["x", "s", "z"], ["xq"]),
        zoo.node(op, ["xq", "s", "z", *extra], ["yq"], domain="com.microsoft", **attributes),
        zoo.node("DequantizeLinear", ["yq", "ys", "yz"], ["y"]),
    ]
    given = {"s": scale, "z": zero, "ys": np.array(0.07, np.float32), "yz": np.array(100, np.uint8)} | extra
    return zoo.model_of(nodes, [zoo.floats("x", 1, 4, 6, 6)], ["y"], given, domains=["com.microsoft"])


QUANTISED = {
    "QLinearAdd": {"b": np.arange(144, dtype=np.uint8).reshape(1, 4, 6, 6), "bs": np.array(0.02, np.float32),
                   "bz": np.array(99, np.uint8)},
    "QLinearMul": {"b": np.arange(144, dtype=np.uint8).reshape(1, 4, 6, 6), "bs": np.array(0.02, np.float32),
                   "bz": np.array(99, np.uint8)},
    "QLinearSigmoid": {},
    "QLinearGlobalAveragePool": {},
}  # fmt: skip


@pytest.mark.parametrize("op", QUANTISED)
def test_quantised_operators_agree_to_the_level(op: str) -> None:
    extra = {**QUANTISED[op], "ys": np.array(0.07, np.float32), "yz": np.array(100, np.uint8)}
    model = _quantised(op, extra)
    feeds = zoo.feeds(model)
    found, truth = runtime(model, feeds)["y"], Reference(model).run(feeds, ["y"])["y"]
    levels = np.rint(np.abs(truth - found) / 0.07)
    assert levels.max() <= 1 and (levels > 0).mean() <= 0.01


@pytest.mark.parametrize("bits", [4, 8])
def test_packed_weights_with_zero_points_agree_where_the_runtime_may_not_round(bits: int) -> None:
    rng = np.random.default_rng(bits)
    n, k, block = 8, 64, 32
    packed = rng.integers(0, 256, (n, k // block, block * bits // 8), dtype=np.uint8)
    zeros = rng.integers(0, 256, (n, -(-(k // block) * bits // 8)), dtype=np.uint8)
    scales = (rng.random((n, k // block)) * 0.1 + 0.01).astype(np.float32)
    options = {"K": k, "N": n, "bits": bits, "block_size": block, "accuracy_level": 1, "domain": "com.microsoft"}
    model = _single("MatMulNBits", (3, k), {"w": packed, "s": scales, "z": zeros}, **options)
    agree(model, zoo.feeds(model), 1e-5)


def test_an_unknown_operator_is_named() -> None:
    reference = Reference(zoo.custom_domain())
    assert reference.gap == "no float64 reference: op acme.ops.Mystery"
    with pytest.raises(NoReference, match="Mystery"):
        reference.run(zoo.feeds(zoo.custom_domain()), ["y"])


def test_random_numbers_have_no_reference() -> None:
    nodes = [zoo.node("RandomNormalLike", ["x"], ["r"]), zoo.node("Add", ["x", "r"], ["y"])]
    model = zoo.model_of(nodes, [zoo.floats("x", 2, 3)], ["y"], {})
    assert "draws random numbers" in Reference(model).gap


def test_levels_of_huge_and_undefined_values_stay_inside_of_their_type() -> None:
    nodes = [zoo.node("QuantizeLinear", ["x", "s", "z"], ["y"])]
    given = {"s": np.array(0.1, np.float32), "z": np.array(3, np.uint8)}
    model = zoo.model_of(nodes, [zoo.floats("x", 4)], ["y"], given, kind=onnx.TensorProto.UINT8)
    levels = Reference(model).run({"x": np.array([1e30, -1e30, 0.05, 0.15], np.float32)}, ["y"])["y"]
    assert levels.tolist() == [255, 0, 3, 5] and levels.dtype == np.uint8  # 0.5 and 1.5 steps: half to even


def test_float16_is_computed_without_its_rounding() -> None:
    model = zoo.float16()
    feeds = zoo.feeds(model)
    weights = onnx.numpy_helper.to_array(model.graph.initializer[0]).astype(np.float64)
    exact = feeds["x"].astype(np.float64) @ weights
    np.testing.assert_allclose(Reference(model).run(feeds, ["y"])["y"], exact, rtol=1e-13, atol=1e-15)


def test_a_loop_is_not_run_before_a_target_has() -> None:
    model = zoo.loop_with_weights()
    start = onnx.numpy_helper.from_array(zoo.weight(2, 16), "x")
    model.graph.initializer.append(start)
    del model.graph.input[:]
    reference = Reference(model)
    assert [step.node.op_type for step in reference.steps] == ["Loop"] and "y" not in reference.constants
    agree(model, {})


def test_a_tensor_that_does_not_fit_into_memory_is_no_reference() -> None:
    nodes = [zoo.node("ConstantOfShape", ["shape"], ["big"]), zoo.node("ReduceSum", ["big"], ["y"])]
    model = zoo.model_of(nodes, [], ["y"], {"shape": np.array([1 << 40, 1 << 15], np.int64)})
    assert "ConstantOfShape" in Reference(model).gap
