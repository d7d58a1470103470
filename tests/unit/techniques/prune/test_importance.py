"""What goes is what contributes least; what is known about layers stays true."""

from __future__ import annotations

import numpy as np
import pytest

from autotune.techniques.moments import Moments
from autotune.techniques.prune.graph import Graph
from autotune.techniques.prune.importance import importance
from autotune.techniques.prune.spread import Analysis
from autotune.techniques.prune.units import made_by
from tests.unit.techniques.prune import graphs
from tests.unit.techniques.prune.checking import Case


def _moments(groups: int, inputs: int, seed: int = 0) -> Moments:
    """Moments of normal inputs of very different sizes."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((groups, 400, inputs)) * rng.uniform(0.01, 4, (groups, 1, inputs))
    gram = x.transpose(0, 2, 1) @ x / 400
    return Moments(gram.astype(np.float32), x.mean(axis=1).astype(np.float32), 400)


def _scores(case: Case, lead: str, moments: dict[str, Moments]) -> np.ndarray:
    plan = case.made.original()
    for name, value in moments.items():
        plan.set_moments(name, value)
    graph = Graph(plan)
    return importance(plan, graph, Analysis(graph).group(made_by(plan.layer(lead))))


def test_neurons_by_what_they_contribute() -> None:
    """||W[:, i]|| sqrt(E x_i^2), for a product."""
    case = Case.of(graphs.feed_forward(False))
    known = _moments(1, 48)
    weight = case.made.original().weight(case.made.source.layers["one.down"]).astype(np.float64)  # [inputs, outputs]
    expected = np.linalg.norm(weight, axis=1) * np.sqrt(known.squares[0].astype(np.float64))
    np.testing.assert_allclose(_scores(case, "one.up", {"one.down": known}), expected, rtol=1e-5)


def test_channels_sum_over_readers_and_places_of_the_kernel() -> None:
    case = Case.of(graphs.residual())
    readers = {"one.first": 9, "two.first": 9, "head": 1}
    known = {name: _moments(1, 16 * places, seed) for seed, (name, places) in enumerate(readers.items())}
    expected = np.zeros(16)
    for name, places in readers.items():
        layer = case.made.source.layers[name]
        weight = case.made.original().weight(layer).astype(np.float64).reshape(layer.shape[0], 16, places)
        energy = known[name].squares[0].reshape(16, places)
        expected += np.sqrt((np.square(weight) * energy).sum(axis=(0, 2)))
    np.testing.assert_allclose(_scores(case, "stem", known), expected, rtol=1e-5)


def test_heads_are_scored_as_blocks() -> None:
    case = Case.of(graphs.attention("zeros"))
    known = _moments(1, 24)
    weight = case.made.original().weight(case.made.source.layers["out"]).astype(np.float64)
    energy = np.square(weight).sum(axis=1) * known.squares[0]
    np.testing.assert_allclose(_scores(case, "q", {"out": known}), np.sqrt(energy.reshape(6, 4).sum(axis=1)), rtol=1e-5)


def test_the_weights_that_make_a_neuron_stand_in_for_moments() -> None:
    case = Case.of(graphs.flatten("zero"))
    plan = case.made.original()
    before, after = (plan.weight(case.made.source.layers[name]).astype(np.float64) for name in ("hidden", "head"))
    expected = np.linalg.norm(after, axis=0) * np.linalg.norm(before, axis=1)
    np.testing.assert_allclose(_scores(case, "hidden", {}), expected, rtol=1e-5)


def test_the_strongest_stay_and_ties_go_from_the_end() -> None:
    net = graphs.Net()
    hidden = net.op("Relu", net.linear("x", 24, 32, "up"))
    model = net.model(net.linear(hidden, 32, 4, "down"), *graphs.TOKENS)
    case = Case.of(model, round_to=8)
    plan = case.made.original()
    layer = plan.layer("down")
    scores = np.repeat(np.arange(8.0, 0, -1), 4).astype(np.float32)[::-1]
    plan.set_tensor(layer.weight, np.ones((32, 4), np.float32))
    plan.set_moments("down", Moments(np.diag(scores**2)[None], np.zeros((1, 32), np.float32), 9))
    bias = plan.weight(plan.layer("up")).copy()
    case.prune.apply(plan, {"up": "cut-75%"})
    np.testing.assert_array_equal(plan.weight(plan.layer("up")), bias[:, 24:])
    known = plan.moments("down")
    assert known is not None
    np.testing.assert_array_equal(known.squares[0], scores[24:] ** 2)

    equal = case.made.original()
    equal.set_tensor(layer.weight, np.ones((32, 4), np.float32))
    equal.set_moments("down", Moments(np.eye(32, dtype=np.float32)[None], np.zeros((1, 32), np.float32), 9))
    case.prune.apply(equal, {"up": "cut-50%"})
    np.testing.assert_array_equal(equal.weight(equal.layer("up")), bias[:, :16])


@pytest.mark.parametrize(("groups", "whole"), [(2, False), (8, True), (16, True)])
def test_moments_of_grouped_convolutions(groups: int, whole: bool) -> None:
    """Where whole groups go so do their moments; else the same columns of each."""
    case = Case.of(graphs.grouped(groups), round_to=1)
    plan = case.made.original()
    layer = plan.layer("grouped")
    known = _moments(groups, 16 // groups * 9)
    plan.set_moments("grouped", known)
    case.prune.apply(plan, {"before": "cut-50%"})
    after, found = plan.layer("grouped"), plan.moments("grouped")
    assert found is not None
    assert after.group == (groups // 2 if whole else groups)
    assert found.gram.shape == (after.group, after.shape[1] * 9, after.shape[1] * 9)
    assert found.gram.shape[1] == found.mean.shape[1]
    before = case.made.original().weight(layer)
    rows = {row.tobytes() for row in known.mean.reshape(16, 9)}
    assert all(row.tobytes() in rows for row in found.mean.reshape(8, 9))
    if whole:
        kept = [at for at in range(32) if before[at].tobytes() in {r.tobytes() for r in plan.weight(after)}]
        chosen = sorted({at // (32 // groups) for at in kept})
        np.testing.assert_array_equal(found.mean, known.mean[chosen])


def test_decisions_are_deterministic() -> None:
    make = lambda: Case.of(graphs.EXACT["gqa-expand"]()).pruned({"q": "cut-50%"})  # noqa: E731
    assert make() == make()
