from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest

from autotune.store import Store, open_store

WRITER = Path(__file__).parent / "writer.py"
ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="session")
def records() -> ModuleType:
    """`writer.py` as a module: functions that make whole records."""
    spec = importlib.util.spec_from_file_location("store_test_records", WRITER)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def place(tmp_path: Path) -> Path:
    return tmp_path / "run" / "store.db"


@pytest.fixture
def store(place: Path) -> Iterator[Store]:
    with open_store(place, "digits") as opened:
        yield opened


@pytest.fixture
def child() -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Starts Python programs that import this checkout; none outlives the test."""
    started: list[subprocess.Popen[str]] = []

    def start(*arguments: str, **options: object) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"},
            **options,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()
