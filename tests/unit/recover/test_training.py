"""Recovery of a small trained network: what is learned, what stays, when it ends, and how it fails."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper

from autotune.errors import DataError, TrialFailure, UsageError
from autotune.recipe import Recipe
from autotune.recover.batching import Batch, Batches
from autotune.recover.formats import Formats, Ranges
from autotune.recover.training import Checkpoint, Progress, Settings, recover
from autotune.workload import Dataset
from tests.unit import zoo
from tests.unit.compress.assembling import assembler_of
from tests.unit.recover.digit_net import digits, inputs_of, with_tensors
from tests.unit.recover.reference import run

SHORT = Settings(steps=80, batch=64, learning_rate=3e-3, evaluate_every=20)


def weights_of(model: onnx.ModelProto) -> dict[str, np.ndarray]:
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}


def trained(
    student: onnx.ModelProto,
    settings: Settings,
    decisions: Mapping[str, str] = {},
    ranges: Ranges | None = None,
    **more: Any,
) -> list[Checkpoint]:
    found = digits()
    return list(
        recover(
            student, found.ingested.model, Formats(found.ingested.inspection.layers, decisions, ranges or {}),
            Batches(found.train, settings.batch), Batches(found.validation, 300, shuffle=False), settings, **more,
        )
    )  # fmt: skip


def distillation(student: np.ndarray, teacher: np.ndarray, temperature: float = 2.0) -> float:
    """KL(teacher || student) in float64, times the squared temperature: what validation has to be."""

    def log_softmax(x: np.ndarray) -> np.ndarray:
        x = x.astype(np.float64) / temperature
        x = x - x.max(axis=1, keepdims=True)
        return x - np.log(np.exp(x).sum(axis=1, keepdims=True))

    mine, its = log_softmax(student), log_softmax(teacher)
    return float((np.exp(its) * (its - mine)).sum(axis=1).mean() * temperature**2)


def zeroed(share: float) -> onnx.ModelProto:
    """The network with the smallest weights of its large layers at zero."""
    model = digits().ingested.model
    cut = {}
    for name, array in weights_of(model).items():
        if array.size > 1000:
            cut[name] = np.where(np.abs(array) < np.quantile(np.abs(array), share), 0, array).astype(np.float32)
    assert len(cut) >= 2
    return with_tensors(model, cut)


def layer_names() -> list[str]:
    return [layer.name for layer in digits().ingested.inspection.layers]


def test_pruned_weights_are_recovered_and_the_graph_says_what_the_module_said() -> None:
    student = zeroed(0.8)
    found = trained(student, SHORT)
    assert found[0].step == 0 and math.isnan(found[0].loss)
    values = [checkpoint.validation for checkpoint in found]
    assert values == sorted(values, reverse=True) and values[-1] < 0.25 * values[0]
    feeds = inputs_of(digits().validation)
    teacher = run(digits().ingested.model, feeds)["scores"]
    for checkpoint in (found[0], found[-1]):
        answers = run(with_tensors(student, dict(checkpoint.tensors)), feeds)["scores"]
        assert distillation(answers, teacher) == pytest.approx(checkpoint.validation, rel=1e-3)
    before = weights_of(student)
    assert all(np.array_equal(before[name], array) for name, array in found[0].tensors.items())


def test_zeros_stay_zero_only_where_that_is_asked_for() -> None:
    student = zeroed(0.8)
    before = weights_of(student)
    kept = trained(student, replace(SHORT, steps=20))[-1].tensors
    free = trained(student, replace(SHORT, steps=20, keep_zeros=False))[-1].tensors
    pruned = [name for name, array in before.items() if array.size > 1000]
    for name in pruned:
        assert np.array_equal(kept[name] == 0, before[name] == 0)
        assert not np.array_equal(kept[name], before[name])
        assert (free[name] == 0).mean() < 0.5  # weights of pixels that are always empty get no gradient


def test_training_with_fake_quantisers_beats_training_without(tmp_path: Path) -> None:
    """On the artifact in two bits, as ONNX Runtime runs it."""
    model, feeds = digits().model, inputs_of(digits().validation)
    decisions = dict.fromkeys(layer_names(), "w2-b32-load")
    aware = trained(digits().ingested.model, SHORT, decisions)
    plain = trained(digits().ingested.model, replace(SHORT, hard=1.0), {})
    teacher = run(model, feeds)["scores"]

    def on_artifact(checkpoint: Checkpoint) -> float:
        student = with_tensors(digits().ingested.model, dict(checkpoint.tensors))
        made = assembler_of(student, {"image": feeds["image"][:4]}, tmp_path)
        return distillation(run(made.assemble(Recipe({"quantize": decisions})), feeds)["scores"], teacher)

    start = on_artifact(aware[0])
    assert start == pytest.approx(aware[0].validation, rel=1e-3)
    assert on_artifact(aware[-1]) == pytest.approx(aware[-1].validation, rel=1e-3)
    assert on_artifact(aware[-1]) < 0.3 * start
    assert on_artifact(aware[-1]) < 0.5 * on_artifact(plain[-1])


def test_static_activations_are_learned_with(tmp_path: Path) -> None:
    """Ranges that clip hard: training moves the weights to where the clipped network answers as the original."""
    model, feeds = digits().ingested.model, inputs_of(digits().validation)
    made = assembler_of(model, {"image": feeds["image"][:64]}, tmp_path)
    recipe = Recipe({"quantize": dict.fromkeys(layer_names(), "int8-static")})
    made.ranges[Recipe().digest] = {
        name: (replace(r, high=r.high * 0.4) if name != "image" else r)
        for name, r in made.ranges[Recipe().digest].items()
    }
    found = trained(model, SHORT, recipe["quantize"], made.ranges[Recipe().digest])
    assert found[-1].validation < 0.3 * found[0].validation
    student = assembler_of(with_tensors(model, dict(found[-1].tensors)), {"image": feeds["image"][:4]}, tmp_path)
    student.ranges[Recipe().digest] = made.ranges[Recipe().digest]
    scores = run(student.assemble(recipe), feeds, optimised=True)["scores"]
    teacher = run(model, feeds)["scores"]
    assert distillation(scores, teacher) == pytest.approx(found[-1].validation, rel=0.05)


def test_adapters_are_merged_into_the_weights_and_nothing_else_changes() -> None:
    student = zeroed(0.9)
    settings = replace(SHORT, lora_rank=4, keep_zeros=False, learning_rate=1e-2)
    found = trained(student, settings)
    assert found[-1].validation < 0.5 * found[0].validation
    before = weights_of(student)
    assert {len(before[name].shape) for name in found[-1].tensors} == {2} and len(found[-1].tensors) == 2
    for name, array in found[-1].tensors.items():
        assert np.linalg.matrix_rank(array.astype(np.float64) - before[name], tol=1e-3) <= 4
    feeds = inputs_of(digits().validation)
    answers = run(with_tensors(student, dict(found[-1].tensors)), feeds)["scores"]
    teacher = run(digits().ingested.model, feeds)["scores"]
    assert distillation(answers, teacher) == pytest.approx(found[-1].validation, rel=1e-3)


def test_adapters_over_rounded_weights(tmp_path: Path) -> None:
    decisions = dict.fromkeys(layer_names(), "w2-b32-load")
    model = digits().ingested.model
    found = trained(model, replace(SHORT, lora_rank=8, learning_rate=1e-2), decisions)
    assert found[-1].validation < 0.7 * found[0].validation
    feeds = inputs_of(digits().validation)
    made = assembler_of(with_tensors(model, dict(found[-1].tensors)), {"image": feeds["image"][:4]}, tmp_path)
    answers = run(made.assemble(Recipe({"quantize": decisions})), feeds)["scores"]
    assert distillation(answers, run(model, feeds)["scores"]) == pytest.approx(found[-1].validation, rel=1e-3)


def test_vectors_alone() -> None:
    found = trained(zeroed(0.7), replace(SHORT, train="norms-and-biases", steps=60))
    assert {array.ndim for array in found[-1].tensors.values()} == {1}
    assert found[-1].validation < found[0].validation


def test_labels_and_activations_can_be_learned_from() -> None:
    student = zeroed(0.9)
    start = trained(student, replace(SHORT, steps=1))[0].validation
    for settings in (
        replace(SHORT, soft=0.0, hard=1.0, steps=60),
        replace(SHORT, features=1.0, soft=0.0, steps=60),
        replace(SHORT, soft=1.0, hard=0.5, features=0.5, steps=60),
    ):
        found = trained(student, settings)
        assert found[-1].validation < 0.7 * found[0].validation, settings
        assert (settings.soft == 0 and settings.hard) or found[0].validation == pytest.approx(start)


def test_a_loss_of_the_users_sees_the_outputs_and_the_labels() -> None:
    seen: list[tuple[set[str], tuple[Any, ...]]] = []

    def loss(outputs: Mapping[str, torch.Tensor], labels: tuple[Any, ...]) -> torch.Tensor:
        seen.append((set(outputs), labels))
        return torch.nn.functional.cross_entropy(outputs["scores"], torch.tensor(labels), reduction="none")

    own = trained(zeroed(0.9), replace(SHORT, steps=10, soft=0.0, hard=1.0), hard_loss=loss)
    built_in = trained(zeroed(0.9), replace(SHORT, steps=10, soft=0.0, hard=1.0))
    assert seen[0][0] == {"scores"} and all(isinstance(label, int) for label in seen[0][1])
    assert [c.validation for c in own] == pytest.approx([c.validation for c in built_in])


def test_equal_seeds_give_equal_weights() -> None:
    first, again = (trained(zeroed(0.8), replace(SHORT, steps=15, evaluate_every=15)) for _ in range(2))
    other = trained(zeroed(0.8), replace(SHORT, steps=15, evaluate_every=15, lora_rank=2, seed=1))
    same = trained(zeroed(0.8), replace(SHORT, steps=15, evaluate_every=15, lora_rank=2, seed=2))
    assert all(np.array_equal(first[-1].tensors[name], again[-1].tensors[name]) for name in first[-1].tensors)
    assert any(not np.array_equal(other[-1].tensors[name], same[-1].tensors[name]) for name in other[-1].tensors)


def test_it_ends_when_there_is_nothing_to_gain() -> None:
    """The student is the teacher: the loss is 0 from the start."""
    steps: list[Progress] = []
    settings = replace(SHORT, evaluate_every=2, patience=3, steps=500)
    found = trained(digits().ingested.model, settings, watch=steps.append)
    assert [checkpoint.step for checkpoint in found] == [0]
    assert found[0].validation == pytest.approx(0, abs=1e-6)
    assert [progress.step for progress in steps] == [1, 2, 3, 4, 5, 6]
    assert [progress.validation is None for progress in steps] == [True, False] * 3


def test_minutes_end_it_too_and_the_last_step_is_looked_at() -> None:
    steps: list[Progress] = []
    trained(zeroed(0.8), replace(SHORT, minutes=1e-9), watch=steps.append)
    assert steps == []
    trained(zeroed(0.8), replace(SHORT, steps=7, evaluate_every=5), watch=steps.append)
    assert [p.step for p in steps if p.validation is not None] == [5, 7]


def test_a_learning_rate_that_is_too_high_fails_with_the_step_and_keeps_what_was_found() -> None:
    found = digits()
    settings = replace(SHORT, learning_rate=1e30, evaluate_every=1)
    checkpoints: list[Checkpoint] = []
    with pytest.raises(TrialFailure, match=r"at step [12]; lower learning_rate \(now 1e\+30\)") as caught:
        for checkpoint in recover(
            zeroed(0.8), found.ingested.model, Formats(found.ingested.inspection.layers),
            Batches(found.train, 64), Batches(found.validation, 300), settings,
        ):  # fmt: skip
            checkpoints.append(checkpoint)
    assert caught.value.failure.kind == "nonfinite" and caught.value.failure.stage == "recover"
    assert "\n" not in caught.value.failure.message
    assert caught.value.failure.message.endswith("(now 1e+30)")  # nothing was found, so nothing is said of it
    assert [checkpoint.step for checkpoint in checkpoints] == [0]
    assert all(np.isfinite(array).all() for array in checkpoints[0].tensors.values())


def test_a_loss_of_the_users_that_is_nan_is_named_and_the_step_is_the_one_that_is_seen() -> None:
    calls = 0

    def sick(outputs: Mapping[str, torch.Tensor], labels: tuple[Any, ...]) -> torch.Tensor:
        nonlocal calls
        calls += 1
        loss = torch.nn.functional.cross_entropy(outputs["scores"], torch.tensor(labels))
        return loss * (math.nan if calls == 3 else 1.0)

    steps: list[Progress] = []
    with pytest.raises(TrialFailure) as caught:
        trained(zeroed(0.8), replace(SHORT, hard=1.0), hard_loss=sick, watch=steps.append, before=40)
    message = caught.value.failure.message
    assert message.startswith("recover: the workload's own loss is nan at step 43; the model's outputs were finite")
    assert [each.step for each in steps] == [1, 2] and "rate" not in message


def test_steps_that_tried_rates_are_told() -> None:
    calls = 0

    def sick(outputs: Mapping[str, torch.Tensor], labels: tuple[Any, ...]) -> torch.Tensor:
        nonlocal calls
        calls += 1
        return outputs["scores"].sum() * (math.nan if calls > at else 0.0)

    settings = replace(SHORT, learning_rate=None, steps=200, minutes=60.0, hard=1.0)
    at = 0
    with pytest.raises(TrialFailure, match=r"at step 1 \(a try of how large steps may be\)"):
        trained(zeroed(0.8), settings, hard_loss=sick)
    calls, at = 0, 60
    with pytest.raises(TrialFailure, match=r"at step \d+ \(\d+ of them tries of how large steps may be\)"):
        trained(zeroed(0.8), settings, hard_loss=sick)


def test_a_student_that_is_broken_from_the_start_is_told() -> None:
    model = digits().ingested.model
    name = next(name for name, array in weights_of(model).items() if array.shape == (10,))
    with pytest.raises(TrialFailure, match=r"at step 0; the compressed model gives no finite answers"):
        trained(with_tensors(model, {name: np.full(10, np.nan, np.float32)}), SHORT)


@pytest.mark.parametrize("where", ["train", "validation"])
def test_samples_that_the_original_cannot_answer_are_named(where: str) -> None:
    found = digits()
    first, *rest = getattr(found, where).samples[:80]
    nothing = {"image": np.full((1, 1, 8, 8), np.nan, np.float32)}
    sick = [replace(sample, inputs=nothing) for sample in rest[9:14]]
    poisoned = Dataset(where, [first, *rest[:9], *sick, *rest[14:]])
    data = {"train": found.train, "validation": found.validation, where: poisoned}
    run = recover(
        zeroed(0.8), found.ingested.model, Formats(found.ingested.inspection.layers),
        Batches(data["train"], 40, shuffle=False), Batches(data["validation"], 40, shuffle=False), SHORT,
    )  # fmt: skip
    with pytest.raises(TrialFailure) as caught:
        list(run)
    message = caught.value.failure.message
    named = f"'{where}-10', '{where}-11', '{where}-12' and 2 more"
    step, what = (1, "loss") if where == "train" else (0, "validation loss")
    assert message.startswith(f"recover: the {what} became nan at step {step}; the original's own answer to {named} is")
    assert message.endswith("so mend the inputs of Workload.train") and "\n" not in message


def test_samples_of_weight_zero_teach_nothing() -> None:
    """Batches whose second half weighs nothing, and batches of the first half alone, give the same weights."""
    found = digits()
    whole = list(Batches(found.train, 64, shuffle=False))[:5]
    weighed = [Batch(b.inputs, b.labels, np.repeat(np.float32([1, 0]), 32)) for b in whole]
    halves = [Batch({"image": b.inputs["image"][:32]}, b.labels[:32], b.weights[:32]) for b in whole]

    def last(batches: list[Batch], **change: Any) -> dict[str, np.ndarray]:
        layers, validation = found.ingested.inspection.layers, Batches(found.validation, 300)
        settings = replace(SHORT, steps=5, **change)
        model = found.ingested.model
        return dict([*recover(zeroed(0.9), model, Formats(layers), batches, validation, settings)][-1].tensors)

    expected = last(halves, batch=32)
    for name, array in last(weighed, batch=64).items():
        assert np.allclose(array, expected[name], atol=1e-4)
    counted = last(weighed, batch=64, sample_weights=False)
    assert any(not np.allclose(array, expected[name], atol=1e-3) for name, array in counted.items())


def test_samples_that_cannot_be_joined_are_added_up() -> None:
    """Batches of one give the step that one batch of all gives."""
    found, settings = digits(), replace(SHORT, steps=6, batch=32, evaluate_every=6)

    def last(size: int) -> Checkpoint:
        batches: list[Batch] = list(Batches(found.train, size, shuffle=False))[: 320 // size]
        layers = found.ingested.inspection.layers
        validation = Batches(found.validation, 300)
        return [*recover(zeroed(0.8), found.ingested.model, Formats(layers), batches, validation, settings)][-1]

    one, many = last(1), last(32)
    assert one.step == many.step == 6
    assert one.validation == pytest.approx(many.validation, rel=1e-2)


def test_the_original_is_asked_once_about_each_sample(monkeypatch: pytest.MonkeyPatch) -> None:
    """Over four epochs; the student learns the same as when it is asked every time."""
    from autotune.recover.graph import OnnxModule

    found, asked = digits(), []
    few = Dataset("few", found.train.samples[:64])
    forward = OnnxModule.forward

    def counted(self: OnnxModule, inputs: Mapping[str, torch.Tensor], keep: Any = ()) -> dict[str, torch.Tensor]:
        if not self.weights:
            asked.append(len(inputs["image"]))
        return forward(self, inputs, keep)

    monkeypatch.setattr(OnnxModule, "forward", counted)

    def last(batches: list[Batch]) -> Mapping[str, np.ndarray]:
        asked.clear()
        layers, model = found.ingested.inspection.layers, found.ingested.model
        validation, settings = Batches(found.validation, 300), replace(SHORT, steps=8, batch=32)
        return [*recover(zeroed(0.9), model, Formats(layers), batches, validation, settings)][-1].tensors

    batches = list(Batches(few, 32))
    once = last(batches)
    assert asked.count(32) == 2
    again = last([batch._replace(places=()) for batch in batches])
    assert asked.count(32) == 8
    assert all(np.array_equal(array, again[name]) for name, array in once.items())


# -- what is compared


def two_headed(*ends: str) -> onnx.ModelProto:
    """x @ w followed by the operators in `ends`."""
    names = ["x", *(f"t{i}" for i in range(len(ends))), "y"]
    nodes = [zoo.node("MatMul", ["x", "w"], [names[1]], name="product")]
    nodes += [zoo.node(op, [names[i + 1]], [names[i + 2]], name=f"n{i}") for i, op in enumerate(ends)]
    return zoo.model_of(nodes, [zoo.floats("x", "batch", 6)], ["y"], {"w": zoo.weight(6, 4) * 3}, 21)


def outcome(end: str, compare: Any = "auto") -> tuple[str, float]:
    from autotune.recover.graph import OnnxModule
    from autotune.recover.losses import outputs_of, soft_loss

    model = two_headed(*end.split())
    x = {"x": torch.from_numpy(zoo.weight(5, 6))}
    answers = OnnxModule(model)(x)
    (output,) = outputs_of(model.graph, model.graph, answers, compare)
    tensors = OnnxModule(model)(x, [output.student])
    return output.kind, soft_loss([output], tensors, tensors, 5, 2.0).abs().max().item()


@pytest.mark.parametrize(
    ("end", "kind"),
    [
        ("Identity", "logits"), ("Softmax", "logits"), ("LogSoftmax", "logits"), ("Softmax Identity", "probabilities"),
        ("Sigmoid", "chances"), ("Tanh", "numbers"), ("Relu Softmax", "logits"),
    ],
)  # fmt: skip
def test_outputs_are_told_apart(end: str, kind: str) -> None:
    found, distance = outcome(end)
    assert found == kind
    assert distance == pytest.approx(0, abs=1e-5)


def test_the_user_can_say_what_an_output_is() -> None:
    assert outcome("Identity", "numbers")[0] == "numbers"
    assert outcome("Tanh", "distributions")[0] == "logits"


# -- bad input


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"steps": 0}, "steps is 0"), ({"learning_rate": -1.0}, "learning_rate"), ({"soft": 0.0}, "nothing to learn"),
        ({"lora_rank": -1}, "lora_rank"), ({"minutes": float("nan")}, "minutes"), ({"train": "x"}, "train is 'x'"),
        ({"lora_rank": 4, "train": "norms-and-biases"}, "exclude each other"), ({"compare": "x"}, "compare is 'x'"),
    ],
)  # fmt: skip
def test_settings_out_of_range(change: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        Settings(**change)


def test_data_that_does_not_fit_is_told_in_one_line() -> None:
    found = digits()
    layers, model = found.ingested.inspection.layers, found.ingested.model
    batch = next(iter(Batches(found.train, 8)))
    wrong = Batch({"picture": batch.inputs["image"]}, batch.labels, batch.weights)
    with pytest.raises(DataError, match="lack the input 'image'"):
        next(recover(model, model, Formats(layers), [batch], [wrong], SHORT))
    with pytest.raises(UsageError, match="no validation samples"):
        next(recover(model, model, Formats(layers), [batch], [], SHORT))
    with pytest.raises(UsageError, match="no training samples"):
        list(recover(model, model, Formats(layers), [], [batch], SHORT))
    with pytest.raises(UsageError, match="hard needs one integer label"):
        texts = Batch(batch.inputs, ("a",) * 8, batch.weights)
        list(recover(model, model, Formats(layers), [texts], [batch], replace(SHORT, hard=1.0)))
