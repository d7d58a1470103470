"""Samplers by name: ours, or any of Optuna's."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import optuna
from optuna.samplers import BaseSampler

from autotune.errors import UsageError, did_you_mean
from autotune.search.surrogate import SurrogateSampler


def sampler_names() -> list[str]:
    """Short names: "surrogate", "tpe", "nsgaii", "random", ..."""
    return sorted(_classes())


def make_sampler(name: str, *, seed: int | None, options: Mapping[str, Any]) -> BaseSampler:
    """The sampler called `name` ("surrogate", "tpe", "TPESampler", "nsgaii", ...) with `options` as its arguments.

    `seed` is passed on to samplers that have one. Raises `UsageError` for an unknown name or option.
    """
    classes = _classes()
    short = _short(name)
    if short not in classes:
        raise UsageError(f"unknown sampler {name!r}; {did_you_mean(short, classes)}")
    kind = classes[short]
    known = inspect.signature(kind.__init__).parameters
    arguments = dict(options)
    for option in arguments:
        if option not in known or option == "self":
            raise UsageError(
                f"sampler {name!r} has no option {option!r}; {did_you_mean(option, set(known) - {'self'})}"
            )
    if "seed" in known:
        arguments.setdefault("seed", seed)
    try:
        return kind(**arguments)
    except (TypeError, ValueError) as error:
        raise UsageError(f"sampler {name!r} refuses its options: {error}") from error


def _classes() -> dict[str, type[BaseSampler]]:
    """Short name -> class, for all concrete samplers that this Optuna has, and ours."""
    found: dict[str, type[BaseSampler]] = {"surrogate": SurrogateSampler}
    for name in optuna.samplers.__all__:
        value = getattr(optuna.samplers, name)
        if inspect.isclass(value) and issubclass(value, BaseSampler) and not inspect.isabstract(value):
            found[_short(name)] = value
    return found


def _short(name: str) -> str:
    plain = name.lower().replace("-", "").replace("_", "")
    return plain.removesuffix("sampler") or plain
