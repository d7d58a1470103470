"""Where a cut is carried out: on the graph by our own analysis, or on the torch module by another library's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, Protocol, get_args

import numpy as np

from autotune.techniques.protocol import Plan
from autotune.techniques.prune.graph import Graph, Port
from autotune.techniques.prune.spread import Group

Route = Literal["graph", "torch-pruning"]
ROUTES: tuple[Route, ...] = get_args(Route)


class Groups(Protocol):
    """What has to be cut together in a model, by whatever analysis."""

    graph: Graph

    def group(self, seed: Port) -> Group:
        """The group of what a layer makes. Its `stops` say why it cannot be cut, where it cannot."""
        ...

    def settle(self, group: Group) -> None:
        """The group may be cut: those that are found from now on must be such that they can be cut with it."""
        ...


class ModuleRoute(Protocol):
    """Cuts the module that a model was exported from (`autotune.compress.module_route.ModuleCuts`)."""

    def groups(self, graph: Graph) -> Groups:
        """The groups of the module, told in the layers and tensors of its export, which `graph` is."""
        ...

    def cut(self, plan: Plan, graph: Graph, removed: Mapping[str, np.ndarray], keep: Mapping[Port, np.ndarray]) -> None:
        """Put the export of the cut module in the place of the plan's graph, which must be that of the whole one.

        `removed`: leading layer -> positions of its outputs that go; `keep`: what that leaves of every port of the
        groups. Raises `TrialFailure` where the module cannot be cut like that, or not exported afterwards.
        """
        ...
