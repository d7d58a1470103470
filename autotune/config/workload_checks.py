"""What is checked of a Workload before anything is spent: data, functions, metrics, labels, slices; one line each."""

from __future__ import annotations

import hashlib
import importlib.util
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from autotune import slices
from autotune.config.tables import RecoverTable
from autotune.errors import DataError
from autotune.keys import COST_METRICS, JUDGED_METRICS
from autotune.perturbations import BUILT_IN, perturbed
from autotune.workload import Arrays, Dataset, Task, Workload

_SHOWN_NAMES = 5
_TOLERATED_REPEATS = 0.02  # share of a data set; real collections hold the odd duplicate


def check_workload(workload: Workload, *, table: Mapping[str, str] | None = None, floor: int = slices.FLOOR) -> None:
    """Can this be searched at all? Raises `DataError` that names the data set, the sample and the input.

    Checked: samples are there and have unique ids, every sample has the same inputs with a batch axis of 1,
    no NaN in them, search and held-out data share no sample with each other, with calibration or with training data,
    the functions are functions, metrics and perturbations have names that can be used, labels are of one kind and have
    what the tasks look at, and every slice, those of the study's `table` included, covers some samples of both data
    sets and not all. What cannot be read or is not known is a `UsageError`. `floor` is what one of all intersections
    must hold.
    """
    _check_functions(workload)
    _check_metrics(workload)
    names = _check_dataset(workload.name, workload.search, None)
    _check_dataset(workload.name, workload.heldout, names)
    if workload.train is not None:
        _check_dataset(workload.name, workload.train, names)
    _check_calibration(workload, names)
    if workload.latency_inputs is not None:
        _check_inputs(f"{workload.name}: latency_inputs", workload.latency_inputs, names)
    _check_labels(workload, [each for each in (workload.search, workload.heldout, workload.train) if each is not None])
    _check_overlap(workload)
    _check_slices(workload, slices.declared(workload.slices, table), floor)


def cannot_recover(table: RecoverTable, workload: Workload) -> str:
    """Why `[recover]` cannot be done for this workload on this machine; "" where it can."""
    if workload.train is None:
        return "needs training data: set Workload.train in task.py, or remove the table"
    if len(workload.train) < 2:
        return "Workload.train has one sample; training needs two, one to validate with"
    if table.hard and workload.loss is None:
        return "hard weighs the task's own loss: set Workload.loss in task.py, or leave hard out"
    if table.soft == 0 and table.features == 0 and not (table.hard or (table.hard is None and workload.loss)):
        return "soft, hard and features are all 0, so there is nothing to learn from; set one of them"
    if table.relative_rate is not None and table.learning_rate is not None:
        return "relative_rate and learning_rate exclude each other; drop one"
    if importlib.util.find_spec("torch") is None:
        return "training needs torch, which is not installed: pip install 'hw-autotune[torch]', or remove the table"
    return ""


def check_judged(workload: Workload, names: Sequence[str]) -> None:
    """Can models be judged on the data sets of these `names`? As `check_workload`, of what judging uses alone: neither
    the model, calibration and training data, nor a data set that is not judged. Slices are checked where they are cut.
    """
    _check_reading(workload)
    _check_metrics(workload)
    inputs: Sequence[str] | None = None
    for name in names:
        inputs = _check_dataset(workload.name, getattr(workload, name), inputs)
    _check_labels(workload, [getattr(workload, name) for name in names])


def _check_functions(workload: Workload) -> None:
    name = workload.name
    _check_reading(workload)
    if workload.loss is not None and not callable(workload.loss):
        raise DataError(f"{name}: loss must be a function (outputs, labels) -> tensor, not {workload.loss!r:.60}")


def _check_reading(workload: Workload) -> None:
    name = workload.name
    if not callable(workload.decode):
        raise DataError(f"{name}: decode must be a function of a batch's outputs, not {workload.decode!r}")
    if workload.confidence is not None and not callable(workload.confidence):
        raise DataError(f"{name}: confidence must be a function of a batch's outputs, not {workload.confidence!r:.60}")
    if workload.encode is not None and not callable(workload.encode):
        raise DataError(f"{name}: encode must be a function of a text, not {workload.encode!r:.60}")
    if not isinstance(workload.perturbations, Mapping):
        raise DataError(f"{name}: perturbations must be a dictionary of name -> function")
    for called, function in workload.perturbations.items():
        if not isinstance(called, str) or not called.isidentifier() or called in (*BUILT_IN, "bands", "cuts"):
            why = "is built in" if called in (*BUILT_IN, "bands", "cuts") else "is no plain name"
            raise DataError(f"{name}: perturbations: {called!r} {why}; call it by another word")
        if not callable(function):
            raise DataError(
                f"{name}: perturbations: {called!r} must be a function (sample, strength, random numbers) -> sample, "
                f"not {function!r:.60}"
            )


def _check_metrics(workload: Workload) -> None:
    name, metric = workload.name, workload.metric
    if isinstance(metric, Mapping) and not metric:
        raise DataError(f"{name}: metric is an empty dictionary; name at least one")
    if not isinstance(metric, Mapping):
        _check_metric(f"{name}: metric", metric)
        metric = {workload.metric_name: metric}
    for called, each in metric.items():
        if not isinstance(called, str) or not called.isidentifier():
            raise DataError(f"{name}: the metric's name {called!r} must be usable in metric keys; name it")
        if called in COST_METRICS or called in JUDGED_METRICS:
            raise DataError(f"{name}: the metric's name {called!r} means something else in metric keys; rename it")
        if isinstance(each, Task) and not isinstance(each.key, str):
            raise DataError(f"{name}: the task of metric {called!r} needs a key, a text, not {each.key!r:.60}")
        _check_metric(f"{name}: metric {called!r}:", each.metric if isinstance(each, Task) else each)


def _check_metric(where: str, metric: object) -> None:
    if not (isinstance(metric, str) or callable(metric)):
        raise DataError(f"{where} must be a name or a function (predictions, labels) -> float, or several by name")


def _check_labels(workload: Workload, datasets: Sequence[Dataset]) -> None:
    """Labels are of one kind throughout, and hold what every task looks at."""
    metric = workload.metric
    tasks = [each.key for each in metric.values() if isinstance(each, Task)] if isinstance(metric, Mapping) else []
    kind = _label_kind(datasets[0].samples[0].label)
    for dataset in datasets:
        for sample in dataset.samples:
            where, label = f"{workload.name}: data set {dataset.name!r}, sample {sample.id!r}", sample.label
            missing = [key for key in tasks if not isinstance(label, Mapping) or key not in label]
            if missing:
                raise DataError(
                    f"{where}: the label {label!r:.60} has no entry for the task {missing[0]!r}; it must be a "
                    f"dictionary with {_some(tasks)}"
                )
            if _label_kind(label) != kind:
                raise DataError(f"{where}: the label is {_label_kind(label)}, those before are {kind}")


def _label_kind(label: object) -> str:
    if label is None:
        return "missing (None)"
    if isinstance(label, Mapping):
        return "a dictionary"
    if isinstance(label, np.ndarray) and label.ndim:
        return f"an array with {label.ndim} axes"
    return "a list" if isinstance(label, list | tuple) else "one value"


def _check_slices(workload: Workload, declarations: Sequence[slices.Declaration], floor: int) -> None:
    """Every declaration finds samples in both data sets. What is computed from the original's answers is not known
    yet."""
    data = workload.search
    given = {column for sample in data.samples for column in sample.metadata}
    computed = {*slices.AUTOMATIC} - given
    for column in sorted({column for each in declarations for column in slices.columns_of(each)} - computed):
        slices.Population.of(data).column(column)  # raises for one that does not exist
    known = [each for each in declarations if not slices.columns_of(each) & computed]
    known = list(slices.fixed(data, known))
    found = slices.assign(perturbed(data, known, workload), known, floor=floor)
    metrics = workload.metric if isinstance(workload.metric, Mapping) else ()
    for name in found:
        if name.partition(":")[0] in metrics:  # tables call the slices of further metrics METRIC:SLICE
            raise DataError(f"{workload.name}: the slice {name!r} reads like one of a metric; give it another name")
    slices.assign(perturbed(workload.heldout, known, workload), known, expected=found, floor=floor)


def _check_dataset(workload: str, dataset: Dataset, names: Sequence[str] | None) -> Sequence[str]:
    if not isinstance(dataset, Dataset):
        raise DataError(
            f"{workload}: search, heldout and train must be an autotune.Dataset, not {type(dataset).__name__}"
        )
    where = f"{workload}: data set {dataset.name!r}"
    if len(dataset) == 0:
        raise DataError(f"{where} is empty; it needs samples to judge by")
    seen: set[str] = set()
    for sample in dataset.samples:
        if sample.id in seen:
            raise DataError(f"{where}: the sample id {sample.id!r} is there twice")
        seen.add(sample.id)
        names = _check_inputs(f"{where}, sample {sample.id!r}", sample.inputs, names)
    return sorted(dataset.samples[0].inputs)


def _check_inputs(where: str, inputs: Arrays, names: Sequence[str] | None) -> Sequence[str]:
    if not isinstance(inputs, Mapping) or not inputs:
        raise DataError(f"{where}: inputs must be a dictionary of input name -> array")
    if names is not None and sorted(inputs) != list(names):
        raise DataError(f"{where}: has the inputs {_some(sorted(inputs))}, the samples before have {_some(names)}")
    for name, array in inputs.items():
        if not isinstance(array, np.ndarray):
            raise DataError(f"{where}: input {name!r} must be a numpy array, not {type(array).__name__}")
        if array.size == 0:
            raise DataError(f"{where}: input {name!r} has shape {array.shape} and so no elements")
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise DataError(f"{where}: input {name!r} holds NaN or infinity")
        if array.dtype.kind == "O":
            raise DataError(f"{where}: input {name!r} is an array of Python objects; give it a number type")
    return sorted(inputs)


def _check_calibration(workload: Workload, names: Sequence[str]) -> None:
    if len(workload.calibration) == 0:
        raise DataError(f"{workload.name}: calibration is empty; static quantization needs a few dozen inputs")
    for index, inputs in enumerate(workload.calibration):
        _check_inputs(f"{workload.name}: calibration[{index}]", inputs, names)


def _check_overlap(workload: Workload) -> None:
    """The winner must not be judged on what it was chosen, calibrated or trained with. A few natural repeats are
    tolerated.
    """
    search = {_digest(sample.inputs): f"search sample {sample.id!r}" for sample in workload.search.samples}
    heldout = {_digest(sample.inputs): f"held-out sample {sample.id!r}" for sample in workload.heldout.samples}
    calibration = {_digest(inputs): f"calibration[{i}]" for i, inputs in enumerate(workload.calibration)}
    samples = workload.train.samples if workload.train is not None else ()
    train = {_digest(sample.inputs): f"training sample {sample.id!r}" for sample in samples}
    pairs = ((heldout, search), (calibration, search), (calibration, heldout), (search, train), (heldout, train))
    for one, other in pairs:
        both = one.keys() & other.keys()
        if len(both) > _TOLERATED_REPEATS * len(one):
            example = next(digest for digest in one if digest in both)
            raise DataError(
                f"{workload.name}: {len(both)} of {len(one)} samples are in two data sets, e.g. {one[example]} has the "
                f"inputs of {other[example]}; search, held-out, and training or calibration data must be different "
                "samples"
            )


def _digest(inputs: Arrays) -> bytes:
    state = hashlib.blake2b(digest_size=16)
    for name in sorted(inputs):
        array = np.ascontiguousarray(inputs[name])
        state.update(f"{name}{array.dtype}{array.shape}".encode())
        state.update(array.tobytes())
    return state.digest()


def _some(names: Sequence[Any]) -> str:
    shown = ", ".join(str(name) for name in names[:_SHOWN_NAMES])
    return shown + (", ..." if len(names) > _SHOWN_NAMES else "")
