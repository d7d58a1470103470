"""Tables of an earlier study's contributions, for the variables of this one."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import numpy as np

from autotune.recipe import NONE, Recipe
from autotune.search.space import Space, Variable
from autotune.search.warm.additive import MOST_ROWS, Floats, cost_fit, damage_fit
from autotune.search.warm.earlier import Earlier
from autotune.trial import Trial

CostTable = dict[str, dict[str, float]]  # parameter -> choice -> contribution, as a share of the original's
DamageTable = dict[str, dict[str, dict[str, float]]]  # parameter -> choice -> slice -> damage

_FEWEST = 3  # trials below which nothing is read off them


def cost_table(earlier: Earlier, key: str, variables: Sequence[Variable]) -> tuple[CostTable, int]:
    """What every choice adds to the metric `key` of the earlier study, and from how many of its trials.

    Empty, from none, where too few trials have it.
    """
    original = earlier.original.metrics.get(key)
    rows = _even([t for t in earlier.compressed if key in t.metrics])
    if original is None or not original.value > 0 or len(rows) < _FEWEST:
        return {}, 0
    layers, choices, x = _design([Recipe(t.recipe) for t in rows], _techniques(variables))
    changes = np.array([t.metrics[key].value / original.value - 1.0 for t in rows])
    found = cost_fit(x, changes, _shares(earlier, layers))
    table: CostTable = {}
    for variable in variables:
        row = {NONE: 0.0}
        for choice in variable.choices[1:]:
            cells = [_cell(layers, choices, layer, variable.technique, choice) for layer in variable.layers]
            if all(cell is not None for cell in cells):
                row[choice] = float(sum(found[cell] for cell in cells if cell is not None))
        if len(row) > 1:
            table[variable.name] = row
    return table, len(rows)


def damage_table(
    earlier: Earlier, variables: Sequence[Variable], space: Space, slices: Collection[str]
) -> tuple[DamageTable, int]:
    """The damage of every choice in every slice that both studies have, and from how many models.

    Besides the trials those models count in which one variable alone was compressed.
    """
    trials = _even([t for t in earlier.compressed if earlier.damage.get(t.number)])
    models = [(Recipe(t.recipe), earlier.damage[t.number]) for t in trials]
    models += _alone(earlier, variables, space)
    names = sorted({name for _, damage in models for name in damage if name in slices})
    if not names or len(models) < _FEWEST:
        return {}, 0
    layers, choices, x = _design([recipe for recipe, _ in models], _techniques(variables))
    found = damage_fit(x, np.array([[damage.get(name, np.nan) for name in names] for _, damage in models]))
    table: DamageTable = {}
    for variable in variables:
        row: dict[str, dict[str, float]] = {NONE: dict.fromkeys(names, 0.0)}
        for choice in variable.choices[1:]:
            cells = [_cell(layers, choices, layer, variable.technique, choice) for layer in variable.layers]
            if all(cell is not None for cell in cells):
                total = np.sum([found[cell] for cell in cells if cell is not None], axis=0)
                row[choice] = {n: float(v) for n, v in zip(names, total, strict=True) if np.isfinite(v)}
        if len(row) > 1:
            table[variable.name] = row
    return table, len(models)


def whole_costs(table: CostTable, variables: Sequence[Variable], unit: float) -> CostTable:
    """The table with a value for every choice of the parameters in it, in units of `unit`.

    What was never tried is believed to be like the other choices of the same parameter: neutral.
    """
    found: CostTable = {}
    for variable in variables:
        known = table.get(variable.name)
        if known:
            middle = float(np.mean([value for choice, value in known.items() if choice != NONE]))
            found[variable.name] = {choice: unit * known.get(choice, middle) for choice in variable.choices}
    return found


def whole_damage(table: DamageTable, variables: Sequence[Variable]) -> DamageTable:
    """As `whole_costs`, with the geometric mean per slice."""
    found: DamageTable = {}
    for variable in variables:
        known = {choice: cell for choice, cell in table.get(variable.name, {}).items() if choice != NONE and cell}
        if known:
            names = sorted(set.intersection(*(set(cell) for cell in known.values())))
            logs = {n: [np.log(max(cell[n], 1e-12)) for cell in known.values()] for n in names}
            middle = {name: float(np.exp(np.mean(values))) for name, values in logs.items()}
            found[variable.name] = {choice: known.get(choice, middle) for choice in variable.choices[1:]}
            found[variable.name][NONE] = dict.fromkeys(names, 0.0)
    return found


def predicted_cost(table: CostTable, params: Mapping[str, str]) -> float | None:
    """Relative change of a point against the original; None where too little of it is known."""
    known = [table[name][choice] for name, choice in params.items() if choice in table.get(name, {})]
    wanted = sum(choice != NONE for choice in params.values())
    found = sum(choice != NONE and choice in table.get(name, {}) for name, choice in params.items())
    return sum(known) if wanted and found >= 0.8 * wanted else None


def predicted_damage(table: DamageTable, params: Mapping[str, str]) -> dict[str, float]:
    """Slice -> damage of a point; {} where too little of it is known."""
    cells = [table[name][choice] for name, choice in params.items() if choice != NONE and choice in table.get(name, {})]
    wanted = sum(choice != NONE for choice in params.values())
    if not wanted or len(cells) < 0.8 * wanted:
        return {}
    names = set.intersection(*(set(cell) for cell in cells))
    return {name: sum(cell[name] for cell in cells) for name in sorted(names)}


def _alone(earlier: Earlier, variables: Sequence[Variable], space: Space) -> list[tuple[Recipe, Mapping[str, float]]]:
    nothing = {variable.name: NONE for variable in space.variables}
    found = []
    for variable in variables if earlier.alone else ():
        for choice in variable.choices[1:]:
            recipe = space.recipe(nothing | {variable.name: choice})
            plain = Recipe({variable.technique: dict.fromkeys(variable.layers, choice)})  # without graph-wide decisions
            damage = earlier.alone.get(recipe.digest) or earlier.alone.get(plain.digest)
            if damage:
                found.append((recipe, damage))
    return found


def _techniques(variables: Sequence[Variable]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(variable.technique for variable in variables))


def _even(trials: Sequence[Trial]) -> list[Trial]:
    """At most as many as a fit takes, from all over the study."""
    if len(trials) <= MOST_ROWS:
        return list(trials)
    return [trials[int(i)] for i in np.linspace(0, len(trials) - 1, MOST_ROWS)]


def _design(recipes: Sequence[Recipe], techniques: Sequence[str]) -> tuple[list[str], list[str], Floats]:
    """Layers, choices ("technique/choice") and the (n, L, C) array of who takes what."""
    layers: dict[str, int] = {}
    choices: dict[str, int] = {}
    taken = []
    for i, recipe in enumerate(recipes):
        for technique in techniques:
            for layer, choice in recipe[technique].items():
                label = f"{technique}/{choice}"
                taken.append((i, layers.setdefault(layer, len(layers)), choices.setdefault(label, len(choices))))
    x = np.zeros((len(recipes), len(layers), len(choices)))
    if taken:
        x[tuple(np.array(taken).T)] = 1.0
    return list(layers), list(choices), x


def _cell(
    layers: Sequence[str], choices: Sequence[str], layer: str, technique: str, choice: str
) -> tuple[int, int] | None:
    label = f"{technique}/{choice}"
    return (layers.index(layer), choices.index(label)) if layer in layers and label in choices else None


def _shares(earlier: Earlier, layers: Sequence[str]) -> Floats:
    """About how much of the original each layer is: by its time where that was seen, else by its parameters."""
    seconds = {outcome.layer: outcome.seconds for outcome in earlier.original.layers}
    times = np.array([seconds.get(layer, 0.0) for layer in layers])
    if times.sum() <= 0:
        times = np.array([float(earlier.layers[n][1]) if n in earlier.layers else 0.0 for n in layers])
    total = times.sum()
    even = np.full(len(layers), 1.0 / len(layers))
    return np.asarray(0.9 * times / total + 0.1 * even if total > 0 else even)
