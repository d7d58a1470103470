"""Adapters over the recipe's rounded weights, which are held in few bits: the same numbers, the same gradients, and an
artifact that answers as validation said."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch

from autotune.compress.dialects.ort_cpu import OrtCpu
from autotune.compress.dialects.protocol import Dialect
from autotune.compress.dialects.tensorrt import TensorRt
from autotune.recipe import Recipe
from autotune.recover import fake, frozen, weights
from autotune.recover.formats import Formats
from autotune.recover.graph import OnnxModule
from autotune.recover.packed import PackedHalf, PackedLevels, levels_of
from autotune.recover.settings import Settings
from autotune.techniques.rounding import CHANNEL, NF4, Grid, Method, Steps, to_nearest
from autotune.techniques.rounding.minifloats import Minifloat, Nvfp4
from tests.unit import zoo
from tests.unit.compress.assembling import assembler_of
from tests.unit.recover.digit_net import digits, inputs_of, with_tensors
from tests.unit.recover.reference import run, tensors
from tests.unit.recover.test_fake import knowing, mlp, roundings
from tests.unit.recover.test_training import SHORT, distillation, layer_names, trained, weights_of

# -- what is held


@pytest.mark.parametrize(
    ("grid", "block", "bits"),
    [(Steps(2), 32, 2), (Steps(4), 16, 4), (Steps(8), 32, 8), (CHANNEL, 0, 8), (NF4, 64, 4), (Minifloat(), 0, 8),
     (Nvfp4(0.001), 16, 4)],
)  # fmt: skip
@pytest.mark.parametrize("axis", [0, 1])
def test_what_is_packed_is_restored_number_for_number(grid: Grid, block: int, bits: int, axis: int) -> None:
    _, layer = mlp()
    layer = replace(layer, shape=(48, 40), output_axis=axis)
    weight = np.random.default_rng(0).standard_normal((48, 40)).astype(np.float32)
    matrix = weight if axis == 0 else weight.T
    block = block or matrix.shape[1]
    expected = to_nearest(matrix, grid, block).restore()
    found = levels_of(layer, weight, grid, block)
    assert np.array_equal(found.restore().numpy(), expected if axis == 0 else expected.T)
    assert np.array_equal(found.rows(torch.tensor([5, 0, 5])).numpy(), expected[[5, 0, 5]])
    blocks = -(-matrix.shape[1] // block)
    assert len(found) == len(matrix) and found.bytes == len(matrix) * blocks * (block * bits // 8 + 4)


def attached(
    model: onnx.ModelProto, choice: str, folder: Path, dialect: Dialect, *, rank: int, method: Method = "nearest"
) -> tuple[OnnxModule, list[torch.nn.Parameter]]:
    """A student with adapters whose every layer has `choice`, and the adapters."""
    folder.mkdir(exist_ok=True)
    made = knowing(model, zoo.feeds(model, size=4), folder, method)
    card = made.sibling(dialect)
    layers = tuple(made.source.layers.values())
    decisions = {layer.name: choice for layer in layers if card.offers(layer, choice)}
    known = roundings(made, method) if method != "nearest" else {}
    formats = Formats(layers, decisions, made.ranges[Recipe().digest], known, dialect)
    student = onnx.load_from_string(made.assemble(Recipe()))
    module = OnnxModule(student)
    parameters = weights.prepare(module, layers, Settings(lora_rank=rank)).parameters if rank else []
    if rank:
        frozen.freeze(module, formats)
    fake.attach(module, student.graph, formats)
    return module, parameters


CASES = [
    *((zoo.mlp, OrtCpu(), choice) for choice in ("float16", "int8-static", "int8-dynamic", "w2-b32-load", "w4-b32")),
    *((zoo.mlp, TensorRt(), choice) for choice in ("bfloat16", "fp8-static", "w4-b32")),
    *(
        (model, OrtCpu(), "w4-b32-load")
        for model in (zoo.conv_residual, zoo.embedding, zoo.attention, zoo.shared_weight)
    ),
    (zoo.embedding, TensorRt(), "w8-load"),
]


@pytest.mark.parametrize(
    ("model", "dialect", "choice"), CASES, ids=lambda v: getattr(v, "__name__", getattr(v, "name", v))
)
def test_with_adapters_that_are_nothing_it_is_the_recipe(
    model: Any, dialect: Dialect, choice: str, tmp_path: Path
) -> None:
    """What was rounded stays what it is when it is rounded again."""
    feeds = tensors(zoo.feeds(model(), size=4))
    plain, _ = attached(model(), choice, tmp_path / "a", dialect, rank=0)
    packed, _ = attached(model(), choice, tmp_path / "b", dialect, rank=2)
    assert any(packed.packed(name) for name in plain.weights)
    with torch.no_grad():
        expected, found = plain(feeds), packed(feeds)
    for name, tensor in expected.items():
        assert torch.allclose(found[name], tensor, rtol=1e-4, atol=1e-5 * float(tensor.abs().max())), name


@pytest.mark.parametrize(
    ("model", "choice"),
    [(zoo.mlp, "w4-b32-load"), (zoo.mlp, "w8-load"), (zoo.attention, "nf4-b64-load")],
)
def test_gradients_are_those_of_weights_that_are_kept(
    model: Any, choice: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Made once more for the way back, a weight is the same; and what was made is not kept in between."""
    feeds = tensors(zoo.feeds(model(), size=4))
    module, parameters = attached(model(), choice, tmp_path, OrtCpu(), rank=2)
    with torch.no_grad():
        for each in parameters:
            each.add_(0.05 * torch.randn(each.shape, generator=torch.Generator().manual_seed(0)))
    made: list[bool] = []
    whole = OnnxModule._whole

    def counted(self: OnnxModule, node: str, name: str, *, again: bool = False) -> torch.Tensor:
        made.append(again)
        return whole(self, node, name, again=again)

    def gradients() -> list[torch.Tensor]:
        for each in parameters:
            each.grad = None
        torch.stack([answer.square().sum() for answer in module(feeds).values()]).sum().backward()  # type: ignore[no-untyped-call]
        return [each.grad.clone() for each in parameters if each.grad is not None]

    gradients()  # scales of blocks are searched in the first run, and held for the next
    monkeypatch.setattr(OnnxModule, "_whole", counted)
    found = gradients()
    assert any(made) and not all(made)
    monkeypatch.setattr(OnnxModule, "_not_saved", lambda *_: torch.autograd.graph.saved_tensors_hooks(_same, _same))
    made.clear()
    kept = gradients()
    assert not any(made) and len(found) == len(kept) > 0
    for here, there in zip(found, kept, strict=True):
        assert there.abs().sum() > 0 and torch.allclose(here, there, rtol=1e-4, atol=1e-6 * float(there.abs().max()))


def _same(tensor: Any) -> Any:
    return tensor


def test_what_would_be_another_weight_when_it_is_rounded_twice_is_held_whole(tmp_path: Path) -> None:
    compensated, _ = attached(zoo.mlp(), "w4-b32-load", tmp_path / "a", OrtCpu(), rank=2, method="gptq")
    assert not any(compensated.packed(name) for name in compensated.weights)
    nearest, _ = attached(zoo.mlp(), "w4-b32-load", tmp_path / "b", OrtCpu(), rank=2)
    assert sum(nearest.packed(name) for name in compensated.weights) >= 2


# -- a whole training


@pytest.mark.parametrize("choice", ["w2-b32-load", "w4-b32-load"])
def test_what_is_merged_is_what_was_trained_and_is_right_more_often(choice: str, tmp_path: Path) -> None:
    """On the artifact, as ONNX Runtime runs it: nothing is lost by merging."""
    decisions = dict.fromkeys(layer_names(), choice)
    model = digits().ingested.model
    found = trained(model, replace(SHORT, lora_rank=8, learning_rate=1e-2, steps=120), decisions)
    feeds = inputs_of(digits().validation)
    labels = np.array([sample.label for sample in digits().validation.samples])
    teacher = run(model, feeds)["scores"]
    right = []
    for checkpoint in (found[0], found[-1]):
        student = with_tensors(model, dict(checkpoint.tensors))
        made = assembler_of(student, {"image": feeds["image"][:4]}, tmp_path)
        answers = run(made.assemble(Recipe({"quantize": decisions})), feeds)["scores"]
        assert distillation(answers, teacher) == pytest.approx(checkpoint.validation, rel=1e-3)
        right.append(float((answers.argmax(axis=1) == labels).mean()))
    assert found[-1].validation < (0.4 if choice.startswith("w2") else 0.7) * found[0].validation
    assert right[1] > right[0] if choice.startswith("w2") else right[1] >= right[0] - 0.01


def test_what_it_begins_with_is_the_recipe_as_it_is() -> None:
    decisions = dict.fromkeys(layer_names(), "w4-b32-load")
    model = digits().ingested.model
    plain = trained(model, replace(SHORT, steps=1), decisions)[0]
    packed = trained(model, replace(SHORT, steps=1, lora_rank=4), decisions)[0]
    assert packed.validation == pytest.approx(plain.validation, rel=1e-4)
    before = weights_of(model)
    assert all(not np.array_equal(before[name], array) for name, array in packed.tensors.items())


def test_zeros_stay_zero_under_adapters() -> None:
    model = digits().ingested.model
    cut = {}
    for name, array in weights_of(model).items():
        if array.size > 1000 and array.ndim == 2:
            cut[name] = np.where(np.abs(array) < np.quantile(np.abs(array), 0.6), 0, array).astype(np.float32)
    found = trained(
        with_tensors(model, cut), replace(SHORT, steps=20, lora_rank=4), dict.fromkeys(layer_names(), "w8-load")
    )
    for name, array in cut.items():
        assert not found[-1].tensors[name][array == 0].any() and found[-1].tensors[name].any()


def test_halves_are_held_as_halves() -> None:
    values = torch.randn(3, 5, generator=torch.Generator().manual_seed(1)).bfloat16()
    held = PackedHalf(values)
    assert held.bytes == 30 and torch.equal(held.restore(), values.float())
    assert torch.equal(held.rows(torch.tensor([2])), values[2:].float()) and len(held) == 3
    assert isinstance(levels_of(mlp()[1], np.ones(mlp()[1].shape, np.float32), CHANNEL, 4), PackedLevels)
