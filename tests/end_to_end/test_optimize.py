"""The one-call entry, as in a notebook: arrays in, a front out, a bundle at the end; and again from the store."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import autotune
from autotune.search.progress import Progress

PROFILE = "runtime = 'onnxruntime'\ntransport = 'local'\noptions = { quiet_wait = 0.0, quiet_wait_final = 0.0 }\n"
QUICK = {"min_pairs": 3, "max_pairs": 3, "block_seconds": 0.01, "warmup_seconds": 0.02, "max_seconds": 2.0}


def two_layers() -> onnx.ModelProto:
    """x [n, 64] -> y [n, 4]."""
    rng = np.random.default_rng(0)
    weights = [rng.normal(0, 0.2, shape).astype(np.float32) for shape in ((64, 96), (96, 4))]
    graph = helper.make_graph(
        [
            helper.make_node("MatMul", ["x", "w0"], ["h"], name="first"),
            helper.make_node("Relu", ["h"], ["r"], name="relu"),
            helper.make_node("MatMul", ["r", "w1"], ["y"], name="second"),
        ],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 64])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 4])],
        [numpy_helper.from_array(w, f"w{i}") for i, w in enumerate(weights)],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def samples(seed: int, count: int) -> list[autotune.Sample]:
    """Labels are what the model itself says, so that only compression can lose."""
    rng = np.random.default_rng(seed)
    weights = [numpy_helper.to_array(w) for w in two_layers().graph.initializer]
    found = []
    for i in range(count):
        x = rng.normal(size=(1, 64)).astype(np.float32)
        label = int((np.maximum(x @ weights[0], 0) @ weights[1]).argmax())
        found.append(autotune.Sample(f"{seed}-{i}", {"x": x}, label, {"half": "low" if i % 2 else "high"}))
    return found


@pytest.fixture
def options(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    profiles = tmp_path / "config" / "hw-autotune" / "targets"
    profiles.mkdir(parents=True)
    (profiles / "local.toml").write_text(PROFILE)
    return {
        "calibration": [s.inputs for s in samples(3, 16)],
        "search": samples(1, 60),
        "heldout": samples(2, 60),
        "decode": lambda outputs: [int(row.argmax()) for row in outputs["y"]],
        "slices": ["half"],
        "trials": 2,
        "measure": QUICK,
        "remeasure": {**QUICK, "phase": "final"},
        "finalists": {"count": 1},
        "judge": {"limit": 0.2, "floor": 10},
        "progress": lambda progress: None,
    }


def test_from_arrays_to_a_bundle(options: dict[str, Any], tmp_path: Path) -> None:
    seen: list[Progress] = []
    result = autotune.optimize(two_layers(), **{**options, "progress": seen.append}, name="tiny")
    assert {p.stage for p in seen} >= {"prepare", "baseline", "search"}
    assert len(result.trials) == 3 and result.front and result[0].recipe == {}
    assert Path("autotune-runs/tiny/store.db").is_file()
    table = result.table(columns=80)
    assert "drop" in table and max(map(len, table.splitlines())) <= 80
    assert result._repr_html_().startswith("<table>")
    assert result.report(tmp_path / "report.html").read_text().lstrip().startswith("<!")
    chosen = result.best or result.front[0]
    bundle = result.export(tmp_path / "bundle", chosen)
    assert autotune.verify_bundle(bundle)["trial"] == chosen.number
    again = autotune.optimize(two_layers(), **options, name="tiny")
    assert [t.number for t in again.trials] == [t.number for t in result.trials]
    assert [t.started_at for t in again.trials] == [t.started_at for t in result.trials]


@pytest.mark.parametrize(
    ("change", "hint"),
    [
        ({"trails": 3}, "no option 'trails'; did you mean 'trials'"),
        ({"trials": 0}, "search.trials"),
        ({"constraints": {"size_bytes": "10ms"}}, "wrong unit"),
        ({"constraints": {"size_bites": 3}, "trials": 1}, "size_bites"),
        ({"targets": ("locl",)}, "did you mean 'local'"),
        ({"judge": {"limits": 1}}, "judge.limits"),
        ({"search": []}, "'search' is empty"),
        ({"metric": "acuracy"}, "did you mean 'accuracy'"),
    ],
)
def test_mistakes_are_said_before_anything_is_spent(options: dict[str, Any], change: dict[str, Any], hint: str) -> None:
    from hwprofiles.errors import HardwareError

    with pytest.raises((autotune.AutotuneError, HardwareError), match=hint):
        autotune.optimize(two_layers(), **{**options, **change}, name="tiny")
    assert not Path("autotune-runs/tiny/artifacts").exists()
