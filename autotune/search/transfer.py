"""How much a warm start helped: what it let one expect, against what was then measured."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from pydantic import BaseModel, ConfigDict, ValidationError
from scipy.stats import spearmanr

from autotune import pareto
from autotune.errors import DataError
from autotune.keys import WORST, MetricKey
from autotune.recipe import Recipe
from autotune.search.space import Space
from autotune.search.warm import Warm
from autotune.search.warm.tables import predicted_cost, predicted_damage
from autotune.store import Store
from autotune.trial import Trial

KEY = "transfer"  # of the store's meta
DAMAGE = "damage"  # the worst slice's divergence of outputs, which no metric key names
_FEWEST = 4  # trials below which a rank correlation says nothing


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Expectation(_Record):
    """One quantity: expected from earlier studies for `n` trials of this one, and then measured.

    `rank_correlation` is Spearman's, None for fewer than four trials or where all are alike. `median_error` is the
    median of |expected - measured| / measured; None where the two are not in one unit (damage against a drop).
    """

    key: str
    n: int
    rank_correlation: float | None
    median_error: float | None


class Transfer(_Record):
    """What a warm start brought. `recipes` are those of earlier studies that were tried here."""

    sources: tuple[str, ...]
    expectations: tuple[Expectation, ...]
    facts: int  # models whose damage or drop was known before the search began
    recipes: int
    recipes_on_front: int
    front: int  # compressed trials on the front

    @property
    def sentence(self) -> str:
        """In one line, without a full stop."""
        parts = [_said(found) for found in self.expectations if found.rank_correlation is not None]
        if self.recipes:
            parts.append(
                f"{self.recipes_on_front} of the {self.front} compressed trials of the front began as earlier recipes "
                f"({self.recipes} tried)"
            )
        return f"warm start: {'; '.join(parts) or 'too few trials to compare with what was expected'}"


class Meta(Protocol):
    """The part of a store that is read back."""

    def meta(self, key: str) -> Any:
        """What was kept under `key`."""


def keep_transfer(store: Store, warm: Warm, space: Space, objectives: Sequence[MetricKey]) -> Transfer | None:
    """Compare with what is recorded by now, and keep the result. Without a warm start None, and nothing is kept."""
    if not warm.notes:
        return None
    trials = store.trials(details=False)

    def damage_of(number: int) -> Mapping[str, float]:
        kept = store.meta(f"damage/{number}")
        return kept if isinstance(kept, Mapping) else {}

    found = transfer(warm, space, trials, objectives, damage_of)
    store.set_meta(KEY, found.model_dump(mode="json"))
    return found


def stored_transfer(store: Meta) -> Transfer | None:
    """What `keep_transfer` kept; None where nothing was. Raises `DataError` for something else."""
    kept = store.meta(KEY)
    if kept is None:
        return None
    try:
        return Transfer.model_validate(kept)
    except ValidationError as error:
        raise DataError("the store's saved 'transfer' cannot be read; it is damaged or of another version") from error


def transfer(
    warm: Warm,
    space: Space,
    trials: Sequence[Trial],
    objectives: Sequence[MetricKey],
    damage_of: Callable[[int], Mapping[str, float]],
) -> Transfer:
    """`damage_of`: trial number -> slice -> measured damage, {} where it is not known."""
    points = []
    for trial in trials:
        params = space.params(Recipe(trial.recipe)) if trial.number and trial.state != "running" else None
        if params is not None:
            points.append((trial, params))
    original = next((t for t in trials if t.number == 0), None)
    rows = []
    for key, table in warm.expected.costs.items():
        base = original.metrics.get(key) if original is not None else None
        pairs = [
            (base.value * (1 + change), trial.metrics[key].value)
            for trial, params in points
            if base is not None and key in trial.metrics and (change := predicted_cost(table, params)) is not None
        ]
        rows.append(_compared(key, pairs, in_one_unit=True))
    if warm.expected.damage:
        rows += _damage_rows(warm, points, damage_of)
    tried = {t.number for t, _ in points if Recipe(t.recipe) in set(warm.recipes)}
    front = _front(trials, objectives)
    return Transfer(
        sources=warm.notes,
        expectations=tuple(row for row in rows if row.n),
        facts=len(warm.trials),
        recipes=len(tried),
        recipes_on_front=len(tried & front),
        front=len(front),
    )


def _damage_rows(
    warm: Warm, points: Sequence[tuple[Trial, dict[str, str]]], damage_of: Callable[[int], Mapping[str, float]]
) -> list[Expectation]:
    damages, drops = [], []
    for trial, params in points:
        expected = predicted_damage(warm.expected.damage, params)
        if not expected:
            continue
        measured = damage_of(trial.number)
        shared = [name for name in expected if name in measured]
        if shared:
            damages.append((max(expected[n] for n in shared), max(measured[n] for n in shared)))
        drop = trial.metrics.get(f"drop/{WORST}")
        if drop is not None:
            drops.append((max(expected.values()), drop.value))
    return [
        _compared(DAMAGE, damages, in_one_unit=True),
        _compared(f"drop/{WORST}", drops, in_one_unit=False),
    ]


def _compared(key: str, pairs: Sequence[tuple[float, float]], *, in_one_unit: bool) -> Expectation:
    """(expected, measured) pairs."""
    rank = None
    expected, measured = np.array(pairs, float).reshape(-1, 2).T
    if len(pairs) >= _FEWEST and np.ptp(expected) > 0 and np.ptp(measured) > 0:
        rank = float(spearmanr(expected, measured).statistic)
    some = measured != 0
    error = float(np.median(np.abs(expected - measured)[some] / np.abs(measured)[some])) if some.any() else None
    return Expectation(key=key, n=len(pairs), rank_correlation=rank, median_error=error if in_one_unit else None)


def _front(trials: Sequence[Trial], objectives: Sequence[MetricKey]) -> set[int]:
    latest = [t.model_copy(update={"metrics": {**t.metrics, **t.final}}) for t in trials]
    return {t.number for t in pareto.front(latest, objectives) if t.number}


def _said(found: Expectation) -> str:
    error = f", median error {100 * found.median_error:.0f} %" if found.median_error is not None else ""
    return f"{found.key} was expected with rank correlation {found.rank_correlation:.2f}{error} ({found.n} trials)"
