"""Which files a bundle has, what each target runs, and how a file is written for good."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autotune.trial import Artifact, Trial
from autotune.workload import Workload

if TYPE_CHECKING:
    from autotune.search.engines import Engine
    from autotune.store import Store

API_VERSION = 1
FIRST = "model.onnx"  # of the first target


@dataclass(frozen=True)
class Exported:
    """What a bundle is made from: a verified trial of a store, and the command that makes it again.

    `engines` are what targets built and measured (`autotune.search.study.Study.engines`).
    """

    store: Store
    trial: Trial
    workload: Workload
    command: str
    engines: Sequence[Engine] = ()


def models(trial: Trial) -> dict[str, Artifact]:
    """File of the bundle -> what is in it."""
    assert trial.artifact is not None  # checked by the caller
    further = {_named(other.artifact): other.artifact for other in trial.elsewhere}
    further.pop(_named(trial.artifact), None)
    return {FIRST: trial.artifact, **further}


def file_of(trial: Trial, target: str) -> str:
    artifact = trial.artifact_for(target)
    return FIRST if artifact is None or artifact == trial.artifact else _named(artifact)


def _named(artifact: Artifact) -> str:
    return f"model-{artifact.dialect}.onnx"


def engine_file(engine: Engine) -> str:
    return f"engine-{engine.target}.plan"


def write(path: Path, data: bytes) -> None:
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def write_json(path: Path, value: Any) -> None:
    write(path, (json.dumps(value, indent=2, sort_keys=True, allow_nan=False) + "\n").encode())


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
