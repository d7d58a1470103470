"""The way in: a file, a model in memory or a torch module becomes a checked, normalised and inspected model."""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import onnx
import onnx_ir as ir

from autotune.compress.ingest_checks import check_graph, check_tensor, check_text, check_versions
from autotune.compress.ingest_files import digest_of, is_in, load_external, open_file, tensors, to_bytes
from autotune.compress.ingest_large import take
from autotune.compress.ingest_twins import twins_note
from autotune.compress.inspect import inspect_graph, require_layers
from autotune.compress.normalise import first_line, inline_functions, normalise, serialise
from autotune.compress.scratch import Scratch
from autotune.errors import DataError
from autotune.layers import Inspection

if TYPE_CHECKING:
    import torch

__all__ = ["Ingested", "load_model", "require_layers"]


@dataclass(frozen=True)
class Ingested:
    """A model that everything else works on.

    `model` is normalised (see `normalise`), without external data. Of a large one, `scratch` has the large weights: the
    model's initializers only stand for them (`scratch.stored`), and `plan.Source` reads them. `source_digest` is the
    sha256 of the file that was given (with its external data), of the canonical bytes of a model in memory, or of a
    torch module's export.
    """

    model: onnx.ModelProto
    inspection: Inspection
    source_digest: str
    scratch: Scratch | None = None


def load_model(
    source: Path | str | onnx.ModelProto | torch.nn.Module,
    *,
    example_inputs: Sequence[Any] | Mapping[str, Any] = (),
    dynamic_axes: Mapping[str, Mapping[int, str]] = {},
) -> Ingested:
    """Load a model that is not trusted and bring it into the normal form.

    `example_inputs` and `dynamic_axes` ({input name: {axis: name of the dimension}}) are for a torch module only.
    Raises `DataError` for a model that is missing, damaged, too large or cannot be exported, in one line that names it;
    `UsageError` for a torch module where torch is not installed, or for another type of object.
    """
    label = _label(source)
    try:
        if isinstance(source, (str, Path)):
            with open_file(Path(source)) as file:
                return _ingest(file, Path(source).parent)
        if isinstance(source, onnx.ModelProto):
            return _ingest(io.BytesIO(to_bytes(source)), None)
        from autotune.compress.torch_export import export  # the only way to torch

        return _ingest(io.BytesIO(to_bytes(export(source, example_inputs, dynamic_axes))), None)
    except DataError as error:
        raise DataError(f"{label}: {error}") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{label}: holds names that are no text; the file is damaged, download it again") from error
    except (ir.serde.SerdeError, RecursionError) as error:
        raise DataError(f"{label}: is not valid ONNX ({_cause(error)}); export or download it again") from error


def _ingest(file: BinaryIO, folder: Path | None) -> Ingested:
    proto, own, scratch = _read(file)
    check_text(proto)
    opset = check_versions(proto)
    external = load_external(proto, folder, scratch)
    for tensor in tensors(proto):
        if not is_in(scratch, tensor):  # what is in the scratch file was checked on the way there
            check_tensor(tensor)
    check_graph(proto.graph, opset)
    if proto.functions:
        proto = inline_functions(proto)
        check_graph(proto.graph, opset)
    model, notes = normalise(proto)
    inspection = inspect_graph(model, notes)
    inspection = replace(inspection, notes=inspection.notes + twins_note(model, inspection.layers))
    return Ingested(serialise(model, scratch), inspection, digest_of(own, external), scratch)


def _read(file: BinaryIO) -> tuple[onnx.ModelProto, str, Scratch | None]:
    """The model, the sha256 of the file, and where its large weights are."""
    try:
        size = file.seek(0, os.SEEK_END)
        file.seek(0)
        own = hashlib.file_digest(file, "sha256").hexdigest()  # type: ignore[arg-type]  # a buffered file or BytesIO
        file.seek(0)
        proto, scratch = take(file, size)
    except OSError as error:
        raise DataError(f"cannot be read ({error.strerror}); check the disk") from error
    finally:
        file.close()  # the bytes of a model in memory
    return proto, own, scratch


def _label(source: object) -> str:
    """What messages call the model."""
    if isinstance(source, (str, Path)):
        text = str(source)
        return text if text.isprintable() else ascii(text)
    if isinstance(source, onnx.ModelProto):
        return "the ONNX model given in memory"
    return f"the export of {type(source).__name__}"


def _cause(error: BaseException) -> str:
    """The innermost cause, which is the one that names the fault."""
    while error.__cause__ is not None:
        error = error.__cause__
    return first_line(error)
