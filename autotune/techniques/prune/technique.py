"""Technique `prune`: parts of a model that go as a whole, so that every kernel has less to do.

| kind | what goes | choices |
|---|---|---|
| channels | channels of convolutions, with everything that is added, concatenated or gated with them | cut-25%, ... |
| neurons | the hidden size between two products, gated variants included | cut-25%, ... |
| heads | attention heads, q, k, v and out together; key-value groups where heads share keys | cut-25%, ... |
| blocks | a residual branch x + f(x), so that x is left | out |

What must be cut together is read off the graph. A group that runs into a node that is not understood is left alone and
told by `survey`, with the node's name. What goes is what contributes least to the outputs of the layers that read it
(as in Wanda, Sun et al. 2023, arXiv 2306.11695, for whole structures).

By `route = "torch-pruning"` channels, neurons and heads of a torch module are cut in the module itself, along that
library's dependency graph, and the module is exported anew; blocks go from the graph of that export. Units, choices,
counts and what goes are found in the same way as by `route = "graph"`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import lcm, prod
from typing import Literal

import numpy as np

from autotune.errors import UsageError, did_you_mean
from autotune.layers import Layer, Skipped
from autotune.techniques.multiples import DEFAULT, Liked, Multiple
from autotune.techniques.protocol import Calibration, Capabilities, Plan, Stage
from autotune.techniques.prune.blocks import Block, blocks_of, remove
from autotune.techniques.prune.cutting import cut, failure, sizes_left
from autotune.techniques.prune.graph import Graph, Port
from autotune.techniques.prune.importance import importance, strongest
from autotune.techniques.prune.route import ROUTES, Groups, ModuleRoute, Route
from autotune.techniques.prune.spread import Analysis
from autotune.techniques.prune.units import (
    KINDS,
    Kind,
    Lead,
    Leads,
    Unit,
    apart,
    kept,
    kind_of,
    label,
    leads,
    made_by,
    refusal,
    units_of,
)

OUT = "out"


class Prune:
    """See the module."""

    name = "prune"
    scope: Literal["layer", "graph"] = "layer"
    calibration: Calibration | None = None
    needs_moments = True

    def __init__(
        self,
        shares: Sequence[float] = (0.25, 0.5, 0.75),
        round_to: int | Literal["auto"] = "auto",
        kinds: Sequence[str] = KINDS,
        route: Route = "graph",
    ) -> None:
        """`shares` of a unit that may go, each above 0 and below 1. What stays is rounded up to a multiple of
        `round_to`, as kernels like it; "auto": as the targets of the study like it (`suit`), 8 where nobody says.
        `kinds` restricts what is cut. `route`: see the module. Raises `UsageError` for anything else."""
        if route not in ROUTES:
            raise UsageError(f"technique prune has no route {route!r}; " + did_you_mean(str(route), ROUTES))
        for option, given in (("shares", shares), ("kinds", kinds)):
            if isinstance(given, str) or not isinstance(given, Sequence):
                example = "[0.5]" if option == "shares" else "['heads']"
                raise UsageError(f"technique prune: {option} is {given!r}; give a list, such as {example}")
        for share in shares:
            if not isinstance(share, (int, float)) or not 0.01 <= share <= 0.99:
                raise UsageError(f"technique prune: shares has {share!r}; give fractions from 0.01 to 0.99")
        if not shares or len({label(share) for share in shares}) < len(shares):
            raise UsageError(f"technique prune: shares {list(shares)} must be different whole percents, at least one")
        if round_to != "auto" and (not isinstance(round_to, int) or isinstance(round_to, bool) or round_to < 1):
            raise UsageError(f"technique prune: round_to is {round_to!r}; give a whole number from 1 on, or 'auto'")
        for kind in kinds:
            if kind not in KINDS:
                raise UsageError(f"technique prune has no kind {kind!r}; " + did_you_mean(kind, KINDS))
        self._shares = {label(share): share for share in sorted(shares)}
        self._auto = round_to == "auto"
        self._multiple = Multiple(DEFAULT if isinstance(round_to, str) else round_to, shrinks=self._auto)
        self._why = ""
        self._kinds: tuple[Kind, ...] = tuple(kind for kind in KINDS if kind in kinds)
        self._units: tuple[Unit, ...] = ()
        self._leads: Leads | None = None
        self.route = route
        self.stage: Stage = "prune" if route == "graph" else "torch"
        self._module: ModuleRoute | None = None

    def cut_module(self, module: ModuleRoute) -> None:
        """Which module it is that `route = "torch-pruning"` cuts."""
        self._module = module

    def suit(self, likings: Mapping[str, Liked]) -> None:
        """What each target likes widths to be multiples of; taken where `round_to` is "auto"."""
        if self._auto and likings:
            self._multiple = Multiple(lcm(*(each.multiple for each in likings.values())), shrinks=True)
            self._why = "; ".join(f"{target} has {each.why}" for target, each in likings.items())

    def told(self) -> str:
        """What widths are rounded to and why, in words; "" where the study file says it."""
        number = self._multiple.number
        narrow = f", narrow ones to half of that and less, down to {DEFAULT}" if number > DEFAULT else ""
        return f"widths are rounded up to multiples of {number}{narrow} ({self._why})" if self._why else ""

    def meaning(self) -> dict[str, str]:
        """What else, beside its name, says what a choice does to a model: a study must not change it on the way."""
        return {"route": self.route, "round_to": str(self._multiple.number) + (" or less" if self._auto else "")}

    def _groups(self, graph: Graph, known: Leads | None = None) -> Groups:
        if self.route == "graph":
            return Analysis(graph, known.ways if known is not None else None)
        return self._of_module().groups(graph)

    def _of_module(self) -> ModuleRoute:
        if self._module is None:
            raise UsageError(
                "technique prune: route = 'torch-pruning' cuts a torch module, and the model is an ONNX graph; give "
                "Workload.model as a torch.nn.Module, or leave route out"
            )
        return self._module

    def survey(self, plan: Plan) -> Sequence[Skipped]:
        """Find all units; told are the groups that cannot be cut, under the layer that makes them.

        Raises `UsageError` where `route` asks for a module, and the model is none.
        """
        graph = Graph(plan)
        groups = self._groups(graph)
        self._leads = leads(groups)
        units, skipped = units_of(groups, self._leads, self._kinds, tuple(self._shares.values()), self._multiple)
        if "blocks" in self._kinds:
            units += [
                Unit(block.layers[0], "blocks", len(block.layers), block.layers, (OUT,)) for block in blocks_of(graph)
            ]
        self._units = tuple(units)
        return tuple(skipped)

    def units(self) -> tuple[Unit, ...]:
        """What `survey` found: groups in execution order, then blocks."""
        return self._units

    def changes(self, layer: str, choice: str) -> tuple[str, ...]:
        """The layers whose weights change with a choice that `layer` leads, or that go."""
        units = (unit for unit in self._units if unit.layer == layer and choice in unit.choices)
        return tuple(dict.fromkeys(name for unit in units for name in unit.layers))

    def choices(self, layer: Layer, capabilities: Capabilities) -> Sequence[str]:
        """Those of the units that the layer leads, weakest first. Empty before `survey`."""
        return tuple(choice for unit in self._units if unit.layer == layer.name for choice in unit.choices)

    def lost(self, layer: Layer) -> Mapping[str, str]:
        """Cuts that the units which the layer leads do not have, and why."""
        cut = [unit for unit in self._units if unit.layer == layer.name and unit.kind != "blocks"]
        offered = {choice for unit in cut for choice in unit.choices}
        why = "rounded, it removes nothing, or as much as a weaker one"
        return {choice: why for choice in self._shares if cut and choice not in offered}

    def uniform(self, offered: Mapping[str, Sequence[str]]) -> list[tuple[str, dict[str, str]]]:
        """One recipe per share: every unit that offers it; one whose sizes do not allow it takes the next weaker cut.
        Whole blocks never go everywhere."""
        result = []
        order = list(self._shares)
        for at, wanted in enumerate(order):
            if not any(wanted in choices for choices in offered.values()):
                continue
            weaker = list(reversed(order[: at + 1]))
            picks = {
                layer: next((choice for choice in weaker if choice in choices), None)
                for layer, choices in offered.items()
            }
            result.append((wanted, {layer: pick for layer, pick in picks.items() if pick is not None}))
        return result

    def apply(self, plan: Plan, decisions: Mapping[str, str]) -> None:
        """Blocks first, then all cuts at once, each by its importance in the model that the blocks have left. A layer
        that went with a block is passed over. A module is cut first, and its blocks go from its export.

        Raises `TrialFailure` for a layer that leads no such unit, and for a choice that is none.
        """
        there = [name for name in decisions if name in plan.layers]
        out = [name for name in there if decisions[name] == OUT]
        cuts = {name: decisions[name] for name in there if decisions[name] != OUT}
        if self.route != "graph":
            gone = {layer for block in self._blocks(plan, out) for layer in block.layers}
            self._cut(plan, {name: choice for name, choice in cuts.items() if name not in gone})
        remove(plan, self._blocks(plan, out))
        if self.route == "graph":
            self._cut(plan, {name: choice for name, choice in cuts.items() if name in plan.layers})

    def _blocks(self, plan: Plan, layers: Sequence[str]) -> list[Block]:
        """Those that layers lead."""
        blocks = {block.layers[0]: block for block in blocks_of(Graph(plan))} if layers else {}
        for name in layers:
            if name not in blocks:
                raise failure(f"layer {name!r} leads no residual block that prune could take out")
        return [blocks[name] for name in blocks if name in layers]

    def foretell(self, plan: Plan, decisions: Mapping[str, str]) -> dict[str, int]:
        """Layer -> how many weights `apply` leaves of it (0: it is gone), without an export; for layers that change.
        `plan` is that of the whole model, and stays as it is. Raises what `apply` raises."""
        before = {name: layer.parameters for name, layer in plan.layers.items()}
        shapes = {name: (layer.weight, layer.shape) for name, layer in plan.layers.items()}
        blocks = self._blocks(plan, [name for name, choice in decisions.items() if choice == OUT and name in before])
        gone = {layer for block in blocks for layer in block.layers}
        cuts = {n: choice for n, choice in decisions.items() if n in before and choice != OUT and n not in gone}
        keep = self._chosen(Graph(plan), plan, cuts)[1] if cuts else {}
        left = {name: 0 if name in gone else prod(sizes_left(*shapes[name], keep)) for name in before}
        return {name: count for name, count in left.items() if count != before[name]}

    def _cut(self, plan: Plan, decisions: Mapping[str, str]) -> None:
        if not decisions:
            return
        graph = Graph(plan)
        removed, keep = self._chosen(graph, plan, decisions)
        if self.route == "graph":
            cut(plan, graph, keep)
        else:
            self._of_module().cut(plan, graph, removed, keep)

    def _chosen(
        self, graph: Graph, plan: Plan, decisions: Mapping[str, str]
    ) -> tuple[dict[str, np.ndarray], dict[Port, np.ndarray]]:
        """(leading layer -> positions that go, port -> what stays of it), of what changes."""
        known = self._leads or leads(self._groups(graph))
        groups = self._groups(graph, known)
        keep: dict[Port, np.ndarray] = {}
        removed: dict[str, np.ndarray] = {}
        decided: list[Lead] = []
        for name in (name for name in graph.layers if name in decisions):
            share = self._share(name, decisions[name])
            made = made_by(graph.layers[name])
            first = known.leader.get(name, name)
            if first != name:
                raise failure(f"layer {name!r} is cut together with layer {first!r}; decide there")
            group = apart(groups.group(made), decided)
            lead = Lead(graph.layers[name], group)
            reason, kind = refusal(lead), kind_of(lead)
            if reason is not None or kind is None:
                why = "it is no unit" if reason is None else reason.reason
                raise failure(f"layer {name!r} cannot take {decisions[name]}: {why}")
            groups.settle(group)
            decided.append(lead)
            count = kept(group, made, share, self._multiple, kind)
            stays = strongest(importance(plan, graph, group), group, count)
            for port, classes in group.classes.items():
                here = np.where(classes >= 0, stays[np.maximum(classes, 0)], True)
                keep[port] = keep.get(port, np.ones(len(here), bool)) & here
            removed[name] = np.flatnonzero(~np.where(group.classes[made] >= 0, stays[group.classes[made]], True))
        changed = {port: stays for port, stays in keep.items() if not stays.all()}
        return {name: positions for name, positions in removed.items() if len(positions)}, changed

    def _share(self, layer: str, choice: str) -> float:
        if choice not in self._shares:
            known = [*self._shares, OUT]
            raise failure(f"layer {layer!r}: prune has no choice {choice!r}; " + did_you_mean(choice, known))
        return self._shares[choice]
