"""A large cut in several smaller ones, with training between (as in Molchanov et al. 2017, arXiv 1611.06440).

What goes next is chosen by what the weights have become. In the end the graph is the one that the recipe's structure
has anyway, with other weights: they are a checkpoint like any other, and recipe and checkpoint make the artifact.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from autotune.compress.plan import Plan, Source
from autotune.errors import TrialFailure
from autotune.recipe import Recipe
from autotune.search.recovery.training import Training
from autotune.techniques.protocol import STAGES
from autotune.techniques.prune import Prune
from autotune.techniques.prune.technique import OUT
from autotune.techniques.prune.units import label, made_by
from autotune.techniques.recover import NAME
from hwprofiles.errors import Failure

_LEAST_SHARE = 0.02  # of a layer, that a cut takes away: a smaller one would hardly be one


@dataclass(frozen=True)
class Size:
    """Of the layer that a cut is named by: outputs at first and at last, and how many go together (those of a head)."""

    first: int
    last: int
    together: int

    def after(self, done: int, of: int) -> int:
        """Outputs that are left after `done` of `of` cuts; in fewer cuts where there is little to cut."""
        most = max(1, min(of, int((self.first - self.last) / self.first / _LEAST_SHARE)))
        whole = (self.first - self.last) // self.together
        return self.first - whole * (done * most // of) // most * self.together


class Gradual:
    """The structures between a model and a recipe's structure. Raises what carrying out the recipe raises."""

    def __init__(self, training: Training, recipe: Recipe) -> None:
        self._assembler = training.assembler
        self._structure = training.assembler.structure(recipe)
        self._target = training.assembler.structured(self._structure)
        techniques = training.assembler.techniques
        prunes = [(name, t) for name, t in techniques.items() if isinstance(t, Prune) and name in self._structure]
        known = [(name, technique) for name, technique in prunes if technique.stage == "prune"]
        self._of_modules = len(known) < len(prunes)  # a module is cut and exported: there is no graph between two cuts
        self._name = known[0][0] if known else ""
        self._prune = known[0][1] if known else None
        self._sizes, self._blocks = self._found()
        self._formats = training.assembler.formats(recipe)

    def obstacle(self) -> str:
        """Why the recipe's cuts have to be made at once; "" where they need not."""
        if self._of_modules:
            return "not supported on the route torch-pruning"
        if not self._sizes and len(self._blocks) < 2:
            return "it cuts nothing that can go little by little"
        whole = self._assembler.source.layers
        for name, (_, rounding) in self._formats.items():
            before, layer = whole.get(name), self._target.layers[name]
            if rounding.moments is not None and (before is None or before.shape != layer.shape):
                return f"the format of {name!r} depends on which of its inputs are left"
        return ""

    def next(self, before: Source | None, done: int, of: int) -> Source:
        """What comes of `before` (None: the model itself) by cut number `done` of `of`; after the last one, with all
        that the recipe's structure asks for beside pruning."""
        techniques = self._assembler.techniques
        order = sorted(self._structure, key=lambda name: STAGES.index(techniques[name].stage))
        at = order.index(self._name)
        plan = self._assembler.begun(before or self._assembler.source)
        for name in order[:at] if before is None else ():
            techniques[name].apply(plan, self._structure[name])
        self._cut(plan, done, of)
        for name in order[at + 1 :] if done == of else ():
            if name != NAME:
                techniques[name].apply(plan, self._structure[name])
        return plan.as_source(plan.layers.values())

    def differences(self, last: Source) -> dict[str, np.ndarray]:
        """The constants of the structure after the last cut that differ from those of the recipe's structure.

        Raises `TrialFailure` where more than the values of constants differs.
        """
        target = self._target
        same = [n.SerializeToString() for n in last.nodes] == [n.SerializeToString() for n in target.nodes]
        if not same or set(last.tensors) != set(target.tensors):
            raise _failure("another graph than the recipe has")
        found = {}
        for name in last.tensors:
            ours, theirs = last.tensors.array(name), target.tensors.array(name)
            if ours.shape != theirs.shape or ours.dtype != theirs.dtype:
                raise _failure(f"tensor {name!r} in the shape {list(ours.shape)}, not {list(theirs.shape)}")
            if not np.array_equal(ours, theirs):
                found[name] = ours
        return found

    def _found(self) -> tuple[dict[str, Size], list[str]]:
        if self._prune is None:
            return {}, []
        decisions = self._structure[self._name]
        units = {unit.layer: unit for unit in self._prune.units()}
        sizes: dict[str, Size] = {}
        for name, choice in decisions.items():
            unit, first = units.get(name), self._assembler.source.layers[name]
            last = self._target.layers.get(name)
            if choice == OUT or unit is None or last is None:
                continue
            axis = made_by(first)[1]
            together, left = divmod(first.shape[axis], unit.size)
            if left == 0 and first.shape[axis] > last.shape[axis]:
                sizes[name] = Size(first.shape[axis], last.shape[axis], together)
        blocks = [name for name, choice in decisions.items() if choice == OUT]
        return sizes, blocks

    def _cut(self, plan: Plan, done: int, of: int) -> None:
        """Whole blocks are dealt out over the cuts; the shares of all others follow from what they have left."""
        gone = [name for name in self._blocks if name in plan.layers][: self._due(plan, done, of)]
        if gone:
            Prune().apply(plan, dict.fromkeys(gone, OUT))
        shares: dict[float, list[str]] = {}
        for name, size in self._sizes.items():
            layer = plan.layers.get(name)
            if layer is None:
                continue
            here, wanted = layer.shape[made_by(layer)[1]], size.after(done, of)
            if wanted < here:
                shares.setdefault(1 - wanted / here, []).append(name)
        for share, names in shares.items():
            Prune(shares=[share], round_to=1).apply(plan, dict.fromkeys(names, label(share)))

    def _due(self, plan: Plan, done: int, of: int) -> int:
        """Blocks that go now."""
        before = sum(name not in plan.layers for name in self._blocks)
        return max(0, len(self._blocks) * done // of - before)


def with_tensors(source: Source, tensors: Mapping[str, np.ndarray]) -> Source:
    """The same with constants replaced."""
    table = source.tensors.only(dict.fromkeys(source.tensors))
    for name, array in tensors.items():
        table.put(name, array)
    return replace(source, tensors=table, digests={})


def _failure(what: str) -> TrialFailure:
    message = f"recover: cutting little by little gives {what}; set cuts = 1"
    return TrialFailure(Failure(kind="unsupported", stage="recover", message=message))
