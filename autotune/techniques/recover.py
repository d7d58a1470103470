"""recover: weights that training has found take the place of those that compression left. Nothing to search over."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
from onnx import numpy_helper

from autotune.errors import TrialFailure
from autotune.layers import Layer, Skipped
from autotune.recipe import Recipe
from autotune.techniques.moments import Moments
from autotune.techniques.protocol import Calibration, Capabilities, Plan, Stage
from hwprofiles.errors import Failure

NAME = "recover"
# In place of a layer's name, since each is about all layers together:
START = "start"  # the weights that a structure begins with, after a short training
WEIGHTS = "weights"  # those that a trial was trained to, on top of them


class Recover:
    """Puts the tensors of checkpoints into the graph: `{"recover": {"start": CHECKPOINT, "weights": CHECKPOINT}}`, one
    of them or both.

    A study trains finalists after its search (`[recover]`), so the technique offers no choices. It comes after all
    changes of structure and before the numeric formats. What layers read is still that of the original, as it was in
    training; but the mean of it is forgotten, because training has found the biases and rounding must not shift them.
    """

    name = NAME
    stage: Stage = "recover"
    scope: Literal["layer", "graph"] = "layer"
    calibration: Calibration | None = None
    needs_moments = False

    def survey(self, plan: Plan) -> Sequence[Skipped]:
        return ()

    def choices(self, layer: Layer, capabilities: Capabilities) -> Sequence[str]:
        return ()

    def uniform(self, offered: Mapping[str, Sequence[str]]) -> list[tuple[str, dict[str, str]]]:
        return []

    def apply(self, plan: Plan, decisions: Mapping[str, str]) -> None:
        """Raises `TrialFailure` for weights that are not there, and for those of another structure."""
        unknown = sorted(set(decisions) - {START, WEIGHTS})
        if unknown:
            raise _failure(f"takes the names of weights under {START!r} and {WEIGHTS!r}, not {', '.join(unknown)}")
        for when in (START, WEIGHTS):
            if when in decisions:
                self._put(plan, decisions[when])
        if WEIGHTS in decisions:
            for layer in plan.layers:
                known = plan.moments(layer)
                if known is not None:
                    plan.set_moments(layer, Moments(known.gram, np.zeros_like(known.mean), known.rows))

    def _put(self, plan: Plan, name: str) -> None:
        for tensor, array in plan.checkpoint(name).items():
            there = plan.tensors.get(tensor)
            if there is None:
                raise _failure(f"weights {name} have a tensor {tensor!r}, which this structure has not")
            if tuple(there.dims) != array.shape:
                shapes = f"{list(array.shape)}, and {list(there.dims)} in this structure"
                raise _failure(f"weights {name} have {tensor!r} in the shape {shapes}")
            plan.set_tensor(tensor, array.astype(numpy_helper.to_array(there).dtype, copy=False))


def searched(recipe: Recipe) -> Recipe:
    """The recipe without the weights that its structure begins with: what a search has decided."""
    decisions = recipe.to_dict()
    left = {key: name for key, name in decisions.pop(NAME, {}).items() if key != START}
    return Recipe(decisions | {NAME: left})


def _failure(problem: str) -> TrialFailure:
    return TrialFailure(Failure(kind="unsupported", stage="build", message=f"recover: {problem}"))
