"""The best configuration within limits, by the whole model: the linear programme, corrected and climbed.

Interactions of damage are not linear. The programme is therefore solved again with the whole model's excess over the
additive one at the last answer, until the whole model agrees that the limits are met; then single and double changes
that the whole model likes are made.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from autotune.search.surrogate.milp import Answer, Programme, quantities
from autotune.search.surrogate.model import Fitted
from autotune.search.surrogate.proposals import neighbours
from autotune.search.surrogate.space import Bools, Floats, Ints

ROUNDS = 4  # of correction
CLIMBS = 12
BASES = 3  # settings of the outer parameters that are solved for
GAP = 0.005
ROUGHLY = 1e-9  # how far a limit may be missed, relative to its scale


@dataclass(frozen=True)
class Within:
    """`config` (L,) with its `quantities` (M + S,); None where nothing is within the limits."""

    config: Ints | None
    quantities: Floats
    gap: float


@dataclass
class Question:
    """What is asked of one fit: the least `minimise` within `limits`, all columns of the quantities, minimised.

    An answer differs from every configuration (L,) of `avoid` in at least `apart` parameters, and from every one of
    `taken` at all. `nodes` ends a solve by work rather than by time, so that the answer is always the same.
    """

    minimise: int
    limits: Mapping[int, float]
    avoid: Sequence[Ints] = ()
    taken: Sequence[Ints] = ()
    apart: int = 1
    nodes: int | None = None
    gap: float = GAP

    @property
    def distances(self) -> list[tuple[Ints, int]]:
        """(configuration, in how many parameters an answer differs from it)."""
        return [(config, self.apart) for config in self.avoid] + [(config, 1) for config in self.taken]


def best_within(programme: Programme, question: Question, *, seconds: float, rng: np.random.Generator) -> Within:
    """The best that was found in about `seconds`."""
    fitted, ends = programme.fitted, time.monotonic() + seconds
    slices = 0 if programme.damage is None else programme.damage.shape[1]
    ratio, offset = np.ones(slices), np.zeros(programme.objectives)
    level = 0.05 * fitted.link.ceiling if fitted.link is not None and fitted.link.ceiling < 1e3 else 1.0
    found: list[Ints] = []
    gap, best = np.inf, None
    for _ in range(ROUNDS):
        answer = _ask(programme, question, ratio, offset, level, max(ends - time.monotonic(), 0.1))
        if answer.config is None:
            break
        config = answer.config
        met = quantities(fitted, config[None])
        repeated = any(np.array_equal(config, other) for other in found)
        found.append(config)
        good = bool(inside(met, question.limits)[0])
        if good and (best is None or met[0, question.minimise] < best):
            gap, best = answer.gap, float(met[0, question.minimise])
        if repeated:
            break
        before = ratio
        ratio, offset, level = _correction(programme, config, met[0], level)
        if good and np.allclose(before, ratio, rtol=0.01) and not np.abs(offset).any():
            break
    if not found:
        least = _least_excess(programme, question, ends) if question.limits else None
        if least is None:
            return Within(None, np.zeros(0), np.inf)
        found = [least]
    return _climbed(fitted, question, np.array(found), gap, rng, ends)


def promising(fitted: Fitted, question: Question, measured: Ints, *, most: int = BASES) -> Ints:
    """Those of `measured` (n, L) whose outer parameters are worth solving for: at most `most` different ones, the best
    first; one where there are no outer parameters."""
    if not len(fitted.space.outer):
        return measured[:1]
    return fitted.space.structures(measured[_order(quantities(fitted, measured), question)])[:most]


def least_alone(
    programme: Programme, question: Question, column: int, *, seconds: float, rng: np.random.Generator
) -> float:
    """By how much the limit on `column` must give for all others to be met; infinite where that alone is not enough."""
    others = {c: limit for c, limit in question.limits.items() if c != column}
    asked = replace(question, minimise=column, limits=others)
    found = best_within(programme, asked, seconds=seconds, rng=rng)
    if found.config is None:
        return float("inf")
    return max(float(found.quantities[column]) - question.limits[column], 0.0)


def _ask(
    programme: Programme, question: Question, ratio: Floats, offset: Floats, level: float, seconds: float
) -> Answer:
    work = {} if question.nodes is None else {"nodes": question.nodes}
    return programme.solve(question.minimise, question.limits, ratio=ratio, offset=offset, level=level,
                           distances=question.distances, gap=question.gap,
                           seconds=seconds if question.nodes is None else 60.0, **work)  # fmt: skip


def _correction(programme: Programme, config: Ints, met: Floats, level: float) -> tuple[Floats, Floats, float]:
    """What the whole model says of `config` beyond the programme: ratios of damage, differences of the objectives."""
    fitted = programme.fitted
    offset = np.zeros(programme.objectives)
    for m, tables in fitted.additive.items():
        offset[m] = met[m] - float(tables.predict(fitted.space, config[None])[0])
    if fitted.damage is None or fitted.worst is None:
        return np.zeros(0), offset, level
    whole, additive = fitted.damage.predict(config[None])[0], fitted.damage.additive(config[None])[0]
    ratio = np.where(additive > 0, whole / np.maximum(additive, 1e-300), 1.0)
    return np.maximum(ratio, 1e-3), offset, max(float(met[fitted.worst]), 1e-12)


def _least_excess(programme: Programme, question: Question, ends: float) -> Ints | None:
    """Where the programme sees nothing within the limits, interactions may: start from what misses one limit least."""
    slices = 0 if programme.damage is None else programme.damage.shape[1]
    hardest = list(question.limits)[-1] if programme.fitted.worst not in question.limits else programme.fitted.worst
    assert hardest is not None
    others = {c: limit for c, limit in question.limits.items() if c != hardest}
    relaxed = replace(question, minimise=hardest, limits=others, gap=0.05)
    answer = _ask(programme, relaxed, np.ones(slices), np.zeros(programme.objectives), 1.0,
                  max(ends - time.monotonic(), 0.2))  # fmt: skip
    return answer.config


def _climbed(
    fitted: Fitted, question: Question, starts: Ints, gap: float, rng: np.random.Generator, ends: float
) -> Within:
    """The best of `starts` (n, L), with every change that the whole model likes."""
    values = quantities(fitted, starts)
    least = _order(values, question)[0]
    config, value = starts[least], values[least]
    for _ in range(CLIMBS):
        near = neighbours(fitted.space, config, starts, rng)
        for other, apart in question.distances:
            near = near[(near != other).sum(1) >= apart]
        if not len(near):
            break
        reached = quantities(fitted, near)
        first = _order(np.concatenate([value[None], reached]), question)[0]
        if first == 0:
            break
        config, value = near[first - 1], reached[first - 1]
        if question.nodes is None and time.monotonic() > ends:
            break
    if not inside(value[None], question.limits)[0]:
        return Within(None, value, np.inf)
    return Within(config, value, gap if np.isfinite(gap) else 1.0)


def _order(values: Floats, question: Question) -> Ints:
    """Rows from best to worst: least violation first, then least objective."""
    violation = np.zeros(len(values))
    for column, limit in question.limits.items():
        violation += np.maximum(values[:, column] - limit, 0.0) / max(abs(limit), 1e-9)
    violation[inside(values, question.limits)] = 0.0
    return np.lexsort([values[:, question.minimise], violation])


def inside(values: Floats, limits: Mapping[int, float]) -> Bools:
    """Mask (n,) of the quantities (n, M + S) within all limits."""
    mask = np.ones(len(values), bool)
    for column, limit in limits.items():
        mask &= values[:, column] <= limit + ROUGHLY * max(abs(limit), 1e-3)
    return mask
