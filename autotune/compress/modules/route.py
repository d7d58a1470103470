"""Structured pruning through torch-pruning: the module is cut, and its export takes the place of the original's."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
import onnx

from autotune.compress.ingest import Ingested, load_model
from autotune.compress.modules.groups import ModuleGroups
from autotune.compress.modules.tracing import NotFollowed, Tracing, load_library
from autotune.compress.modules.trial import TrialCut
from autotune.compress.plan import Source
from autotune.compress.torch_export import Inputs, as_arguments, export
from autotune.errors import DataError, TrialFailure
from autotune.techniques.protocol import Plan
from autotune.techniques.prune.cutting import sizes_left, tell_moments
from autotune.techniques.prune.graph import Graph, Port
from hwprofiles.errors import Failure

if TYPE_CHECKING:
    import torch

VERSION = 1  # raise it when a cut or its export changes: what the bank holds is then never read again
_Axes = Mapping[str, Mapping[int, str]]


class ModuleCuts:
    """Cuts of one module; implements `autotune.techniques.prune.route.ModuleRoute`. The module itself stays as it is.

    `source_digest` is that of the module's export (`Ingested.source_digest`).
    """

    def __init__(
        self, module: torch.nn.Module, example_inputs: Inputs, dynamic_axes: _Axes, source_digest: str
    ) -> None:
        """Raises `UsageError` where torch-pruning is not installed."""
        self._library = load_library()
        self._module = module
        self._inputs = as_arguments(module, example_inputs)
        self._axes = dynamic_axes
        self._digest = source_digest
        self._trial: TrialCut | None = None
        self._groups: ModuleGroups | None = None

    def groups(self, graph: Graph) -> ModuleGroups:
        """See the protocol. The module is traced and tried once."""
        if self._groups is None:
            self._trial = TrialCut(copy.deepcopy(self._module).cpu().eval(), self._inputs)
            try:
                tracing, problem = Tracing(copy.deepcopy(self._trial.module), self._inputs), ""
            except NotFollowed as error:
                tracing, problem = None, str(error)
            self._groups = ModuleGroups(graph, self._trial, tracing, problem)
        return self._groups

    def cut(self, plan: Plan, graph: Graph, removed: Mapping[str, np.ndarray], keep: Mapping[Port, np.ndarray]) -> None:
        """See the protocol. The export is kept in the bank."""
        groups = self.groups(graph)
        gone = {layer: sorted(map(int, positions)) for layer, positions in sorted(removed.items())}
        key = ("torch-pruning", VERSION, self._library.__version__, _torch_version(), self._digest, tuple(gone.items()))

        def make() -> dict[str, np.ndarray]:
            try:
                module = groups.trial.cut({layer: np.array(positions) for layer, positions in gone.items()})
                model = export(module, self._inputs, self._axes)
            except NotFollowed as error:
                raise _failure(f"prune through torch-pruning, layers {', '.join(gone)}: {error}") from error
            except DataError as error:
                raise _failure(
                    f"prune through torch-pruning, layers {', '.join(gone)}: torch exports the module, and not with "
                    "this cut; use route = 'graph' for it"
                ) from error
            return {"model": np.frombuffer(model.SerializeToString(), np.uint8)}

        kept = plan.banked(key, make)["model"]
        _put(plan, load_model(onnx.load_from_string(kept.tobytes())), keep)
        tell_moments(plan, graph, keep)


def _put(plan: Plan, made: Ingested, keep: Mapping[Port, np.ndarray]) -> None:
    """The export in the place of the plan's graph. Raises `TrialFailure` where it has other layers or sizes than it
    must have."""
    wanted = {layer.name: sizes_left(layer.weight, layer.shape, keep) for layer in plan.layers.values()}
    found = {layer.name: layer.shape for layer in made.inspection.layers}
    for name, shape in wanted.items():
        if found.get(name) != shape:
            there = "has none of that name" if name not in found else f"is {found[name]}"
            raise _failure(
                f"prune through torch-pruning: layer {name!r} must be {shape}, and in the export of the cut module it "
                f"{there}; use route = 'graph' for this model"
            )
    extra = sorted(set(found) - set(wanted))
    if extra:
        raise _failure(f"prune through torch-pruning: the export of the cut module has new layers {', '.join(extra)}")
    graph = made.model.graph
    if {value.name for value in graph.output} != plan.output_names():
        raise _failure("prune through torch-pruning: the export of the cut module has other outputs")
    plan.nodes = list(graph.node)
    tensors = Source.of(made.model, made.inspection.layers).tensors  # of a large export they lie in a scratch file
    for name in tensors:
        plan.set_tensor(name, tensors.array(name))
    plan.layers = {layer.name: layer for layer in made.inspection.layers}


def _torch_version() -> str:
    import torch

    return str(torch.__version__)


def _failure(message: str) -> TrialFailure:
    return TrialFailure(Failure(kind="unsupported", stage="build", message=message))
