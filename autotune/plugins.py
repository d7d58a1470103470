"""Extensions by name: built-ins and third parties register through the same entry points.

Groups: `hw_autotune.techniques`, `.dialects`, `.samplers`, `.metrics`, `.perturbations`,
`.reports`; `hwprofiles.runtimes`,
`hwprofiles.transports`.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from autotune.errors import UsageError, did_you_mean

# What the import of foreign code may reasonably raise; anything else is a bug worth its traceback.
_IMPORT_FAULTS = (
    ImportError,
    AttributeError,
    SyntaxError,
    NameError,
    TypeError,
    ValueError,
    LookupError,
    OSError,
    RuntimeError,
)


def names(group: str) -> list[str]:
    """The names that are registered in an entry-point group, sorted. Loads nothing."""
    return sorted({point.name for point in entry_points(group=group)})


def load(group: str, name: str) -> Any:
    """The object that is registered as `name` in `group`.

    Raises `UsageError` for an unknown name, a name that two packages claim, and an extension that fails to
    import.
    """
    point = _find(group, name)
    try:
        return point.load()
    except _IMPORT_FAULTS as error:
        cause = " ".join(f"{type(error).__name__}: {error}".split())
        raise UsageError(
            f"{_kind(group)} {name!r} ({point.value}) of the package {_package(point)} cannot be imported: "
            f"{cause}; repair or uninstall {_package(point)}"
        ) from error


def make(group: str, name: str, options: Mapping[str, object]) -> Any:
    """An object of the class that is registered as `name`, with `options` as its keyword arguments.

    Raises `UsageError` for an option that it does not have, or one of the wrong kind, beside those of `load`.
    """
    factory = load(group, name)
    parameters = inspect.signature(factory).parameters
    known = [key for key, each in parameters.items() if each.kind is not each.VAR_KEYWORD]
    for option in options if len(known) == len(parameters) else ():
        if option not in known:
            hint = did_you_mean(option, known) if known else "it has none"
            raise UsageError(f"{_kind(group)} {name} has no option {option!r}; {hint}")
    try:
        return factory(**options)
    except TypeError as error:
        raise UsageError(
            f"{_kind(group)} {name}: an option is of the wrong kind: {error}; lists are written [0.25, 0.5]"
        ) from error


def _find(group: str, name: str) -> EntryPoint:
    found = {point.value: point for point in entry_points(group=group, name=name)}
    if not found:
        raise UsageError(f"unknown {_kind(group)} {name!r}; {did_you_mean(name, names(group))}")
    if len(found) > 1:
        owners = " and ".join(sorted(f"{_package(point)} ({value})" for value, point in found.items()))
        raise UsageError(f"{_kind(group)} {name!r} is registered by {owners}; uninstall one of them")
    return next(iter(found.values()))


def _kind(group: str) -> str:
    """`hw_autotune.techniques` -> `technique`."""
    return group.rpartition(".")[2].removesuffix("s")


def _package(point: EntryPoint) -> str:
    return point.dist.name if point.dist is not None else point.value.partition(":")[0]
