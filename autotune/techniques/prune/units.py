"""What can be cut in a model: units, each under the name of the first layer that makes it."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from math import ceil, gcd
from typing import Literal, get_args

import numpy as np

from autotune.layers import Layer, Skipped
from autotune.techniques.multiples import Multiple
from autotune.techniques.prune.graph import Port
from autotune.techniques.prune.relation import HEADS
from autotune.techniques.prune.route import Groups
from autotune.techniques.prune.spread import Group

Kind = Literal["channels", "neurons", "heads", "blocks"]
KINDS: tuple[Kind, ...] = get_args(Kind)


@dataclass(frozen=True)
class Unit:
    """Something that can be cut. `size` counts channels, neurons or heads (key-value groups where several heads share
    keys), of a block its layers; `layers` are all whose weights change."""

    layer: str
    kind: Kind
    size: int
    layers: tuple[str, ...]
    choices: tuple[str, ...]


@dataclass(frozen=True)
class Lead:
    """The first layer of a group, and the group."""

    layer: Layer
    group: Group


def leads(analysis: Groups) -> list[Lead]:
    """Groups of everything that layers make, in execution order, those that cannot be cut included."""
    found: list[Lead] = []
    covered: set[Port] = set()
    for layer in analysis.graph.layers.values():
        port = made_by(layer)
        if port in covered or (analysis.graph.size(port) or 0) < 2:
            continue
        group = analysis.group(port)
        covered.update(group.classes)
        found.append(Lead(layer, group))
    return found


def made_by(layer: Layer) -> Port:
    """The weight's axis that runs over what the layer makes: of a table the columns, not the rows."""
    return layer.weight, 1 if layer.op == "Gather" else layer.output_axis


def refusal(lead: Lead) -> Skipped | None:
    """Why a group is left alone, None where it can be cut."""
    reason = ""
    if lead.group.stops:
        more = len(lead.group.stops) - 1
        reason = lead.group.stops[0] + (f" (and {more} more)" if more else "")
    elif lead.group.count < 2:
        reason = "all that it makes has to stay together"
    elif kind_of(lead) is None:
        reason = "the width of embeddings, and of the residual stream behind them, is not cut"
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
    positions = np.bincount(group.classes[seed][group.classes[seed] >= 0], minlength=group.count)
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


def units_of(
    analysis: Groups, kinds: Collection[Kind], shares: Sequence[float], multiple: Multiple
) -> tuple[list[Unit], list[Skipped]]:
    """Units other than blocks, and why other groups are left alone."""
    units, skipped = [], []
    for lead in leads(analysis):
        reason = refusal(lead)
        kind = kind_of(lead)
        if reason is not None:
            skipped.append(reason)
        elif kind in kinds and kind is not None:
            choices = cuts(lead, kind, shares, multiple)
            layers = members(lead.group, analysis.graph.weights)
            if choices:
                units.append(Unit(lead.layer.name, kind, lead.group.count, layers, choices))
    return units, skipped
