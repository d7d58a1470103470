"""The width behind a table is not cut, whoever else reads the table; weights that are not searchable stay."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from autotune.errors import TrialFailure
from autotune.parity.reference import Reference
from tests.unit import zoo
from tests.unit.techniques.prune import graphs
from tests.unit.techniques.prune.checking import Case, zeroed

WIDTH, WORDS = 24, 40


def language_model(tied: bool, *, norm: bool = False, half: bool = False, words: int = WORDS) -> onnx.ModelProto:
    """A table, a product that is added to what it gives, a feed-forward block, and a head: the table itself where it is
    tied. `half`: the table is stored in float16."""
    net = graphs.Net(opset=20)
    table = net.random(words, WIDTH, name="tok.weight")
    if half:
        net.constants["tok.weight"] = net.constants["tok.weight"].astype(np.float16)
        table = net.op("Cast", table, to=TensorProto.FLOAT)
    x = net.op("Gather", table, "ids", name="tok")
    x = net.op("Add", x, net.linear(net.op("Tanh", net.linear(x, WIDTH, 32, "in")), 32, WIDTH, "out"), name="first")
    if norm:
        x = net.op("LayerNormalization", x, net.random(WIDTH), net.random(WIDTH), axis=-1)
    x = net.op("Add", x, net.linear(net.op("Relu", net.linear(x, WIDTH, 48, "up")), 48, WIDTH, "down"), name="second")
    flat = net.op("Reshape", x, net.const([-1, WIDTH]))
    head = table if tied else net.random(words, WIDTH, name="head.weight")
    y = net.op("Gemm", flat, head, name="head", transB=1)
    ids = helper.make_tensor_value_info("ids", TensorProto.INT64, ["batch", 6])
    return zoo.model_of([*net.nodes, zoo.node("Identity", [y], ["y"])], [ids], ["y"], net.constants, net.opset)


@pytest.mark.parametrize("words", [WORDS, 8], ids=["", "few words"])  # a small table is no layer
@pytest.mark.parametrize("half", [False, True], ids=["", "float16"])
@pytest.mark.parametrize("norm", [False, True], ids=["", "norm"])
@pytest.mark.parametrize("tied", [False, True], ids=["untied", "tied"])
def test_the_width_behind_a_table_is_not_cut(tied: bool, norm: bool, half: bool, words: int) -> None:
    case = Case.of(language_model(tied, norm=norm, half=half, words=words), round_to=1)
    assert {layer: unit.layers for layer, unit in case.units.items()} == {"in": ("in", "out"), "up": ("up", "down")}
    (lead,) = (name for name, each in case.skipped.items() if "the width of embeddings" in each.reason)
    assert lead == ("tok" if "tok" in case.made.source.layers else "out")
    with pytest.raises(TrialFailure, match="the width of embeddings, and of the residual stream behind them"):
        case.plan({lead: "cut-50%"})
    feeds = {"ids": np.arange(12).reshape(2, 6) % words}
    for made in ({"in": "cut-25%"}, {"up": "cut-75%"}, {"in": "cut-50%", "up": "cut-50%"}):
        pruned = case.pruned(made)
        whole = {tensor.name: list(tensor.dims) for tensor in onnx.load_from_string(case.original()).graph.initializer}
        left = {tensor.name: list(tensor.dims) for tensor in onnx.load_from_string(pruned).graph.initializer}
        assert {name for name in left if left[name] != whole[name]} <= {
            f"{layer}.{part}" for layer in ("in", "out", "up", "down") for part in ("weight", "bias")
        }
        expected = Reference(onnx.load_from_string(zeroed(case, pruned))).run(feeds, ["y"])["y"]
        found = Reference(onnx.load_from_string(pruned)).run(feeds, ["y"])["y"]
        np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-9 * float(np.abs(expected).max()))


def test_a_table_of_biases_of_heads_is_cut_with_them() -> None:
    """As the relative positions of T5: its columns are heads, no residual stream."""
    net = graphs.Net()
    parts = [net.op("Reshape", net.linear("x", 24, 24, name), net.const([0, 0, 6, 4])) for name in ("q", "k", "v")]
    q, k, v = (net.op("Transpose", part, perm=[0, 2, 1, 3]) for part in parts)
    places = net.op("Squeeze", net.op("Slice", net.op("Shape", "x"), net.const([1]), net.const([2])), net.const([0]))
    at = net.op("Range", net.const(np.int64(0)), places, net.const(np.int64(1)))
    bias = net.op("Transpose", net.op("Gather", net.random(32, 6, name="bias.weight"), at, name="bias"), perm=[1, 0])
    scores = net.op("MatMul", q, net.op("Transpose", k, perm=[0, 1, 3, 2]))
    scores = net.op("Softmax", net.op("Add", scores, net.op("Unsqueeze", bias, net.const([1]))), axis=-1)
    mixed = net.op("Transpose", net.op("MatMul", scores, v), perm=[0, 2, 1, 3])
    model = net.model(net.linear(net.op("Reshape", mixed, net.const([0, 0, 24])), 24, 24, "o"), "batch", 6, 24)
    case = Case.of(model, round_to=1)
    assert (case.units["q"].kind, case.units["q"].size) == ("heads", 6)
    pruned = onnx.load_from_string(case.pruned({"q": "cut-50%"}))
    assert {tensor.name: list(tensor.dims) for tensor in pruned.graph.initializer}["bias.weight"] == [32, 3]


def test_a_weight_that_is_not_searchable_stays() -> None:
    """A weight that two products read in different roles is no layer's, and so nobody's to cut."""
    net = graphs.Net()
    weight = net.random(24, 32, name="both.weight")
    x = net.op("Relu", net.linear("x", 24, 24, "before"))
    x = net.op("Relu", net.op("MatMul", x, weight, name="there"))
    back = net.op("Transpose", weight, perm=[1, 0])
    model = net.model(net.linear(net.op("MatMul", x, back, name="back"), 24, 6, "head"), *graphs.TOKENS)
    case = Case.of(model, round_to=1)
    assert [layer.name for layer in case.made.source.layers.values()] == ["before", "head"]
    assert case.units == {}
    assert "'there' (MatMul) has a weight that is not searchable, and stays as it is" in case.skipped["before"].reason


@pytest.mark.parametrize("groups", [6, 3, 2])
def test_heads_that_share_keys_are_counted(groups: int) -> None:
    case = Case.of(graphs.attention(heads=6, groups=groups), round_to=1)
    unit = case.units["q"]
    assert (unit.kind, unit.size, unit.total, unit.even) == ("heads", groups, 6, True)


def test_channels_that_go_as_one_are_counted() -> None:
    unit = Case.of(graphs.grouped(2), round_to=1).units["before"]
    assert (unit.size, unit.total, unit.even) == (8, 16, True)
    unit = Case.of(graphs.residual(), round_to=1).units["stem"]
    assert (unit.size, unit.total, unit.even, unit.normed) == (16, 16, True, False)
    assert Case.of(graphs.feed_forward(False), round_to=1).units["embed"].normed  # LayerNorm reads the stream
