"""Questions to a fitted model: the best configuration within limits, predictions, contributions of parameters."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from autotune.errors import UsageError
from autotune.search.surrogate.milp import Programme
from autotune.search.surrogate.model import Fitted
from autotune.search.surrogate.solution import Solution
from autotune.search.surrogate.space import Floats, Ints, Space
from autotune.search.surrogate.within import Question, best_within, least_alone, promising

SLICE = "drop/"  # before the name of a slice in `Solution.excess`


def encoded(space: Space, params: Sequence[Mapping[str, Any]]) -> Ints:
    """Configurations (n, L). Raises `UsageError` for what is no configuration of the space."""
    configs = [space.encode(one) for one in params]
    for one, config in zip(params, configs, strict=True):
        if config is None:
            raise UsageError(f"{dict(one)!r} is no configuration of the search space: give every parameter one of its "
                             "choices")  # fmt: skip
    return np.array(configs, np.int64).reshape(len(configs), len(space))


def solution(
    fitted: Fitted,
    sign: Floats,
    minimise: int,
    limits: Mapping[int, float],
    slices: Sequence[str],
    measured: Ints,
    *,
    seconds: float,
) -> Solution:
    """The predicted best `minimise` within `limits`, columns of the quantities, minimised (`options.columns`).

    `slices` are the names of the columns after the objectives. Half the time is for the solution, half, where there
    is none, for what each limit would have to give. Outer parameters are as in the most promising of `measured` (n, L).
    """
    began = time.monotonic()
    rng = np.random.default_rng(0)
    question = Question(minimise, limits)
    bases = promising(fitted, question, measured)
    programmes = [Programme(fitted.under(base)) for base in bases]
    answers = [best_within(p, question, seconds=seconds / len(bases), rng=rng) for p in programmes]
    found = min(answers, key=lambda a: np.inf if a.config is None else float(a.quantities[minimise]))
    if found.config is not None:
        values = fitted.predict(found.config[None])[0] * sign
        return Solution(fitted.space.decode(found.config), tuple(float(v) for v in values), {}, found.gap,
                        time.monotonic() - began)  # fmt: skip
    objectives = len(sign)
    excess = {}
    for column in limits:
        name = str(column) if column < objectives else SLICE + slices[column - objectives]
        each = seconds / len(limits) / len(programmes)
        excess[name] = min(least_alone(p, question, column, seconds=each, rng=rng) for p in programmes)
    return Solution(None, (), excess, 0.0, time.monotonic() - began)


def contributions(fitted: Fitted, sign: Floats, config: Ints) -> dict[int, dict[str, float]]:
    """Objective -> parameter -> what its choice in `config` (L,) adds, with half of the price of every switch.

    Of the worst objective: the parameter's share of the damage of the slice that drops most, times that drop.
    """
    space = fitted.space
    rows = np.arange(len(space))
    found = {}
    for m, tables in fitted.additive.items():
        weights = space.weights(config[None])
        parts = tables.node[rows, config] * (1.0 if weights is None else weights[0])
        for pairs, costs in ((space.edges, tables.edge), (tables.pairs, tables.far)):
            if len(pairs):
                half = costs * space.differ(config[None], pairs)[0] / 2
                np.add.at(parts, pairs[:, 0], half)
                np.add.at(parts, pairs[:, 1], half)
        found[m] = parts * sign[m]
    if fitted.worst is not None and fitted.damage is not None:
        drops = fitted.drops(config[None])[0]
        hardest = int(drops.argmax())
        damage = fitted.damage.table[rows, config, hardest]
        found[fitted.worst] = drops[hardest] * damage / max(float(damage.sum()), 1e-300)
    return {m: dict(zip(space.names, map(float, found[m]), strict=True)) for m in sorted(found)}
