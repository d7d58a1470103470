"""Whether a cut module still computes what it should: the original with zeros where its layers read what is gone."""

from __future__ import annotations

import copy
import functools
import itertools
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from autotune.compress.modules.failing import failing_at, place_of
from autotune.compress.modules.tracing import FAULTS, Member, NotFollowed, Tracing, floats, parts_of

if TYPE_CHECKING:
    import torch

_SAME = 1e-4  # relative to the largest output: float32 sums in another order
_MOST = 4  # attributes of an attention's module that may hold a number of heads or features

Removed = Mapping[str, np.ndarray]  # leading layer -> positions of its outputs that go


@dataclass(frozen=True)
class Attribute:
    """A number in a module that has to follow a cut: `name` of the part `part` holds that of heads, or of features."""

    part: str
    name: str
    heads: bool


@dataclass
class TrialCut:
    """Cuts copies of `module`, which is on the CPU and in eval mode, and holds them against the original.

    `count` of a leading layer: the number of heads that its outputs are (of features, where each is its own).
    """

    module: torch.nn.Module
    inputs: Sequence[Any]
    count: dict[str, int] = field(default_factory=dict)
    attributes: dict[str, tuple[Attribute, ...]] = field(default_factory=dict)  # leading layer -> what follows its cut

    def cut(self, removed: Removed) -> torch.nn.Module:
        """A cut copy. Raises `NotFollowed` where it does not compute what it should, and where nothing could tell."""
        tracing = Tracing(copy.deepcopy(self.module), self.inputs)
        if self._silent:
            raise NotFollowed(
                "the module answers zero on the example inputs, so no cut can be held against it; give inputs, or "
                "weights of the last layers, on which it does not"
            )
        going = {layer: tracing.members(layer, list(map(int, at))) for layer, at in removed.items()}
        for layer, at in removed.items():
            own = {int(each) for m in going[layer] if m.layer == layer and m.makes for each in m.at}
            if own != set(map(int, at)):
                raise NotFollowed("torch-pruning cuts other outputs of it along with some")
        expected = self._without(going.values())
        for layer, positions in removed.items():
            tracing.cut(layer, list(map(int, positions)))
        new = [layer for layer in removed if layer not in self.attributes]
        known = {layer: its for layer, its in self.attributes.items() if layer in removed}
        combinations = itertools.product(*(self._candidates(layer, going[layer]) for layer in new))
        why = ""
        for chosen in itertools.islice(combinations, 2**_MOST):
            attributes = known | dict(zip(new, chosen, strict=True))
            before = self._follow(tracing.parts, attributes, removed)
            reason = self._differs(tracing.module, expected)
            if not reason:
                self.attributes |= attributes
                return tracing.module
            why = why or reason  # of the cut as the library made it
            for part, name, value in before:
                setattr(tracing.parts[part], name, value)
        raise NotFollowed(why)

    def _without(self, going: Iterable[Sequence[Member]]) -> list[list[torch.Tensor]]:
        """Outputs of the original with zeros in the weights that read what goes."""
        import torch

        reference = copy.deepcopy(self.module)
        parts = parts_of(reference)
        with torch.no_grad():
            for member in itertools.chain.from_iterable(going):
                part = parts[member.layer]
                if member.makes:
                    continue
                transposed = isinstance(part, torch.nn.modules.conv._ConvTransposeNd)
                part.weight.index_fill_(0 if transposed else 1, torch.from_numpy(member.at), 0.0)
        return [self._outputs(reference, inputs) for inputs in self._all_inputs]

    @functools.cached_property
    def _all_inputs(self) -> list[Sequence[Any]]:
        """The example inputs, and random numbers in their place where the module takes them: examples may be zeros."""
        import torch

        generator = torch.Generator().manual_seed(0)

        def other(value: Any) -> Any:
            moved = isinstance(value, torch.Tensor) and value.is_floating_point()
            return torch.randn(value.shape, generator=generator, dtype=value.dtype) if moved else value

        second = [other(value) for value in self.inputs]
        try:
            takes = all(bool(torch.isfinite(tensor).all()) for tensor in self._outputs(self.module, second))
        except FAULTS:
            takes = False
        return [self.inputs, second] if takes else [self.inputs]

    @functools.cached_property
    def _silent(self) -> bool:
        """Whether every output is zero on every input."""
        found = [tensor for inputs in self._all_inputs for tensor in self._outputs(self.module, inputs)]
        return not any(bool((tensor != 0).any()) for tensor in found)

    def _outputs(self, module: torch.nn.Module, inputs: Sequence[Any]) -> list[torch.Tensor]:
        import torch

        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return floats(module(*inputs))

    def _differs(self, module: torch.nn.Module, expected: list[list[torch.Tensor]]) -> str:
        """How the cut module differs from what it should be; "" where it does not."""
        for inputs, wanted in zip(self._all_inputs, expected, strict=True):
            try:
                found = self._outputs(module, inputs)
            except FAULTS as error:
                where = failing_at(module, inputs, FAULTS) or place_of(error)
                return f"its forward holds sizes that do not follow a cut: {where} fails; use route = 'graph' for it"
            if [tensor.shape for tensor in found] != [tensor.shape for tensor in wanted]:
                return "cutting it changes the shape of the outputs"
            for one, other in zip(found, wanted, strict=True):
                if not other.numel():
                    continue
                scale = float(other.abs().max())  # where it is 0, zeros are asked for
                if not float((one - other).abs().max()) <= _SAME * scale:
                    return "what is left would compute something else than the model without what is gone"
        return ""

    def _candidates(self, layer: str, going: Sequence[Member]) -> list[tuple[Attribute, ...]]:
        """Sets of attributes of the module around a group's makers that may hold sizes of it: none first."""
        makers = [member.layer for member in going if member.makes]
        around = _around(makers)
        part = parts_of(self.module).get(around)
        if part is None or len(makers) < 2:
            return [()]
        width = parts_of(self.module)[layer].weight.shape[0]
        count = self.count.get(layer, width)
        found = [
            Attribute(around, name, heads)
            for name, value in sorted(vars(part).items())
            for heads, size in ((True, count), (False, width))
            if type(value) is int and not name.startswith("_") and value == size and (heads or count != width)
        ][:_MOST]
        return [chosen for many in range(len(found) + 1) for chosen in itertools.combinations(found, many)]

    def _follow(
        self, parts: Mapping[str, Any], attributes: Mapping[str, tuple[Attribute, ...]], removed: Removed
    ) -> list[tuple[str, str, int]]:
        """Set attributes to what the cut leaves; (part, name, what it was)."""
        before = []
        for layer, its in attributes.items():
            width = parts_of(self.module)[layer].weight.shape[0]
            count = self.count.get(layer, width)
            left = width - len(removed[layer])
            for each in its:
                before.append((each.part, each.name, getattr(parts[each.part], each.name)))
                setattr(parts[each.part], each.name, left * count // width if each.heads else left)
        return before


def _around(names: Sequence[str]) -> str:
    """The innermost module that holds all of some, "" for the whole."""
    split = [name.split(".")[:-1] for name in names]
    common = [level[0] for level in itertools.takewhile(lambda level: len(set(level)) == 1, zip(*split, strict=False))]
    return ".".join(common)
