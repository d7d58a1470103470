"""The size of a download: where zeros count."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from autotune.config import StudyConfig
from autotune.search.offers import Offer, notes, told
from autotune.search.values import file_metrics
from autotune.search.zeros import Zeros
from autotune.trial import Value

SPARSE = Offer(technique="sparsify", stage="sparsify", decisions=2, layers=2, choices=("2:4",), left_alone=())
CUT = Offer(technique="prune", stage="prune", decisions=1, layers=2, choices=("cut-25%",), left_alone=())


def study(**changes: object) -> StudyConfig:
    return StudyConfig.model_validate({"name": "s", **changes})


def model(path: Path, zeros: float) -> Path:
    weight = np.random.default_rng(0).normal(size=(64, 64)).astype(np.float32)
    weight[np.random.default_rng(1).random(weight.shape) < zeros] = 0.0
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 64])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 64])],
        [numpy_helper.from_array(weight, "w")],
    )
    path.write_bytes(helper.make_model(graph).SerializeToString())
    return path


def test_zeros_make_the_download_smaller_and_not_the_file(tmp_path: Path) -> None:
    config = study(techniques={"sparsify": {}})
    dense = file_metrics(config, model(tmp_path / "dense.onnx", 0.0))
    sparse = file_metrics(config, model(tmp_path / "sparse.onnx", 0.8))
    assert dense["size_bytes"] == sparse["size_bytes"]
    assert sparse["download_bytes"].value < 0.4 * dense["download_bytes"].value


@pytest.mark.parametrize(
    ("changes", "weighed"),
    [
        ({}, False),
        ({"techniques": {"sparsify": {}}}, True),
        ({"search": {"objectives": ["download_bytes", "drop/worst"]}}, True),
        ({"constraints": {"download_bytes": 1e6}}, True),
        ({"budget": {"download_bytes": 1e6}}, True),
    ],
)
def test_it_is_weighed_where_it_matters(tmp_path: Path, changes: dict[str, object], weighed: bool) -> None:
    found = file_metrics(study(**changes), model(tmp_path / "m.onnx", 0.5))
    assert ("download_bytes" in found) is weighed


def measured(low: float, value: float, high: float) -> Zeros:
    return Zeros(
        target="here", fingerprint="f", choice="zeros-90%", layers=3, dense_download=5_000_000, download=2_000_000,
        time=Value(value=value, low=low, high=high),
    )  # fmt: skip


def test_zeros_that_no_objective_sees_are_told() -> None:
    named = study(techniques={"sparsify": {}}, search={"objectives": ["size_bytes", "drop/worst"]})
    (note,) = notes(named, [SPARSE])
    assert not list(notes(study(techniques={"sparsify": {}}), [SPARSE])), "a default objective there"
    assert note.endswith("add download_bytes to search.objectives")
    asked = study(techniques={"sparsify": {}}, search={"objectives": ["download_bytes", "drop/worst"]})
    assert not list(notes(asked, [SPARSE]))


def test_what_zeros_buy_is_told() -> None:
    assert list(told([SPARSE], {"here": (measured(0.99, 1.0, 1.01),)})) == [
        "sparsify: zeros-90% in 3 layers on here: no speed-up here, measured: 1.000 times that of the dense model "
        "(0.990 to 1.010); a download is 2 MB in place of 5 MB"
    ]
    (only,) = told([SPARSE, CUT], {})
    assert "was not measured" in only


@pytest.mark.parametrize(
    ("interval", "said"),
    [
        ((0.5, 0.6, 0.7), "it is faster: 0.600 times"),
        ((0.9, 0.95, 1.001), "its time is not told apart from that of the dense model: 0.950"),
        ((0.98, 0.985, 0.995), "no speed-up here, measured: 0.985"),  # of half a percent nobody would speak
        ((1.1, 1.2, 1.3), "it is slower, measured: 1.200"),
    ],
)
def test_what_was_measured_is_said(interval: tuple[float, float, float], said: str) -> None:
    assert measured(*interval).speed.startswith(said)
    broken = measured(1, 1, 1).model_copy(update={"time": None, "failure": "out of memory"})
    assert broken.speed == "its time could not be measured: out of memory" and not broken.faster


def test_structure_without_training_is_told() -> None:
    (note,) = notes(study(techniques={"prune": {}}), [CUT])
    assert note.startswith("prune: without training data")
    assert not list(notes(study(techniques={"prune": {}}, recover={}), [CUT]))
