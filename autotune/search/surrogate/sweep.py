"""A Lagrangian sweep: weighted sums of the objectives, each solved exactly over the chain by dynamic programming."""

from __future__ import annotations

import numpy as np

from autotune.search.surrogate.model import Fitted
from autotune.search.surrogate.space import Floats, Ints, Space

DIRECTIONS = 160
SLICE_ROUNDS = 12  # multiplicative updates of the slice weights toward the worst slice
SLICE_STEP = 0.5


def viterbi(space: Space, node: Floats, edge: Floats) -> Ints:
    """Configurations (D, L) of least cost for `D` problems: `node` (D, L, K), `edge` (D, L - 1) a cost per switch."""
    problems, layers, width = node.shape
    best = np.where(space.valid[0], node[:, 0], np.inf)
    came = np.zeros((problems, layers, width), np.int64)
    for l in range(1, layers):  # noqa: E741
        switch = space.labels[l - 1][:, None] != space.labels[l][None, :]
        through = best[:, :, None] + edge[:, l - 1, None, None] * switch
        came[:, l] = through.argmin(1)
        arrive = np.take_along_axis(through, came[:, l][:, None, :], axis=1)[:, 0]
        best = np.where(space.valid[l], arrive + node[:, l], np.inf)
    configs = np.zeros((problems, layers), np.int64)
    configs[:, -1] = best.argmin(1)
    rows = np.arange(problems)
    for l in range(layers - 1, 0, -1):  # noqa: E741
        configs[:, l - 1] = came[rows, l, configs[:, l]]
    return configs


def sweep(fitted: Fitted, reference: Floats, rng: np.random.Generator, *, directions: int = DIRECTIONS) -> Ints:
    """Distinct configurations (n, L) that are best for some random weighting of the predicted objectives."""
    space = fitted.space
    node, edge = _weighted_costs(fitted, rng, directions)
    if fitted.worst is None or fitted.damage is None or fitted.link is None:
        return np.unique(viterbi(space, node, edge), axis=0)
    at_reference = np.maximum(fitted.link.damage(max(float(reference[fitted.worst]), 1e-12)), 1e-300)
    table = fitted.damage.table / at_reference
    strength = np.exp(rng.uniform(np.log(0.03), np.log(30.0), directions))[:, None, None]
    if not fitted.additive:
        strength = np.ones((directions, 1, 1))
    flat = table.reshape(-1, table.shape[2])
    weights = np.full((directions, table.shape[2]), 1.0 / table.shape[2])
    found = []
    for _ in range(SLICE_ROUNDS if table.shape[2] > 1 else 1):
        damage = (weights @ flat.T).reshape(directions, *space.labels.shape)
        configs = viterbi(space, node + strength * damage, edge)
        found.append(configs)
        reached = flat[space.nodes(configs)].sum(1)
        top = np.maximum(reached.max(1, keepdims=True), 1e-300)
        weights = weights * np.exp(SLICE_STEP * (reached / top - 1))
        weights /= weights.sum(1, keepdims=True)
    return np.unique(np.concatenate(found), axis=0)


def _weighted_costs(fitted: Fitted, rng: np.random.Generator, directions: int) -> tuple[Floats, Floats]:
    """Costs of the additive objectives, each scaled by the span of its table, under random convex weights."""
    space = fitted.space
    node = np.zeros((directions, *space.labels.shape))
    edge = np.zeros((directions, len(space) - 1))
    if not fitted.additive:
        return node, edge
    shares = rng.dirichlet(np.ones(len(fitted.additive)), directions)
    for share, tables in zip(shares.T, fitted.additive.values(), strict=True):
        low = np.where(space.valid, tables.node, np.inf).min(1)
        high = np.where(space.valid, tables.node, -np.inf).max(1)
        span = float((high - low).sum()) or 1.0
        node += share[:, None, None] * (tables.node / span)
        edge += share[:, None] * (tables.edge / span)
    return node, edge
