"""`import autotune` is cheap, and its public names are what it says."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest

import autotune

HEAVY = {
    "torch",
    "onnxruntime",
    "onnx",
    "optuna",
    "sqlalchemy",
    "numpy",
    "scipy",
    "pydantic",
    "typer",
    "rich",
    "plotly",
}


def in_a_fresh_process(code: str) -> Any:
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return json.loads(result.stdout)


def test_the_import_loads_nothing_heavy_and_takes_little_cpu() -> None:
    code = (
        "import json, sys, time; before = time.process_time(); import autotune; "
        "print(json.dumps([time.process_time() - before, list(sys.modules)]))"
    )
    seconds, modules = in_a_fresh_process(code)
    assert not HEAVY & set(modules)
    assert seconds < 0.3  # CPU time of one process, not wall time


@pytest.mark.parametrize("module", ["autotune.errors", "autotune.workload", "autotune.config", "autotune.cli.app"])
def test_the_light_parts_stay_light(module: str) -> None:
    modules = in_a_fresh_process(f"import json, sys, {module}; print(json.dumps(list(sys.modules)))")
    assert not {"torch", "onnxruntime", "optuna", "sqlalchemy", "scipy", "plotly"} & set(modules)


@pytest.mark.parametrize("name", autotune.__all__)
def test_every_public_name_is_there(name: str) -> None:
    assert getattr(autotune, name) is not None
    assert name in dir(autotune)


def test_the_public_names_are_those_of_the_type_checker() -> None:
    """`__all__`, the lazy table and the imports for type checkers name the same things."""
    from pathlib import Path

    source = Path(autotune.__file__).read_text()
    block = source.partition("if TYPE_CHECKING:")[2].partition("__version__")[0]
    imported = {
        name.strip() for line in block.splitlines() if " import " in line for name in line.split("import")[1].split(",")
    }
    assert imported | {"__version__"} == set(autotune.__all__)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="optimise"):
        autotune.optimise  # noqa: B018


def test_torch_is_not_needed_to_import_anything_public() -> None:
    code = """
import json, sys
class NoTorch:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "torch":
            raise ModuleNotFoundError("torch is not installed")
sys.meta_path.insert(0, NoTorch())
import autotune
print(json.dumps([name for name in autotune.__all__ if getattr(autotune, name) is not None]))
"""
    assert in_a_fresh_process(code) == autotune.__all__
