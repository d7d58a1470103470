"""A Workload: model + data + metric + slices. What the user gives."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import onnx
    import torch

Arrays = Mapping[str, np.ndarray]  # input or output name -> array, with the batch axis


@dataclass(frozen=True)
class Sample:
    """One example. `inputs` hold what one inference takes, in the shapes the model wants; `metadata` are columns to
    slice by.

    `display` is what a person would look at: a PNG as bytes, or a text; the report shows it for flips.
    """

    id: str
    inputs: Arrays
    label: Any
    metadata: Mapping[str, str | int | float | bool] = field(default_factory=dict)
    display: bytes | str | None = None


@dataclass(frozen=True)
class Dataset:
    """A finite, deterministic sequence of samples."""

    name: str  # "search", "heldout"
    samples: Sequence[Sample]

    def __len__(self) -> int:
        return len(self.samples)

    def digest(self) -> str:
        """sha256 over ids, inputs, labels and metadata: two data sets with one digest are the same data."""
        state = hashlib.sha256()
        for sample in self.samples:
            state.update(repr((sample.id, sample.label, sorted(sample.metadata.items()))).encode())
            for name in sorted(sample.inputs):
                array = np.ascontiguousarray(sample.inputs[name])
                state.update(f"{name}{array.dtype}{array.shape}".encode())
                state.update(array.tobytes())
        return state.hexdigest()


Metric = Callable[[Sequence[Any], Sequence[Any]], float]  # (predictions, labels) -> float, larger is better
Decode = Callable[[Arrays], Sequence[Any]]  # outputs of one batch -> one prediction per sample


@dataclass(frozen=True)
class Workload:
    """Everything the search needs to know about the user's problem.

    `model` is an ONNX file, an `onnx.ModelProto` or a `torch.nn.Module` (then `example_inputs` are the positional
    arguments for its export, and `dynamic_axes` names the axes that vary: {input name: {axis: "batch"}}).
    `calibration` holds input dictionaries only and must not share samples with `search` or `heldout`.
    `decode` turns the outputs of one batch into predictions that `metric` understands and that are JSON-serialisable.
    `metric` is the name of a registered metric or a callable on (predictions, labels).
    `slices` are declared as in `autotune.slices`: a metadata column name gives one slice per value.
    `latency_inputs` are the inputs whose shape is measured; None: the first sample of `search`.
    """

    model: Path | str | onnx.ModelProto | torch.nn.Module
    search: Dataset
    heldout: Dataset
    calibration: Sequence[Arrays]
    decode: Decode
    metric: str | Metric = "accuracy"
    slices: Sequence[str] = ()
    latency_inputs: Arrays | None = None
    example_inputs: Sequence[Any] = ()
    dynamic_axes: Mapping[str, Mapping[int, str]] = field(default_factory=dict)
    name: str = "workload"

    @property
    def metric_name(self) -> str:
        """The name that appears in metric keys."""
        return self.metric if isinstance(self.metric, str) else self.metric.__name__
