"""Exact rewrites: same outputs within float32 rounding, fewer nodes, and no rewriting where it would not be exact."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import pytest

from autotune.recipe import Recipe
from tests.unit import zoo
from tests.unit.compress.assembling import assembler_of, run

EXACT = Recipe({"simplify": {"graph": "exact"}})


def _check(model: onnx.ModelProto, folder: Path) -> Counter[str]:
    feeds = zoo.feeds(model)
    made = assembler_of(model, feeds, folder, EXACT)
    plain, simple = made.assemble(Recipe()), made.assemble(EXACT)
    onnx.checker.check_model(onnx.load_from_string(simple))
    for name, expected in run(plain, feeds, folder).outputs.items():
        np.testing.assert_allclose(run(simple, feeds, folder).outputs[name], expected, rtol=2e-5, atol=2e-5)
    return Counter(node.op_type for node in onnx.load_from_string(simple).graph.node)


def _conv(nodes: list[onnx.NodeProto], constants: dict[str, np.ndarray]) -> onnx.ModelProto:
    return zoo.model_of(nodes, [zoo.floats("x", 1, 8, 6, 6)], ["y"], constants)


@pytest.mark.parametrize("shape", [(), (1,), (1, 8, 1, 1), (8, 1, 1)])
@pytest.mark.parametrize("op", ["Mul", "Add", "Sub", "Div"])
@pytest.mark.parametrize("swapped", [False, True])
def test_affine_behind_a_convolution(op: str, shape: tuple[int, ...], swapped: bool, tmp_path: Path) -> None:
    constant = np.random.default_rng(0).uniform(0.5, 2, shape).astype(np.float32)
    inputs = ["c", "a"] if swapped else ["a", "c"]
    nodes = [zoo.node("Conv", ["x", "w"], ["a"], pads=[1] * 4), zoo.node(op, inputs, ["y"])]
    left = _check(_conv(nodes, {"w": zoo.weight(8, 8, 3, 3), "c": constant}), tmp_path)
    assert left[op] == (1 if op == "Div" and swapped else 0)


@pytest.mark.parametrize("pads", [[0] * 4, [1] * 4])
@pytest.mark.parametrize("group", [1, 2, 8])
def test_affine_in_front_of_a_convolution(pads: list[int], group: int, tmp_path: Path) -> None:
    nodes = [
        zoo.node("Mul", ["x", "s"], ["a"]),
        zoo.node("Add", ["a", "b"], ["c"]),
        zoo.node("Conv", ["c", "w", "k"], ["y"], pads=pads, group=group),
    ]
    rng = np.random.default_rng(1)
    constants = {
        "s": rng.uniform(0.5, 2, (1, 8, 1, 1)).astype(np.float32),
        "b": rng.normal(size=(1, 8, 1, 1)).astype(np.float32),
        "w": zoo.weight(8, 8 // group, 3, 3),
        "k": zoo.weight(8),
    }
    left = _check(_conv(nodes, constants), tmp_path)
    assert left["Mul"] == 0
    assert left["Add"] == (1 if any(pads) else 0)  # a shift in front of padding is not a bias


@pytest.mark.parametrize("divide", [True, False])
@pytest.mark.parametrize("late", [True, False])
def test_hard_swish(divide: bool, late: bool, tmp_path: Path) -> None:
    sixth = ("Div", np.float32(6)) if divide else ("Mul", np.float32(1 / 6))
    head = [
        zoo.node("Conv", ["x", "w"], ["a"], pads=[1] * 4),
        zoo.node("Add", ["a", "three"], ["b"]),
        zoo.node("Clip", ["b", "zero", "six"], ["c"]),
    ]
    if late:
        tail = [zoo.node("Mul", ["a", "c"], ["d"]), zoo.node(sixth[0], ["d", "k"], ["y"])]
    else:
        tail = [zoo.node(sixth[0], ["c", "k"], ["d"]), zoo.node("Mul", ["a", "d"], ["y"])]
    constants = {
        "w": zoo.weight(8, 8, 3, 3),
        "three": np.array([3], np.float32),
        "zero": np.array(0, np.float32),
        "six": np.array(6, np.float32),
        "k": np.array([sixth[1]], np.float32),
    }
    left = _check(_conv([*head, *tail], constants), tmp_path)
    assert left == Counter({"Conv": 1, "HardSigmoid": 1, "Mul": 1})


def test_other_clips_are_left_alone(tmp_path: Path) -> None:
    nodes = [
        zoo.node("Conv", ["x", "w"], ["a"], pads=[1] * 4),
        zoo.node("Add", ["a", "two"], ["b"]),
        zoo.node("Clip", ["b", "zero", "six"], ["c"]),
        zoo.node("Mul", ["a", "c"], ["d"]),
        zoo.node("Div", ["d", "six1"], ["y"]),
    ]
    constants = {
        "w": zoo.weight(8, 8, 3, 3),
        "two": np.array([2], np.float32),
        "zero": np.array(0, np.float32),
        "six": np.array(6, np.float32),
        "six1": np.array([6], np.float32),
    }
    assert _check(_conv(nodes, constants), tmp_path)["HardSigmoid"] == 0


def test_a_convolution_with_two_readers_is_left_alone(tmp_path: Path) -> None:
    nodes = [
        zoo.node("Conv", ["x", "w"], ["a"], pads=[1] * 4),
        zoo.node("Mul", ["a", "s"], ["b"]),
        zoo.node("Add", ["a", "b"], ["y"]),
    ]
    constants = {"w": zoo.weight(8, 8, 3, 3), "s": np.array([2], np.float32)}
    assert _check(_conv(nodes, constants), tmp_path)["Mul"] == 1


def test_shared_weights_are_left_alone(tmp_path: Path) -> None:
    nodes = [
        zoo.node("Conv", ["x", "w"], ["a"], pads=[1] * 4),
        zoo.node("Mul", ["a", "s"], ["b"]),
        zoo.node("Conv", ["b", "w"], ["y"], pads=[1] * 4),
    ]
    constants = {"w": zoo.weight(8, 8, 3, 3), "s": np.array([2], np.float32)}
    assert _check(_conv(nodes, constants), tmp_path)["Mul"] == 1


@pytest.mark.parametrize("name", ["conv_residual", "convolutions", "mlp", "attention", "embedding", "lstm"])
def test_zoo_models_keep_their_outputs(name: str, tmp_path: Path) -> None:
    _check(getattr(zoo, name)(), tmp_path)
