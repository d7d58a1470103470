"""Trained weights as a part of a recipe: they are in the artifact, bit for bit, or the trial fails with the reason."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from autotune.compress import checkpoints, moments
from autotune.compress.assembly import Assembler
from autotune.compress.dialects.ort_cpu import OrtCpu
from autotune.compress.ingest import load_model
from autotune.errors import TrialFailure
from autotune.recipe import Recipe
from autotune.techniques.protocol import Technique
from autotune.techniques.quantize import Quantize
from autotune.techniques.recover import Recover
from tests.unit import zoo
from tests.unit.compress.assembling import Feeds, run


@pytest.fixture
def made(tmp_path: Path) -> Assembler:
    ingested = load_model(zoo.conv_residual())
    techniques: dict[str, Technique] = {"quantize": Quantize(), "recover": Recover()}
    return Assembler(ingested.model, ingested.inspection.layers, OrtCpu(), techniques, checkpoints=tmp_path / "kept")


def _trained(made: Assembler) -> dict[str, np.ndarray]:
    """Other weights for every layer."""
    rng = np.random.default_rng(5)
    plan = made.original()
    return {
        layer.weight: (plan.weight(layer) + 0.1 * rng.normal(size=layer.shape)).astype(np.float32)
        for layer in plan.layers.values()
    }


def _keep(made: Assembler, tensors: dict[str, np.ndarray]) -> Recipe:
    assert made.checkpoints is not None
    return Recipe({"recover": {"weights": checkpoints.save(made.checkpoints, tensors)}})


def _with_weights(model: onnx.ModelProto, tensors: dict[str, np.ndarray]) -> onnx.ModelProto:
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    for tensor in changed.graph.initializer:
        if tensor.name in tensors:
            tensor.CopyFrom(onnx.numpy_helper.from_array(tensors[tensor.name], tensor.name))
    return changed


def test_the_artifact_computes_with_the_trained_weights(made: Assembler, tmp_path: Path) -> None:
    tensors = _trained(made)
    recipe = _keep(made, tensors)
    plain = onnx.load_from_string(made.assemble(Recipe()))
    feeds = zoo.feeds(plain)
    expected = run(_with_weights(plain, tensors), feeds, tmp_path).outputs
    found = run(made.assemble(recipe), feeds, tmp_path).outputs
    for name, array in expected.items():
        np.testing.assert_allclose(found[name], array, rtol=1e-6, atol=1e-6)
    before = run(plain, feeds, tmp_path).outputs
    assert any(np.abs(before[name] - array).max() > 1e-3 for name, array in found.items())


def test_formats_are_written_for_the_trained_weights(made: Assembler, tmp_path: Path) -> None:
    tensors = _trained(made)
    weights = _keep(made, tensors)
    formats = {"quantize": dict.fromkeys(made.source.layers, "w8-load")}
    other = load_model(_with_weights(onnx.load_from_string(made.assemble(Recipe())), tensors))
    alike = Assembler(other.model, other.inspection.layers, OrtCpu(), {"quantize": Quantize()})
    feeds = zoo.feeds(other.model)
    expected = run(alike.assemble(Recipe(formats)), feeds, tmp_path).outputs
    found = run(made.assemble(Recipe({**formats, **weights.to_dict()})), feeds, tmp_path).outputs
    for name, array in expected.items():
        np.testing.assert_allclose(found[name], array, rtol=1e-6, atol=1e-6)


def test_trained_weights_are_rounded_as_in_training(tmp_path: Path) -> None:
    """With the study's rounding, by what the original's layers read; but no bias is shifted: training found them."""
    ingested = load_model(zoo.conv_residual())
    layers = ingested.inspection.layers
    formats = {"quantize": dict.fromkeys([layer.name for layer in layers], "w4-b32-load")}
    built = {}
    for how, quantize in {
        "nearest": Quantize(),
        "gptq": Quantize(rounding="gptq"),
        "corrected": Quantize(rounding="gptq", bias_correction=True),
    }.items():
        techniques: dict[str, Technique] = {"quantize": quantize, "recover": Recover()}
        made = Assembler(ingested.model, layers, OrtCpu(), techniques, checkpoints=tmp_path / "kept")
        feeds = [zoo.feeds(ingested.model, seed=seed) for seed in range(4)]

        def runs(wanted: tuple[str, ...], made: Assembler = made, feeds: list[Feeds] = feeds) -> list[Feeds]:
            model = onnx.load_from_string(made.assemble(Recipe()))
            there = {v.name for v in [*model.graph.input, *model.graph.output]}
            model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in wanted if name not in there)
            return [run(model, each, tmp_path).outputs | each for each in feeds]

        made.tell_moments(moments.collect(made.source, runs, tmp_path / "moments"))
        recipe = _keep(made, _trained(made))
        for key, of in (("trained", {**formats, **recipe.to_dict()}), ("plain", formats)):
            built[how, key] = run(onnx.load_from_string(made.assemble(Recipe(of))), feeds[0], tmp_path).outputs
    for key in ("trained", "plain"):
        assert not _equal(built["gptq", key], built["nearest", key])
    assert _equal(built["corrected", "trained"], built["gptq", "trained"])
    assert not _equal(built["corrected", "plain"], built["gptq", "plain"])


def _equal(one: Feeds, other: Feeds) -> bool:
    return all(np.array_equal(array, other[name]) for name, array in one.items())


def test_equal_weights_have_one_name_and_equal_recipes_equal_bytes(made: Assembler) -> None:
    tensors = _trained(made)
    recipe = _keep(made, tensors)
    assert _keep(made, dict(reversed(tensors.items()))) == recipe
    assert made.assemble(recipe) == made.assemble(Recipe(recipe.to_dict()))
    assert made.checkpoints is not None and len(list(made.checkpoints.iterdir())) == 1


def test_names_of_tensors_may_hold_anything(tmp_path: Path) -> None:
    tensors = {"a/b:0": np.arange(3.0), "../up": np.zeros((2, 0)), "ü 'x'": np.float32(7).reshape(())}
    found = checkpoints.load(tmp_path, checkpoints.save(tmp_path, tensors))
    assert found.keys() == tensors.keys()
    for name, array in tensors.items():
        np.testing.assert_array_equal(found[name], array)
        assert found[name].shape == array.shape


@pytest.mark.parametrize("name", ["0123456789abcdef", "failed-0123456789abcdef", "../../etc/passwd", ""])
def test_weights_that_are_not_there(made: Assembler, name: str) -> None:
    with pytest.raises(TrialFailure, match="recovered weights") as caught:
        made.assemble(Recipe({"recover": {"weights": name}}))
    assert "\n" not in str(caught.value)


def test_weights_that_are_damaged(made: Assembler) -> None:
    recipe = _keep(made, _trained(made))
    assert made.checkpoints is not None
    (path,) = made.checkpoints.iterdir()
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))
    with pytest.raises(TrialFailure, match="damaged"):
        made.assemble(recipe)


def test_weights_of_another_structure(made: Assembler) -> None:
    layer = next(iter(made.source.layers.values()))
    with pytest.raises(TrialFailure, match="in the shape"):
        made.assemble(_keep(made, {layer.weight: np.zeros((1, *layer.shape[1:]), np.float32)}))
    with pytest.raises(TrialFailure, match="which this structure has not"):
        made.assemble(_keep(made, {"no such tensor": np.zeros(3, np.float32)}))


def test_a_decision_that_is_none_of_its_own(made: Assembler) -> None:
    with pytest.raises(TrialFailure, match="takes the names of weights"):
        made.assemble(Recipe({"recover": {"fc": "0123456789abcdef"}}))


def test_there_is_nothing_to_search_over(made: Assembler) -> None:
    assert isinstance(Recover(), Technique)
    plan = made.original()
    assert Recover().survey(plan) == () and Recover().uniform({}) == []
