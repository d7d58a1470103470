"""The user's task: import `task.py` from the study folder, call its function, check the Workload it returns.

This runs the user's code by design. Everything that goes wrong in there comes out as one `DataError` with the
file and line of the user's code; the exception itself is its cause.
"""

from __future__ import annotations

import hashlib
import importlib.util
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, TracebackType

from autotune.config.loader import LoadedStudy, check_metric_keys
from autotune.config.workload_checks import cannot_recover, check_workload
from autotune.errors import AutotuneError, ConfigError, DataError, did_you_mean
from autotune.workload import Workload

__all__ = ["call_task", "cannot_recover", "check_workload", "load_workload"]


def load_workload(loaded: LoadedStudy, *, say: Callable[[str], None] | None = None) -> Workload:
    """Import the study's task and call its function; `say` is told which code is going to run.

    Raises `ConfigError` when the task cannot be found, `DataError` when it fails or returns what cannot be
    searched.
    """
    workload = call_task(loaded, say=say)
    check_workload(workload, table=loaded.config.slices, floor=loaded.config.judge.floor)
    check_metric_keys(loaded, workload.metric_name)
    if loaded.config.recover is not None and (problem := cannot_recover(loaded.config.recover, workload)):
        raise loaded.source.error(("recover",), problem)
    return workload


def call_task(loaded: LoadedStudy, *, say: Callable[[str], None] | None = None) -> Workload:
    """The same without a look at what is in the Workload."""
    file, function_name = _find_task(loaded)
    if say is not None:
        say(f"running the study's own code: {file}:{function_name}")
    with _UserCode(file), _ImportFolder(loaded.folder):
        module = _import(file)
        function = getattr(module, function_name, None)
        if callable(function):
            workload = function()
    if not callable(function):
        names = [n for n, v in vars(module).items() if callable(v) and getattr(v, "__module__", "") == module.__name__]
        raise loaded.source.error(
            ("workload", "task"),
            f"{file.name} has no function {function_name!r}; {did_you_mean(function_name, names)}",
        )
    if not isinstance(workload, Workload):
        raise DataError(
            f"{file}: {function_name}() must return an autotune.Workload, it returned {type(workload).__name__}"
        )
    return workload


def _find_task(loaded: LoadedStudy) -> tuple[Path, str]:
    task = loaded.config.workload.task
    name, colon, function = task.partition(":")
    file = loaded.folder / name
    wrong = None
    if not colon or not function.isidentifier() or not name.endswith(".py"):
        wrong = f"{task!r} is not FILE.py:FUNCTION"
    elif not file.resolve().is_relative_to(loaded.folder.resolve()):
        wrong = f"{name} is not inside the study folder {loaded.folder}"
    elif not file.is_file():
        wrong = f"there is no file {file}"
    if wrong is not None:
        raise loaded.source.error(("workload", "task"), wrong)
    return file, function


def _import(file: Path) -> ModuleType:
    # A name of its own, so that the tasks of two studies in one process do not overwrite each other.
    name = f"autotune_task_{hashlib.sha256(str(file.resolve()).encode()).hexdigest()[:12]}"
    spec = importlib.util.spec_from_file_location(name, file)
    if spec is None or spec.loader is None:
        raise ConfigError(f"{file}: not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # so that dataclasses and pickles of the task find their module
    spec.loader.exec_module(module)
    return module


class _ImportFolder:
    """While the task is imported and called, modules beside it can be imported as in a script."""

    def __init__(self, folder: Path) -> None:
        self._entry = str(folder.resolve())

    def __enter__(self) -> None:
        sys.path.insert(0, self._entry)

    def __exit__(self, *_: object) -> None:
        sys.path.remove(self._entry)


class _UserCode:
    """Turns whatever the user's code raises, `SystemExit` included, into one `DataError`; an interrupt
    passes.
    """

    def __init__(self, file: Path) -> None:
        self._file = file

    def __enter__(self) -> None:
        return None

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None or isinstance(error, KeyboardInterrupt | AutotuneError | MemoryError | GeneratorExit):
            return
        if isinstance(error, SyntaxError) and error.filename is not None:
            raise DataError(f"{error.filename}:{error.lineno}: {error.msg}") from error
        folder = str(self._file.parent.resolve())
        own = [f for f in traceback.extract_tb(trace) if str(Path(f.filename).resolve()).startswith(folder)]
        place = f"{own[-1].filename}:{own[-1].lineno}: in {own[-1].name}" if own else str(self._file)
        message = " ".join(str(error).split()) or "no message"
        raise DataError(f"{place}: {type(error).__name__}: {message}") from error
