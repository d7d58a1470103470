"""How much a model needs each class of a group, in the manner of Wanda (Sun et al. 2023, arXiv 2306.11695)."""

from __future__ import annotations

import numpy as np

from autotune.layers import Layer
from autotune.techniques.matrices import as_matrix
from autotune.techniques.protocol import Plan
from autotune.techniques.prune.graph import Graph, Port
from autotune.techniques.prune.spread import Group
from autotune.techniques.prune.units import made_by


def importance(plan: Plan, graph: Graph, group: Group) -> np.ndarray:
    """float64 `[classes]`: over the layers that read the group, the sum of the norm of what a class contributes to
    their outputs, `||W[:, i]|| sqrt(E x_i^2)`.

    Where nothing is known about a layer's inputs, the norm of the weights that make them stands for `sqrt(E x_i^2)`.
    Where no layer reads the group, it alone decides.
    """
    total = np.zeros(group.count)
    made: np.ndarray | None = None
    readers = 0
    for layer in graph.layers.values():
        port = read_by(graph, layer)
        classes = None if port is None else group.on(port)
        if classes is None or layer.op == "Gather":
            continue
        energy = _known_energy(plan, layer, len(classes))
        if energy is None:
            made = _made(plan, graph, group) if made is None else made
            energy = _guessed_energy(plan, layer, classes, made)
        here = classes >= 0
        total += np.sqrt(np.bincount(classes[here], weights=energy[here], minlength=group.count))
        readers += 1
    return total if readers else _made(plan, graph, group)


def read_by(graph: Graph, layer: Layer) -> Port | None:
    """The axis of an activation whose positions are a layer's inputs, None for a table."""
    if layer.op == "Gather":
        return None
    number = graph.by_name[layer.nodes[0]]
    tensor = graph.inputs[number][0]
    shape = graph.shape(tensor)
    if layer.op in ("Conv", "ConvTranspose", "Gemm"):
        return tensor, 1
    return None if shape is None else (tensor, len(shape) - 1)


def _known_energy(plan: Plan, layer: Layer, positions: int) -> np.ndarray | None:
    """float64 `[positions]`: the mean square of what each contributes to all outputs together, from moments."""
    moments = plan.moments(layer.name)
    if moments is None or layer.op == "ConvTranspose":
        return None
    squares = np.square(as_matrix(layer, plan.weight(layer))).sum(axis=1, dtype=np.float64)  # [groups, inputs]
    if moments.squares.shape != squares.shape:
        return None
    energy: np.ndarray = (squares * np.maximum(moments.squares, 0)).reshape(positions, -1).sum(axis=1)
    return energy


def _guessed_energy(plan: Plan, layer: Layer, classes: np.ndarray, made: np.ndarray) -> np.ndarray:
    """float64 `[positions]`: the same with `made`, the norm of the weights behind a position, for its size."""
    weight = plan.weight(layer)
    if layer.op == "ConvTranspose":
        columns = np.square(weight).reshape(weight.shape[0], -1).sum(axis=1, dtype=np.float64)
    else:
        columns = (
            np.square(as_matrix(layer, weight)).sum(axis=1, dtype=np.float64).reshape(len(classes), -1).sum(axis=1)
        )
    energy: np.ndarray = columns * np.where(classes >= 0, np.square(made)[np.maximum(classes, 0)], 0)
    return energy


def _made(plan: Plan, graph: Graph, group: Group) -> np.ndarray:
    """float64 `[classes]`: root mean square over the layers that make a class of the norms of its weights."""
    total, count = np.zeros(group.count), np.zeros(group.count)
    for layer in graph.layers.values():
        weight, axis = made_by(layer)
        classes = group.on((weight, axis))
        if classes is None:
            continue
        rows = np.moveaxis(plan.weight(layer), axis, 0).reshape(len(classes), -1)
        norms = np.square(rows).sum(axis=1, dtype=np.float64)
        here = classes >= 0
        total += np.bincount(classes[here], weights=norms[here], minlength=group.count)
        count += np.bincount(classes[here], minlength=group.count)
    result: np.ndarray = np.sqrt(total / np.maximum(count, 1))
    return result


def strongest(scores: np.ndarray, group: Group, count: int) -> np.ndarray:
    """bool `[classes]`: True for the `count` classes with the highest scores, the first ones where scores are equal.

    No tensor becomes empty: of the classes that a part of the group holds (as behind a Split) the best one stays, also
    where another group holds the rest of that part.
    """
    order = np.argsort(-scores, kind="stable")
    rank = np.argsort(order, kind="stable")
    held = (classes[classes >= 0] for classes in group.classes.values())
    needed = {int(order[rank[classes].min()]) for classes in held if len(classes)}
    chosen = np.zeros(len(scores), bool)
    chosen[list(needed)] = True
    for number in order:
        if chosen.sum() >= count:
            break
        chosen[number] = True
    return chosen
