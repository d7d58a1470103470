"""A second dialect for tests, registered as another package would do it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import onnx

from autotune.compress.dialects.ort_cpu import OrtCpu
from autotune.compress.plan import Plan
from autotune.layers import Layer

NAME = "other-cpu"


class OtherCpu(OrtCpu):
    """As `ort-cpu`, but it has no weights in blocks, and signs what it writes."""

    name = NAME

    def offers(self, layer: Layer, choice: str, node: onnx.NodeProto) -> bool:
        """Without weights in blocks."""
        return "-b" not in choice and super().offers(layer, choice, node)

    def write(self, plan: Plan, decisions: Mapping[str, str]) -> None:
        """Another file for the same decisions: it declares one domain more."""
        super().write(plan, decisions)
        plan.opsets["tests.other"] = 1


def register(folder: Path) -> Path:
    """Makes a package in `folder` that registers the dialect; put the folder on the path."""
    package = folder / "other_cpu-1.0.dist-info"
    package.mkdir(parents=True)
    (package / "METADATA").write_text("Metadata-Version: 2.1\nName: other-cpu\nVersion: 1.0\n")
    (package / "entry_points.txt").write_text(f"[hw_autotune.dialects]\n{NAME} = {__name__}:OtherCpu\n")
    return folder
