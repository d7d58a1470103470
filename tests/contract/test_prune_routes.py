"""Two independent ways to cut a torch module, on its exported graph and by torch-pruning, must give the same model."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("torch_pruning", reason="needs hw-autotune[torch-pruning]")

from autotune.compress import ingest_large, scratch  # noqa: E402
from autotune.compress.assembly import Assembler  # noqa: E402
from autotune.compress.dialects.ort_cpu import OrtCpu  # noqa: E402
from autotune.compress.ingest import load_model  # noqa: E402
from autotune.compress.modules import route as module_route  # noqa: E402
from autotune.compress.modules.route import ModuleCuts  # noqa: E402
from autotune.errors import TrialFailure, UsageError  # noqa: E402
from autotune.recipe import Recipe  # noqa: E402
from autotune.techniques.prune import Prune  # noqa: E402
from autotune.techniques.prune.graph import Graph  # noqa: E402
from autotune.techniques.prune.spread import Analysis  # noqa: E402
from autotune.techniques.prune.units import made_by  # noqa: E402
from tests.contract import torch_modules as modules  # noqa: E402
from tests.contract.cut_modules import Case, decisions, run  # noqa: E402

pytestmark = pytest.mark.slow  # torch's exporter takes seconds a model

MADE: dict[str, tuple[Callable[[], torch.nn.Module], tuple[int, ...]]] = {
    "residual": (modules.Residual, modules.IMAGE),
    "depthwise": (modules.Depthwise, modules.IMAGE),
    "concat": (modules.Concat, modules.IMAGE),
    "attention": (modules.Attention, modules.TOKENS),
    "attention by size": (functools.partial(modules.Attention, fixed=False), modules.TOKENS),
    "mixing": (modules.Mixing, modules.IMAGE),
    "undifferentiable": (modules.Undifferentiable, (2, 24)),
}
BOTH = ["residual", "depthwise", "concat", "attention"]  # both routes can cut these
BATCH = {"x": {0: "batch"}}


@functools.cache
def case(name: str, batch: bool = False) -> Case:
    make, shape = MADE[name]
    module = modules.prepared(make())
    inputs = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    axes = BATCH if batch else {}
    return Case(module, inputs, load_model(module, example_inputs=(inputs,), dynamic_axes=axes), axes)


@pytest.mark.parametrize("name", BOTH)
def test_both_routes_find_the_same_and_cut_the_same(name: str) -> None:
    it = case(name)
    (graph, by_graph), (module, by_module) = it.by("graph"), it.by("torch-pruning")
    assert by_graph.units() == by_module.units() and by_graph.units()
    assert (by_graph.stage, by_module.stage) == ("prune", "torch")
    assert graph.assemble(Recipe()) == module.assemble(Recipe())
    recipe = Recipe({"prune": decisions(by_graph, "cut-25%"), "simplify": {"graph": "exact"}})
    one, other = graph.structured(recipe), module.structured(recipe)
    assert {n: (layer.op, layer.shape, layer.group) for n, layer in one.layers.items()} == {
        n: (layer.op, layer.shape, layer.group) for n, layer in other.layers.items()
    }
    for layer in one.layers:
        np.testing.assert_array_equal(one.moments[layer].gram, other.moments[layer].gram)
    x = it.inputs.numpy()
    expected, found = run(graph.assemble(recipe), x), run(module.assemble(recipe), x)
    assert np.isfinite(found).all() and found.shape == run(graph.assemble(Recipe()), x).shape
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", BOTH)
def test_the_groups_are_the_same_channel_by_channel(name: str) -> None:
    it = case(name)
    made, prune = it.by("torch-pruning")
    graph = Graph(made.original())
    ours = Analysis(graph)
    theirs = ModuleCuts(it.module, (it.inputs,), it.axes, it.ingested.source_digest).groups(graph)
    weights = {layer.weight for layer in graph.layers.values()}
    for unit in prune.units():
        if unit.kind == "blocks":
            continue
        seed = made_by(graph.layers[unit.layer])
        one, other = ours.group(seed), theirs.group(seed)
        assert one.count == other.count == unit.size
        on_weights = {port for port in one.classes if port[0] in weights}
        assert on_weights == {port for port in other.classes if port[0] in weights}
        for port in on_weights:
            np.testing.assert_array_equal(one.classes[port], other.classes[port])


def test_blocks_go_from_the_export_of_the_cut_module() -> None:
    it = case("attention")
    recipe = Recipe({"prune": {"q": "out", "up": "cut-50%"}})
    x = it.inputs.numpy()
    found = [run(it.by(route)[0].assemble(recipe), x) for route in ("graph", "torch-pruning")]
    np.testing.assert_allclose(found[1], found[0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("route", ["graph", "torch-pruning"])
def test_sizes_are_foretold(route: str) -> None:
    made, prune = case("attention").by(route)
    whole = made.source.layers
    for wanted in ({"q": "cut-50%"}, {"q": "out", "up": "cut-25%"}):
        left = made.structured(Recipe({"prune": wanted})).layers
        there = {name: left[name].parameters if name in left else 0 for name in whole}
        expected = {name: count for name, count in there.items() if count != whole[name].parameters}
        assert prune.foretell(made.original(), wanted) == expected and expected


def test_a_module_whose_graph_is_not_followed_is_cut() -> None:
    it = case("attention by size", batch=True)
    _, by_graph = it.by("graph")
    assert "q" not in {unit.layer for unit in by_graph.units() if unit.kind != "blocks"}
    made, prune = it.by("torch-pruning")
    unit = next(unit for unit in prune.units() if unit.layer == "q" and unit.kind == "heads")
    assert (unit.size, unit.layers) == (6, ("q", "k", "v", "o"))
    pruned = made.assemble(Recipe({"prune": {"q": "cut-50%"}}))
    source = made.structured(Recipe({"prune": {"q": "cut-50%"}}))
    assert [source.layers[name].shape for name in "qo"] == [(24, 24), (24, 24)]
    # Which heads are left is read off the weights; the reference is the module with zeros where o reads the others.
    left = np.isin(it.module.q.weight.detach().numpy(), source.tensors.array(source.layers["q"].weight)).all(axis=1)
    assert left.sum() == 24 and (left.reshape(6, 8).all(axis=1) == left.reshape(6, 8).any(axis=1)).all()
    reference = modules.prepared(modules.Attention(fixed=False))
    reference.load_state_dict(it.module.state_dict())
    x = torch.randn(5, *modules.TOKENS[1:], generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        reference.o.weight[:, torch.from_numpy(~left)] = 0
        expected = reference(x).numpy()
    np.testing.assert_allclose(run(pruned, x.numpy()), expected, rtol=1e-4, atol=1e-5)


def test_what_would_be_another_function_is_refused_with_the_reason() -> None:
    it = case("mixing")
    made, prune = it.by("torch-pruning")
    why = {each.name: each.reason for each in prune.survey(made.original())}
    assert why["first"] == "what is left would compute something else than the model without what is gone"
    assert why["head"] == "cutting it changes the shape of the outputs"
    assert [unit.layer for unit in prune.units()] == ["second"]
    with pytest.raises(TrialFailure, match="'first' cannot take cut-50%: what is left"):
        made.structured(Recipe({"prune": {"first": "cut-50%"}}))


def test_a_module_that_cannot_be_followed_is_told() -> None:
    made, prune = case("undifferentiable").by("torch-pruning")
    reasons = {each.reason for each in prune.survey(made.original())}
    assert prune.units() == () and all("runs without gradients" in reason for reason in reasons)


def test_the_module_stays_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    it = case("residual")
    before = {name: tensor.clone() for name, tensor in it.module.state_dict().items()}
    asked = [parameter.requires_grad for parameter in it.module.parameters()]
    it.module.train()
    recipe = Recipe({"prune": {"first": "cut-50%"}})
    try:
        first = it.by("torch-pruning", tmp_path)[0].assemble(recipe)
        assert it.module.training
    finally:
        it.module.eval()
    assert all(torch.equal(tensor, before[name]) for name, tensor in it.module.state_dict().items())
    assert [parameter.requires_grad for parameter in it.module.parameters()] == asked

    def export(*_: object) -> None:
        raise AssertionError("the bank has it")

    monkeypatch.setattr(module_route, "export", export)
    assert it.by("torch-pruning", tmp_path)[0].assemble(recipe) == first


def test_the_export_of_a_large_module_lies_on_disk_and_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = Recipe({"prune": {"first": "cut-50%"}})
    expected = case("residual").by("torch-pruning")[0].assemble(recipe)
    monkeypatch.setattr(ingest_large, "LARGE_MODEL", 1)
    monkeypatch.setattr(scratch, "LARGE", 64)
    made = case.__wrapped__("residual").by("torch-pruning")[0]
    assert made.assemble(recipe) == expected
    assert "first.weight" in made.structured(recipe).tensors.stored()


def test_bad_input(monkeypatch: pytest.MonkeyPatch) -> None:
    it = case("residual")
    prune = Prune(route="torch-pruning")
    made = Assembler(it.ingested.model, it.ingested.inspection.layers, OrtCpu(), {"prune": prune})
    with pytest.raises(UsageError, match=r"cuts a torch module, and the model is an ONNX graph; give Workload\.model"):
        prune.survey(made.original())
    with pytest.raises(UsageError, match="no route 'torch'; did you mean 'torch-pruning'"):
        Prune(route="torch")  # type: ignore[arg-type]
    monkeypatch.setitem(sys.modules, "torch_pruning", None)
    with pytest.raises(UsageError, match=r"pip install 'hw-autotune\[torch-pruning\]'"):
        it.by("torch-pruning")
