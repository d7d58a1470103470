"""Pages of benchmarks: what is missed is said, and computed from the recorded rows."""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
RESULTS = BENCHMARKS / "results"


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], ModuleType]]:
    monkeypatch.setattr(sys, "path", [str(BENCHMARKS), *sys.path])
    before = set(sys.modules)
    yield importlib.import_module
    for name in set(sys.modules) - before:
        if str(BENCHMARKS) in (getattr(sys.modules[name], "__file__", None) or ""):
            del sys.modules[name]


def test_rows_outside_the_plain_band_are_counted(script: Callable[[str], ModuleType]) -> None:
    verdicts = script("verdicts")
    rows = [{"coverage": value} for value in (0.929, 0.93, 0.97, 0.971, 1.0)]
    (found,) = verdicts.outside_plain({"graded_drops": rows, "power": [{"fail": 0.5}]})
    assert found == ("graded_drops", 5, 1, 2, 0.929, 1.0)
    page = verdicts.markdown({}, [], [found], "How.")
    assert "How. Outside the plain 93 to 97 %" in page
    assert "| drop of graded scores | 5 | 1 | 2 | 92.9 % | 100.0 % |" in page


def test_the_page_of_verdicts_is_that_of_its_rows(
    script: Callable[[str], ModuleType], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    verdicts = script("verdicts")
    copy = tmp_path / "verdicts.json"
    copy.write_text((RESULTS / "verdicts.json").read_text())
    monkeypatch.setattr(sys, "argv", ["verdicts.py", "--from-json", "--out", str(copy)])
    assert verdicts.main() == 0
    assert copy.with_suffix(".md").read_text() == (RESULTS / "verdicts.md").read_text()


def test_the_criterion_of_variants_names_what_is_missed(script: Callable[[str], ModuleType]) -> None:
    variants = script("search_variants")

    def row(problem: object, *scores: float) -> dict[str, object]:
        named = dict(zip(("50", "150", "300"), scores, strict=True))
        return {"sampler": "surrogate", "inter": problem, "score": named}

    rows = [row("ratios", 0.5, 0.85, 0.9), row("graph", 0.7, 0.7, 0.9), row("fused", 0.7, 0.9, 0.9)]
    said = variants.criterion(rows, [row(0.05, 0.75, 0.9, 0.95), row(0.2, 0.0, 0.0, 0.0)])
    assert "(interaction 0.05: 0.750 / 0.900 / 0.950 at 50 / 150 / 300 evaluations)" in said
    assert "- At 50: missed on `ratios` (0.250 behind); reached on `graph` (0.050 behind), `fused`" in said
    assert "- At 150: missed on `graph` (0.200 behind); reached on" in said
    assert "- At 300: reached on `ratios`" in said
    known, testbed = (json.loads((RESULTS / f"search_{n}.json").read_text())["rows"] for n in ("variants", "testbed"))
    assert (RESULTS / "search_variants.md").read_text().endswith(variants.criterion(known, testbed))


def test_what_asking_costs_is_told_as_it_was_measured() -> None:
    """The table of docs/sampler.md against the recorded rows: the first `ask` of a batch carries the refit."""
    text = (BENCHMARKS.parent / "docs" / "sampler.md").read_text()
    for row in json.loads((RESULTS / "ask_cost.json").read_text())["rows"]:
        cost, memory = row["cpu_seconds"], row["memory_mib"]
        seconds = (f"{cost[name]:.2g} s" for name in ("batch", "most", "per_proposal", "resume"))
        assert f"| {row['trials']} | {' | '.join(seconds)} | {memory['peak']} MiB |" in text
        assert cost["most"] > 0.5 > cost["per_proposal"], "only the mean stays below half a second"
    assert f"the {memory['peak']} MiB {memory['loaded']} are there before the first proposal" in text
    assert "search-experiments.md" in text
