"""What the original answers; asked once about each sample, where there is room for its answers."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

import torch

from autotune.recover.batching import Batch
from autotune.recover.graph import OnnxModule
from autotune.recover.lessons import inputs_of
from autotune.recover.operators.node import Tensor

_ROOM = 256 << 20  # bytes of answers that are kept

Answer = dict[str, Tensor]
Key = tuple[Literal["sample", "batch"], int]  # the place of a training sample, or the number of a validation batch


def answer(original: OnnxModule, batch: Batch, names: Iterable[str] = ()) -> Answer:
    """Its outputs and the tensors `names`, without gradients."""
    with torch.no_grad():
        return original(inputs_of(batch), tuple(names))  # type: ignore[no-any-return]


class Answers:
    """The original's answers to lessons and to validation."""

    def __init__(self, original: OnnxModule, outputs: list[str], features: list[str]) -> None:
        """`outputs` are the tensors that answers consist of. `features` are those that only lessons ask for as well;
        with these no lesson is kept."""
        self._original, self._outputs, self._features = original, outputs, features
        self._kept: dict[Key, Answer] = {}
        self._room = _ROOM

    def to_lesson(self, batch: Batch) -> Answer:
        """Those to a batch of training; known ones where each of its samples came before."""
        keys: list[Key] = [("sample", place) for place in batch.places]
        if keys and all(key in self._kept for key in keys):
            known = [self._kept[key] for key in keys]
            return {name: torch.stack([each[name] for each in known]) for name in known[0]}
        found = answer(self._original, batch, [*self._outputs, *self._features])
        rows = {name: found[name] for name in self._outputs}
        apart = all(tensor.dim() and len(tensor) == len(batch.places) for tensor in rows.values())
        if apart and not self._features:
            for i, key in enumerate(keys):
                self._keep(key, {name: tensor[i].clone() for name, tensor in rows.items()})
        return found

    def to_validation(self, number: int, batch: Batch) -> Answer:
        """Those to validation batch `number`."""
        key: Key = ("batch", number)
        if key in self._kept:
            return self._kept[key]
        found = answer(self._original, batch, self._outputs)
        rows = {name: found[name] for name in self._outputs}
        self._keep(key, rows)
        return rows

    def missing(self, batches: Iterable[Batch]) -> list[str]:
        """Ids of samples to which an answer is not finite; all of a batch whose answers cannot be told apart."""
        found: list[str] = []
        for batch in batches:
            answers = answer(self._original, batch, self._outputs)
            bad = torch.stack([_not_finite(answers[name], len(batch.ids)) for name in self._outputs]).any(dim=0)
            found += [name for name, is_bad in zip(batch.ids, bad.tolist(), strict=True) if is_bad]
        return found

    def _keep(self, key: Key, found: Answer) -> None:
        """While there is room."""
        size = sum(tensor.numel() * tensor.element_size() for tensor in found.values())
        if key not in self._kept and size <= self._room:
            self._room -= size
            self._kept[key] = found


def _not_finite(tensor: Tensor, samples: int) -> Tensor:
    """Whether there is a number that is not finite, for each of the samples [samples]."""
    bad = ~torch.isfinite(tensor)
    if tensor.dim() and len(tensor) == samples:
        return bad.reshape(samples, -1).any(dim=1)
    return bad.any().expand(samples)
