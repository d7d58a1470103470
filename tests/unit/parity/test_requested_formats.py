"""The formats on request, and corrected biases, run as float64 says, and their layers keep their names."""

from __future__ import annotations

from pathlib import Path

import pytest

from autotune.parity.report import FLOAT64
from autotune.recipe import Recipe
from autotune.techniques.quantize import ALL_CHOICES, ON_REQUEST, Quantize
from hwprofiles.device import Device
from tests.unit.compress.observed import all_offered, correlated, observed, wide
from tests.unit.parity.altered import compare, one


@pytest.mark.parametrize("choice", [*ON_REQUEST, "int8-dynamic"])
def test_artifacts_are_what_their_graph_says(
    choice: str, devices: dict[str, Device], folder: Path, tmp_path: Path
) -> None:
    quantize = Quantize(ALL_CHOICES, rounding="gptq", bias_correction=True)
    made = observed(wide(), correlated(96, outliers=3), tmp_path, quantize)
    decisions = {layer: choice for layer, choices in all_offered(made).items() if choice in choices}
    assert len(decisions) == 2
    data = made.assemble(Recipe({"quantize": decisions}))
    inputs = correlated(96, batches=2, rows=3, outliers=3, seed=1)
    target = one(report := compare(data, inputs, {"here": devices["here"]}, folder, numbers=True), "here")
    assert report.reference == FLOAT64
    assert target.verdict == "agree" and target.first is None, target.first
    assert set(decisions) <= {layer.layer for layer in target.layers}
