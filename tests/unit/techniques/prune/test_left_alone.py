"""What is not understood is left alone, with the node that prevents it; options and decisions that make no sense."""

from __future__ import annotations

import re

import numpy as np
import onnx
import pytest

from autotune.errors import TrialFailure, UsageError
from autotune.techniques.prune import Prune
from tests.unit import zoo
from tests.unit.techniques.prune import graphs
from tests.unit.techniques.prune.checking import Anything, Case


def _between(kind: str) -> onnx.ModelProto:
    """Two convolutions with something between that a cut cannot pass."""
    net = graphs.Net(opset=17)
    x = net.conv("x", 3, 12, "first")
    domains = []
    if kind == "softmax":
        x = net.op("Softmax", x, axis=1, name="culprit")
    elif kind == "mean":
        x = net.op("Mul", x, net.op("ReduceMean", x, axes=[1], name="culprit"))
    elif kind == "maximum":
        x = net.op("Mul", x, net.op("ReduceMax", x, axes=[1], name="culprit"))
    elif kind == "pads channels":
        x = net.op("Slice", net.op("Pad", x, net.const([0, 1, 0, 0, 0, 1, 0, 0]), name="culprit"), *_bounds(net))
    elif kind == "computed size":
        scale = net.op("Cast", net.op("Gather", net.op("Shape", x), net.const(1)), to=1)
        x = net.op("Div", x, net.op("Sqrt", scale, name="culprit"))
    elif kind == "mixes":
        x = net.op("Reshape", net.op("Reshape", x, net.const([0, 8, 9, 6]), name="culprit"), net.const([0, 12, 6, 6]))
    elif kind == "normalises":
        x = net.op("LRN", x, size=3, name="culprit")
    elif kind == "unknown":
        domains = ["acme.ops"]
        net.nodes.append(onnx.helper.make_node("Mystery", [x], ["strange"], name="culprit", domain="acme.ops"))
        x = "strange"
    else:
        then = onnx.helper.make_graph([zoo.node("Relu", [x], ["t"])], "then", [], [_value("t")])
        orelse = onnx.helper.make_graph([zoo.node("Neg", [x], ["e"])], "else", [], [_value("e")])
        flag = net.const(np.array(True))
        net.nodes.append(zoo.node("If", [flag], ["chosen"], then_branch=then, else_branch=orelse, name="culprit"))
        x = "chosen"
    nodes = [*net.nodes]
    x = net.conv(x, 12, 4, "second")
    nodes = [*net.nodes, zoo.node("Identity", [x], ["y"])]
    return zoo.model_of(nodes, [zoo.floats("x", *graphs.IMAGE)], ["y"], net.constants, domains=domains)


def _bounds(net: graphs.Net) -> list[str]:
    return [net.const([1]), net.const([13]), net.const([1])]


def _value(name: str) -> onnx.ValueInfoProto:
    return onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None)


KINDS = ["softmax", "mean", "maximum", "pads channels", "computed size", "mixes", "normalises", "unknown", "branches"]


@pytest.mark.parametrize("kind", KINDS)
def test_the_node_is_named(kind: str) -> None:
    case = Case.of(_between(kind))
    assert "first" not in case.units
    skipped = case.skipped["first"]
    assert skipped.op == "Conv"
    assert "'culprit" in skipped.reason, skipped.reason
    assert case.prune.choices(case.made.source.layers["first"], Anything()) == ()
    with pytest.raises(TrialFailure, match=r"'first' cannot take cut-50%: .*culprit"):
        case.plan({"first": "cut-50%"})


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "unknown"])
def test_models_with_such_nodes_still_run(kind: str) -> None:
    case = Case.of(_between(kind))
    assert len(case.pruned({})) == len(case.original())


def test_outputs_inputs_and_embeddings_stay() -> None:
    case = Case.of(zoo.embedding())
    assert "width of embeddings" in case.skipped["tok"].reason
    assert case.skipped["head"].reason == "it reaches the model's output 'y'"
    assert case.units == {}
    case = Case.of(zoo.shared_weight())
    assert "input 'x'" in case.skipped["shared"].reason or "output 'y'" in case.skipped["shared"].reason


def test_sizes_of_heads_are_not_cut() -> None:
    case = Case.of(zoo.attention())
    assert re.search("multiplies two activations", case.skipped["q"].reason)
    assert set(case.units) == {"v"}


def test_small_results_of_rounding() -> None:
    def offered(width: int, **options: object) -> tuple[str, ...]:
        net = graphs.Net()
        x = net.conv("x", 3, width, "first")
        case = Case.of(net.model(net.conv(x, width, 4, "last"), *graphs.IMAGE), **options)
        return tuple(case.prune.choices(case.made.source.layers["first"], Anything()))

    assert offered(64) == ("cut-25%", "cut-50%", "cut-75%")
    assert offered(16) == ("cut-50%",)  # 12 becomes 16, and 4 becomes 8 as half does
    assert offered(24) == ("cut-50%", "cut-75%")
    assert offered(12) == ("cut-25%", "cut-50%", "cut-75%")  # smaller than twice 8: not rounded
    assert offered(16, round_to=1) == ("cut-25%", "cut-50%", "cut-75%")
    assert offered(64, shares=[0.1, 0.9]) == ("cut-90%",)
    assert offered(64, kinds=["heads"]) == ()


def test_uniform_recipes() -> None:
    prune = Prune()
    offered = {"a": ("cut-25%", "cut-50%", "cut-75%", "out"), "b": ("cut-50%",), "c": ("out",)}
    assert prune.uniform(offered) == [
        ("cut-25%", {"a": "cut-25%"}),
        ("cut-50%", {"a": "cut-50%", "b": "cut-50%"}),
        ("cut-75%", {"a": "cut-75%", "b": "cut-50%"}),
    ]
    assert prune.uniform({"c": ("out",)}) == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"shares": [0.5, 1.5]}, "shares has 1.5; give fractions"),
        ({"shares": []}, "at least one"),
        ({"shares": [0.5, 0.501]}, "different whole percents"),
        ({"shares": ["half"]}, "shares has 'half'; give fractions"),
        ({"round_to": 0}, "round_to is 0"),
        ({"round_to": 1.5}, "round_to is 1.5"),
        ({"shares": "0.5"}, r"shares is '0.5'; give a list, such as \[0.5\]"),
        ({"kinds": "heads"}, r"kinds is 'heads'; give a list, such as \['heads'\]"),
        ({"kinds": ["channel"]}, "no kind 'channel'; did you mean 'channels'"),
    ],
)
def test_bad_options(options: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Prune(**options)  # type: ignore[arg-type]


def test_bad_decisions() -> None:
    case = Case.of(graphs.residual())
    with pytest.raises(TrialFailure, match=r"prune has no choice 'cut-20%'; did you mean"):
        case.plan({"stem": "cut-20%"})
    with pytest.raises(TrialFailure, match=r"'one\.second' is cut together with layer 'stem'"):
        case.plan({"one.second": "cut-50%"})
    with pytest.raises(TrialFailure, match="'head' cannot take cut-50%: it reaches the model's output"):
        case.plan({"head": "cut-50%"})
