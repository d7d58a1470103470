"""Every cut of every unit equals zeros in the original, and all together do."""

from __future__ import annotations

from collections.abc import Callable

import onnx
import pytest

from tests.unit import zoo
from tests.unit.techniques.prune import graphs
from tests.unit.techniques.prune.checking import Case, check

NORMED = ("embed",)  # residual streams that LayerNormalization reads: what is left is normalised anew


@pytest.mark.parametrize("name", graphs.EXACT)
def test_every_cut(name: str) -> None:
    case = Case.of(graphs.EXACT[name](), round_to=1)
    assert case.units
    for layer, unit in case.units.items():
        for choice in unit.choices:
            check(case, {layer: choice}, exact=layer not in NORMED)


@pytest.mark.parametrize("name", graphs.EXACT)
def test_all_cuts_together(name: str) -> None:
    case = Case.of(graphs.EXACT[name](), round_to=1)
    decisions = {layer: unit.choices[-1] for layer, unit in case.units.items() if layer not in NORMED}
    check(case, decisions)


FOUND = {
    "residual": {"stem": ("channels", 16), "one.first": ("channels", 12), "two.first": ("channels", 12)},
    "depthwise": {"expand": ("channels", 16)},
    "grouped-2": {"before": ("channels", 8), "grouped": ("channels", 16)},
    "grouped-8": {"before": ("channels", 8)},
    "concat": {"first": ("channels", 8), "second": ("channels", 12)},
    "split": {"both": ("channels", 16), "parts": ("channels", 24)},
    "slices": {"whole": ("channels", 24)},
    "flatten-last": {"conv": ("channels", 16), "hidden": ("neurons", 24)},
    "squeeze-excite": {"stem": ("channels", 16), "squeeze": ("channels", 8)},
    "upsampling": {"stem": ("channels", 16), "up": ("channels", 12), "shuffle": ("channels", 4)},
    "group-norm": {"stem": ("channels", 4), "middle": ("channels", 4)},
    "attention-zeros": {"q": ("heads", 6)},
    "attention-computed": {"q": ("heads", 6)},
    "attention-seq": {"q": ("heads", 6)},
    "gqa-expand": {"q": ("heads", 3)},
    "gqa-gather": {"q": ("heads", 3)},
    "fused-split": {"qkv": ("heads", 6)},
    "fused-three first": {"qkv": ("heads", 6)},
    "fused-heads first": {"qkv": ("heads", 6)},
    "shared": {"a": ("channels", 16), "b": ("channels", 16)},
    "ffn-gated": {"embed": ("neurons", 24), "one.up": ("neurons", 48), "two.up": ("neurons", 48)},
}


@pytest.mark.parametrize("name", FOUND)
def test_units(name: str) -> None:
    case = Case.of(graphs.EXACT[name](), round_to=1)
    assert {layer: (unit.kind, unit.size) for layer, unit in case.units.items()} == FOUND[name]


@pytest.mark.parametrize("opset", [11, 13, 17, 18, 20])
@pytest.mark.parametrize("make", [zoo.conv_residual, zoo.convolutions, zoo.mlp, zoo.attention])
def test_zoo(make: Callable[[int], onnx.ModelProto], opset: int) -> None:
    case = Case.of(make(opset), round_to=1)
    for layer, unit in case.units.items():
        for choice in unit.choices:
            check(case, {layer: choice})
