"""Normalising never changes what a model computes: original and normal form run on the same random inputs."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import pytest

from autotune.compress.ingest import load_model
from tests.unit import zoo
from tests.unit.ingest.equivalence import assert_same

MODELS: dict[str, Callable[[], onnx.ModelProto]] = {
    "convolutions": zoo.convolutions,
    "mlp in Constant nodes": lambda: zoo.mlp(constant_nodes=True),
    "odd matmuls": zoo.odd_matmuls,
    "embedding": zoo.embedding,
    "tied by Transpose": lambda: zoo.embedding(tied="transpose"),
    "tied by Gemm": lambda: zoo.embedding(tied="gemm"),
    "transposed weights": zoo.transposed_weights,
    "transposed and used elsewhere": lambda: zoo.transposed_weights(also_elsewhere=True),
    "weight norm": zoo.weight_norm,
    "shared weight": zoo.shared_weight,
    "loop": zoo.loop_with_weights,
    "lstm": zoo.lstm,
    "qdq": zoo.quantised_qdq,
    "qlinear": zoo.quantised_qlinear,
    "contrib domain": zoo.contrib_domain,
    "float16": zoo.float16,
    "local function": zoo.local_function,
    "nothing to compress": zoo.nothing_to_compress,
}


@pytest.mark.parametrize("name", MODELS)
def test_normal_form_computes_the_same(name: str) -> None:
    model = MODELS[name]()
    assert_same(model, load_model(model).model, zoo.feeds(model))


@pytest.mark.parametrize("opset", range(9, 18))
@pytest.mark.parametrize("build", [zoo.conv_residual, zoo.attention, zoo.mlp])
def test_opsets_are_converted(build: Callable[[int], onnx.ModelProto], opset: int) -> None:
    model = build(opset)
    loaded = load_model(model)
    assert loaded.model.opset_import[0].version == 21
    assert loaded.inspection.notes == (f"opset {opset} was converted to 21",)
    assert_same(model, loaded.model, zoo.feeds(model, size=3))


@pytest.mark.parametrize("case", zoo.OLD_OPERATORS)
def test_old_operators_keep_their_meaning(case: str) -> None:
    model = zoo.old_operator(case)
    loaded = load_model(model)
    assert loaded.model.opset_import[0].version == 21
    assert_same(model, loaded.model, zoo.feeds(model))


@pytest.mark.parametrize("opset", [11, 12, 17])
@pytest.mark.parametrize("flag", [True, False])
def test_branches_are_converted_too(opset: int, flag: bool) -> None:
    model = zoo.if_branches(opset)
    given = {**zoo.feeds(model), "flag": np.array(flag)}
    loaded = load_model(model)
    assert loaded.model.opset_import[0].version == 21
    assert_same(model, loaded.model, given)


def test_softmax_of_unknown_rank_keeps_its_flattened_meaning() -> None:
    nodes = [zoo.node("Reshape", ["x", "shape"], ["r"]), zoo.node("Softmax", ["r"], ["y"], axis=1)]
    shape = onnx.helper.make_tensor_value_info("shape", onnx.TensorProto.INT64, ["rank"])
    model = zoo.model_of(nodes, [zoo.floats("x", 4, 6), shape], ["y"], {}, 11)
    given = {"x": zoo.feeds(model)["x"], "shape": np.array([2, 3, 4], dtype=np.int64)}
    loaded = load_model(model)
    assert "Flatten" in [n.op_type for n in loaded.model.graph.node]
    assert_same(model, loaded.model, given)


@pytest.mark.parametrize(
    ("case", "opset", "why"),
    [
        ("mixed", 10, "enlarges one axis and shrinks another"),
        ("computed", 10, "scales that are computed"),
    ],
)
def test_what_cannot_be_converted_stays_and_says_why(case: str, opset: int, why: str) -> None:
    scales = {"s": np.array([1, 1, 2, 0.5], dtype=np.float32)}
    if case == "mixed":
        model = zoo.model_of(
            [zoo.node("Resize", ["x", "s"], ["y"])], [zoo.floats("x", 1, 2, 8, 8)], ["y"], scales, opset
        )
    else:
        given = [zoo.floats("x", 1, 2, 8, 8), zoo.floats("s", 4)]
        model = zoo.model_of([zoo.node("Resize", ["x", "s"], ["y"])], given, ["y"], {}, opset)
    loaded = load_model(model)
    assert loaded.model.opset_import[0].version == opset
    (note,) = loaded.inspection.notes
    assert f"stays at {opset}" in note
    assert why in note
    assert_same(model, loaded.model, {**zoo.feeds(model), **({} if case == "mixed" else scales)})


def test_normal_form() -> None:
    model = zoo.mlp(constant_nodes=True)
    loaded = load_model(model).model
    names = [n.name for n in loaded.graph.node]
    assert "Constant" not in {n.op_type for n in loaded.graph.node}
    assert all(names)
    assert len(set(names)) == len(names)
    assert not {v.name for v in loaded.graph.input} & {t.name for t in loaded.graph.initializer}
    assert loaded.ir_version == 10
    inferred = {
        v.name: [d.dim_param or d.dim_value for d in v.type.tensor_type.shape.dim] for v in loaded.graph.value_info
    }
    assert inferred["r"] == ["batch", 32]
    onnx.checker.check_model(loaded, full_check=True)


def test_initializers_that_are_also_inputs_become_constants() -> None:
    model = zoo.mlp()
    model.ir_version = 3
    model.graph.input.extend(
        onnx.helper.make_tensor_value_info(t.name, t.data_type, t.dims) for t in list(model.graph.initializer)
    )
    loaded = load_model(model)
    assert [v.name for v in loaded.model.graph.input] == ["x"]
    assert [layer.name for layer in loaded.inspection.layers] == ["fc1", "fc2"]
    assert_same(model, loaded.model, zoo.feeds(model))


def test_nodes_in_any_order_are_sorted() -> None:
    model = zoo.mlp()
    nodes = list(model.graph.node)[::-1]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    assert [n.op_type for n in load_model(model).model.graph.node] == ["MatMul", "Add", "Relu", "Gemm"]


def test_batchnorm_is_folded_only_where_it_alone_reads_the_conv() -> None:
    model = zoo.conv_residual()
    assert "BatchNormalization" not in [n.op_type for n in load_model(model).model.graph.node]
    model.graph.output.append(onnx.helper.make_tensor_value_info("c1", onnx.TensorProto.FLOAT, None))
    loaded = load_model(model)
    assert "BatchNormalization" in [n.op_type for n in loaded.model.graph.node]
    assert_same(model, loaded.model, zoo.feeds(model))


def test_batchnorm_that_is_an_output_keeps_its_name() -> None:
    model = zoo.conv_residual()
    model.graph.output.append(onnx.helper.make_tensor_value_info("n1", onnx.TensorProto.FLOAT, None))
    loaded = load_model(model)
    assert "BatchNormalization" not in [n.op_type for n in loaded.model.graph.node]
    assert_same(model, loaded.model, zoo.feeds(model))


def test_sparse_initializers_become_dense() -> None:
    model = zoo.mlp()
    dense = zoo.weight(16, 32)
    dense[np.abs(dense) < 0.2] = 0
    (index,) = np.nonzero(dense.ravel())
    values = onnx.numpy_helper.from_array(dense.ravel()[index], "fc1.weight")
    sparse = onnx.helper.make_sparse_tensor(values, onnx.numpy_helper.from_array(index, "i"), [16, 32])
    kept = [t for t in model.graph.initializer if t.name != "fc1.weight"]
    del model.graph.initializer[:]
    model.graph.initializer.extend(kept)
    model.graph.sparse_initializer.append(sparse)
    loaded = load_model(model)
    stored = {t.name: onnx.numpy_helper.to_array(t) for t in loaded.model.graph.initializer}
    np.testing.assert_array_equal(stored["fc1.weight"], dense)
    assert_same(model, loaded.model, zoo.feeds(model))


def test_newer_opset_is_lowered_only_where_nothing_needs_it() -> None:
    model = zoo.mlp()
    model.opset_import[0].version = 28
    model.ir_version = 14
    loaded = load_model(model)
    assert loaded.model.opset_import[0].version == 26
    assert loaded.model.ir_version == 13
    assert loaded.inspection.notes == ("opset 28 was lowered to 26", "IR version 14 was lowered to 13")
    assert_same(loaded.model, loaded.model, zoo.feeds(model))


def test_custom_domain_and_model_metadata_are_kept() -> None:
    model = zoo.custom_domain()
    model.metadata_props.add(key="character", value="abc")
    model.graph.node[0].metadata_props.add(key="pkg.torch.onnx.stack_trace", value="/home/someone/model.py")
    model.graph.node[0].doc_string = "/home/someone/model.py"
    loaded = load_model(model).model
    assert {(o.domain, o.version) for o in loaded.opset_import} == {("", 21), ("acme.ops", 1)}
    assert [(p.key, p.value) for p in loaded.metadata_props] == [("character", "abc")]
    assert b"/home/someone" not in loaded.SerializeToString()
