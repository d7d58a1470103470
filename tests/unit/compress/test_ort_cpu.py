"""Every choice on every kind of layer: the promised kernel runs with default options, and the numbers are right."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from autotune.errors import TrialFailure
from autotune.recipe import Recipe
from autotune.techniques.quantize import CHOICES
from tests.unit import zoo
from tests.unit.compress.assembling import assembler_of, offered, outcomes, run

MODELS = {
    "residual": zoo.conv_residual,
    "convolutions": zoo.convolutions,
    "mlp": zoo.mlp,
    "attention": zoo.attention,
    "embedding": zoo.embedding,
    "shared": zoo.shared_weight,
}
# Relative error of the outputs that a choice may cause on these tiny random models, generously.
BOUNDS = {"float16": 0.01, "int8": 0.15, "w8": 0.05, "w4": 0.45, "w2": 1.3}


def _bound(choice: str) -> float:
    return next(bound for start, bound in BOUNDS.items() if choice.startswith(start))


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("choice", CHOICES)
def test_choice_runs_as_asked_for(name: str, choice: str, tmp_path: Path) -> None:
    model = MODELS[name]()
    feeds = zoo.feeds(model)
    made = assembler_of(model, feeds, tmp_path)
    decisions = {layer: choice for layer, choices in offered(made).items() if choice in choices}
    if not decisions:
        pytest.skip(f"no layer of {name} takes {choice}")
    recipe = Recipe({"quantize": decisions})
    data = made.assemble(recipe)
    onnx.checker.check_model(onnx.load_from_string(data))
    original, ran = run(made.assemble(Recipe()), feeds, tmp_path), run(data, feeds, tmp_path)
    for layer, outcome in outcomes(made, recipe, data, ran).items():
        assert outcome.honoured, (layer, outcome)
    for output, expected in original.outputs.items():
        assert np.isfinite(ran.outputs[output]).all()
        error = np.linalg.norm(ran.outputs[output] - expected) / (np.linalg.norm(expected) + 1e-9)
        assert error < _bound(choice), (output, error)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("name", ["residual", "convolutions"])
def test_mixed_convolutions_are_not_quantised_behind_our_back(name: str, seed: int, tmp_path: Path) -> None:
    """A float convolution between two int8 ones stays float: the trap of the runtime that this dialect works around."""
    model = MODELS[name]()
    feeds = zoo.feeds(model)
    made = assembler_of(model, feeds, tmp_path)
    rng = np.random.default_rng(seed)
    decisions = {n: str(rng.choice(["none", *choices])) for n, choices in offered(made).items()}
    recipe = Recipe({"quantize": decisions})
    data = made.assemble(recipe)
    for layer, outcome in outcomes(made, recipe, data, run(data, feeds, tmp_path)).items():
        assert outcome.honoured, (layer, outcome)


def test_a_float_convolution_between_int8_ones_stays_float(tmp_path: Path) -> None:
    nodes = [zoo.node("Conv", [f"t{i}", f"w{i}", f"b{i}"], [f"t{i + 1}"], name=f"c{i}", pads=[1] * 4) for i in range(3)]
    weights = {f"w{i}": zoo.weight(8, 8, 3, 3, seed=i) for i in range(3)} | {f"b{i}": zoo.weight(8) for i in range(3)}
    model = zoo.model_of(nodes, [zoo.floats("t0", 1, 8, 6, 6)], ["t3"], weights)
    feeds = zoo.feeds(model)
    made = assembler_of(model, feeds, tmp_path)
    names = list(made.source.layers)
    recipe = Recipe({"quantize": {names[0]: "int8-static", names[2]: "int8-static"}})
    data = made.assemble(recipe)
    ran = outcomes(made, recipe, data, run(data, feeds, tmp_path))
    assert ran[names[0]].ran == ran[names[2]].ran == "QLinearConv"
    assert "QLinear" not in ran[names[1]].ran and ran[names[1]].honoured


def test_expanded_weights_cost_nothing_at_run_time(tmp_path: Path) -> None:
    """A -load choice leaves exactly the kernels of the float model: expansion is folded when the session opens."""
    model = zoo.conv_residual()
    feeds = zoo.feeds(model)
    made = assembler_of(model, feeds, tmp_path)
    plain = [kernel.op for kernel in run(made.assemble(Recipe()), feeds, tmp_path).kernels]
    for choice in ("float16", "w8-load", "w4-b32-load", "w2-b32-load"):
        recipe = Recipe({"quantize": {n: choice for n, c in offered(made).items() if choice in c}})
        assert [kernel.op for kernel in run(made.assemble(recipe), feeds, tmp_path).kernels] == plain


def test_equal_recipes_give_equal_bytes(tmp_path: Path) -> None:
    model = zoo.conv_residual()
    made = assembler_of(model, zoo.feeds(model), tmp_path)
    decisions = {n: c[-1] for n, c in offered(made).items()}
    backwards = dict(reversed(decisions.items()))
    first = made.assemble(Recipe({"quantize": decisions}))
    assert first == made.assemble(Recipe({"quantize": backwards})) == made.assemble(Recipe({"quantize": decisions}))


def test_assembling_leaves_the_source_as_it_was(tmp_path: Path) -> None:
    model = zoo.conv_residual()
    made = assembler_of(model, zoo.feeds(model), tmp_path)
    before = made.assemble(Recipe())
    made.assemble(Recipe({"quantize": {n: c[1] for n, c in offered(made).items()}}))
    assert made.assemble(Recipe()) == before


def test_size_table_is_exact(tmp_path: Path) -> None:
    model = zoo.mlp()
    made = assembler_of(model, zoo.feeds(model), tmp_path)
    name, choices = next(iter(offered(made).items()))
    layer = made.source.layers[name]
    for choice in ("float16", "w8-load"):
        assert choice in choices
        graph = onnx.load_from_string(made.assemble(Recipe({"quantize": {name: choice}}))).graph
        written = sum(t.ByteSize() for t in graph.initializer if t.name.startswith(f"{name}/"))
        assert made.weight_bytes(layer, choice) == written


def test_static_without_a_range_says_which_activation(tmp_path: Path) -> None:
    model = zoo.conv_residual()
    made = assembler_of(model, zoo.feeds(model), tmp_path)
    made.ranges.clear()
    name = next(n for n, c in offered(made).items() if "int8-static" in c)
    with pytest.raises(TrialFailure, match="no calibrated range"):
        made.assemble(Recipe({"quantize": {name: "int8-static"}}))
