"""The size of a download: where zeros count."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from autotune.config import StudyConfig
from autotune.search.offers import Offer, notes
from autotune.search.values import file_metrics

SPARSE = Offer(technique="sparsify", decisions=2, layers=2, choices=("2:4",), left_alone=())
CUT = Offer(technique="prune", decisions=1, layers=2, choices=("cut-25%",), left_alone=())


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


def test_zeros_that_no_objective_sees_are_told() -> None:
    (note,) = notes(study(techniques={"sparsify": {}}), [SPARSE])
    assert "add it to search.objectives" in note
    asked = study(techniques={"sparsify": {}}, search={"objectives": ["download_bytes", "drop/worst"]})
    (note,) = notes(asked, [SPARSE])
    assert "no speed-up" in note and "search.objectives" not in note


def test_structure_without_training_is_told() -> None:
    (note,) = notes(study(techniques={"prune": {}}), [CUT])
    assert note.startswith("prune: without training data")
    assert not list(notes(study(techniques={"prune": {}}, recover={}), [CUT]))
