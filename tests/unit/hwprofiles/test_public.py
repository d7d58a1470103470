"""`import hwprofiles` is light, its public names are what it says, and its example runs."""

from __future__ import annotations

import doctest
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import hwprofiles
from tests.unit.hwprofiles.conftest import save_dense


def in_a_fresh_process(code: str) -> Any:
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return json.loads(result.stdout)


def test_the_import_loads_nothing() -> None:
    modules = in_a_fresh_process("import json, sys, hwprofiles; print(json.dumps(list(sys.modules)))")
    assert not {"numpy", "pydantic", "scipy", "onnxruntime", "onnx", "autotune"} & set(modules)
    assert [name for name in modules if name.startswith("hwprofiles.")] == []


def test_the_public_names_load_no_runtime() -> None:
    code = (
        "import json, sys, hwprofiles; [getattr(hwprofiles, n) for n in hwprofiles.__all__]; "
        "print(json.dumps(list(sys.modules)))"
    )
    assert not {"onnxruntime", "onnx", "torch", "sqlalchemy", "autotune", "plotly"} & set(in_a_fresh_process(code))


@pytest.mark.parametrize("name", hwprofiles.__all__)
def test_every_public_name_is_there(name: str) -> None:
    found = getattr(hwprofiles, name)
    assert found.__module__.startswith("hwprofiles.") and found.__name__ == name
    assert name in dir(hwprofiles)


def test_a_function_is_not_hidden_by_a_module_of_its_name() -> None:
    """Importing the submodules in any order must not put a module in the place of a public name."""
    code = """
import importlib, json, pkgutil, types
import hwprofiles
for module in pkgutil.iter_modules(hwprofiles.__path__):
    importlib.import_module("hwprofiles." + module.name)
found = [name for name in hwprofiles.__all__ if isinstance(getattr(hwprofiles, name), types.ModuleType)]
print(json.dumps(found))
"""
    assert in_a_fresh_process(code) == []


def test_the_public_names_are_those_of_the_type_checker() -> None:
    source = Path(hwprofiles.__file__).read_text()
    block = source.partition("if TYPE_CHECKING:")[2].partition("_HOME =")[0]
    names = {word.strip("(),") for line in block.splitlines() for word in line.partition("import")[2].split()}
    names |= {line.strip(" ,") for line in block.splitlines() if line.startswith("        ")}
    assert names - {""} == set(hwprofiles.__all__)
    assert sorted(hwprofiles.__all__) == hwprofiles.__all__


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="compair"):
        hwprofiles.compair  # noqa: B018


@pytest.mark.slow
def test_the_example_of_the_docstring(own_folders: Path) -> None:
    save_dense(own_folders / "original.onnx", width=64)
    save_dense(own_folders / "small.onnx", width=8)
    (example,) = [test for test in doctest.DocTestFinder(recurse=False).find(hwprofiles) if test.examples]
    said: list[str] = []
    result = doctest.DocTestRunner(verbose=False).run(example, out=said.append)
    assert result.attempted >= 4 and result.failed == 0, "".join(said)
