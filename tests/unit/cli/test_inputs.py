"""Shapes as typed or from a scenario, and the inputs that come of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from autotune.cli import _spread
from autotune.cli.inputs import make_inputs, plan_inputs
from autotune.errors import DataError, UsageError


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """Takes ids [batch, n], mask [batch, n] and a bias [4]."""
    graph = helper.make_graph(
        [helper.make_node("Add", ["ids", "mask"], ["y"])],
        "g",
        [
            helper.make_tensor_value_info("ids", TensorProto.FLOAT, ["batch", "n"]),
            helper.make_tensor_value_info("mask", TensorProto.INT64, ["batch", "n"]),
            helper.make_tensor_value_info("bias", TensorProto.FLOAT, [4]),
        ],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", "n"])],
    )
    path = tmp_path / "m.onnx"
    onnx.save(helper.make_model(graph), path)
    return path


@pytest.fixture
def said() -> list[str]:
    return []


def test_one_shape_needs_no_name(model: Path, said: list[str]) -> None:
    plan = plan_inputs(model, ["ids=1,16", "mask=1,16"], say=said.append)
    (feed,) = plan.feeds
    assert plan.shapes == {} and {name: array.shape for name, array in feed.items()} == {
        "ids": (1, 16), "mask": (1, 16), "bias": (4,),
    }  # fmt: skip
    assert feed["mask"].dtype == np.int64 and set(feed["mask"].ravel()) == {1} and not said


def test_an_input_given_several_times_makes_several_shapes(model: Path, said: list[str]) -> None:
    words = ["ids=1,16", "mask=1,16", "ids=1,128", "mask=1,128"]
    plan = plan_inputs(model, words, say=said.append)
    assert list(plan.shapes) == ["ids=1x16 mask=1x16", "ids=1x128 mask=1x128"]
    assert [feed["ids"].shape for feed in plan.feeds] == [(1, 16), (1, 128)]
    assert plan.shapes["ids=1x128 mask=1x128"] == {"ids": (1, 128), "mask": (1, 128), "bias": (4,)}
    assert plan_inputs(model, sorted(words), say=said.append).shapes == plan.shapes


def test_an_input_given_once_keeps_its_shape(model: Path, said: list[str]) -> None:
    plan = plan_inputs(model, ["ids=1,16", "ids=1,128", "mask=1,1"], say=said.append)
    assert list(plan.shapes) == ["1x16", "1x128"]
    assert [feed["mask"].shape for feed in plan.feeds] == [(1, 1), (1, 1)]


def test_a_batch_fills_the_dynamic_first_axis(tmp_path: Path, said: list[str]) -> None:
    graph = helper.make_graph(
        [helper.make_node("Identity", ["x"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 3])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 3])],
    )
    path = tmp_path / "x.onnx"
    onnx.save(helper.make_model(graph), path)
    assert plan_inputs(path, [], batch=8, say=said.append).feeds[0]["x"].shape == (8, 3)
    assert "taken as a batch of 8" in said.pop()
    # Not given, but every input starts with 5: measuring will take it so, and the user should know.
    plan_inputs(path, ["x=5,3"], say=said.append)
    assert "batch of 5; give --batch 1" in said.pop()
    plan_inputs(path, ["x=5,3"], batch=1, say=said.append)
    assert not said
    with pytest.raises(DataError, match="no input has a first axis of 8"):
        plan_inputs(path, ["x=5,3"], batch=8, say=said.append)


def test_shapes_of_a_scenario(model: Path, said: list[str]) -> None:
    labelled = {"short": {"ids": (1, 8), "mask": (1, 8)}, "long": {"ids": (1, 64), "mask": (1, 64)}}
    plan = plan_inputs(model, [], labelled=labelled, say=said.append)
    assert list(plan.shapes) == ["short", "long"] and plan.feeds[1]["ids"].shape == (1, 64)
    one = plan_inputs(model, [], labelled={"short": labelled["short"]}, say=said.append)
    assert list(one.shapes) == ["short"]  # a name that was given is kept


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        (["ids=1,16"], "--shape mask=1,N"),
        (["ids=1,a"], "positive whole numbers"),
        (["ids=1,0"], "positive whole numbers"),
        (["idz=1,16"], "did you mean 'ids'"),
        (["bias=5"], "does not fit"),
        (["ids=1,16,1"], "does not fit"),
        (["ids=1,16", "ids=1,32", "ids=1,64", "mask=1,1", "mask=1,2"], "'mask' is given 2 times"),
        (["ids=1,16", "ids=1,16", "mask=1,16"], "given twice"),
    ],
)
def test_what_is_typed_wrong(model: Path, said: list[str], words: list[str], hint: str) -> None:
    with pytest.raises(UsageError) as caught:
        plan_inputs(model, words, say=said.append)
    assert hint in str(caught.value)


def test_what_a_scenario_has_wrong(model: Path, said: list[str]) -> None:
    with pytest.raises(UsageError, match=r"shape 'short' of the scenario.*did you mean 'ids'"):
        plan_inputs(model, [], labelled={"short": {"idz": (1, 8)}}, say=said.append)
    with pytest.raises(UsageError, match="give one of them"):
        plan_inputs(model, ["ids=1,8"], labelled={"short": {"ids": (1, 8)}}, say=said.append)


def test_where_only_one_shape_can_be_used(model: Path, said: list[str]) -> None:
    assert make_inputs(model, ["ids=1,16", "mask=1,16"], say=said.append)["ids"].shape == (1, 16)
    with pytest.raises(UsageError, match="give each input once"):
        make_inputs(model, ["ids=1,16", "ids=1,32", "mask=1,1"], say=said.append)


@pytest.mark.parametrize(
    ("typed", "parsed"),
    [
        ("compare a.onnx --targets t4 rpi5 --json", "compare a.onnx --targets t4 --targets rpi5 --json"),
        ("compare --targets t4,rpi5 a.onnx b.onnx", "compare --targets t4 --targets rpi5 a.onnx b.onnx"),
        ("compare --targets t4 rpi5 A.ONNX", "compare --targets t4 --targets rpi5 A.ONNX"),
        ("compare a.onnx --targets", "compare a.onnx --targets="),
        ("compare a.onnx --targets --json", "compare a.onnx --targets= --json"),
        ("compare a.onnx --target t4 b", "compare a.onnx --target t4 b"),
        ("compare a.onnx --targets=t4", "compare a.onnx --targets=t4"),
        ("compare --targets a --targets b c", "compare --targets a --targets b --targets c"),
    ],
)
def test_several_targets_after_one_option(typed: str, parsed: str) -> None:
    assert _spread(typed.split()) == parsed.split()
