"""torch.nn.Module -> ONNX, once per study. The only module that imports torch for this; it needs `hw-autotune[torch]`.

The export writes the module around each node into the node's metadata; `inspect_names` reads the layer names from it.
"""

from __future__ import annotations

import contextlib
import inspect
import io
import logging
import tempfile
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import onnx_ir as ir

from autotune.compress.ingest_files import MAX_BYTES
from autotune.compress.normalise import first_line, strip_local_metadata
from autotune.errors import DataError, UsageError, did_you_mean

if TYPE_CHECKING:
    import torch

Axes = Mapping[str, Mapping[int, str]]


Inputs = Sequence[Any] | Mapping[str, Any]  # of a forward: by place, or by the names of its parameters


def export(module: torch.nn.Module, example_inputs: Inputs, dynamic_axes: Axes) -> onnx.ModelProto:
    """Export `module` in eval mode on the CPU; its own mode and device stay as they were.

    Inputs are named like the parameters of `forward`, outputs `output`, or `output_0`, `output_1`, ... where there are
    several. Raises `UsageError` for a wrong call or without torch, `DataError` when torch cannot export the module.
    """
    torch = _torch(module)
    arguments = as_arguments(module, example_inputs)
    names = _input_names(module, arguments)
    for name in dynamic_axes:
        if name not in names:
            raise UsageError(f"dynamic_axes names the input {name!r}; {did_you_mean(name, names)}")
    size = sum(p.numel() * p.element_size() for p in module.parameters())
    if size > MAX_BYTES:
        raise DataError(f"has {size / 2**30:.1f} GiB of parameters, and 2 GiB is the most; use a smaller model")
    model = _export_quietly(torch, module, arguments, names, dynamic_axes)
    _name_outputs(model)
    _check_dynamic(model, dynamic_axes)
    proto = ir.serde.serialize_model(model)
    strip_local_metadata(proto)
    return proto


def as_arguments(module: torch.nn.Module, example_inputs: Inputs) -> tuple[Any, ...]:
    """The positional arguments of `forward`: tensors on the CPU, arrays made tensors, anything else as it is. Inputs by
    name are put into the order of `forward`'s parameters.

    Raises `UsageError` where there are none or they do not fit `forward`, for what is no module, or without torch.
    """
    torch = _torch(module)
    return tuple(_tensor(torch, item) for item in _as_sequence(torch, module, example_inputs))


def _torch(module: object) -> Any:
    ancestry = {base.__module__.partition(".")[0] for base in type(module).__mro__}
    if "torch" not in ancestry:
        raise UsageError(
            f"a model of type {type(module).__name__} is not known; give a path, a ModelProto or a torch.nn.Module"
        )
    try:
        import onnxscript  # noqa: F401 - torch.onnx.export needs it
        import torch
    except ImportError as error:
        raise UsageError(
            f"exporting a torch module needs {error.name}; install it with: pip install 'hw-autotune[torch]'"
        ) from error
    if not isinstance(module, torch.nn.Module):
        raise UsageError(f"a model of type {type(module).__name__} is no torch.nn.Module; give the module itself")
    return torch


def _as_sequence(torch: Any, module: torch.nn.Module, example_inputs: Any) -> Sequence[Any]:
    if isinstance(example_inputs, (torch.Tensor, np.ndarray)):
        example_inputs = (example_inputs,)
    if isinstance(example_inputs, str | bytes) or not isinstance(example_inputs, Iterable):
        raise UsageError(
            f"example_inputs is of type {type(example_inputs).__name__}; give the positional arguments of forward, or "
            "a mapping of its parameters' names"
        )
    if isinstance(example_inputs, Mapping):
        example_inputs = _by_place(module, example_inputs)
    given = tuple(example_inputs)
    if not given:
        raise UsageError("a torch module needs example_inputs for its export; give the positional arguments of forward")
    return given


def _by_place(module: torch.nn.Module, named: Mapping[str, Any]) -> tuple[Any, ...]:
    """Inputs by name as positional arguments. Raises `UsageError` where `forward` does not take them so."""
    what = f"example_inputs do not fit {type(module).__name__}.forward"
    parameters = inspect.signature(module.forward).parameters
    places = [name for name, each in parameters.items() if each.kind is inspect.Parameter.POSITIONAL_OR_KEYWORD]
    for name in named:
        if name not in places:
            raise UsageError(f"{what}: it has no positional parameter {name!r}; {did_you_mean(str(name), places)}")
    given = places[: 1 + max((places.index(name) for name in named), default=-1)]
    for name in given:
        if name not in named:
            raise UsageError(f"{what}: {name!r} is missing, which comes before {given[-1]!r}; give it too")
    return tuple(named[name] for name in given)


def _tensor(torch: Any, item: Any) -> Any:
    if isinstance(item, np.ndarray):
        return torch.from_numpy(np.array(item))
    return item.detach().cpu() if isinstance(item, torch.Tensor) else item


def _input_names(module: torch.nn.Module, arguments: Sequence[Any]) -> list[str]:
    try:
        bound = inspect.signature(module.forward).bind(*arguments)
    except TypeError as error:
        raise UsageError(f"example_inputs do not fit {type(module).__name__}.forward: {error}") from error
    names: list[str] = []
    for name, value in bound.arguments.items():
        several = bound.signature.parameters[name].kind is inspect.Parameter.VAR_POSITIONAL
        names.extend(f"{name}_{i}" for i in range(len(value))) if several else names.append(name)
    return names


def _dynamic_shapes(module: torch.nn.Module, names: Sequence[str], axes: Axes) -> tuple[Any, ...] | None:
    """One entry per argument, in the nesting that torch.export wants for `*args`."""
    if not axes:
        return None
    shapes = [dict(axes[name]) if name in axes else None for name in names]
    kinds = [p.kind for p in inspect.signature(module.forward).parameters.values()]
    if inspect.Parameter.VAR_POSITIONAL in kinds:
        fixed = kinds.index(inspect.Parameter.VAR_POSITIONAL)
        return (*shapes[:fixed], tuple(shapes[fixed:]))
    return tuple(shapes)


def _export_quietly(
    torch: Any, module: torch.nn.Module, arguments: tuple[Any, ...], names: list[str], axes: Axes
) -> ir.Model:
    with _silence(), _on_cpu(torch, module) as ready, tempfile.TemporaryDirectory() as folder:
        try:
            program = torch.onnx.export(
                ready,
                arguments,
                dynamo=True,
                input_names=names,
                dynamic_shapes=_dynamic_shapes(module, names, axes),
                verbose=False,
                artifacts_dir=folder,
            )
        except (torch.onnx.errors.OnnxExporterError, RuntimeError, ValueError, TypeError, KeyError) as error:
            raise DataError(f"torch cannot export it: {_innermost(error)}; make forward exportable first") from error
    model: ir.Model = program.model
    return model


@contextlib.contextmanager
def _on_cpu(torch: Any, module: torch.nn.Module) -> Iterator[torch.nn.Module]:
    """`module` in eval mode on the CPU; afterwards every part of it is as before."""
    training = [part for part in module.modules() if part.training]
    state = [*module.parameters(), *module.buffers()]
    devices = {tensor.device for tensor in state}
    home = next(iter(devices), torch.device("cpu"))
    if len(devices) > 1:
        raise DataError(f"its parameters are spread over {len(devices)} devices; move it to one")
    module.eval()
    try:
        yield module.cpu() if home.type != "cpu" else module
    finally:
        if home.type != "cpu":
            module.to(home)
        for part in training:
            part.training = True


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """torch prints progress, logs missing optional packages and warns about its own internals; no user needs that."""
    loggers = [logging.getLogger(name) for name in ("torch", "torch.onnx", "torch.export", "onnxscript", "onnx_ir")]
    before = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        sink = io.StringIO()
        with warnings.catch_warnings(), contextlib.redirect_stdout(sink), contextlib.redirect_stderr(sink):
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, before, strict=True):
            logger.setLevel(level)


def _innermost(error: BaseException) -> str:
    while error.__cause__ is not None:
        error = error.__cause__
    return f"{type(error).__name__}: {first_line(error)}"


def _name_outputs(model: ir.Model) -> None:
    outputs = list(model.graph.outputs)
    for index, value in enumerate(outputs):
        if not value.is_graph_input() and outputs.index(value) == index:
            value.name = "output" if len(outputs) == 1 else f"output_{index}"


def _check_dynamic(model: ir.Model, axes: Axes) -> None:
    """torch may fix a dimension that was asked to vary; then every other batch size would fail later."""
    for value in model.graph.inputs:
        for axis, name in axes.get(str(value.name), {}).items():
            if value.shape is None or axis >= len(value.shape):
                raise UsageError(f"dynamic_axes: input {value.name!r} has no axis {axis}")
            if isinstance(value.shape[axis], int):
                raise DataError(
                    f"forward fixes axis {axis} ({name}) of input {value.name!r} to {value.shape[axis]}; "
                    "leave it out of dynamic_axes or make forward independent of it"
                )
