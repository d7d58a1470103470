"""torch-pruning's dependency graph of a module, in the names of its layers. The only file that imports that library.

torch-pruning (Fang et al. 2023, "DepGraph: Towards Any Structural Pruning", arXiv 2301.12900) follows autograd's graph
of one run. What it does not know it takes for element-wise, so nothing of it is believed without a trial (`trial`).
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from autotune.compress.inspect_names import clean
from autotune.compress.modules.failing import place_of
from autotune.errors import UsageError

if TYPE_CHECKING:
    import torch

# What a module's own code, and the library on a module that it does not expect, may reasonably raise.
FAULTS = (RuntimeError, ValueError, TypeError, LookupError, AttributeError, AssertionError, ArithmeticError)


class NotFollowed(Exception):
    """The module cannot be cut as asked; the text is the reason, for people."""


@dataclass(frozen=True)
class Member:
    """One side of a layer's module in a group. `at`, of the `size` channels or features that it makes (else: reads), go
    with the outputs `roots` of the leading layer, one by one. `passes`: it is depthwise and reads what it makes."""

    layer: str
    makes: bool
    passes: bool
    size: int
    at: np.ndarray
    roots: np.ndarray


class Tracing:
    """The dependency graph of `module`, which is on the CPU and in eval mode, and which `cut` changes in place."""

    def __init__(self, module: torch.nn.Module, inputs: Sequence[Any]) -> None:
        """Raises `NotFollowed` where the module cannot be traced, `UsageError` without torch-pruning."""
        self.module = module
        self.parts = parts_of(module)
        self._names = {part: name for name, part in self.parts.items()}
        self._graph = load_library().DependencyGraph()
        for parameter in module.parameters():  # autograd must see every one
            parameter.requires_grad_(parameter.is_floating_point())
        with _asking("torch-pruning cannot follow the module"):
            self._graph.build_dependency(
                module, tuple(inputs), forward_fn=_run, output_transform=_differentiable, verbose=False
            )

    def members(self, layer: str, positions: Sequence[int]) -> list[Member]:
        """What has to go with some outputs of a layer, itself first. Raises `NotFollowed`."""
        found = []
        for item in self._group(layer, positions):
            part, handler = item.dep.target.module, item.dep.handler
            name = self._names.get(part)
            if name is None or getattr(part, "weight", None) is None or part.weight.ndim < 2:
                continue
            if reason := _in_groups(part):
                raise NotFollowed(f"{'it' if name == layer else repr(name)} is {reason}")
            if any(root is None for root in item.root_idxs):
                raise NotFollowed(f"torch-pruning does not say which inputs of {name!r} go with which outputs")
            makes = bool(self._graph.is_out_channel_pruning_fn(handler))
            passes = makes and bool(self._graph.is_in_channel_pruning_fn(handler))
            size = self._graph.get_out_channels(part) if makes else self._graph.get_in_channels(part)
            at = np.array(item.idxs)
            if at.size and (at.min() < 0 or at.max() >= size):
                raise NotFollowed(
                    f"torch-pruning loses count of the channels on the way to {name!r}, which has {size}; use route = "
                    "'graph' for it"
                )
            found.append(Member(name, makes, passes, int(size), at, np.array(item.root_idxs)))
        return found

    def cut(self, layer: str, positions: Sequence[int]) -> None:
        """Cut outputs of a layer and what goes with them. Raises `NotFollowed`."""
        group = self._group(layer, positions)
        with _asking("torch-pruning cannot cut it"):
            group.prune()

    def _group(self, layer: str, positions: Sequence[int]) -> Any:
        part = self.parts.get(layer)
        if part is None:
            raise NotFollowed("its weight is that of no module of its own, and torch-pruning cuts modules")
        pruner = self._graph.get_pruner_of_module(part)
        if pruner is None or part not in self._graph.module2node:
            raise NotFollowed(f"torch-pruning does not follow this module of type {type(part).__name__}")
        with _asking("torch-pruning cannot follow it"):
            return self._graph.get_pruning_group(part, pruner.prune_out_channels, [int(at) for at in positions])


def _in_groups(part: Any) -> str:
    """Why a convolution cannot be cut by this library, which forgets its groups unless each is one channel."""
    groups = getattr(part, "groups", 1)
    if groups == 1 or groups == getattr(part, "in_channels", 1) == getattr(part, "out_channels", 1):
        return ""
    return f"a convolution in {groups} groups, which torch-pruning does not keep apart; use route = 'graph' for it"


def parts_of(module: torch.nn.Module) -> dict[str, Any]:
    """The module's parts by the names that layers have; itself is ""."""
    return {clean(name) if name else "": part for name, part in module.named_modules()}


def load_library() -> Any:
    """torch-pruning. Raises `UsageError` where it is not installed."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import torch_pruning
    except ImportError as error:
        raise UsageError(
            f"technique prune: route = 'torch-pruning' needs {error.name}; install it with: "
            "pip install 'hw-autotune[torch-pruning]'"
        ) from error
    return torch_pruning


def floats(outputs: Any) -> list[torch.Tensor]:
    """All floating-point tensors in what a forward returned, in order."""
    import torch

    if isinstance(outputs, torch.Tensor):
        return [outputs] if outputs.is_floating_point() else []
    inside = outputs.values() if hasattr(outputs, "values") else outputs
    return [tensor for each in inside for tensor in floats(each)] if hasattr(inside, "__iter__") else []


def _run(module: torch.nn.Module, inputs: Sequence[Any]) -> Any:
    return module(*inputs)


def _differentiable(outputs: Any) -> list[torch.Tensor]:
    found = [tensor for tensor in floats(outputs) if tensor.grad_fn is not None]
    if not found:
        raise NotFollowed(
            "its forward runs without gradients, by which torch-pruning follows a module; use route = 'graph' for it"
        )
    return found


@contextlib.contextmanager
def _asking(what: str) -> Iterator[None]:
    """The library's faults become reasons; it warns about its own internals."""
    import torch

    with warnings.catch_warnings(), torch.enable_grad():
        warnings.simplefilter("ignore")
        try:
            yield
        except FAULTS as error:
            raise NotFollowed(f"{what}: {place_of(error)}; use route = 'graph' for it") from error
