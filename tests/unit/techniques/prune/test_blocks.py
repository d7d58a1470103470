"""Whole blocks: what is left is the model without the branch, and layers that go are gone."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from autotune.errors import TrialFailure
from autotune.recipe import Recipe
from autotune.techniques.moments import Moments
from tests.unit import zoo
from tests.unit.techniques.prune import graphs
from tests.unit.techniques.prune.checking import Anything, Case, check, run


def _without(case: Case, sums: list[str], stays: int) -> bytes:
    """The original with each branch multiplied by zero in front of its sum."""
    model = onnx.load_from_string(case.original())
    for node in [node for node in model.graph.node if node.name in sums]:
        zero = zoo.node("Mul", [node.input[1 - stays], "nothing"], [f"{node.name}:zero"])
        node.input[1 - stays] = zero.output[0]
        at = [other.name for other in model.graph.node].index(node.name)
        model.graph.node.insert(at, zero)
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.float32(0), "nothing"))
    return model.SerializeToString()


def _agree(small: bytes, reference: bytes) -> None:
    for size in (1, 3):
        feeds = zoo.feeds(onnx.load_from_string(small), size=size, seed=size)
        for name, expected in run(reference, feeds).items():
            np.testing.assert_allclose(run(small, feeds)[name], expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("blocks", [["one"], ["two"], ["one", "two"]])
@pytest.mark.parametrize(("name", "stays"), [("residual", 0), ("ffn", 1), ("ffn-gated", 1)])
def test_a_block_out_leaves_the_rest(name: str, stays: int, blocks: list[str]) -> None:
    case = Case.of(graphs.EXACT[name]())
    leads = [layer for layer in case.blocks if layer.split(".")[0] in blocks]
    assert len(leads) == len(blocks)
    small = case.pruned(dict.fromkeys(leads, "out"))
    sums = [node.name for node in case.made.source.nodes if node.name.startswith(tuple(f"{b}.sum" for b in blocks))]
    _agree(small, _without(case, sums, stays))
    plan = case.plan(dict.fromkeys(leads, "out"))
    gone = {layer for lead in leads for layer in case.blocks[lead].layers}
    assert set(plan.layers) == set(case.made.source.layers) - gone
    assert all(plan.parts[layer] == () for layer in gone)
    assert gone == {layer for layer in case.made.source.layers if layer.split(".")[0] in blocks}


def test_attention_is_a_block_and_leads_heads_too() -> None:
    case = Case.of(graphs.attention("computed"), round_to=1)
    assert case.blocks["q"].layers == ("q", "k", "v", "out")
    layer = case.made.source.layers["q"]
    assert case.prune.choices(layer, Anything()) == ("cut-25%", "cut-50%", "cut-75%", "out")
    small = case.pruned({"q": "out"})
    feeds = zoo.feeds(onnx.load_from_string(small))
    np.testing.assert_array_equal(run(small, feeds)["y"], feeds["x"])


def test_blocks_and_cuts_in_one_recipe() -> None:
    """A cut inside a block that is out is void; a group that ran through the block is cut in what is left."""
    case = Case.of(graphs.residual(), round_to=1)
    both = case.pruned({"one.first": "out", "stem": "cut-50%", "two.first": "cut-25%"})
    model = onnx.load_from_string(both)
    shapes = {tensor.name: tuple(tensor.dims) for tensor in model.graph.initializer}
    assert shapes["stem.weight"][0] == 8 and shapes["two.first.weight"][:2] == (9, 8)
    assert "one.first.weight" not in shapes
    feeds = zoo.feeds(model, size=4)
    assert run(both, feeds)["y"].shape == (4, 5)


def test_inner_branches_are_blocks_of_their_own() -> None:
    net = graphs.Net()
    x = net.conv("x", 3, 8, "stem")
    inner = net.op("Relu", net.conv(x, 8, 8, "outer"))
    inner = net.op("Add", inner, net.conv(inner, 8, 8, "inner"), name="inner.sum")
    x = net.op("Add", x, inner, name="outer.sum")
    case = Case.of(net.model(net.conv(x, 8, 2, "last"), *graphs.IMAGE))
    assert {lead: block.layers for lead, block in case.blocks.items()} == {
        "inner": ("inner",),
        "outer": ("outer", "inner"),
    }
    both = case.pruned({"outer": "out", "inner": "out"})
    _agree(both, case.pruned({"outer": "out"}))


@pytest.mark.parametrize("kind", ["two branches", "broadcast", "branch read twice", "no layers"])
def test_no_block(kind: str) -> None:
    net = graphs.Net()
    x = net.conv("x", 3, 8, "stem")
    if kind == "two branches":
        x = net.op("Add", net.conv(x, 8, 8, "left"), net.conv(x, 8, 8, "right"))
    elif kind == "broadcast":
        x = net.op("Add", x, net.op("GlobalAveragePool", net.conv(x, 8, 8, "mean")))
    elif kind == "branch read twice":
        branch = net.conv(x, 8, 8, "branch")
        x = net.op("Concat", net.op("Add", x, branch), branch, axis=1)
    else:
        x = net.op("Add", x, net.op("Relu", x))
    width = 16 if kind == "branch read twice" else 8
    case = Case.of(net.model(net.conv(x, width, 2, "last"), *graphs.IMAGE))
    assert case.blocks == {}
    with pytest.raises(TrialFailure, match="'stem' leads no residual block"):
        case.plan({"stem": "out"})


def test_a_block_at_the_end_keeps_the_output() -> None:
    net = graphs.Net()
    x = net.conv("x", 3, 4, "stem")
    nodes = [*net.nodes, zoo.node("Conv", [x, "w"], ["b"], name="branch"), zoo.node("Add", [x, "b"], ["y"])]
    constants = net.constants | {"w": zoo.weight(4, 4, 1, 1)}
    case = Case.of(zoo.model_of(nodes, [zoo.floats("x", *graphs.IMAGE)], ["y"], constants))
    small = case.pruned({"branch": "out"})
    feeds = zoo.feeds(onnx.load_from_string(small))
    assert run(small, feeds)["y"].shape == (2, 4, 6, 6)
    assert [n.op_type for n in onnx.load_from_string(small).graph.node] == ["Conv", "Identity"]


def test_cuts_of_simplified_models() -> None:
    """The rewrites come first, and change nodes and constants."""
    net = graphs.Net()
    x = net.op("Mul", net.conv("x", 3, 16, "first"), net.random(16, 1, 1))
    model = net.model(net.conv(net.op("Relu", x), 16, 4, "last"), *graphs.IMAGE)
    case = Case.of(model, round_to=1)
    decisions = {"first": "cut-50%"}
    equal = Moments(np.eye(16, dtype=np.float32)[None], np.zeros((1, 16), np.float32), 9)
    case.made.tell_moments({"last": equal})  # else the weights in front decide, and these are rewritten
    small = case.made.assemble(Recipe({"prune": decisions, "simplify": {"graph": "exact"}}))
    plain = check(case, decisions)
    feeds = zoo.feeds(onnx.load_from_string(small))
    np.testing.assert_allclose(run(small, feeds)["y"], run(plain, feeds)["y"], rtol=1e-4, atol=1e-5)
    assert len(onnx.load_from_string(small).graph.node) < len(onnx.load_from_string(plain).graph.node)
