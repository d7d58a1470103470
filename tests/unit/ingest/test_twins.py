"""Weights that a model stores twice are told, with both sizes."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest

from autotune.compress import ingest_large, scratch
from autotune.compress.ingest import load_model
from tests.unit import zoo
from tests.unit.techniques.prune import graphs

WIDTH, COPIES = 48, 3


def net(kind: str) -> onnx.ModelProto:
    """Three products; what their weights have to do with each other is `kind`."""
    made = graphs.Net()
    one = zoo.weight(WIDTH, WIDTH, seed=1)
    weights: list[Any] = {
        "copies": [one, zoo.weight(WIDTH, WIDTH, seed=2), one],
        "transposed": [one, one.T.copy(), zoo.weight(WIDTH, WIDTH, seed=2)],
        "all": [one, one, one],
        "others": [one, np.where(one == one[3, 3], 0, one), zoo.weight(WIDTH, WIDTH, seed=2)],
        "ones": [np.ones_like(one)] * COPIES,
    }[kind]
    x = "x"
    for at, weight in enumerate(weights):
        x = made.op("Tanh", made.op("MatMul", x, made.const(weight, f"fc{at}.weight"), name=f"fc{at}"))
    return made.model(x, "batch", WIDTH)


SIZE = WIDTH * WIDTH * 4  # bytes of one weight


@pytest.mark.parametrize(
    ("kind", "named", "copies"),
    [("copies", "fc2 and fc0", 1), ("transposed", "fc1 and fc0", 1), ("all", "fc1 and fc0, fc2 and fc0", 2)],
)
def test_copies_are_told_with_both_sizes(kind: str, named: str, copies: int) -> None:
    (note,) = (each for each in load_model(net(kind)).inspection.notes if "stored twice" in each)
    whole, once = COPIES * SIZE / 1e3, (COPIES - copies) * SIZE / 1e3
    assert f"the weights of {named} are the same, and stored twice" in note
    assert f"has {whole:.3g} kB of constants, and {once:.3g} kB with one copy of each" in note


@pytest.mark.parametrize("kind", ["others", "ones"])
def test_other_weights_are_no_copies(kind: str) -> None:
    assert not any("stored twice" in note for note in load_model(net(kind)).inspection.notes)


def test_a_shared_weight_that_is_stored_once_is_not_told() -> None:
    assert not any("stored twice" in note for note in load_model(zoo.shared_weight()).inspection.notes)


def test_weights_on_disk_are_compared_as_well(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ingest_large, "LARGE_MODEL", 1)
    monkeypatch.setattr(scratch, "LARGE", SIZE)
    onnx.save(net("copies"), tmp_path / "model.onnx")
    loaded = load_model(tmp_path / "model.onnx")
    assert loaded.scratch is not None
    assert any("the weights of fc2 and fc0 are the same" in note for note in loaded.inspection.notes)


def test_a_parameter_that_modules_share_is_told() -> None:
    torch = pytest.importorskip("torch")

    class Tied(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table, self.head = torch.nn.Embedding(50, WIDTH), torch.nn.Linear(WIDTH, 50, bias=False)
            self.head.weight = self.table.weight

        def forward(self, ids: Any) -> Any:
            return self.head(torch.tanh(self.table(ids)))

    found = load_model(Tied().eval(), example_inputs=(torch.zeros(1, 6, dtype=torch.int64),)).inspection
    assert {layer.name for layer in found.layers} == {"table", "head"}
    (note,) = (each for each in found.notes if "stored twice" in each)
    assert "the weights of head and table are the same" in note
    assert f"has {2 * 50 * WIDTH * 4 / 1e3:.3g} kB of constants, and {50 * WIDTH * 4 / 1e3:.3g} kB with one" in note
