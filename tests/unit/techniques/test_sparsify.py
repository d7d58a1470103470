"""Zeros: exactly as many as promised, the right ones, in artifacts that run."""

from __future__ import annotations

import zlib
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autotune.errors import TrialFailure, UsageError
from autotune.recipe import Recipe
from autotune.techniques import sparsify
from autotune.techniques.matrices import as_matrix
from autotune.techniques.sparsify import Sparsify, _by_share
from autotune.techniques.sparsity_report import what_sparsity_buys
from tests.unit import zoo
from tests.unit.techniques.edited import choices, edited, infer, weights

METHODS = ("wanda", "magnitude")


def _product(inner: int = 32, outer: int = 24) -> onnx.ModelProto:
    nodes = [zoo.node("MatMul", ["x", "fc.weight"], ["y"], name="fc")]
    return zoo.model_of(nodes, [zoo.floats("x", "batch", inner)], ["y"], {"fc.weight": zoo.weight(inner, outer)})


def _convolution(group: int = 1) -> onnx.ModelProto:
    nodes = [zoo.node("Conv", ["x", "c.weight"], ["y"], name="c", group=group, pads=[1] * 4)]
    weight = {"c.weight": zoo.weight(32, 32 // group, 3, 3)}
    return zoo.model_of(nodes, [zoo.floats("x", "batch", 32, 5, 5)], ["y"], weight)


@given(
    st.integers(1, 9), st.integers(1, 40), st.floats(0.01, 0.99), st.integers(0, 2**16), st.sampled_from([1, 3, 1000])
)
@settings(deadline=None, max_examples=150)
def test_counts_are_exact_and_the_smallest_go(rows: int, length: int, share: float, seed: int, values: int) -> None:
    """Few distinct values make ties, which must neither add nor lose a zero."""
    scores = np.random.default_rng(seed).integers(0, values, (rows, length)).astype(np.float32)
    chosen = _by_share([scores], rows, length, share)
    assert chosen.sum() == round(share * rows * length)
    assert np.ptp(chosen.sum(axis=1)) <= 1
    for row, mask in zip(scores, chosen, strict=True):
        if mask.any() and not mask.all():
            assert row[mask].max() <= row[~mask].min()
    one_by_one = _by_share(np.split(scores, rows), rows, length, share)
    np.testing.assert_array_equal(chosen, one_by_one)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("choice", ["zeros-50%", "zeros-70%", "2:4"])
def test_rows_at_a_time_are_the_same_as_all_at_once(
    method: str, choice: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = _convolution(2)
    recipe = Recipe({"sparsify": {"c": choice}})
    technique = Sparsify(method=method)  # type: ignore[arg-type]
    whole = edited(model, technique, tmp_path / "whole").assemble(recipe)
    monkeypatch.setattr(sparsify, "_BLOCK", 3 * 16 * 9)  # rows of 16 channels of 3 x 3
    assert edited(model, technique, tmp_path / "rows").assemble(recipe) == whole


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("group", [1, 2, 32])
@pytest.mark.parametrize("share", [0.5, 0.7, 0.9])
def test_a_convolution_has_the_promised_zeros(method: str, group: int, share: float, tmp_path: Path) -> None:
    technique = Sparsify(shares=[share], method=method)  # type: ignore[arg-type]
    made = edited(_convolution(group), technique, tmp_path)
    weight = weights(made, Recipe({"sparsify": {"c": f"zeros-{100 * share:g}%"}}))["c.weight"]
    assert (weight == 0).sum() == round(share * weight.size)
    original = weights(made, Recipe())["c.weight"]
    np.testing.assert_array_equal(weight[weight != 0], original[weight != 0])


def test_wanda_is_the_published_rule(tmp_path: Path) -> None:
    """Against a float64 reference that sorts: per output, |w| times the norm of its input."""
    model, technique = _product(), Sparsify(method="wanda")
    rng = np.random.default_rng(1)
    data = [{"x": (rng.standard_normal((16, 32)) * np.geomspace(0.01, 10, 32)).astype(np.float32)} for _ in range(2)]
    made = edited(model, technique, tmp_path, data)
    found = weights(made, Recipe({"sparsify": {"fc": "zeros-50%"}}))["fc.weight"]
    original = zoo.weight(32, 24).astype(np.float64)
    norms = np.sqrt(np.square(np.concatenate([each["x"] for each in data]).astype(np.float64)).mean(axis=0))
    expected = original.copy()
    for output in range(24):
        order = np.argsort(np.abs(original[:, output]) * norms)
        expected[order[:16], output] = 0
    np.testing.assert_array_equal(found != 0, expected != 0)


def test_magnitude_compares_over_the_whole_layer(tmp_path: Path) -> None:
    model, technique = _product(), Sparsify(method="magnitude")
    assert not technique.needs_moments
    made = edited(model, technique, tmp_path, tell=False)
    found = weights(made, Recipe({"sparsify": {"fc": "zeros-70%"}}))["fc.weight"]
    original = np.abs(zoo.weight(32, 24))
    kept = np.sort(original, axis=None)[-(original.size - round(0.7 * original.size)) :]
    np.testing.assert_array_equal(np.sort(np.abs(found[found != 0])), kept)


def test_wanda_does_less_damage_than_magnitude(tmp_path: Path) -> None:
    model = _product()
    rng = np.random.default_rng(2)
    data = [{"x": (rng.standard_normal((64, 32)) * np.geomspace(0.01, 10, 32)).astype(np.float32)}]
    damage = {}
    for method in METHODS:
        made = edited(model, Sparsify(method=method), tmp_path / method, data)  # type: ignore[arg-type]
        found = infer(made.assemble(Recipe({"sparsify": {"fc": "zeros-50%"}})), data[0])["y"]
        damage[method] = np.square(found - infer(model, data[0])["y"]).mean()
    assert damage["wanda"] < 0.5 * damage["magnitude"]


@pytest.mark.parametrize("pattern", ["2:4", "1:4", "4:8"])
@pytest.mark.parametrize("model", [_product, _convolution])
def test_patterns_hold_along_the_inputs(model: object, pattern: str, tmp_path: Path) -> None:
    keep, span = map(int, pattern.split(":"))
    technique = Sparsify(patterns=[pattern])
    made = edited(model(), technique, tmp_path)  # type: ignore[operator]
    (name,) = made.source.layers
    layer = made.source.layers[name]
    found = weights(made, Recipe({"sparsify": {name: pattern}}))[layer.weight]
    original = weights(made, Recipe())[layer.weight]
    along = np.moveaxis(found, 1 if layer.op == "Conv" else 0, -1)  # inputs last, each place of the kernel by itself
    blocks = along.reshape(*along.shape[:-1], -1, span)
    assert ((blocks != 0).sum(axis=-1) == keep).all()
    np.testing.assert_array_equal(found[found != 0], original[found != 0])


def test_patterns_are_offered_where_they_fit(tmp_path: Path) -> None:
    technique = Sparsify(patterns=["2:4"], shares=[0.5])
    assert choices(edited(_convolution(32), technique, tmp_path / "a", tell=False), technique) == {"c": ("zeros-50%",)}
    assert choices(edited(_convolution(8), technique, tmp_path / "b", tell=False), technique)["c"][-1] == "2:4"
    assert "2:4" not in choices(edited(_product(34), technique, tmp_path / "c", tell=False), technique)["fc"]
    table = edited(zoo.embedding(), technique, tmp_path / "d", tell=False)
    assert {name: each for name, each in choices(table, technique).items() if "2:4" in each}.keys() == {"head"}


def test_small_layers_are_left_alone_and_told(tmp_path: Path) -> None:
    technique = Sparsify()
    made = edited(zoo.conv_residual(), technique, tmp_path, tell=False)
    skipped = {each.name: each.reason for each in technique.survey(made.original())}
    assert skipped == {
        name: f"has {layer.parameters} weights, and below 256 zeros gain nothing"
        for name, layer in made.source.layers.items()
        if layer.parameters < 256
    }
    assert skipped and not skipped.keys() & choices(made, technique).keys()


def test_zeros_that_are_there_already_count(tmp_path: Path) -> None:
    model = _product()
    weight = zoo.weight(32, 24)
    weight[:10] = 0
    model.graph.initializer[0].CopyFrom(onnx.numpy_helper.from_array(weight, "fc.weight"))
    for method in METHODS:
        made = edited(model, Sparsify(shares=[0.25, 0.5], method=method), tmp_path / method)  # type: ignore[arg-type]
        some = weights(made, Recipe({"sparsify": {"fc": "zeros-50%"}}))["fc.weight"]
        assert (some == 0).sum() == weight.size // 2
        np.testing.assert_array_equal(weights(made, Recipe({"sparsify": {"fc": "zeros-25%"}}))["fc.weight"], weight)


def test_inputs_that_are_never_alive_lose_their_weights_first(tmp_path: Path) -> None:
    x = np.random.default_rng(0).standard_normal((20, 32)).astype(np.float32)
    x[:, 16:] = 0
    made = edited(_product(), Sparsify(shares=[0.25, 0.5]), tmp_path, [{"x": x}])
    found = weights(made, Recipe({"sparsify": {"fc": "zeros-50%"}}))["fc.weight"]
    assert (found[16:] == 0).all() and (found[:16] != 0).all()
    quarter = weights(made, Recipe({"sparsify": {"fc": "zeros-25%"}}))["fc.weight"]
    dead = np.abs(zoo.weight(32, 24)[16:])
    assert dead[quarter[16:] == 0].max() < dead.max() and ((quarter[16:] == 0).sum(axis=0) == 8).all()


@pytest.mark.parametrize("name", ["conv_residual", "convolutions", "mlp", "attention", "embedding", "shared_weight"])
@pytest.mark.parametrize("quantised", ["none", "w8-load", "int8-dynamic"])
def test_zoo_artifacts_run_with_every_choice(name: str, quantised: str, tmp_path: Path) -> None:
    model, technique = getattr(zoo, name)(), Sparsify(patterns=["2:4"])
    made = edited(model, technique, tmp_path)
    feeds = zoo.feeds(model)
    offered = choices(made, technique)
    for label, decisions in technique.uniform(offered):
        layers = [n for n in decisions if quantised != "none" and made.offers(made.source.layers[n], quantised)]
        recipe = Recipe({"sparsify": decisions, "quantize": dict.fromkeys(layers, quantised)})
        data = made.assemble(recipe)
        onnx.checker.check_model(onnx.load_from_string(data))
        assert data == made.assemble(recipe)
        plain = weights(made, Recipe({"sparsify": decisions}))
        for layer in decisions:
            where = made.source.layers[layer]
            matrix = as_matrix(where, plain[where.weight])
            if label != "2:4":
                assert (matrix == 0).sum() == round(float(label[6:-1]) / 100 * matrix.size)
        for output, value in infer(data, feeds).items():
            assert np.isfinite(value).all(), (label, output)


def test_no_moments_for_wanda_is_a_failure_of_the_trial(tmp_path: Path) -> None:
    made = edited(_product(), Sparsify(), tmp_path, tell=False)
    with pytest.raises(TrialFailure, match="'fc': nothing is known about what it reads"):
        made.assemble(Recipe({"sparsify": {"fc": "zeros-50%"}}))


@pytest.mark.parametrize(
    "options",
    [
        {"shares": [1.5]},
        {"shares": [0]},
        {"shares": 0.5},
        {"shares": ["half"]},
        {"shares": [float("nan")]},
        {"shares": "0.5"},
        {"shares": [0.9999999]},  # would be called zeros-100%
        {"shares": [1e-7]},
        {"shares": [0.5, 0.50000001]},  # both would be called zeros-50%
        {"patterns": ["4:2"]},
        {"patterns": ["0:4"]},
        {"patterns": "2:4"},
        {"patterns": ["two"]},
        {"method": "guess"},
    ],
)
def test_impossible_options_are_refused(options: dict[str, object]) -> None:
    with pytest.raises(UsageError, match="technique sparsify"):
        Sparsify(**options)  # type: ignore[arg-type]


def test_an_unknown_choice_is_named(tmp_path: Path) -> None:
    made = edited(_product(), Sparsify(), tmp_path)
    with pytest.raises(UsageError, match="no choice 'half'"):
        made.assemble(Recipe({"sparsify": {"fc": "half"}}))


def test_the_report_counts_bytes_and_zeros(tmp_path: Path) -> None:
    made = edited(_product(96, 96), Sparsify(), tmp_path)
    dense = made.assemble(Recipe())
    sparse = made.assemble(Recipe({"sparsify": {"fc": "zeros-90%"}}))
    before, after = what_sparsity_buys(dense), what_sparsity_buys(sparse)
    assert (after["bytes"], after["compressed"]) == (len(sparse), len(zlib.compress(sparse, 6)))
    assert after["bytes"] == before["bytes"]  # zeros alone change nothing in the file
    assert after["compressed"] < 0.25 * before["compressed"]
    assert before["zeros"] == {"fc.weight": 0.0}
    assert after["zeros"]["fc.weight"] == pytest.approx(0.9, abs=1e-4)
