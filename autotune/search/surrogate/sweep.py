"""A Lagrangian sweep: weighted sums of the objectives, each solved by dynamic programming over the edges."""

from __future__ import annotations

import numpy as np

from autotune.search.surrogate.model import Fitted
from autotune.search.surrogate.space import Bools, Floats, Ints, Space, distinct

DIRECTIONS = 160
SLICE_ROUNDS = 12  # multiplicative updates of the slice weights toward the worst slice
SLICE_STEP = 0.5


def viterbi(space: Space, node: Floats, edge: Floats) -> Ints:
    """Configurations (D, L) of least cost for `D` problems: `node` (D, L, K), `edge` (D, L - 1) a cost per switch
    between neighbours in the chain."""
    layers = np.arange(len(space))
    return least_cost(space, node, np.stack([layers[:-1], layers[1:]], axis=1), edge)


def least_cost(space: Space, node: Floats, edges: Ints, cost: Floats) -> Ints:
    """Configurations (D, L) of least cost for `D` problems: `node` (D, L, K), `cost` (D, E) of a switch at `edges`
    (E, 2). Exact where the edges make a forest. Otherwise exact for the forest of the dearest edges, then each layer in
    turn takes what is best beside all its neighbours."""
    in_forest = forest(len(space), edges, np.abs(cost).mean(0)) if len(edges) else np.zeros(0, bool)
    configs = _on_forest(space, node, edges[in_forest], cost[:, in_forest])
    if in_forest.all():
        return configs
    return _in_turn(space, node, edges, cost, configs)


def forest(layers: int, edges: Ints, weight: Floats) -> Bools:
    """Mask (E,) of a spanning forest of greatest weight (Kruskal)."""
    root = list(range(layers))

    def find(layer: int) -> int:
        while root[layer] != layer:
            root[layer] = root[root[layer]]
            layer = root[layer]
        return layer

    kept = np.zeros(len(edges), bool)
    for e in np.argsort(-weight, kind="stable"):
        a, b = (find(int(layer)) for layer in edges[e])
        if a != b:
            root[a] = b
            kept[e] = True
    return kept


def _on_forest(space: Space, node: Floats, edges: Ints, cost: Floats) -> Ints:
    problems, layers, width = node.shape
    order, parent, above = _rooted(layers, edges)
    best = np.where(space.valid, node, np.inf)
    came = np.zeros((problems, layers, width), np.int64)  # of a layer: its best choice for every choice of its parent
    for l in reversed(order):  # noqa: E741
        if parent[l] < 0:
            continue
        switch = space.labels[parent[l]][:, None] != space.labels[l][None, :]
        through = best[:, l, None, :] + cost[:, above[l], None, None] * switch
        came[:, l] = through.argmin(2)
        best[:, parent[l]] += np.take_along_axis(through, came[:, l][:, :, None], axis=2)[:, :, 0]
    configs = np.zeros((problems, layers), np.int64)
    rows = np.arange(problems)
    for l in order:  # noqa: E741
        configs[:, l] = best[:, l].argmin(1) if parent[l] < 0 else came[rows, l, configs[:, parent[l]]]
    return configs


def _rooted(layers: int, edges: Ints) -> tuple[list[int], list[int], list[int]]:
    """Layers with every parent before its children, the parent of each (-1: a root), and the edge to it."""
    near: list[list[tuple[int, int]]] = [[] for _ in range(layers)]
    for e, (a, b) in enumerate(edges.tolist()):
        near[a].append((b, e))
        near[b].append((a, e))
    order: list[int] = []
    parent, above = [-1] * layers, [-1] * layers
    seen = [False] * layers
    for start in range(layers):
        if seen[start]:
            continue
        seen[start] = True
        waiting = [start]
        while waiting:
            layer = waiting.pop()
            order.append(layer)
            for other, e in near[layer]:
                if not seen[other]:
                    seen[other], parent[other], above[other] = True, layer, e
                    waiting.append(other)
    return order, parent, above


def _in_turn(space: Space, node: Floats, edges: Ints, cost: Floats, configs: Ints) -> Ints:
    configs = configs.copy()
    labels = space.labels[np.arange(len(space)), configs]
    for l in range(len(space)):  # noqa: E741
        at = np.flatnonzero((edges == l).any(1))
        if not len(at):
            continue
        other = edges[at].sum(1) - l
        switch = labels[:, other][:, :, None] != space.labels[l]
        total = np.where(space.valid[l], node[:, l] + (cost[:, at][:, :, None] * switch).sum(1), np.inf)
        configs[:, l] = total.argmin(1)
        labels[:, l] = space.labels[l, configs[:, l]]
    return configs


def sweep(fitted: Fitted, reference: Floats, rng: np.random.Generator, *, directions: int = DIRECTIONS) -> Ints:
    """Distinct configurations (n, L) that are best for some random weighting of the predicted objectives."""
    space = fitted.space
    node, edges, cost = _weighted_costs(fitted, rng, directions)
    if fitted.worst is None or fitted.damage is None or fitted.link is None:
        return distinct(least_cost(space, node, edges, cost))
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
        configs = least_cost(space, node + strength * damage, edges, cost)
        found.append(configs)
        reached = flat[space.nodes(configs)].sum(1)
        top = np.maximum(reached.max(1, keepdims=True), 1e-300)
        weights = weights * np.exp(SLICE_STEP * (reached / top - 1))
        weights /= weights.sum(1, keepdims=True)
    return distinct(np.concatenate(found))


def _weighted_costs(fitted: Fitted, rng: np.random.Generator, directions: int) -> tuple[Floats, Ints, Floats]:
    """Costs of the additive objectives, each scaled by the span of its table, under random convex weights: nodes
    (D, L, K), the edges (E, 2) that cost in any of them, and their costs (D, E)."""
    space = fitted.space
    node = np.zeros((directions, *space.labels.shape))
    edges, costs = [space.edges], [np.zeros((directions, len(space.edges)))]
    if not fitted.additive:
        return node, edges[0], costs[0]
    shares = rng.dirichlet(np.ones(len(fitted.additive)), directions)
    for share, tables in zip(shares.T, fitted.additive.values(), strict=True):
        low = np.where(space.valid, tables.node, np.inf).min(1)
        high = np.where(space.valid, tables.node, -np.inf).max(1)
        span = float((high - low).sum()) or 1.0
        node += share[:, None, None] * (tables.node / span)
        costs[0] += share[:, None] * (tables.edge / span)
        edges.append(tables.pairs)
        costs.append(share[:, None] * (tables.far / span))
    return node, np.concatenate(edges), np.concatenate(costs, axis=1)
