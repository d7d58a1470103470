"""Artifacts of dialect `tensorrt`, parsed and built by a real builder of its family, and what it refuses.

The builder is that of TensorRT-RTX, for it runs without a card. It tells which layers the engine would have, and in
which precision; whether they are fast only a card can say.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from autotune.compress.assembly import Assembler
from autotune.compress.dialects.card import runs
from autotune.compress.dialects.ort_cpu import OrtCpu
from autotune.compress.dialects.protocol import Dialect
from autotune.compress.dialects.tensorrt import TensorRt
from autotune.compress.kernels import layer_outcomes
from autotune.compress.zoo import ZOO
from autotune.compress.zoo.subject import ranges_of, subject
from autotune.recipe import Recipe
from autotune.techniques.quantize import ALL_CHOICES, Quantize
from autotune.techniques.sparsify import Sparsify
from tests.contract.rtx import Answer, Job, ask, needs_rtx

pytestmark = needs_rtx

NEWEST = "12.0"  # has every format
THOROUGH = ("residual", "flatten", "transposed")  # all choices are built; of the others one each, all are parsed
# TensorRT has int8 deconvolutions, this builder has not: a probe must see that.
NOT_HONOURED = {("transposed", "int8-static"): {"up": "float16"}}


@cache
def assembler(model: str, dialect: type[Dialect] = TensorRt) -> Assembler:
    on = subject(model)
    techniques = {"quantize": Quantize(), "sparsify": Sparsify(method="magnitude")}
    made = Assembler(on.ingested.model, on.ingested.inspection.layers, dialect(), techniques)
    made.calibrate_with = lambda structure: ranges_of(on, made, structure)
    return made


def uniform(model: str, choice: str) -> Recipe:
    """The choice on all layers that have it."""
    made = assembler(model)
    return Recipe({"quantize": {n: choice for n, layer in made.source.layers.items() if made.offers(layer, choice)}})


def choices(model: str) -> list[str]:
    return ["none", *(choice for choice in ALL_CHOICES if uniform(model, choice)["quantize"])]


def artifact(model: str, choice: str) -> bytes:
    return assembler(model).assemble(uniform(model, choice))


def built(model: str) -> list[str]:
    """The choices of a model that are built, and not only parsed."""
    offered = choices(model)
    return offered if model in THOROUGH else [offered[list(ZOO).index(model) % len(offered)]]


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Answer]:
    """Every model under every choice; one child for all."""
    jobs = {
        f"{model} {choice}": Job(artifact(model, choice), NEWEST if choice in built(model) else "")
        for model in ZOO
        for choice in choices(model)
    }
    return ask(jobs, tmp_path_factory.mktemp("zoo"))


def test_all_choices_of_the_dialect_are_tried() -> None:
    offered = {choice for model in ZOO for choice in choices(model)}
    assert offered == {
        "none", "float16", "bfloat16", "int8-static", "fp8-static", "nvfp4", "w8-load", "w4-b128", "w4-b32",
    }  # fmt: skip
    assert offered <= {choice for model in ZOO for choice in built(model)}


@pytest.mark.parametrize("model", ZOO)
def test_is_parsed_and_built(model: str, answers: dict[str, Answer]) -> None:
    wrong = []
    for choice in choices(model):
        answer = answers[f"{model} {choice}"]
        if answer.stage != "done":
            wrong.append(f"{choice}: {answer.stage}: {answer.message}")
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("model", ZOO)
def test_layers_get_the_precision_that_was_asked_for(model: str, answers: dict[str, Answer]) -> None:
    made = assembler(model)
    for choice in built(model):
        recipe = uniform(model, choice)
        outcomes = layer_outcomes(
            onnx.load_from_string(artifact(model, choice)),
            made.layers(recipe),
            recipe["quantize"],
            made.expected_kernels(recipe),
            answers[f"{model} {choice}"].kernels,
        )
        wrong = {each.layer: each.ran.rpartition(":")[2] for each in outcomes if not each.honoured}
        assert len(outcomes) == len(made.source.layers)
        assert wrong == NOT_HONOURED.get((model, choice), {}), outcomes


@pytest.mark.slow
def test_every_choice_of_every_model_is_built(tmp_path: Path) -> None:
    jobs = {f"{m} {c}": Job(artifact(m, c), NEWEST) for m in ZOO for c in choices(m)}
    wrong = {name: answer.message for name, answer in ask(jobs, tmp_path).items() if answer.stage != "done"}
    assert len(jobs) > 140 and not wrong, wrong


def test_mixed_recipes_and_zeros_are_built(tmp_path: Path) -> None:
    """Neighbours of different types, and a pattern of zeros below a format: strong typing forgives nothing."""
    mixed = {}
    for model, cycle in {
        "residual": ("none", "int8-static", "float16", "bfloat16", "fp8-static"),
        "encoder": ("float16", "nvfp4", "bfloat16", "w4-b32", "none", "fp8-static", "w8-load"),
        "split": ("int8-static", "bfloat16", "float16"),
    }.items():
        made = assembler(model)
        decided = {}
        for index, (name, layer) in enumerate(made.source.layers.items()):
            choice = cycle[index % len(cycle)]
            if choice != "none" and made.offers(layer, choice):
                decided[name] = choice
        mixed[model] = Job(made.assemble(Recipe({"quantize": decided})), NEWEST)
    made = assembler("residual")
    zeros = Recipe({"sparsify": {"two.second": "2:4"}, "quantize": {"two.second": "int8-static"}})
    data = made.assemble(zeros)
    mixed["zeros"] = Job(data, NEWEST)
    levels = {t.name: t for t in onnx.load_from_string(data).graph.initializer}["two.second/levels"]
    blocks = numpy_helper.to_array(levels).reshape(32, 8, 4, -1)
    assert (np.count_nonzero(blocks, axis=2) <= 2).all(), "four neighbours with more than two weights"
    for name, answer in ask(mixed, tmp_path).items():
        assert answer.stage == "done", (name, answer)


def test_the_table_of_cards_agrees_with_the_builder(tmp_path: Path) -> None:
    """Just below and at the first compute capability that has a format."""
    asked = [
        ("float16", "7.5"), ("int8-static", "7.5"), ("w8-load", "7.5"), ("w4-b32", "7.5"), ("w4-b32", "8.0"),
        ("bfloat16", "7.5"), ("bfloat16", "8.0"), ("fp8-static", "8.6"), ("fp8-static", "8.9"),
        ("nvfp4", "8.9"), ("nvfp4", "12.0"),
    ]  # fmt: skip
    jobs = {f"{choice} {card}": Job(artifact("shared_weight", choice), card) for choice, card in asked}
    answers = ask(jobs, tmp_path)
    for choice, card in asked:
        answer = answers[f"{choice} {card}"]
        assert answer.stage == ("done" if runs(card, choice) else "build"), (choice, card, answer)
        assert runs(card, choice) or "HW-specific datatypes" in answer.message


# -- what is refused, and why this dialect writes what it writes


def one_layer(nodes: list[onnx.NodeProto], **constants: np.ndarray) -> bytes:
    """x, float32 [4, 64] -> y."""
    graph = helper.make_graph(
        nodes,
        "refused",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [4, 64])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    return bytes(model.SerializeToString())


def quantised(zero: np.ndarray, weight_scale: float = 0.01, *, bias: bool = False) -> bytes:
    """A product between Q/DQ, as other exporters write it."""
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "scale", "zero"], ["xq"]),
        helper.make_node("DequantizeLinear", ["xq", "scale", "zero"], ["xd"]),
        helper.make_node("DequantizeLinear", ["w", "ws"], ["wd"], axis=1),
    ]
    constants = {
        "scale": np.array(0.05, np.float32), "zero": zero, "w": np.ones((64, 32), np.int8),
        "ws": np.full(32, weight_scale, np.float32),
    }  # fmt: skip
    if bias:
        nodes.append(helper.make_node("DequantizeLinear", ["b", "bs"], ["bd"], axis=0))
        constants |= {"b": np.ones(32, np.int32), "bs": np.full(32, 5e-4, np.float32)}
    nodes.append(helper.make_node("Gemm", ["xd", "wd", *(["bd"] if bias else [])], ["y"]))
    return one_layer(nodes, **constants)


REFUSALS = {
    "uint8 activations": (quantised(np.array(128, np.uint8)), "zero point"),
    "asymmetric int8": (quantised(np.array(3, np.int8)), "zero point"),
    "int32 bias": (quantised(np.array(0, np.int8), bias=True), ""),
    "negative scale": (quantised(np.array(0, np.int8), -0.01), "positive"),
    "no cast between types": (
        one_layer(
            [
                helper.make_node("Cast", ["x"], ["xh"], to=TensorProto.FLOAT16),
                helper.make_node("MatMul", ["xh", "w"], ["y"]),
            ],
            w=np.ones((64, 32), np.float32),
        ),
        "same input types",
    ),
}


def test_the_known_refusals(tmp_path: Path) -> None:
    cpu = assembler("residual", OrtCpu)
    layers = {name: "int8-static" for name, each in cpu.source.layers.items() if each.op == "Conv"}
    jobs = {name: Job(model) for name, (model, _) in REFUSALS.items()}
    jobs["dialect ort-cpu"] = Job(cpu.assemble(Recipe({"quantize": layers})))
    jobs["accepted"] = Job(quantised(np.array(0, np.int8)))
    answers = ask(jobs, tmp_path)
    assert answers.pop("accepted").stage == "done"
    for name, answer in answers.items():
        assert answer.stage == "parse", (name, answer)
        assert REFUSALS.get(name, (b"", ""))[1] in answer.message, (name, answer)


def test_a_crash_costs_one_model(tmp_path: Path) -> None:
    """The parser dies of a tensor whose raw data is missing; what comes after it is still answered."""
    good = Job(quantised(np.array(0, np.int8)))
    answers = ask({"before": good, "broken": Job(b"\x08"), "after": good}, tmp_path)
    assert answers["before"].stage == answers["after"].stage == "done"
    assert answers["broken"].stage in ("parse", "crash")
