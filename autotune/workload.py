"""A Workload: model + data + metric + slices. What the user gives."""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from autotune.slices import Slice, Slices, declared, functions_of

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
    perturbation: str = ""  # how it was made from another sample, e.g. "blur(2)"; "" for one as it was given


@dataclass(frozen=True)
class Dataset:
    """A finite, deterministic sequence of samples."""

    name: str  # what messages call it; a Workload names its own by their role: "search", "heldout", "train"
    samples: Sequence[Sample]

    def __len__(self) -> int:
        return len(self.samples)

    def digest(self) -> str:
        """sha256 over ids, inputs, labels and metadata: two data sets with one digest are the same data."""
        state = hashlib.sha256()
        for sample in self.samples:
            parts: tuple[object, ...] = (sample.id, sample.label, sorted(sample.metadata.items()))
            state.update(repr((*parts, sample.perturbation) if sample.perturbation else parts).encode())
            _add(state, sample.inputs)
        return state.hexdigest()


def inputs_digest(batches: Sequence[Arrays]) -> str:
    """sha256 over inputs without labels, as those of calibration are: names, types, shapes and values, in order."""
    state = hashlib.sha256()
    for inputs in batches:
        state.update(b"inputs")
        _add(state, inputs)
    return state.hexdigest()


def _add(state: hashlib._Hash, inputs: Arrays) -> None:
    for name in sorted(inputs):
        array = np.ascontiguousarray(inputs[name])
        state.update(f"{name}{array.dtype}{array.shape}".encode())
        state.update(array.tobytes())


Metric = Callable[[Sequence[Any], Sequence[Any]], float]  # (predictions, labels) -> float, larger is better
Decode = Callable[[Arrays], Sequence[Any]]  # outputs of one batch -> one prediction per sample
Confidence = Callable[[Arrays], Sequence[float]]  # outputs of one batch -> 0 to 1 per sample: how sure it is
Perturb = Callable[[Sample, float, np.random.Generator], Sample]  # sample, strength, random numbers
# Outputs of one batch by name (torch tensors) and its labels -> one loss per sample [samples], or their mean.
Loss = Callable[[Mapping[str, "torch.Tensor"], Sequence[Any]], "torch.Tensor"]


@dataclass(frozen=True)
class Task:
    """One of several tasks of a model: its predictions and labels are mappings, this is what is under `key`."""

    key: str
    metric: str | Metric = "accuracy"


@dataclass(frozen=True)
class Workload:
    """Everything the search needs to know about the user's problem.

    `model` is an ONNX file, an `onnx.ModelProto` or a `torch.nn.Module` (then `example_inputs` are the arguments for
    its export, by place or as {parameter of forward: array or tensor}, and `dynamic_axes` names the axes that vary:
    {input name: {axis: "batch"}}).
    `calibration` holds input dictionaries only and must not share samples with `search` or `heldout`.
    `decode` turns the outputs of one batch into predictions that `metric` understands and that are JSON-serialisable.
    `metric` is the name of a registered metric, a callable on (predictions, labels), or several of them by name, the
    first of which is the one that tables show; a `Task` looks at one key of predictions and labels only.
    `slices` are declared as in `autotune.slices`: a metadata column name gives one slice per value, signs combine them,
    and a function of a sample that returns True or False gives one. A dictionary names them.
    `confidence` tells how sure the model is of each prediction; None: read off an output that holds probabilities or
    logits, where there is one.
    `perturbations` are the user's own ways to disturb a sample, by the name that slices use, beside those of
    `autotune.perturbations`; only the inputs of the sample that they return are taken. `encode` turns a text
    (`Sample.display`) into inputs, which the perturbation `casing` needs.
    `latency_inputs` are the inputs whose shape is measured; None: the first sample of `search`.
    `train` is what `[recover]` trains on, none of whose samples may be in `search` or `heldout`. `loss` is the task's
    own loss in torch, which then counts beside the distillation from the original.

    Whatever name a data set was given, here it is called by its role, "search", "heldout" or "train": what is judged on
    it is recorded under this name, and only evidence from "heldout" confirms.
    """

    model: Path | str | onnx.ModelProto | torch.nn.Module
    search: Dataset
    heldout: Dataset
    calibration: Sequence[Arrays]
    decode: Decode
    metric: str | Metric | Mapping[str, str | Metric | Task] = "accuracy"
    slices: Sequence[Slice] | Mapping[str, Slice] = ()
    latency_inputs: Arrays | None = None
    example_inputs: Sequence[Any] | Mapping[str, Any] = ()
    dynamic_axes: Mapping[str, Mapping[int, str]] = field(default_factory=dict)
    name: str = "workload"
    confidence: Confidence | None = None
    perturbations: Mapping[str, Perturb] = field(default_factory=dict)
    encode: Callable[[str], Arrays] | None = None
    train: Dataset | None = None
    loss: Loss | None = None

    def __post_init__(self) -> None:
        for role in ("search", "heldout", "train"):
            data = getattr(self, role)
            if isinstance(data, Dataset) and data.name != role:  # anything else is refused by the workload's checks
                object.__setattr__(self, role, replace(data, name=role))

    @property
    def metric_name(self) -> str:
        """The name of the first metric, which appears in metric keys."""
        if isinstance(self.metric, Mapping):
            return next(iter(self.metric))
        if isinstance(self.metric, str):
            return self.metric
        return name_of(self.metric)

    def code_digests(self, declarations: Slices | None = None) -> dict[str, str]:
        """What makes inputs, reads the outputs, scores the answers and tells slices apart -> sha256 of the source file
        that defines it: "decode", "confidence", "encode", and each metric, slice and perturbation that is the user's
        own function, where there is such a file. `declarations` are slices that were judged in place of the workload's.

        Raises `UsageError` for slices that cannot be read.
        """
        given = self.metric if isinstance(self.metric, Mapping) else {self.metric_name: self.metric}
        metrics = {name: each.metric if isinstance(each, Task) else each for name, each in given.items()}
        sliced = functions_of(declared(self.slices if declarations is None else declarations))
        functions: dict[str, object] = {"decode": self.decode, "confidence": self.confidence, "encode": self.encode}
        functions |= {f"metric {name}": each for name, each in metrics.items() if callable(each)}
        functions |= {f"slice {name}": each for name, each in sliced.items()}
        functions |= {f"perturbation {name}": each for name, each in self.perturbations.items()}
        found = {what: _source_digest(function) for what, function in functions.items() if function is not None}
        return {what: digest for what, digest in found.items() if digest is not None}


def name_of(metric: Metric) -> str:
    """What metric keys call a metric that has no other name: its own name, "metric" for a lambda, which has none."""
    name = getattr(metric, "__name__", type(metric).__name__)  # a partial has none
    return name if name.isidentifier() else "metric"


def _source_digest(function: Any) -> str | None:
    """sha256 of the file that defines a function, or the class of an object that is called; None where none is."""
    called = inspect.unwrap(getattr(function, "func", function))  # the function of a partial
    for each in (called, type(called)):
        try:
            file = inspect.getsourcefile(each)
            return None if file is None else hashlib.sha256(Path(file).read_bytes()).hexdigest()
        except TypeError:
            continue  # an object: its class has a file
        except OSError:
            return None
    return None
