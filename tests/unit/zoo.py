"""Small generated ONNX models: every shape of graph that ingestion and compression have to cope with.

Plain functions that return an `onnx.ModelProto`; weights come from a fixed seed. `feeds(model)` makes inputs that fit.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

Feeds = dict[str, np.ndarray]


def model_of(
    nodes: Sequence[onnx.NodeProto],
    inputs: Sequence[onnx.ValueInfoProto],
    outputs: Sequence[str],
    constants: dict[str, np.ndarray],
    opset: int = 17,
    *,
    domains: Sequence[str] = (),
    functions: Sequence[onnx.FunctionProto] = (),
    kind: int = TensorProto.FLOAT,
) -> onnx.ModelProto:
    """A model with outputs of type `kind` and unknown shape."""
    graph = helper.make_graph(
        nodes,
        "zoo",
        inputs,
        [helper.make_tensor_value_info(name, kind, None) for name in outputs],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    opsets = [helper.make_opsetid("", opset), *(helper.make_opsetid(domain, 1) for domain in domains)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8, functions=functions)


def floats(name: str, *shape: int | str) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)


def integers(name: str, *shape: int | str) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, TensorProto.INT64, shape)


def weight(*shape: int, seed: int = 0) -> np.ndarray:
    """Normal weights scaled by their fan-in, float32."""
    scale = 1 / np.sqrt(max(1, int(np.prod(shape[1:]))))
    return (np.random.default_rng([seed, *shape]).standard_normal(shape) * scale).astype(np.float32)


def feeds(model: onnx.ModelProto, *, size: int = 2, seed: int = 0) -> Feeds:
    """Random inputs: normal floats, indices below 4, symbolic dimensions of `size`."""
    rng = np.random.default_rng(seed)
    constants = {tensor.name for tensor in model.graph.initializer}
    made: Feeds = {}
    for value in model.graph.input:
        if value.name in constants:
            continue
        kind = value.type.tensor_type
        shape = [dim.dim_value or size for dim in kind.shape.dim]
        dtype = helper.tensor_dtype_to_np_dtype(kind.elem_type)
        if dtype == np.dtype(bool):
            made[value.name] = np.ones(shape, dtype=bool)
        elif np.issubdtype(dtype, np.integer):
            made[value.name] = rng.integers(0, 4, shape).astype(dtype)
        else:
            made[value.name] = rng.standard_normal(shape).astype(dtype)
    return made


def node(op: str, inputs: Sequence[str], outputs: Sequence[str], **attributes: object) -> onnx.NodeProto:
    return helper.make_node(op, list(inputs), list(outputs), **attributes)


def conv_residual(opset: int = 17) -> onnx.ModelProto:
    """Conv, BatchNormalization, Relu, a residual sum and a classifier."""
    nodes = [
        node("Conv", ["x", "stem.weight"], ["c1"], name="stem", pads=[1, 1, 1, 1]),
        node("BatchNormalization", ["c1", "g", "b", "m", "v"], ["n1"], epsilon=1e-3),
        node("Relu", ["n1"], ["r1"]),
        node("Conv", ["r1", "block.conv.weight", "block.conv.bias"], ["c2"], name="block", pads=[1, 1, 1, 1]),
        node("Add", ["c2", "r1"], ["sum"]),
        node("GlobalAveragePool", ["sum"], ["pool"]),
        node("Flatten", ["pool"], ["flat"]),
        node("Gemm", ["flat", "fc.weight", "fc.bias"], ["y"], name="fc", transB=1),
    ]
    constants = {
        "stem.weight": weight(8, 3, 3, 3), "block.conv.weight": weight(8, 8, 3, 3), "block.conv.bias": weight(8),
        "fc.weight": weight(5, 8), "fc.bias": weight(5),
        "g": weight(8) + 2, "b": weight(8, seed=1), "m": weight(8, seed=2), "v": np.abs(weight(8, seed=3)) + 0.5,
    }  # fmt: skip
    return model_of(nodes, [floats("x", "batch", 3, 8, 8)], ["y"], constants, opset)


def convolutions(opset: int = 17) -> onnx.ModelProto:
    """Depthwise, grouped, one-dimensional-like and transposed convolutions."""
    nodes = [
        node("Conv", ["x", "dw.weight"], ["a"], group=8, pads=[1, 1, 1, 1]),
        node("Conv", ["a", "grouped.weight", "grouped.bias"], ["b"], group=2),
        node("ConvTranspose", ["b", "up.weight"], ["y"], strides=[2, 2]),
    ]
    constants = {
        "dw.weight": weight(8, 1, 3, 3), "grouped.weight": weight(12, 4, 1, 1), "grouped.bias": weight(12),
        "up.weight": weight(12, 4, 2, 2),
    }  # fmt: skip
    return model_of(nodes, [floats("x", "batch", 8, 6, 6)], ["y"], constants, opset)


def mlp(opset: int = 17, *, constant_nodes: bool = False) -> onnx.ModelProto:
    """MatMul + Add, Relu, Gemm; with `constant_nodes` all weights live in Constant nodes and nodes have no names."""
    nodes = [
        node("MatMul", ["x", "fc1.weight"], ["m"]),
        node("Add", ["m", "fc1.bias"], ["a"]),
        node("Relu", ["a"], ["r"]),
        node("Gemm", ["r", "fc2.weight", "fc2.bias"], ["y"], transB=1),
    ]
    constants = {
        "fc1.weight": weight(16, 32),
        "fc1.bias": weight(32),
        "fc2.weight": weight(4, 32),
        "fc2.bias": weight(4),
    }
    if constant_nodes:
        made = [node("Constant", [], [n], value=numpy_helper.from_array(a, n)) for n, a in constants.items()]
        return model_of([*made, *nodes], [floats("x", "batch", 16)], ["y"], {}, opset)
    return model_of(nodes, [floats("x", "batch", 16)], ["y"], constants, opset)


def attention(opset: int = 17) -> onnx.ModelProto:
    """One attention head: q, k, v and output projections; the products of activations are no layers."""
    nodes = [
        *(node("MatMul", ["x", f"{p}.weight"], [p], name=f"/attn/{p}/MatMul") for p in "qkv"),
        node("Transpose", ["k"], ["kt"], perm=[0, 2, 1]),
        node("MatMul", ["q", "kt"], ["scores"]),
        node("Softmax", ["scores"], ["p"], axis=-1 if opset >= 11 else 2),
        node("MatMul", ["p", "v"], ["mixed"]),
        node("MatMul", ["mixed", "onnx::MatMul_77"], ["y"], name="/attn/out/MatMul"),
    ]
    constants = {f"{p}.weight": weight(16, 16, seed=ord(p)) for p in "qkv"}
    constants["onnx::MatMul_77"] = weight(16, 16, seed=77)
    return model_of(nodes, [floats("x", "batch", "seq", 16)], ["y"], constants, opset)


def odd_matmuls() -> onnx.ModelProto:
    """A weight on the left, a batched weight, and a weight that is a graph input."""
    nodes = [
        node("MatMul", ["left", "x"], ["a"], name="on_left"),
        node("MatMul", ["a", "batched"], ["b"], name="batched"),
        node("MatMul", ["b", "given"], ["y"], name="from_outside"),
    ]
    constants = {"left": weight(8, 8), "batched": weight(2, 8, 8)}
    return model_of(nodes, [floats("x", 2, 8, 8), floats("given", 8, 8)], ["y"], constants)


def embedding(*, tied: str = "") -> onnx.ModelProto:
    """Embedding and head. `tied`: "" no, "transpose" (MatMul of the transposed table), "gemm" (transB=1)."""
    constants = {"tok.weight": weight(50, 16)}
    nodes = [node("Gather", ["tok.weight", "ids"], ["e"], name="tok")]
    if tied == "transpose":
        nodes += [
            node("Transpose", ["tok.weight"], ["wt"], perm=[1, 0]),
            node("MatMul", ["e", "wt"], ["y"], name="head"),
        ]
    elif tied == "gemm":
        constants["rows"] = np.array([-1, 16], dtype=np.int64)
        nodes += [
            node("Reshape", ["e", "rows"], ["flat"]),
            node("Gemm", ["flat", "tok.weight"], ["y"], transB=1, name="head"),
        ]
    else:
        constants["head.weight"] = weight(16, 50)
        nodes += [node("MatMul", ["e", "head.weight"], ["y"], name="head")]
    return model_of(nodes, [integers("ids", "batch", "seq")], ["y"], constants)


def transposed_weights(*, also_elsewhere: bool = False) -> onnx.ModelProto:
    """Two MatMuls read one weight, each through its own Transpose; a third weight goes through Reshape."""
    nodes = [
        node("Transpose", ["w"], ["wt1"], perm=[1, 0]),
        node("Transpose", ["w"], ["wt2"], perm=[1, 0]),
        node("Reshape", ["flat", "shape"], ["w2"]),
        node("MatMul", ["x", "wt1"], ["a"], name="first"),
        node("MatMul", ["a", "wt2"], ["b"], name="second"),
        node("MatMul", ["b", "w2"], ["c"], name="third"),
        node("Add", ["c", "row"], ["y"]) if also_elsewhere else node("Identity", ["c"], ["y"]),
    ]
    if also_elsewhere:
        nodes.insert(0, node("ReduceMean", ["w"], ["row"], axes=[0]))
    constants = {"w": weight(16, 16), "flat": weight(256), "shape": np.array([16, 16], dtype=np.int64)}
    return model_of(nodes, [floats("x", "batch", 16)], ["y"], constants)


def weight_norm() -> onnx.ModelProto:
    """A Conv whose weight is g * v / ||v||, computed in the graph, as audio models are often exported."""
    nodes = [
        node("ReduceL2", ["conv.weight_v"], ["norm"], axes=[1, 2], keepdims=1),
        node("Div", ["conv.weight_v", "norm"], ["unit"]),
        node("Mul", ["unit", "conv.weight_g"], ["w"]),
        node("Conv", ["x", "w"], ["y"], name="conv", pads=[1, 1]),
    ]
    constants = {"conv.weight_v": weight(16, 8, 3), "conv.weight_g": weight(16, 1, 1)}
    return model_of(nodes, [floats("x", "batch", 8, 10)], ["y"], constants)


def shared_weight() -> onnx.ModelProto:
    """One weight, two MatMuls, one of them through Identity."""
    nodes = [
        node("Identity", ["shared.weight"], ["copy"]),
        node("MatMul", ["x", "shared.weight"], ["a"], name="one"),
        node("MatMul", ["a", "copy"], ["y"], name="two"),
    ]
    return model_of(nodes, [floats("x", "batch", 16)], ["y"], {"shared.weight": weight(16, 16)})


def if_branches(opset: int = 17) -> onnx.ModelProto:
    """A MatMul with its weight inside a branch; the other branch reads a value of the outer graph.

    Before opset 13 the branch also has Unsqueeze and Squeeze in their old form, which conversion must reach.
    """
    out = helper.make_tensor_value_info("t", TensorProto.FLOAT, None)
    other = helper.make_tensor_value_info("e", TensorProto.FLOAT, None)
    inner = [node("MatMul", ["h", "branch.weight"], ["i"], name="inner")]
    if opset < 13:
        inner += [node("Unsqueeze", ["i"], ["u"], axes=[0]), node("Squeeze", ["u"], ["t"], axes=[0])]
    else:
        inner += [node("Identity", ["i"], ["t"])]
    then = helper.make_graph(inner, "then", [], [out], [numpy_helper.from_array(weight(16, 16), "branch.weight")])
    orelse = helper.make_graph([node("Identity", ["h"], ["e"])], "else", [], [other])
    nodes = [
        node("MatMul", ["x", "outer.weight"], ["h"], name="outer"),
        node("If", ["flag"], ["y"], then_branch=then, else_branch=orelse),
    ]
    flag = helper.make_tensor_value_info("flag", TensorProto.BOOL, [])
    constants = {"outer.weight": weight(16, 16, seed=5)}
    return model_of(nodes, [floats("x", "batch", 16), flag], ["y"], constants, opset)


def loop_with_weights() -> onnx.ModelProto:
    """Three steps of s = tanh(s @ W); W is captured from the outer graph."""
    body = helper.make_graph(
        [
            node("MatMul", ["s", "w"], ["p"], name="step"),
            node("Tanh", ["p"], ["s2"]),
            node("Identity", ["go"], ["go2"]),
        ],
        "body",
        [integers("i"), helper.make_tensor_value_info("go", TensorProto.BOOL, []), floats("s", "n", 16)],
        [helper.make_tensor_value_info("go2", TensorProto.BOOL, []), floats("s2", "n", 16)],
    )
    constants = {"w": weight(16, 16), "trips": np.array(3, dtype=np.int64), "go0": np.array(True)}
    return model_of([node("Loop", ["trips", "go0", "x"], ["y"], body=body)], [floats("x", 2, 16)], ["y"], constants)


def lstm() -> onnx.ModelProto:
    """An LSTM and a projection of its output."""
    nodes = [
        node("LSTM", ["x", "W", "R"], ["seq"], name="lstm", hidden_size=8),
        node("Squeeze", ["seq", "one"], ["s"]),
        node("MatMul", ["s", "proj.weight"], ["y"], name="proj"),
    ]
    constants = {
        "W": weight(1, 32, 16), "R": weight(1, 32, 8), "proj.weight": weight(8, 40), "one": np.array([1], np.int64)
    }  # fmt: skip
    return model_of(nodes, [floats("x", 5, 2, 16)], ["y"], constants)


def quantised_qdq() -> onnx.ModelProto:
    """A MatMul whose int8 weight goes through DequantizeLinear."""
    nodes = [
        node("DequantizeLinear", ["wq", "scale", "zero"], ["w"]),
        node("MatMul", ["x", "w"], ["y"], name="fc"),
    ]
    constants = {
        "wq": (weight(16, 32) * 100).astype(np.int8), "scale": np.array(0.01, np.float32), "zero": np.array(0, np.int8)
    }  # fmt: skip
    return model_of(nodes, [floats("x", "batch", 16)], ["y"], constants)


def quantised_qlinear() -> onnx.ModelProto:
    """QLinearConv between QuantizeLinear and DequantizeLinear."""
    nodes = [
        node("QuantizeLinear", ["x", "s", "z"], ["xq"]),
        node("QLinearConv", ["xq", "s", "z", "w", "s", "z8", "s", "z"], ["yq"], name="conv"),
        node("DequantizeLinear", ["yq", "s", "z"], ["y"]),
    ]
    constants = {
        "s": np.array(0.05, np.float32), "z": np.array(128, np.uint8), "z8": np.array(0, np.int8),
        "w": (weight(8, 3, 3, 3) * 20).astype(np.int8),
    }  # fmt: skip
    return model_of(nodes, [floats("x", 1, 3, 8, 8)], ["y"], constants)


def custom_domain() -> onnx.ModelProto:
    """An operator nobody knows, with weights, between two that everybody knows."""
    nodes = [
        node("MatMul", ["x", "fc.weight"], ["a"], name="fc"),
        node("Mystery", ["a", "secret"], ["b"], domain="acme.ops", name="mystery"),
        node("Relu", ["b"], ["y"]),
    ]
    constants = {"fc.weight": weight(16, 32), "secret": weight(32, 32)}
    return model_of(nodes, [floats("x", "batch", 16)], ["y"], constants, 13, domains=["acme.ops"])


def contrib_domain() -> onnx.ModelProto:
    """A com.microsoft operator with a weight, which onnxruntime runs."""
    nodes = [
        node("FusedMatMul", ["x", "w"], ["a"], domain="com.microsoft", name="fused", alpha=0.5),
        node("MatMul", ["a", "fc.weight"], ["y"], name="fc"),
    ]
    constants = {"w": weight(16, 16), "fc.weight": weight(16, 32)}
    return model_of(nodes, [floats("x", "batch", 16)], ["y"], constants, 13, domains=["com.microsoft"])


def float16() -> onnx.ModelProto:
    """A float16 model between casts."""
    nodes = [
        node("Cast", ["x"], ["h"], to=TensorProto.FLOAT16),
        node("MatMul", ["h", "fc.weight"], ["m"], name="fc"),
        node("Cast", ["m"], ["y"], to=TensorProto.FLOAT),
    ]
    return model_of(nodes, [floats("x", "batch", 16)], ["y"], {"fc.weight": weight(16, 32).astype(np.float16)})


def local_function() -> onnx.ModelProto:
    """A Linear as a local function, called twice."""
    body = [node("MatMul", ["a", "w"], ["m"]), node("Relu", ["m"], ["r"])]
    linear = helper.make_function("acme", "Linear", ["a", "w"], ["r"], body, [helper.make_opsetid("", 17)])
    nodes = [
        node("Linear", ["x", "one.weight"], ["h"], domain="acme"),
        node("Linear", ["h", "two.weight"], ["y"], domain="acme"),
    ]
    constants = {"one.weight": weight(16, 24), "two.weight": weight(24, 8)}
    model = model_of(nodes, [floats("x", "batch", 16)], ["y"], constants, domains=["acme"], functions=[linear])
    model.ir_version = 9
    return model


def nothing_to_compress() -> onnx.ModelProto:
    return model_of([node("Relu", ["x"], ["y"])], [floats("x", "batch", 4)], ["y"], {})


def old_operator(case: str) -> onnx.ModelProto:
    """One operator in the form it had at an old opset; see `OLD_OPERATORS` for the cases."""
    opset, nodes, constants = OLD_OPERATORS[case]
    return model_of(nodes, [floats("x", 2, 3, 8, 8)], ["y"], constants, opset)


def _resize(op: str, mode: str, scales: Sequence[float]) -> tuple[list[onnx.NodeProto], dict[str, np.ndarray]]:
    return [node(op, ["x", "s"], ["y"], mode=mode)], {"s": np.array(scales, dtype=np.float32)}


def _pool(ceil_mode: int, include: int) -> list[onnx.NodeProto]:
    shape = {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1]}
    return [node("AveragePool", ["x"], ["y"], ceil_mode=ceil_mode, count_include_pad=include, **shape)]


Case = tuple[int, list[onnx.NodeProto], dict[str, np.ndarray]]

OLD_OPERATORS: dict[str, Case] = {
    "upsample7": (7, [node("Upsample", ["x"], ["y"], scales=[1.0, 1.0, 2.0, 2.0])], {}),
    "upsample9_nearest": (9, *_resize("Upsample", "nearest", [1, 1, 2, 2])),
    "upsample9_linear": (9, *_resize("Upsample", "linear", [1, 1, 2, 2])),
    "resize10_nearest": (10, *_resize("Resize", "nearest", [1, 1, 2.5, 2])),
    "resize10_smaller": (10, *_resize("Resize", "nearest", [1, 1, 0.6, 0.6])),
    "resize10_linear": (10, *_resize("Resize", "linear", [1, 1, 1.6, 0.6])),
    "softmax9": (9, [node("Softmax", ["x"], ["y"])], {}),
    "softmax11_last": (11, [node("Softmax", ["x"], ["y"], axis=3)], {}),
    "softmax11_negative": (11, [node("Softmax", ["x"], ["y"], axis=-2)], {}),
    "logsoftmax12": (12, [node("LogSoftmax", ["x"], ["y"], axis=2)], {}),
    "hardmax11": (11, [node("Hardmax", ["x"], ["y"], axis=1)], {}),
    "slice9": (9, [node("Slice", ["x"], ["y"], starts=[1, -5], ends=[7, 8], axes=[2, 3])], {}),
    "slice9_no_axes": (9, [node("Slice", ["x"], ["y"], starts=[0, 1], ends=[2, 3])], {}),
    "clip9": (9, [node("Clip", ["x"], ["y"], min=-0.25, max=0.5)], {}),
    "clip10_one_side": (10, [node("Clip", ["x"], ["y"], max=0.5)], {}),
    "pad10_reflect": (10, [node("Pad", ["x"], ["y"], pads=[0, 0, 1, 1, 0, 0, 2, 2], mode="reflect")], {}),
    "pad9_value": (9, [node("Pad", ["x"], ["y"], pads=[0, 0, 1, 1, 0, 0, 0, 0], value=3.5)], {}),
    "dropout9": (9, [node("Dropout", ["x"], ["y"], ratio=0.3)], {}),
    "dropout11_mask": (11, [node("Dropout", ["x"], ["y", "unused_mask"], ratio=0.3)], {}),
    "squeeze11": (11, [node("Unsqueeze", ["x"], ["z"], axes=[0, 2]), node("Squeeze", ["z"], ["y"], axes=[0])], {}),
    "squeeze9_all": (9, [node("Unsqueeze", ["x"], ["z"], axes=[0]), node("Squeeze", ["z"], ["y"])], {}),
    "split11": (11, [node("Split", ["x"], ["y", "z"], axis=2, split=[3, 5])], {}),
    "split13_equal": (13, [node("Split", ["x"], ["y", "z"], axis=2)], {}),
    "topk9": (9, [node("TopK", ["x"], ["y", "z"], axis=2, k=2)], {}),
    "batchnorm8": (
        8,
        [node("BatchNormalization", ["x", "g", "b", "m", "v"], ["y"])],
        {"g": weight(3), "b": weight(3, seed=1), "m": weight(3, seed=2), "v": np.abs(weight(3, seed=3)) + 1},
    ),
    "scatter9": (
        9,
        [node("Scatter", ["x", "at", "what"], ["y"], axis=3)],
        {"at": np.zeros((2, 3, 8, 1), dtype=np.int64), "what": weight(2, 3, 8, 1)},
    ),
    "gridsample16": (
        16,
        [node("GridSample", ["x", "grid"], ["y"], mode="bicubic")],
        {"grid": np.tanh(weight(2, 4, 4, 2))},
    ),
    "roialign10": (
        10,
        [node("RoiAlign", ["x", "rois", "which"], ["y"], output_height=2, output_width=2, sampling_ratio=2)],
        {"rois": np.array([[0, 0, 5, 5], [1, 1, 6, 7]], np.float32), "which": np.array([0, 1], dtype=np.int64)},
    ),
    "maxpool8": (8, [node("MaxPool", ["x"], ["y"], kernel_shape=[2, 2], strides=[2, 2])], {}),
    "depthtospace11": (
        11,
        [node("Concat", ["x", "x", "x", "x"], ["c"], axis=1), node("DepthToSpace", ["c"], ["y"], blocksize=2)],
        {},
    ),
    "onehot_arithmetic": (
        9,
        [node("Sum", ["x", "x", "x"], ["a"]), node("Div", ["a", "two"], ["y"])],
        {"two": weight(1) + 2},
    ),
    **{f"averagepool11_{c}{i}": (11, _pool(c, i), {}) for c in (0, 1) for i in (0, 1)},
    **{
        f"reduce{name}11": (11, [node(f"Reduce{name}", ["x"], ["y"], axes=[2, 3], keepdims=0)], {})
        for name in ("Sum", "Mean", "Max", "Min", "L1", "L2", "Prod", "SumSquare", "LogSumExp")
    },
    "reduce_all11": (11, [node("ReduceMean", ["x"], ["y"])], {}),
}
