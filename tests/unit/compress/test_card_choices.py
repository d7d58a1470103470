"""Which choices the dialects offer a layer, and which of them a card has."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper

from autotune.compress.capabilities import probe
from autotune.compress.dialects.card import runs
from autotune.compress.dialects.ort_cpu import OrtCpu
from autotune.compress.dialects.ort_cuda import OrtCuda
from autotune.compress.dialects.tensorrt import TensorRt
from autotune.layers import Layer
from autotune.techniques.quantize import ALL_CHOICES
from hwprofiles.fingerprint import Fingerprint
from hwprofiles.measurement import Kernel


def layer(op: Any, *shape: int, group: int = 1) -> Layer:
    axis = {"MatMul": 1, "ConvTranspose": 1}.get(op, 0)
    return Layer("a", op, ("a",), "w", shape, axis, int(np.prod(shape)), group=group)


def test_the_documented_table_is_true() -> None:
    """docs/techniques.md: a dash where no layer can be written, something else where one can."""
    text = Path(__file__).parents[3].joinpath("docs", "techniques.md").read_text("utf-8")
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if line.startswith("| `")]
    table = {name: row[2:] for row in rows if len(row) == 5 for name in row[0].replace("`", "").split(", ")}
    assert set(table) == set(ALL_CHOICES)
    layers = [
        layer("MatMul", 256, 64), layer("Gemm", 64, 256), layer("Conv", 32, 32, 3, 3), layer("Gather", 64, 256),
    ]  # fmt: skip
    for choice, cells in table.items():
        for dialect, cell in zip((OrtCpu(), TensorRt(), OrtCuda()), cells, strict=True):
            found = [
                each for each in layers if dialect.offers(each, choice, helper.make_node(each.op, ["x", "w"], ["y"]))
            ]
            assert bool(found) == (cell != "-"), (choice, dialect.name)


OFFERED = {
    "float16 bfloat16 w8-load w4-b128 w4-b32 int8-static fp8-static nvfp4": layer("MatMul", 256, 64),
    "float16 bfloat16 w8-load w4-b32 int8-static fp8-static": layer("Gemm", 10, 32),
    "float16 bfloat16 w8-load int8-static fp8-static": layer("Conv", 8, 3, 3, 3),
    "float16 w8-load int8-static": layer("ConvTranspose", 8, 4, 2, 2),
    "float16": layer("ConvTranspose", 8, 4, 2, 2, group=2),
    "float16 bfloat16 w8-load w4-b128 w4-b32": layer("Gather", 100, 128),
}


@pytest.mark.parametrize(("choices", "of"), OFFERED.items())
def test_offers_what_it_can_write(choices: str, of: Layer) -> None:
    node = helper.make_node(of.op, ["x", "w"], ["y"])
    assert {c for c in ALL_CHOICES if TensorRt().offers(of, c, node)} == set(choices.split())


@pytest.mark.parametrize("choice", ["bfloat16", "fp8-static", "nvfp4"])
@pytest.mark.parametrize("op", ["MatMul", "Conv", "Gather"])
def test_the_cpu_is_not_offered_what_it_has_not(op: Any, choice: str) -> None:
    shape = (64, 64, 3, 3) if op == "Conv" else (64, 64)
    assert not OrtCpu().offers(layer(op, *shape), choice, helper.make_node(op, ["x", "w"], ["y"]))


NOT_ON = {
    "7.5": {"bfloat16", "fp8-static", "nvfp4", "w4-b32", "w4-b128"},
    "8.0": {"fp8-static", "nvfp4"},
    "8.6": {"fp8-static", "nvfp4"},
    "8.9": {"nvfp4"},
    "9.0": {"nvfp4"},
    "10.0": set(),
    "12.0": set(),
}


@pytest.mark.parametrize(("card", "lacking"), NOT_ON.items())
def test_cards_have_their_formats(card: str, lacking: set[str]) -> None:
    assert {choice for choice in ALL_CHOICES if not runs(card, choice)} == lacking
    assert {choice for choice in ALL_CHOICES if not TensorRt().runs(card, choice)} == lacking
    # ONNX Runtime brings its own kernels: of the formats only bfloat16 needs the card.
    assert {choice for choice in ALL_CHOICES if not OrtCuda().runs(card, choice)} == lacking & {"bfloat16"}


class Card:
    """A card of some compute capability that computes every layer in the precision it is given here."""

    def __init__(self, capability: str, precision: str) -> None:
        self.precision = precision
        self.asked: list[str] = []
        self.fingerprint = Fingerprint(
            machine="x86_64", system="Linux", cpu_model="made up", cores=1, memory_total=1 << 30, threads=1,
            accelerator=f"Made up, 1 MiB, compute capability {capability}, driver 1", runtime="tensorrt",
            runtime_version="0", provider="TensorRT", python="3.11", numpy="2",
        )  # fmt: skip

    def kernels(self, model: Path, inputs: dict[str, np.ndarray], *, runs: int = 2) -> tuple[Kernel, ...]:
        self.asked.append(model.name)
        names = [node.name for node in onnx.load(model).graph.node]
        fused = " + ".join(name for name in names if name.endswith(".node") and name != "Conv.node")
        made = [Kernel(node=fused, op=f"myelin:{self.precision}", provider="TensorRT", seconds=1e-6)]
        made.append(Kernel(node="Conv.node", op="Conv:float32", provider="TensorRT", seconds=1e-6))
        return tuple(made)


def test_a_probe_reads_precisions_and_spares_what_the_card_has_not(tmp_path: Path) -> None:
    card = Card("8.6", "int8")
    found = probe(card, TensorRt(), "made-up-8.6", tmp_path)
    assert found.supports("MatMul", "int8-static") and found.supports("Gemm", "w8-load")
    assert found.refused["Conv int8-static"] == "Conv:float32 ran instead"
    assert found.refused["MatMul float16"] == "myelin:int8 ran instead"
    assert found.refused["MatMul fp8-static"] == "the card does not have the format"
    assert not any("fp8" in name or "nvfp4" in name for name in card.asked)
