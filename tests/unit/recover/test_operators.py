"""Operators one by one: against ONNX Runtime in many forms, and their gradients against finite differences."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper

from autotune.recover.graph import OnnxModule
from tests.unit import zoo
from tests.unit.recover.reference import Feeds, assert_alike

Inputs = Sequence[np.ndarray | None]


def numbers(*shape: int, seed: int = 0) -> np.ndarray:
    """Normal numbers, all different from each other, none near an integer or a half (where roundings jump)."""
    values = np.random.default_rng([seed, *shape]).standard_normal(shape) * 1.7
    near = np.abs(values * 2 - np.rint(values * 2)) < 0.02
    return (values + 0.05 * near).astype(np.float32)


def positive(*shape: int) -> np.ndarray:
    return np.abs(numbers(*shape)) + np.float32(0.3)


def unit(*shape: int) -> np.ndarray:
    return np.tanh(numbers(*shape)).astype(np.float32) * np.float32(0.9)


def whole(*values: int) -> np.ndarray:
    return np.array(values, np.int64)


def one(
    op: str, inputs: Inputs, attributes: dict[str, Any], opset: int, outputs: int = 1
) -> tuple[onnx.ModelProto, Feeds]:
    """A model of one node; float inputs are fed, the others are constants."""
    names = ["" if array is None else f"i{number}" for number, array in enumerate(inputs)]
    given = {n: a for n, a in zip(names, inputs, strict=True) if a is not None}
    domain, _, kind = op.rpartition(".")
    node = helper.make_node(kind, names, [f"o{i}" for i in range(outputs)], name="n", domain=domain, **attributes)
    feeds = {n: a for n, a in given.items() if a.dtype == np.float32 and a.ndim}
    values = [
        helper.make_tensor_value_info(n, helper.np_dtype_to_tensor_dtype(a.dtype), a.shape) for n, a in feeds.items()
    ]
    constants = {n: a for n, a in given.items() if n not in feeds}
    domains = [domain] if domain else []
    made = zoo.model_of([node], values, node.output, constants, opset, domains=domains)
    # Types of outputs are the runtime's to infer.
    for value in made.graph.output:
        value.ClearField("type")
    return made, feeds


X = numbers(2, 3, 6, 5)
Case = tuple[str, Inputs, dict[str, Any]]
ELEMENTWISE: list[Case] = [
    *((op, [numbers(3, 4)], {}) for op in (
        "Abs", "Atan", "Ceil", "Cos", "Elu", "Celu", "Erf", "Exp", "Floor", "HardSigmoid", "HardSwish",
        "LeakyRelu", "Mish", "Neg", "Relu", "Round", "Selu", "Shrink", "Sigmoid", "Sign", "Sin", "Sinh", "Softplus",
        "Softsign", "Tanh", "ThresholdedRelu", "Gelu", "Asinh", "Cosh", "Identity", "com.microsoft.QuickGelu",
        "com.microsoft.Gelu", "Dropout", "IsNaN",
    )),
    *((op, [unit(3, 4)], {}) for op in ("Acos", "Asin", "Atanh", "Tan")),
    *((op, [positive(3, 4)], {}) for op in ("Log", "Sqrt", "Reciprocal")),
    ("Acosh", [positive(3, 4) + 1], {}),
    ("Elu", [numbers(3, 4)], {"alpha": 0.3}), ("Celu", [numbers(3, 4)], {"alpha": 2.0}),
    ("HardSigmoid", [numbers(3, 4)], {"alpha": 1 / 6, "beta": 0.5}), ("LeakyRelu", [numbers(3, 4)], {"alpha": 0.2}),
    ("ThresholdedRelu", [numbers(3, 4)], {"alpha": 0.4}), ("Shrink", [numbers(3, 4)], {"lambd": 0.2, "bias": 0.1}),
    ("Gelu", [numbers(3, 4)], {"approximate": "tanh"}), ("Selu", [numbers(3, 4)], {"alpha": 2.0, "gamma": 0.7}),
    ("Clip", [numbers(3, 4), np.float32(-0.5), np.float32(0.7)], {}),
    ("Clip", [numbers(3, 4), None, np.float32(0.7)], {}),
    ("PRelu", [numbers(2, 3, 4), numbers(3, 1, seed=1)], {}),
    *((op, [numbers(2, 3, 4), positive(4)], {}) for op in ("Add", "Sub", "Mul", "Div")),
    *((op, [numbers(2, 3), numbers(2, 3, seed=1), numbers(3, seed=2)], {}) for op in ("Max", "Min", "Sum", "Mean")),
    ("Pow", [positive(2, 3), np.float32(1.7)], {}), ("Pow", [numbers(2, 3), np.array(2, np.int64)], {}),
    ("Pow", [positive(2, 3), numbers(3)], {}), ("Mod", [numbers(2, 3), positive(3)], {"fmod": 1}),
    ("Where", [np.array([True, False, True]), numbers(2, 3), numbers(3, seed=1)], {}),
    *((op, [numbers(2, 3, 4)], {"axis": axis}) for op in ("Softmax", "LogSoftmax") for axis in (-1, 1)),
    *((op, [numbers(2, 3), numbers(2, 3, seed=1)], {}) for op in ("Greater", "LessOrEqual", "Equal")),
    ("Cast", [numbers(2, 3)], {"to": TensorProto.INT32}), ("Cast", [numbers(2, 3)], {"to": TensorProto.BOOL}),
    ("com.microsoft.FastGelu", [numbers(2, 4), numbers(4, seed=1)], {}),
    ("com.microsoft.BiasGelu", [numbers(2, 4), numbers(4, seed=1)], {}),
]  # fmt: skip
MOVEMENT: list[Case] = [
    ("Reshape", [X, whole(0, -1, 10)], {}), ("Reshape", [X, whole(5, 6, 6)], {"allowzero": 1}),
    ("Transpose", [X], {"perm": [0, 2, 3, 1]}), ("Transpose", [numbers(2, 3)], {}), ("Flatten", [X], {"axis": 2}),
    ("Flatten", [X], {"axis": 0}), ("Flatten", [X], {"axis": -1}),
    ("Squeeze", [numbers(1, 3, 1), whole(0, -1)], {}), ("Squeeze", [numbers(1, 3, 1)], {}),
    ("Unsqueeze", [numbers(2, 3), whole(0, -1)], {}), ("Concat", [numbers(2, 3), numbers(2, 1, seed=1)], {"axis": -1}),
    ("Slice", [X, whole(1, -3), whole(99, -1), whole(2, -1)], {}),
    ("Slice", [X, whole(-1, 4), whole(-99, 0), whole(2, 3), whole(-2, -1)], {}),
    ("Slice", [X, whole(0), whole(6), whole(2), whole(2)], {}), ("Slice", [X, whole(4), whole(2), whole(2)], {}),
    ("Expand", [numbers(3, 1), whole(2, 1, 4)], {}), ("Expand", [numbers(2, 3, 4), whole(3, 1)], {}),
    ("Tile", [numbers(2, 3), whole(2, 2)], {}),
    ("Pad", [X, whole(0, 1, 0, 2, 0, 0, 3, -1), np.float32(1.5)], {}),
    *(("Pad", [X, whole(2, 1, 1, 2), None, whole(2, 3)], {"mode": mode}) for mode in ("reflect", "edge", "wrap")),
    ("DepthToSpace", [numbers(1, 8, 2, 3)], {"blocksize": 2}),
    ("DepthToSpace", [numbers(1, 8, 2, 3)], {"blocksize": 2, "mode": "CRD"}),
    ("SpaceToDepth", [numbers(1, 2, 4, 6)], {"blocksize": 2}), ("Shape", [X], {"start": 1, "end": -1}),
    ("Size", [X], {}), ("Trilu", [numbers(4, 5)], {"upper": 0}), ("Trilu", [numbers(4, 5), np.array(1)], {}),
    ("EyeLike", [numbers(3, 4)], {"k": 1}), ("ConstantOfShape", [whole(2, 3)], {}),
    ("Range", [np.array(2), np.array(11), np.array(3)], {}),
    ("Gather", [X, np.array([[0, -1], [2, 1]])], {"axis": 1}), ("Gather", [X, np.array(-2)], {"axis": 2}),
    ("GatherElements", [numbers(3, 4), np.array([[0, -1], [2, 1]])], {"axis": 1}),
    ("GatherND", [numbers(3, 4, 2), np.array([[0, -1], [2, 1]])], {}),
    ("GatherND", [numbers(2, 4, 2), np.array([[1], [3]])], {"batch_dims": 1}),
    ("ScatterElements", [numbers(3, 4), np.array([[0, -1]]), numbers(1, 2, seed=1)], {"axis": 1}),
    ("ScatterElements", [numbers(3, 4), np.array([[0, 0]]), numbers(1, 2, seed=1)], {"axis": 1, "reduction": "add"}),
    ("ScatterND", [numbers(3, 4), np.array([[2], [-3]]), numbers(2, 4, seed=1)], {}),
    ("ScatterND", [numbers(3, 4), np.array([[2], [2]]), numbers(2, 4, seed=1)], {"reduction": "add"}),
    ("OneHot", [np.array([0, -1, 2]), np.array(4), np.array([0.5, 2], np.float32)], {"axis": 0}),
    ("Compress", [numbers(3, 4), np.array([True, False, True])], {"axis": 0}),
    ("GridSample", [numbers(1, 2, 4, 5), unit(1, 3, 3, 2)], {"mode": "linear", "align_corners": 1}),
    ("ReverseSequence", [numbers(4, 3, 2), whole(2, 4, 1)], {"time_axis": 0, "batch_axis": 1}),
]  # fmt: skip
REDUCTIONS: list[Case] = [
    *((f"Reduce{kind}", [positive(2, 3, 4), axes], {"keepdims": keep})
      for kind in ("Sum", "Mean", "Max", "Min", "Prod", "L1", "L2", "SumSquare", "LogSum", "LogSumExp")
      for axes, keep in ((whole(1), 0), (whole(0, -1), 1), (None, 1))),
    ("ReduceSum", [numbers(2, 3)], {"noop_with_empty_axes": 1}),
    ("ArgMax", [numbers(3, 4)], {"axis": 1, "keepdims": 0}), ("ArgMin", [numbers(3, 4)], {"axis": -2}),
    ("ArgMax", [np.ones((2, 3), np.float32)], {"axis": 1, "select_last_index": 1}),
    ("CumSum", [numbers(3, 4), np.array(1)], {}),
    ("CumSum", [numbers(3, 4), np.array(0)], {"exclusive": 1, "reverse": 1}),
    *((op, [X], {}) for op in ("GlobalAveragePool", "GlobalMaxPool", "GlobalLpPool")),
    ("LpNormalization", [numbers(3, 4)], {"p": 1}), ("LpNormalization", [numbers(3, 4)], {"axis": 0}),
]  # fmt: skip
NORMS: list[Case] = [
    ("BatchNormalization", [X, numbers(3), numbers(3, seed=1), numbers(3, seed=2), positive(3)], {"epsilon": 1e-3}),
    ("InstanceNormalization", [X, numbers(3), numbers(3, seed=1)], {}),
    ("GroupNormalization", [numbers(2, 6, 4), numbers(6), numbers(6, seed=1)], {"num_groups": 3}),
    ("LayerNormalization", [X, numbers(5), numbers(5, seed=1)], {}), ("LayerNormalization", [X, numbers(5)], {}),
    ("LayerNormalization", [X, numbers(6, 5), numbers(6, 5, seed=1)], {"axis": 2, "epsilon": 1e-2}),
    ("SimplifiedLayerNormalization", [X, numbers(5)], {}),
    ("com.microsoft.SkipLayerNormalization",
     [numbers(2, 3, 4), numbers(2, 3, 4, seed=1), numbers(4), numbers(4, seed=1), numbers(4, seed=2)], {}),
    ("MeanVarianceNormalization", [X], {}), ("LRN", [numbers(2, 6, 3, 3)], {"size": 3, "alpha": 0.5}),
    ("LRN", [numbers(2, 6, 3, 3)], {"size": 5, "alpha": 0.5}),
]  # fmt: skip
PRODUCTS: list[Case] = [
    ("MatMul", [numbers(2, 3, 4), numbers(4, 5)], {}), ("MatMul", [numbers(4), numbers(2, 4, 3)], {}),
    ("Gemm", [numbers(4, 3), numbers(5, 4), numbers(5)], {"transA": 1, "transB": 1, "alpha": 0.5, "beta": 2.0}),
    ("Gemm", [numbers(3, 4), numbers(4, 5)], {}),
    ("Einsum", [numbers(2, 3), numbers(4, 3)], {"equation": "ik, jk -> ij"}),
    ("com.microsoft.FusedMatMul", [numbers(2, 4, 3), numbers(2, 5, 4)], {"transA": 1, "transB": 1, "alpha": 0.5}),
]  # fmt: skip
WINDOWS: list[Case] = [
    ("Conv", [X, numbers(4, 3, 3, 3), numbers(4)], {"pads": [1, 0, 2, 1], "strides": [2, 1]}),
    ("Conv", [X, numbers(6, 1, 3, 3)], {"group": 3, "dilations": [2, 1]}),
    *(("Conv", [X, numbers(4, 3, 3, 2)], {"auto_pad": auto, "strides": [2, 2]})
      for auto in ("SAME_UPPER", "SAME_LOWER", "VALID")),
    ("Conv", [numbers(2, 3, 7), numbers(4, 3, 3)], {"pads": [1, 1]}),
    ("Conv", [numbers(1, 2, 4, 4, 4), numbers(3, 2, 2, 2, 2)], {}),
    ("ConvTranspose", [X, numbers(3, 4, 3, 3), numbers(4)], {"strides": [2, 2], "pads": [1, 0, 0, 1]}),
    ("ConvTranspose", [X, numbers(3, 2, 3, 3)], {"group": 3, "strides": [2, 2], "output_padding": [1, 1]}),
    ("ConvTranspose", [X, numbers(3, 4, 3, 3)], {"strides": [2, 2], "output_shape": [11, 12]}),
    *(("ConvTranspose", [X, numbers(3, 4, 3, 3)], {"strides": [2, 2], "auto_pad": auto})
      for auto in ("SAME_UPPER", "SAME_LOWER")),
    *((op, [X], {"kernel_shape": [3, 2], **form}) for op in ("MaxPool", "AveragePool") for form in (
        {}, {"strides": [2, 2]}, {"strides": [2, 2], "ceil_mode": 1}, {"pads": [1, 1, 0, 0]},
        {"strides": [2, 3], "pads": [1, 0, 1, 1], "ceil_mode": 1}, {"auto_pad": "SAME_UPPER", "strides": [2, 2]},
        {"auto_pad": "SAME_LOWER"}, {"dilations": [2, 1]},
    )),
    ("AveragePool", [X], {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1], "count_include_pad": 1}),
    ("AveragePool", [numbers(1, 2, 9)], {"kernel_shape": [3], "strides": [2]}),
    ("MaxPool", [numbers(1, 2, 5, 5, 5)], {"kernel_shape": [2, 2, 2]}),
    ("LpPool", [X], {"kernel_shape": [2, 2], "p": 2}),
]  # fmt: skip
RESIZES: list[Case] = [
    ("Resize", [X, None, np.array([1, 1, 2.5, 0.6], np.float32)], {"mode": mode, "coordinate_transformation_mode": way})
    for mode in ("nearest", "linear", "cubic")
    for way in ("half_pixel", "pytorch_half_pixel", "align_corners", "asymmetric", "half_pixel_symmetric")
] + [
    ("Resize", [X, None, None, whole(2, 3, 9, 7)], {"mode": "linear"}),
    ("Resize", [X, None, None, whole(9, 7)], {"mode": "linear", "axes": [2, 3]}),
    ("Resize", [X, None, np.array([1, 1, 2, 2], np.float32)], {"mode": "cubic", "exclude_outside": 1}),
    *(("Resize", [X, None, np.array([1, 1, 1.5, 3], np.float32)], {"nearest_mode": way})
      for way in ("floor", "ceil", "round_prefer_ceil", "round_prefer_floor")),
]  # fmt: skip
RECURRENT: list[Case] = [
    ("LSTM", [numbers(4, 2, 3), numbers(2, 20, 3), numbers(2, 20, 5, seed=1), numbers(2, 40)],
     {"hidden_size": 5, "direction": "bidirectional"}),
    ("LSTM", [numbers(4, 2, 3), numbers(1, 20, 3), numbers(1, 20, 5, seed=1), None, None, numbers(1, 2, 5)],
     {"hidden_size": 5, "direction": "reverse"}),
    *(("GRU", [numbers(4, 2, 3), numbers(1, 15, 3), numbers(1, 15, 5, seed=1), numbers(1, 30)],
       {"hidden_size": 5, "linear_before_reset": late}) for late in (0, 1)),
]  # fmt: skip
FAMILIES = {
    "elementwise": ELEMENTWISE, "movement": MOVEMENT, "reductions": REDUCTIONS, "norms": NORMS, "products": PRODUCTS,
    "windows": WINDOWS, "resizes": RESIZES, "recurrent": RECURRENT,
}  # fmt: skip
CASES = [pytest.param(case, id=f"{case[0]}-{i}") for cases in FAMILIES.values() for i, case in enumerate(cases)]


SETTINGS = {"BatchNormalization": ("i3", "i4"), "Resize": ("i2",)}  # inputs without a gradient


def _outputs(op: str) -> int:
    return {"LSTM": 3, "GRU": 2}.get(op, 1)


@pytest.mark.parametrize("case", CASES)
def test_numbers_are_those_of_onnxruntime(case: Case) -> None:
    op, inputs, attributes = case
    model, feeds = one(op, inputs, attributes, 21, _outputs(op))
    assert_alike(model, feeds)


@pytest.mark.parametrize("family", FAMILIES)
def test_gradients_are_those_of_finite_differences(family: str) -> None:
    checked = 0
    for op, inputs, attributes in FAMILIES[family]:
        model, feeds = one(op, inputs, attributes, 21, _outputs(op))
        module = OnnxModule(model, trains=False).double()
        names = [name for name in feeds if name not in SETTINGS.get(op, ())]
        fixed = {name: torch.tensor(feeds[name], dtype=torch.float64) for name in feeds if name not in names}
        given = tuple(torch.tensor(feeds[name], dtype=torch.float64, requires_grad=True) for name in names)

        def run(
            *tensors: torch.Tensor, module: OnnxModule = module, names: list[str] = names, fixed: Any = fixed
        ) -> Any:
            answers = module({**fixed, **dict(zip(names, tensors, strict=True))}).values()
            return tuple(answer for answer in answers if answer.is_floating_point() and answer.requires_grad)

        if given and run(*given):
            assert torch.autograd.gradcheck(run, given, fast_mode=True), op
            checked += 1
    assert checked > len(FAMILIES[family]) / 2


def test_top_k_prefers_the_lower_index_of_equals() -> None:
    x = np.array([[1, 3, 3, 2], [0, 0, 0, 0]], np.float32)
    for largest in (0, 1):
        assert_alike(*one("TopK", [x, whole(3)], {"axis": 1, "largest": largest}, 21, 2))


@pytest.mark.parametrize("sizes", [None, whole(1, 4)])
def test_split(sizes: np.ndarray | None) -> None:
    attributes = {} if sizes is not None else {"num_outputs": 2}
    assert_alike(*one("Split", [numbers(5, 3), sizes][: 1 + (sizes is not None)], {"axis": 0, **attributes}, 21, 2))


@pytest.mark.parametrize("axis", [0, 1, -1])
def test_softmax_before_opset_13_is_over_all_axes_from_one_on(axis: int) -> None:
    assert_alike(*one("Softmax", [numbers(2, 3, 4)], {"axis": axis}, 11))


def test_axes_before_opset_13_are_attributes() -> None:
    assert_alike(*one("ReduceSum", [numbers(2, 3, 4)], {"axes": [0, 2]}, 11))
    assert_alike(*one("Squeeze", [numbers(1, 3, 1)], {"axes": [0]}, 11))
    assert_alike(*one("Unsqueeze", [numbers(3)], {"axes": [0, 2]}, 11))


def attention_of_numpy(q: np.ndarray, k: np.ndarray, v: np.ndarray, causal: bool) -> np.ndarray:
    """[batch, heads, tokens, width] in float64; groups of heads share keys."""
    groups = q.shape[1] // k.shape[1]
    k, v = np.repeat(k.astype(np.float64), groups, axis=1), np.repeat(v.astype(np.float64), groups, axis=1)
    scores = q.astype(np.float64) @ k.swapaxes(2, 3) / np.sqrt(q.shape[3])
    if causal:
        scores = np.where(np.tril(np.ones(scores.shape[2:], bool)), scores, -np.inf)
    scores = np.exp(scores - scores.max(axis=-1, keepdims=True))
    result: np.ndarray = scores / scores.sum(axis=-1, keepdims=True) @ v
    return result


@pytest.mark.parametrize("causal", [0, 1])
def test_attention(causal: int) -> None:
    q, k, v = numbers(2, 4, 5, 6), numbers(2, 2, 5, 6, seed=1), numbers(2, 2, 5, 6, seed=2)
    model, feeds = one("Attention", [q, k, v], {"is_causal": causal}, 23)
    found = OnnxModule(model)({name: torch.from_numpy(array) for name, array in feeds.items()})["o0"]
    assert np.allclose(found.numpy(), attention_of_numpy(q, k, v, bool(causal)), atol=1e-5)
    flat = [array.transpose(0, 2, 1, 3).reshape(2, 5, -1) for array in (q, k, v)]
    model, feeds = one("Attention", flat, {"is_causal": causal, "q_num_heads": 4, "kv_num_heads": 2}, 23)
    rows = OnnxModule(model)({name: torch.from_numpy(array) for name, array in feeds.items()})["o0"]
    assert torch.allclose(rows, found.transpose(1, 2).flatten(2), atol=1e-6)


def test_root_mean_square_normalisation() -> None:
    x, scale = numbers(2, 3, 4), numbers(4, seed=1)
    model, feeds = one("RMSNormalization", [x, scale], {"epsilon": 1e-3}, 23)
    found = OnnxModule(model)({name: torch.from_numpy(array) for name, array in feeds.items()})["o0"]
    wide = x.astype(np.float64)
    assert np.allclose(found.numpy(), wide / np.sqrt((wide**2).mean(-1, keepdims=True) + 1e-3) * scale, atol=1e-6)
