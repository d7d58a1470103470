"""What `measure` and `compare` print, from made-up records: every number, and why one is missing."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.console import Console

from autotune.cli.compared import print_comparison
from autotune.cli.measured import print_measurement
from hwprofiles.comparison import Comparison, Row
from hwprofiles.measurement import Measurement
from tests.unit.made_up import compared, failed, measured, row

LONG = "a-model-with-quite-a-long-name-int8-static-per-channel.onnx"


def screen(width: int = 120) -> Console:
    return Console(file=io.StringIO(), width=width, highlight=False)


def text(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def printed(record: Measurement, width: int = 120) -> str:
    console = screen(width)
    print_measurement(console, record, Path("small.onnx"), Path("big.onnx"))
    return " ".join(text(console).split())


def compared_on(comparison: Comparison, width: int = 120) -> str:
    console = screen(width)
    print_comparison(console, comparison)
    return text(console)


def test_percentiles_say_what_they_need() -> None:
    words = printed(measured("small.onnx", "t", 0.010, 0.012))
    assert "p99 needs 662 samples, there are 640" in words and "p90 11 ms at most" in words


def test_energy_is_there_or_says_why_not() -> None:
    assert "50 mJ (49 mJ to 51 mJ) per inference above 3.0 W at rest, by rapl:package-0" in printed(
        measured("small.onnx", "t", 0.010, joules=0.05)
    )
    record = measured("small.onnx", "t", 0.010)
    assert "energy not asked for" in printed(record)
    wanted = record.model_copy(update={"scenario": record.scenario.model_copy(update={"energy_seconds": 5.0})})
    assert "energy no counter that could be read" in printed(wanted)


def test_memory_is_beyond_the_runtime() -> None:
    assert "memory 50 MB at its peak, 20 MB while loading; beyond the 90 MB of Python" in printed(
        measured("small.onnx", "t", 0.010)
    )


@pytest.mark.parametrize(
    ("seconds", "half", "claim"),
    [
        (0.008, 0.005, "small.onnx is faster than big.onnx"),
        (0.013, 0.005, "big.onnx is faster than small.onnx"),
        (0.01001, 0.005, "a tie"),
        (0.01001, 0.02, "they cannot be told apart yet"),
        (0.0102, 0.05, "they cannot be told apart yet, about 108 more pairs would settle it"),
    ],
)
def test_the_ratio_makes_a_claim(seconds: float, half: float, claim: str) -> None:
    assert claim in printed(measured("small.onnx", "t", seconds, 0.010, half=half))


def test_flags_are_explained() -> None:
    record = measured("small.onnx", "t", 0.010, quality=("contended", "short"))
    words = printed(record.model_copy(update={"environment": {"disturbed": "steal", "unread": "governor, energy"}}))
    assert "contended: something else used the machine" in words and "(steal)" in words
    assert "short: fewer pairs than a decision needs" in words
    assert "not read governor, energy" in words and "clocks unknown" in words


def test_emulated_times_are_called_so() -> None:
    assert "they say nothing about the hardware" in printed(measured("a", "t", 0.01, provenance="emulated"))


def rich(name: str = "small.onnx") -> Comparison:
    rows = [
        row(measured("big.onnx", "pi", 0.110, joules=0.9), "big.onnx", 0.02),
        row(measured(name, "pi", 0.046, 0.110, joules=0.4, quality=("noisy",)), name, 0.02),
        row(measured("big.onnx", "card", 0.004), "big.onnx", 0.35),
        row(failed(name, "card", "no kernel for Foo"), name),
        row(measured("big.onnx", "fake", 0.00001, provenance="emulated"), "big.onnx"),
        *(Row(model=model, target="gone", unavailable="no route to host") for model in ("big.onnx", name)),
    ]
    return compared(rows, prices={"pi": 0.02, "card": 0.35})


@pytest.mark.parametrize("width", [60, 80, 120, 200])
@pytest.mark.parametrize("name", ["small.onnx", LONG])
def test_it_fits_the_screen(width: int, name: str) -> None:
    shown = compared_on(rich(name), width)
    assert max(map(len, shown.splitlines())) <= width
    assert "…" not in shown or width < 80  # no number is cut off


def test_everything_is_on_the_screen() -> None:
    words = " ".join(compared_on(rich()).split())
    for fact in ("*! small.onnx 46 ms ±0.5 % 0.418x ±0.5 % 21.7", "50 MB", "400 mJ ±2 %", "0.256 ±0.5 %", "noisy",
                 "ran, but on something emulated, whose times say nothing: big.onnx",
                 "not measured: small.onnx: no kernel for Foo", "not measured: big.onnx, small.onnx: no route to host",
                 "pi: small.onnx is fastest; big.onnx takes 2.39 times as long",
                 "fake is emulated, not hardware"):  # fmt: skip
        assert fact in words, fact
    assert "10 µs" not in words  # of the emulated one


def test_a_line_per_shape() -> None:
    shapes = {"short": 1.0, "long": 3.0}
    rows = [
        row(measured("a", "t", 0.01, shapes=shapes), "a"),
        row(measured("b", "t", 0.02, 0.01, shapes=shapes), "b"),
    ]
    words = compared_on(compared(rows), 80)
    assert "shape" in words and "60 ms" in words and "t, long: a is fastest" in words


def test_names_bring_no_markup() -> None:
    assert "[red]x[/red].onnx" in compared_on(
        compared([row(measured("[red]x[/red].onnx", "t", 0.01), "[red]x[/red].onnx")])
    )
