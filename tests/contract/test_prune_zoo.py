"""What torch-pruning makes of a zoo of modules: a valid model of the foretold sizes that computes what the original
does without what is gone, or a refusal that says why."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

torch = pytest.importorskip("torch")
pytest.importorskip("torch_pruning", reason="needs hw-autotune[torch-pruning]")

from autotune.compress.ingest import load_model  # noqa: E402
from autotune.compress.modules.route import ModuleCuts  # noqa: E402
from autotune.layers import Layer  # noqa: E402
from autotune.recipe import Recipe  # noqa: E402
from autotune.techniques.protocol import Plan  # noqa: E402
from autotune.techniques.prune.graph import Graph, Port  # noqa: E402
from tests.contract import torch_modules as modules  # noqa: E402
from tests.contract.cut_modules import Case, decisions, run  # noqa: E402
from tests.contract.torch_zoo import IDS, ZOO  # noqa: E402

pytestmark = pytest.mark.slow  # torch's exporter takes seconds a model

SHARES = ("cut-25%", "cut-75%")

# Module -> what can be cut: the layer that leads it, and of how many.
CUT: dict[str, dict[str, int]] = {
    "grouped": {"last": 12},
    "depthwise multiplier": {"last": 12},
    "transposed": {"first": 16, "middle": 20, "last": 12},
    "transposed groups": {"last": 12},
    "batch norm": {"first": 16, "last": 12},
    "group norm": {"last": 12},
    "instance norm": {"first": 16, "last": 12},
    "stages": {"stem": 12, "a": 20, "b": 20},
    "u-net": {"enter": 8, "deep": 16, "up": 12, "merge": 10},
    "squeeze excite": {"first": 16, "squeeze": 6},
    "convnext": {"up": 32},
    "shuffle": {},
    "super resolution": {"first": 16},
    "grouped queries": {},
    "packed attention": {"layer.linear1": 32},
    "gated": {"gate": 40},
    "shared": {"enter": 32},
    "tied": {"up": 40},
    "patches": {"up": 40},
    "recurrent": {},
    "signal": {"one": 8},
}
ELSE = "what is left would compute something else than the model without what is gone"
REFUSED = {
    "grouped": {
        "first": "'middle' is a convolution in 4 groups, which torch-pruning does not keep apart; use route = 'graph'",
        "middle": "it is a convolution in 4 groups",
    },
    "depthwise multiplier": {"first": "'middle' is a convolution in 16 groups", "middle": "in 16 groups"},
    "transposed groups": {"first": "'middle' is a convolution in 4 groups", "middle": "it is a convolution in 4"},
    "group norm": {"first": ELSE},
    "convnext": {"stem": ELSE},
    "shuffle": {"first": "loses count of the channels on the way to 'branch', which has 8;"},
    "super resolution": {"second": "loses count of the channels on the way to 'head', which has 6;"},
    "gated": {"both": "loses count of the channels on the way to 'out', which has 32;"},
    "tied": {"table": "the width of embeddings"},
    "signal": {"first": "loses count of the channels"},
}


def case(name: str) -> Case:
    make, shape = ZOO[name]
    module, draw = modules.prepared(make()), torch.Generator().manual_seed(1)
    inputs = torch.randint(0, 7, shape, generator=draw) if shape is IDS else torch.randn(shape, generator=draw)
    return Case(module, inputs, load_model(module, example_inputs=(inputs,)), {})


def without(it: Case, keep: Mapping[Port, np.ndarray]) -> bytes:
    """The original with zeros in the weights that read what is gone: no part of torch-pruning's work."""
    model = onnx.load_from_string(it.by("graph")[0].assemble(Recipe()))
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    for layer in it.ingested.inspection.layers:
        axis = reading_axis(layer)
        gone = keep.get((layer.weight, axis))
        if gone is not None and layer.op != "Gather":
            weight = np.moveaxis(np.array(numpy_helper.to_array(constants[layer.weight])), axis, 0)
            weight[~gone] = 0
            whole = np.ascontiguousarray(np.moveaxis(weight, 0, axis))
            constants[layer.weight].CopyFrom(numpy_helper.from_array(whole, layer.weight))
    return model.SerializeToString()


def reading_axis(layer: Layer) -> int:
    return {"Conv": 1, "ConvTranspose": 0}.get(layer.op, 1 - layer.output_axis)


@pytest.mark.parametrize("name", ZOO)
def test_a_cut_is_right_or_refused(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    it = case(name)
    cuts: list[Mapping[Port, np.ndarray]] = []
    whole_cut = ModuleCuts.cut

    def watched(
        self: ModuleCuts, plan: Plan, graph: Graph, removed: Mapping[str, np.ndarray], keep: Mapping[Port, np.ndarray]
    ) -> None:
        cuts.append(keep)
        whole_cut(self, plan, graph, removed, keep)

    monkeypatch.setattr(ModuleCuts, "cut", watched)
    made, prune = it.by("torch-pruning", shares=(0.25, 0.75))
    x, layers = it.inputs.numpy(), made.source.layers
    with torch.no_grad():
        expected = it.module(it.inputs).numpy()
    none = made.assemble(Recipe())
    assert none == it.by("graph")[0].assemble(Recipe())
    np.testing.assert_allclose(run(none, x), expected, rtol=1e-3, atol=1e-4)

    units = prune.units()
    refused = {each.name: each.reason for each in prune.survey(made.original())}
    assert all(refused.values()) and not set(refused) & {unit.layer for unit in units if unit.kind != "blocks"}
    assert {name for unit in units for name in unit.layers} | set(refused) == set(layers)
    assert {unit.layer: unit.size for unit in units if unit.kind != "blocks"} == CUT[name]
    for part, reason in REFUSED.get(name, {}).items():
        assert reason in refused[part]

    for share in SHARES:
        wanted = decisions(prune, share)
        recipe = Recipe({"prune": wanted})
        if not wanted:
            continue
        model = made.assemble(recipe)
        onnx.checker.check_model(onnx.load_from_string(model), full_check=True)
        left = made.structured(recipe).layers
        sizes = {name: math.prod(layer.shape) for name, layer in left.items()}
        assert set(left) == set(layers)
        assert prune.foretell(made.original(), wanted) == {
            name: size for name, size in sizes.items() if size != layers[name].parameters
        }
        for lead in wanted:
            assert sizes[lead] < layers[lead].parameters
        found = run(model, x)
        assert found.shape == expected.shape and np.isfinite(found).all()
        np.testing.assert_allclose(found, run(without(it, cuts[-1]), x), rtol=1e-3, atol=1e-4)
        for unit in units:  # each for itself has been tried on the module; an export of each would take minutes
            if share in unit.choices:
                assert prune.foretell(made.original(), {unit.layer: share})
