"""Every choice that is offered can be carried out, alone and with all the others: also where channels are shuffled."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import onnx
import pytest

from autotune.compress.zoo import ZOO, build
from autotune.errors import TrialFailure
from autotune.parity.reference import Reference
from autotune.techniques.prune.graph import Graph
from autotune.techniques.prune.spread import Analysis
from autotune.techniques.prune.units import leads, refusal
from tests.unit import zoo
from tests.unit.techniques.prune import graphs
from tests.unit.techniques.prune.checking import Anything, Case, zeroed

CHANNELS = 16


def interleave(net: graphs.Net, x: str, groups: int) -> str:
    x = net.op("Reshape", x, net.const([0, groups, CHANNELS // groups, 6, 6]))
    return net.op("Reshape", net.op("Transpose", x, perm=[0, 2, 1, 3, 4]), net.const([0, CHANNELS, 6, 6]))


def units(count: int) -> onnx.ModelProto:
    """Units of a ShuffleNet V2: half of the channels pass, half are convolved, and both are interleaved."""
    net = graphs.Net()
    x = net.op("Relu", net.conv("x", 3, CHANNELS, "stem", kernel=3))
    for unit in range(count):
        left, right = net.several("Split", [x, net.const([8, 8])], 2, axis=1)
        h = net.op("Relu", net.conv(right, 8, 8, f"u{unit}.pw1"))
        h = net.op("Relu", net.conv(net.conv(h, 8, 8, f"u{unit}.dw", kernel=3, group=8), 8, 8, f"u{unit}.pw2"))
        x = interleave(net, net.op("Concat", left, h, axis=1), 2)
    return net.model(net.conv(net.op("Relu", net.conv(x, CHANNELS, 12, "last")), 12, 4, "head"), *graphs.IMAGE)


def groups(first: int, second: int) -> onnx.ModelProto:
    """Grouped convolutions with a shuffle between, as in a ShuffleNet V1."""
    net = graphs.Net()
    x = net.op("Relu", net.conv("x", 3, CHANNELS, "stem", kernel=3))
    x = net.op("Relu", net.conv(x, CHANNELS, CHANNELS, "g1", group=first))
    x = net.conv(interleave(net, x, first), CHANNELS, CHANNELS, "dw", kernel=3, group=CHANNELS)
    x = net.op("Relu", net.conv(x, CHANNELS, CHANNELS, "g2", group=second))
    return net.model(net.conv(x, CHANNELS, 4, "head"), *graphs.IMAGE)


def branches() -> onnx.ModelProto:
    """A part of the channels and what is made of them, shuffled in front of a grouped convolution."""
    net = graphs.Net()
    x = net.op("Relu", net.conv("x", 3, CHANNELS, "stem", kernel=3))
    left, right = net.several("Split", [x, net.const([8, 8])], 2, axis=1)
    x = net.op("Concat", left, net.op("Relu", net.conv(right, 8, 8, "branch", kernel=3)), axis=1)
    x = net.op("Relu", net.conv(interleave(net, x, 2), CHANNELS, CHANNELS, "g1", group=2))
    return net.model(net.conv(x, CHANNELS, 4, "head"), *graphs.IMAGE)


SHUFFLED = {
    "one unit": lambda: units(1),
    "two units": lambda: units(2),
    "four units": lambda: units(4),
    "groups 2, 2": lambda: groups(2, 2),
    "groups 4, 4": lambda: groups(4, 4),
    "groups 4, 2": lambda: groups(4, 2),
    "groups 8, 4": lambda: groups(8, 4),
    "branches": branches,
}


def decisions(case: Case) -> list[dict[str, str]]:
    """Every choice alone, every uniform recipe, and the weakest and strongest cuts of all pairs; with blocks out."""
    cuts = [{layer: choice} for layer, unit in case.units.items() for choice in unit.choices]
    offered = {layer: case.prune.choices(case.made.source.layers[layer], Anything()) for layer in case.units}
    whole = [made for _, made in case.prune.uniform(offered)]
    pairs = [{a: case.units[a].choices[0], b: case.units[b].choices[-1]} for a, b in combinations(case.units, 2)]
    out = dict.fromkeys(case.blocks, "out")
    return [*cuts, *whole, *pairs, *([out | made for made in whole] if out else [])]


@pytest.mark.parametrize("name", SHUFFLED)
def test_shuffled_nets_equal_the_masked_original_in_float64(name: str) -> None:
    case = Case.of(SHUFFLED[name](), round_to=1)
    assert "stem" in case.units
    feeds = zoo.feeds(onnx.load_from_string(case.original()), size=2, seed=1)
    for made in decisions(case):
        pruned = case.pruned(made)
        assert len(pruned) < len(case.original()), made
        expected = Reference(onnx.load_from_string(zeroed(case, pruned))).run(feeds, ["y"])["y"]
        found = Reference(onnx.load_from_string(pruned)).run(feeds, ["y"])["y"]
        np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-9 * float(np.abs(expected).max()))


def test_all_units_of_a_stage_are_one_decision() -> None:
    """Each channel for itself where the shuffle allows it, not halves of the channels."""
    case = Case.of(units(2), round_to=1)
    assert {layer: unit.size for layer, unit in case.units.items()} == {
        "stem": CHANNELS, "u0.pw1": 8, "u1.pw1": 8, "last": 12,
    }  # fmt: skip
    assert case.units["stem"].layers == ("stem", "u0.pw1", "u0.pw2", "u1.pw1", "u1.pw2", "last")
    with pytest.raises(TrialFailure, match=r"'u1\.pw2' is cut together with layer 'stem'; decide there"):
        case.plan({"u1.pw2": "cut-50%"})


@pytest.mark.parametrize("round_to", [1, 8])
@pytest.mark.parametrize("name", ZOO)
def test_whatever_is_offered_can_be_carried_out(name: str, round_to: int) -> None:
    case = Case.of(build(name), round_to=round_to)
    before = {layer: each.parameters for layer, each in case.made.source.layers.items()}
    for made in decisions(case):
        left = {layer: each.parameters for layer, each in case.plan(made).layers.items()}
        assert sum(left.values()) < sum(before.values()), made


@pytest.mark.parametrize("name", [*ZOO, *SHUFFLED])
def test_no_position_belongs_to_two_groups(name: str) -> None:
    case = Case.of(SHUFFLED[name]() if name in SHUFFLED else build(name))
    found = [lead for lead in leads(Analysis(Graph(case.made.original()))).found if refusal(lead) is None]
    for one, other in combinations(found, 2):
        assert not one.group.shares(other.group), (one.layer.name, other.layer.name)
