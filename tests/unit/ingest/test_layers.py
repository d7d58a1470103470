"""What is found to be a layer, under which name, and what is skipped, for which reason."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from autotune.compress.ingest import load_model, require_layers
from autotune.errors import DataError
from autotune.layers import Inspection, Layer
from tests.unit import zoo


def inspect(model: onnx.ModelProto) -> Inspection:
    return load_model(model).inspection


def reasons(model: onnx.ModelProto) -> dict[str, str]:
    return {s.name: s.reason for s in inspect(model).skipped}


def test_conv_net() -> None:
    found = inspect(zoo.conv_residual())
    assert [(a.name, a.op, a.shape, a.output_axis) for a in found.layers] == [
        ("stem", "Conv", (8, 3, 3, 3), 0),
        ("block.conv", "Conv", (8, 8, 3, 3), 0),
        ("fc", "Gemm", (5, 8), 0),
    ]
    assert found.layer("fc").bias == "fc.bias"
    assert found.layer("block.conv").bias == "block.conv.bias"
    assert found.layer("fc").parameters == 40
    assert found.skipped == ()
    assert found.parameters == 8 * 27 + 8 + 8 * 72 + 8 + 40 + 5


def test_groups_and_transposed_convolution() -> None:
    found = {a.name: (a.op, a.group, a.output_axis) for a in inspect(zoo.convolutions()).layers}
    assert found == {"dw": ("Conv", 8, 0), "grouped": ("Conv", 2, 0), "up": ("ConvTranspose", 1, 1)}


def test_bias_of_a_following_add_is_not_the_layers_own() -> None:
    found = inspect(zoo.mlp())
    assert found.layer("fc1").bias is None
    assert found.layer("fc1").output_axis == 1
    assert found.layer("fc2").bias == "fc2.bias"


def test_attention_projections_are_layers_and_products_of_activations_are_not() -> None:
    found = inspect(zoo.attention())
    assert [a.name for a in found.layers] == ["q", "k", "v", "attn.out"]
    assert found.skipped == ()


def test_weights_in_constant_nodes_are_found() -> None:
    found = inspect(zoo.mlp(constant_nodes=True))
    assert [(a.name, a.nodes) for a in found.layers] == [("fc1", ("m",)), ("fc2", ("y",))]


def test_names_and_nodes_are_those_of_the_normalised_graph() -> None:
    for build in (zoo.conv_residual, zoo.mlp, zoo.transposed_weights, zoo.weight_norm, zoo.local_function):
        loaded = load_model(build())
        nodes = {n.name: n for n in loaded.model.graph.node}
        stored = {t.name: tuple(t.dims) for t in loaded.model.graph.initializer}
        for layer in loaded.inspection.layers:
            assert stored[layer.weight] == layer.shape
            assert all(layer.weight in nodes[name].input for name in layer.nodes)


def test_names_are_unique_and_stable() -> None:
    nodes = [zoo.node("MatMul", ["x", "onnx::MatMul_1"], ["a"], name="/fc/MatMul")]
    nodes += [zoo.node("MatMul", ["a", "onnx::MatMul_2"], ["y"], name="/fc/MatMul_1")]
    constants = {"onnx::MatMul_1": zoo.weight(8, 8), "onnx::MatMul_2": zoo.weight(8, 8, seed=1)}
    model = zoo.model_of(nodes, [zoo.floats("x", 2, 8)], ["y"], constants)
    first, second = load_model(model), load_model(model)
    assert [a.name for a in first.inspection.layers] == ["fc", "fc_2"]
    assert first.inspection == second.inspection
    assert first.model.SerializeToString(deterministic=True) == second.model.SerializeToString(deterministic=True)
    assert first.source_digest == second.source_digest


@pytest.mark.parametrize("name", ["</script>", "\x1b[31mred", "a\u202eb", "x" * 100_000, "\n", "😀"])
def test_hostile_names_are_made_harmless(name: str) -> None:
    nodes = [zoo.node("MatMul", ["x", name], ["y"], name=name)]
    (layer,) = inspect(zoo.model_of(nodes, [zoo.floats("x", 2, 8)], ["y"], {name: zoo.weight(8, 8)})).layers
    assert layer.name.isprintable()
    assert not set(layer.name) & set("<>/\x1b\u202e\n ")
    assert 0 < len(layer.name) <= 120


def test_module_names_of_torch_metadata() -> None:
    model = zoo.mlp()
    for node, module in ((0, "encoder.up"), (3, "encoder.down")):
        model.graph.node[node].metadata_props.add(key="pkg.torch.onnx.name_scopes", value=f"['', '{module}', 'linear']")
        model.graph.node[node].metadata_props.add(
            key="pkg.torch.onnx.class_hierarchy", value="['M', 'torch.nn.modules.linear.Linear', 'aten.linear.default']"
        )
    assert [a.name for a in inspect(model).layers] == ["encoder.up", "encoder.down"]


def test_one_weight_is_one_layer() -> None:
    (layer,) = inspect(zoo.shared_weight()).layers
    assert layer.nodes == ("one", "two")


def test_transposes_of_one_weight_are_folded_into_one() -> None:
    loaded = load_model(zoo.transposed_weights())
    assert [(a.name, a.nodes) for a in loaded.inspection.layers] == [
        ("first", ("first", "second")),
        ("third", ("third",)),
    ]
    assert "Transpose" not in {n.op_type for n in loaded.model.graph.node}
    assert "w" not in {t.name for t in loaded.model.graph.initializer}


def test_folding_does_not_double_a_weight() -> None:
    loaded = load_model(zoo.transposed_weights(also_elsewhere=True))
    assert [a.name for a in loaded.inspection.layers] == ["third"]
    assert [s.reason.partition(":")[0] for s in loaded.inspection.skipped] == ["tied", "tied"]
    assert sum(int(np.prod(t.dims)) for t in loaded.model.graph.initializer if len(t.dims) == 2) == 2 * 256


@pytest.mark.parametrize("tied", ["transpose", "gemm"])
def test_tied_embedding_and_head_are_skipped_once_and_stay_one_tensor(tied: str) -> None:
    loaded = load_model(zoo.embedding(tied=tied))
    assert loaded.inspection.layers == ()
    assert all(s.reason.startswith("tied") for s in loaded.inspection.skipped)
    assert [tuple(t.dims) for t in loaded.model.graph.initializer if len(t.dims) == 2] == [(50, 16)]


def test_embedding_is_a_layer() -> None:
    found = inspect(zoo.embedding())
    assert found.layer("tok") == Layer("tok", "Gather", ("tok",), "tok.weight", (50, 16), 0, 800)


def test_small_table_is_skipped() -> None:
    nodes = [zoo.node("Gather", ["table", "ids"], ["y"])]
    model = zoo.model_of(nodes, [zoo.integers("ids", 3)], ["y"], {"table": zoo.weight(8, 4)})
    assert list(reasons(model).values()) == ["its table has fewer than 256 elements"]


def test_odd_matmuls() -> None:
    assert reasons(zoo.odd_matmuls()) == {
        "on_left": "its weight is on the left side",
        "batched": "its weight has 3 axes, and only matrices are searched",
        "from_outside": "its weight is an input of the model",
    }


def test_subgraphs_recurrent_and_foreign_operators_are_told() -> None:
    assert reasons(zoo.if_branches()) == {"branch": "inside the body of If node 'y'"}
    assert reasons(zoo.loop_with_weights()) == {"step": "inside the body of Loop node 'y'"}
    assert reasons(zoo.lstm()) == {"lstm": "recurrent operators pass through untouched"}
    assert reasons(zoo.custom_domain()) == {"mystery": "operators of the domain 'acme.ops' pass through untouched"}
    assert [a.name for a in inspect(zoo.custom_domain()).layers] == ["fc"]


def test_weight_that_a_loop_also_reads_is_no_layer() -> None:
    model = zoo.loop_with_weights()
    model.graph.node.append(zoo.node("MatMul", ["y", "w"], ["z"], name="after"))
    model.graph.output.append(onnx.helper.make_tensor_value_info("z", onnx.TensorProto.FLOAT, None))
    found = inspect(model)
    assert found.layers == ()
    assert "tied: its weight is also used by MatMul" in [s.reason for s in found.skipped]


def test_quantised_and_float16_weights_are_told() -> None:
    assert reasons(zoo.quantised_qdq()) == {"fc": "already quantised"}
    assert reasons(zoo.quantised_qlinear()) == {"conv": "already quantised"}
    assert reasons(zoo.float16()) == {"fc": "its weight is float16, and only float32 is searched"}


def test_nan_in_a_weight_is_told() -> None:
    model = zoo.mlp()
    broken = zoo.weight(16, 32)
    broken[3, 4] = np.nan
    model.graph.initializer[0].CopyFrom(onnx.numpy_helper.from_array(broken, "fc1.weight"))
    assert reasons(model) == {"fc1": "its weight holds NaN or infinity"}


def test_large_constants_of_other_operators_are_told() -> None:
    nodes = [zoo.node("Add", ["x", "position"], ["y"], name="add")]
    model = zoo.model_of(nodes, [zoo.floats("x", 1, 64, 32)], ["y"], {"position": zoo.weight(1, 64, 32)})
    (skipped,) = inspect(model).skipped
    assert (skipped.op, skipped.parameters) == ("Add", 2048)


def test_require_layers_says_why_there_is_nothing() -> None:
    require_layers(inspect(zoo.mlp()))
    with pytest.raises(DataError, match=r"nothing in the model can be compressed \(1 x MatMul: already quantised\)"):
        require_layers(inspect(zoo.quantised_qdq()))
    with pytest.raises(DataError, match="has no MatMul"):
        require_layers(inspect(zoo.nothing_to_compress()))


def test_unknown_layer_is_a_key_error() -> None:
    with pytest.raises(KeyError):
        inspect(zoo.mlp()).layer("nowhere")


def test_an_axis_of_minus_one_varies() -> None:
    """Exporters of PaddlePaddle write the batch axis so."""
    model = zoo.conv_residual()
    for value in (*model.graph.input, *model.graph.output):
        for dim in list(value.type.tensor_type.shape.dim)[:1]:
            dim.dim_value = -1
    ingested = load_model(model)
    first = ingested.model.graph.input[0].type.tensor_type.shape.dim[0]
    assert not first.HasField("dim_value"), "any batch size is allowed"
