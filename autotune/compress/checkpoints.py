"""Recovered weights on disk: one .npz file per checkpoint, named by its contents, so that a recipe can name it.

A recipe with `{"recover": {"weights": NAME}}` then means the same bytes for ever. What is there under a name is whole.
"""

from __future__ import annotations

import hashlib
import io
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from autotune.errors import TrialFailure
from autotune.store import artifacts
from hwprofiles.errors import Failure

_NAME = re.compile(r"[0-9a-f]{16}")


def save(folder: Path, tensors: Mapping[str, np.ndarray]) -> str:
    """Keep tensors (name -> array) in `folder`; returns the name of the checkpoint: the first 16 hexadecimal digits of
    the sha256 of its file. Equal tensors give equal files. Raises `DiskError`; never leaves half a file.
    """
    names = sorted(tensors)
    stream = io.BytesIO()
    # By place: a tensor's name may hold what the name of a file in an archive cannot.
    np.savez(stream, np.array(names, dtype=np.str_), *(np.asarray(tensors[name], order="C") for name in names))
    data = stream.getvalue()
    name = hashlib.sha256(data).hexdigest()[:16]
    artifacts.write_whole(path_of(folder, name), data)
    return name


def load(folder: Path | None, name: str) -> dict[str, np.ndarray]:
    """The tensors of a checkpoint. Raises `TrialFailure` where it is not there, or its bytes are not those of its
    name."""
    if folder is None or not _NAME.fullmatch(name):
        raise _failure(f"there are no recovered weights {name!r}; they belong to the study that trained them")
    path = path_of(folder, name)
    try:
        data = path.read_bytes()
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise _failure(
            f"recovered weights {path} cannot be read: {reason}; they cannot be trained again alike"
        ) from error
    if hashlib.sha256(data).hexdigest()[:16] != name:
        raise _failure(f"recovered weights {path} are damaged: the bytes are not those of the name; restore the file")
    try:
        with np.load(io.BytesIO(data), allow_pickle=False) as found:
            return {str(tensor): found[f"arr_{i}"] for i, tensor in enumerate(found["arr_0"], start=1)}
    except (ValueError, KeyError, OSError, zipfile.BadZipFile) as error:
        raise _failure(f"recovered weights {path} are no checkpoint of ours: {error}") from error


def path_of(folder: Path, name: str) -> Path:
    """Where a checkpoint lies."""
    return folder / f"{name}.npz"


def _failure(message: str) -> TrialFailure:
    return TrialFailure(Failure(kind="bad_model", stage="build", message=message))
