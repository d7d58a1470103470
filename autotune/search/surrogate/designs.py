"""The configurations to begin with: uniform ones, then balanced designs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from autotune.errors import UsageError
from autotune.search.surrogate.space import Ints, Space

FEWEST_DESIGNS = 16
OUTER_CHANGES = 2  # outer parameters that a design changes


def uniform_anchors(space: Space) -> Ints:
    """Every parameter at its k-th choice, for every k, where all share their choices. Otherwise one configuration per
    label: every parameter that has the choice takes it, the others stay at their first. Distinct rows (n, L)."""
    if len(set(space.choices)) == 1:
        return np.tile(np.arange(int(space.counts[0]))[:, None], (1, len(space)))
    anchors = [np.zeros(len(space), np.int64)]
    for label in range(len(space.label_names)):
        has = space.labels == label
        anchors.append(np.where(has.any(1), has.argmax(1), 0))
    _, first = np.unique(np.array(anchors), axis=0, return_index=True)
    return np.array(anchors)[np.sort(first)]


def given_anchors(space: Space, anchors: Sequence[Mapping[str, Any]]) -> Ints:
    """Raises `UsageError` for an anchor that is no configuration of the space."""
    configs = []
    for anchor in anchors:
        config = space.encode(anchor)
        if config is None:
            raise UsageError(f"anchor {dict(anchor)!r} is no configuration of the search space: give every parameter "
                             "one of its choices")  # fmt: skip
        configs.append(config)
    return np.array(configs, np.int64).reshape(len(configs), len(space))


def anchor_choice(anchor: Mapping[str, Any], name: str, choices: Sequence[Any]) -> Any:
    """What `anchor` says of one parameter, where the space is not known yet; the first choice where it says nothing.

    Raises `UsageError` for what is none of the choices.
    """
    choice = anchor.get(name, choices[0])
    if not any(type(choice) is type(each) and choice == each for each in choices):  # 1 and True are not the same
        raise UsageError(f"anchor {dict(anchor)!r}: parameter {name!r} has no choice {choice!r}; it has "
                         f"{', '.join(map(repr, choices))}")  # fmt: skip
    return choice


def design_count(space: Space) -> int:
    """How many designs: enough to see every choice of every parameter several times, at most a quarter of a small
    space."""
    wanted = max(FEWEST_DESIGNS, 2 * int(space.counts.max()))
    return int(min(wanted, np.exp(min(space.log_size, 20.0)) // 4))


def balanced_designs(space: Space, count: int, rng: np.random.Generator) -> Ints:
    """(count, L): every parameter takes each of its choices equally often (as nearly as `count` allows), in an order
    of its own.

    Outer parameters stay at their first choice but for one or two in each design: all of them changed at once say
    nothing about any one.
    """
    columns = [rng.permutation(count) % k for k in space.counts]
    configs = np.array(columns, np.int64).T.reshape(count, len(space))
    if len(space.outer):
        turns = [(parameter, choice) for parameter in space.outer for choice in range(1, space.counts[parameter])]
        order = rng.permutation(len(turns))
        configs[:, space.outer] = 0
        for i in range(OUTER_CHANGES * count if turns else 0):
            parameter, choice = turns[order[i % len(turns)]]
            configs[i % count, parameter] = choice
    return configs
