"""Which other ways there are to run the original: threads, batches, providers, and another build of an engine."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnx
import pytest
from onnx import TensorProto, helper

from autotune.judge.noise import Variation, _variations
from hwprofiles.fingerprint import Fingerprint
from hwprofiles.runtimes.tensorrt import TensorRt
from hwprofiles.target import Target


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """y = Relu(x), one sample at a time."""
    ports = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 3]) for name in ("x", "y")]
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "g", ports[:1], ports[1:])
    onnx.save(helper.make_model(graph), tmp_path / "m.onnx")
    return tmp_path / "m.onnx"


def varied(model: Path, target: Target, **found: Any) -> tuple[list[Variation], list[str]]:
    facts = Fingerprint.model_construct(**{"cores": 4, "providers": (target.provider,), **found})
    impossible: list[str] = []
    return list(_variations(model, target, facts, 1, impossible)), impossible


@pytest.mark.parametrize(("level", "other"), [(None, 2), (2, 3), (5, 2)])
def test_an_engine_is_built_another_time(model: Path, level: int | None, other: int) -> None:
    options = {} if level is None else {"builder_level": level}
    target = Target(name="card", runtime="tensorrt", provider="TensorRT", options={**options, "workspace": 1 << 30})
    (again,), impossible = varied(model, target)
    assert again.words == "another engine build" and impossible == [
        "other batches: the model takes one sample at a time"
    ]
    asked, now = TensorRt().options(again.target), TensorRt().options(target)
    assert asked["builder"]["builder_level"] == other
    assert asked["builder"] != now["builder"], "what an engine is cached by: the same one would prove nothing"
    assert asked["builder"]["workspace"] == now["builder"]["workspace"] == 1 << 30
    assert again.target.provider == target.provider and again.target.threads == target.threads


def test_engines_that_are_all_alike_are_told(model: Path) -> None:
    made, impossible = varied(model, Target(name="card", runtime="tensorrt-rtx", provider="TensorRT-RTX"))
    assert made == []
    assert impossible[0] == "another engine build: tensorrt-rtx builds the same engine every time"


def test_a_runtime_without_engines_varies_threads_and_providers(model: Path) -> None:
    made, _ = varied(model, Target(name="here"), providers=("CPUExecutionProvider", "CUDAExecutionProvider"))
    assert [each.words for each in made] == ["4 threads", "CUDAExecutionProvider"]
