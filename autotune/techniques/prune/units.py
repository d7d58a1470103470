"""What can be cut in a model: units, each under the name of the first layer that makes it."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from math import ceil, gcd
from typing import Literal, get_args

import numpy as np

from autotune.layers import Layer, Skipped
from autotune.techniques.multiples import Multiple
from autotune.techniques.prune.graph import Port
from autotune.techniques.prune.relation import HEADS, NORM, TABLE
from autotune.techniques.prune.route import Groups
from autotune.techniques.prune.spread import Group, Place

Kind = Literal["channels", "neurons", "heads", "blocks"]
KINDS: tuple[Kind, ...] = get_args(Kind)
_EMBEDDINGS = "the width of embeddings, and of the residual stream behind them, is not cut"


@dataclass(frozen=True)
class Unit:
    """Something that can be cut. `size` counts what goes as a whole, of a block its layers; `total` the channels,
    neurons or heads in it (more than `size` where several go as one: heads that share keys, groups of channels), and
    `even` says that all that go as one are equally many. `normed`: a norm takes its statistics across it. `layers` are
    all whose weights change."""

    layer: str
    kind: Kind
    size: int
    layers: tuple[str, ...]
    choices: tuple[str, ...]
    total: int = 0
    even: bool = True
    normed: bool = False


@dataclass(frozen=True)
class Lead:
    """The first layer of a group, and the group."""

    layer: Layer
    group: Group


@dataclass(frozen=True)
class Leads:
    """`found`: groups of everything that layers make, in execution order, those that cannot be cut included. All that
    can be cut can be cut together. `leader`: layer -> the one that leads its group. `ways`: those of all that can be
    cut."""

    found: tuple[Lead, ...]
    leader: Mapping[str, str]
    ways: Mapping[Place, int]


def leads(analysis: Groups) -> Leads:
    """Find all groups. One that is found later goes the ways of those that were settled before."""
    found: list[Lead] = []
    leader: dict[Port, str] = {}
    ways: dict[Place, int] = {}
    for layer in analysis.graph.layers.values():
        port = made_by(layer)
        if port in leader or (analysis.graph.size(port) or 0) < 2:
            continue
        lead = Lead(layer, apart(analysis.group(port), found))
        for each in lead.group.classes:
            leader.setdefault(each, layer.name)
        found.append(lead)
        if refusal(lead) is None:
            analysis.settle(lead.group)
            ways.update(lead.group.ways)
    layers = {
        layer.name: leader[made_by(layer)] for layer in analysis.graph.layers.values() if made_by(layer) in leader
    }
    return Leads(tuple(found), layers, ways)


def apart(group: Group, before: Sequence[Lead]) -> Group:
    """The group, stopped where it shares a position with one that can be cut: then the two could not be decided about
    apart. No two of one `Analysis` do; those of another library may."""
    for other in before:
        if refusal(other) is None and group.shares(other.group):
            return replace(group, stops=(*group.stops, f"it cannot be told apart from what {other.layer.name!r} leads"))
    return group


def made_by(layer: Layer) -> Port:
    """The weight's axis that runs over what the layer makes: of a table the columns, not the rows."""
    return layer.weight, 1 if layer.op == "Gather" else layer.output_axis


def refusal(lead: Lead) -> Skipped | None:
    """Why a group is left alone, None where it can be cut."""
    reason = ""
    if TABLE in lead.group.tags and HEADS not in lead.group.tags:  # of heads it holds biases
        reason = _EMBEDDINGS
    elif lead.group.stops:
        more = len(lead.group.stops) - 1
        reason = lead.group.stops[0] + (f" (and {more} more)" if more else "")
    elif lead.group.count < 2:
        reason = "all that it makes has to stay together"
    elif kind_of(lead) is None:
        reason = _EMBEDDINGS
    return Skipped(lead.layer.name, lead.layer.op, reason) if reason else None


def kind_of(lead: Lead) -> Kind | None:
    """None for the width of embeddings."""
    if lead.layer.op == "Gather":
        return None
    if HEADS in lead.group.tags:
        return "heads"
    return "channels" if lead.layer.op in ("Conv", "ConvTranspose") else "neurons"


def members(group: Group, weights: dict[str, str]) -> tuple[str, ...]:
    """Names of the layers whose weights change with a group; `weights` is weight -> layer, in execution order."""
    touched = {tensor for tensor, _ in group.classes}
    return tuple(name for weight, name in weights.items() if weight in touched)


def label(share: float) -> str:
    """The choice that removes a share."""
    return f"cut-{round(100 * share)}%"


def kept(group: Group, seed: Port, share: float, multiple: Multiple, kind: Kind) -> int:
    """How many classes stay when `share` goes: rounded up so that what the lead makes is a multiple of what its width
    is rounded to.

    Heads are whole and not rounded further, nor is a group that is smaller than twice that.
    """
    wanted = max(1, ceil(round(group.count * (1 - share), 9)))
    positions = _positions(group, seed)
    round_to = multiple.of(int(positions.sum()))
    if kind == "heads" or positions.sum() < 2 * round_to or len(set(positions.tolist())) > 1:
        return wanted
    step = round_to // gcd(round_to, int(positions[0]))
    return min(group.count, ceil(wanted / step) * step)


def cuts(lead: Lead, kind: Kind, shares: Sequence[float], multiple: Multiple) -> tuple[str, ...]:
    """The choices of a unit, weakest first: those that remove something, and of those that remove the same the
    weakest."""
    seed = made_by(lead.layer)
    left: dict[int, str] = {}
    for share in sorted(shares):
        left.setdefault(kept(lead.group, seed, share, multiple, kind), label(share))
    return tuple(name for count, name in left.items() if count < lead.group.count)


def _unit(lead: Lead, kind: Kind, choices: tuple[str, ...], weights: dict[str, str]) -> Unit:
    group = lead.group
    positions = _positions(group, made_by(lead.layer))
    total = max(group.heads, group.count) if kind == "heads" else int(positions.sum())
    return Unit(
        layer=lead.layer.name,
        kind=kind,
        size=group.count,
        layers=members(group, weights),
        choices=choices,
        total=total,
        even=total % group.count == 0 and len(set(positions.tolist())) == 1,
        normed=NORM in group.tags,
    )


def _positions(group: Group, seed: Port) -> np.ndarray:
    """int `[classes]`: how many positions of the port go with each."""
    return np.bincount(group.classes[seed][group.classes[seed] >= 0], minlength=group.count)


def units_of(
    analysis: Groups, found: Leads, kinds: Collection[Kind], shares: Sequence[float], multiple: Multiple
) -> tuple[list[Unit], list[Skipped]]:
    """Units other than blocks, and why other groups are left alone."""
    units, skipped = [], []
    for lead in found.found:
        reason = refusal(lead)
        kind = kind_of(lead)
        if reason is not None:
            skipped.append(reason)
        elif kind in kinds and kind is not None:
            choices = cuts(lead, kind, shares, multiple)
            if choices:
                units.append(_unit(lead, kind, choices, analysis.graph.weights))
    return units, skipped
