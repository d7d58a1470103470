"""The examples of docs/measuring.md run as they stand."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

from hwprofiles.scenario import Scenario
from hwprofiles.scenarios import SCENARIOS
from tests.unit.hwprofiles.conftest import save_dense

DOCS = Path(__file__).parents[2] / "docs" / "measuring.md"


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", DOCS.read_text(), re.S | re.M)


@pytest.mark.slow
def test_the_python_examples(own_folders: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_dense(own_folders / "original.onnx", width=4096)
    save_dense(own_folders / "small.onnx", width=8)
    names: dict[str, object] = {}
    for block in blocks("python"):
        exec(compile(block, str(DOCS), "exec"), names)
    out = capsys.readouterr().out
    assert "local: small.onnx is fastest" in out and "of the original's time" in out
    assert "fastest: small.onnx on local" in out and Path("comparison.json").is_file()


def test_the_scenario_is_one() -> None:
    (block,) = blocks("toml")
    scenario = Scenario.model_validate(tomllib.loads(block))
    assert set(scenario.shapes) == {"short", "long"}


def test_every_flag_and_scenario_is_explained() -> None:
    from hwprofiles.comparison.words import FLAGS

    text = DOCS.read_text()
    for name in (*FLAGS, *SCENARIOS):
        assert f"`{name}`" in text
