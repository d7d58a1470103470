"""The manifest: every file's hash, and where model, data and numbers come from.

History: 1, the first. Added to it since: `data.calibration.digest`, and `code`, the digests of the files that hold the
workload's decode, confidence and metrics. The digests under `data` are of inputs as the model gets them, behind all
preprocessing.
"""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from autotune.bundle.evidence import config_of, last
from autotune.bundle.files import API_VERSION, FIRST, Exported, engine_file, file_of, models, sha256
from autotune.errors import DataError
from autotune.search.evidence import not_offered
from autotune.trial import Trial, Value
from autotune.workload import Workload, inputs_digest

if TYPE_CHECKING:
    from autotune.search.engines import Engine
    from autotune.store import Store

MANIFEST = "manifest.json"
_VERSIONS_OF = ("hw-autotune", "onnx", "onnxruntime", "numpy", "optuna")


def verify_bundle(folder: Path | str) -> dict[str, Any]:
    """Check that every file of a bundle is what its manifest says; returns the manifest.

    Raises `DataError` for a missing, changed or extra file, and for names that lead out of the folder.
    """
    folder = Path(folder)
    manifest = read_manifest(folder)
    for name, facts in manifest["files"].items():
        path = folder / _safe_name(name, folder)
        if path.is_symlink() or not path.is_file():
            raise DataError(f"{folder}: {name} is missing or no regular file; export the bundle again")
        if path.stat().st_size != facts.get("size") or sha256(path) != facts.get("sha256"):
            raise DataError(f"{folder}: {name} is not the file that was exported; export the bundle again")
    known = {*manifest["files"], MANIFEST}
    extra = sorted(entry.name for entry in folder.iterdir() if entry.name not in known)
    if extra:
        raise DataError(f"{folder}: {extra[0]!r} does not belong to the bundle; remove it or export again")
    if "model.onnx" not in manifest["files"]:
        raise DataError(f"{folder}: the manifest knows no model.onnx; export the bundle again")
    return manifest


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest as written. Raises `DataError` when there is none that we can read."""
    path = folder / MANIFEST
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError(f"{folder}: no bundle, {MANIFEST} cannot be read ({error.strerror})") from error
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: not JSON; export the bundle again") from error
    if not isinstance(manifest, dict) or not isinstance(manifest.get("files"), dict):
        raise DataError(f"{path}: not the manifest of a bundle; export the bundle again")
    if manifest.get("api_version") != API_VERSION:
        raise DataError(f"{path}: of version {manifest.get('api_version')}, this autotune reads version {API_VERSION}")
    if not all(isinstance(facts, dict) for facts in manifest["files"].values()):
        raise DataError(f"{path}: not the manifest of a bundle; export the bundle again")
    return manifest


def manifest_of(draft: Path, exported: Exported) -> dict[str, Any]:
    """What the manifest of a folder that is otherwise complete says.

    Raises `DataError` where a model in it is not what the store has.
    """
    store, trial, workload = exported.store, exported.trial, exported.workload
    assert trial.artifact is not None  # nothing else is exported
    files = {path.name: {"sha256": sha256(path), "size": path.stat().st_size} for path in sorted(draft.iterdir())}
    for file, artifact in models(trial).items():
        if files[file]["sha256"] != artifact.digest:
            raise DataError(f"{draft}: {file} was not written as it is in the store; the disk may be faulty")
    return {
        "api_version": API_VERSION,
        "created_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "study": store.study,
        "trial": trial.number,
        "command": exported.command,
        "model": {**trial.artifact.model_dump(), "file": FIRST},
        **_by_target(store, trial),
        **_engines(trial, exported.engines),
        "source_digest": store.meta("source_digest"),
        "baseline_digest": store.meta("baseline"),
        "workload_digest": store.workload_digest,
        "data": _data(trial, workload),
        "code": workload.code_digests(),
        "metrics": {"search": _numbers(trial.metrics), "final": _numbers(trial.final)},
        "targets": {
            m.target: {**m.fingerprint.model_dump(mode="json"), "key": m.fingerprint.key, "provenance": m.provenance}
            for m in last(trial)
        },
        "versions": {"python": platform.python_version(), **{name: version(name) for name in _VERSIONS_OF}},
        "files": files,
    }


def _engines(trial: Trial, engines: Sequence[Engine]) -> dict[str, Any]:
    """Where each target's engine is and what alone can run it, or why it is not there; nothing without any."""
    ran = {m.target: m.fingerprint for m in last(trial)}
    told = {
        engine.target: {
            "sha256": engine.digest,
            "file": None if engine.plan is None else engine_file(engine),
            "left_out": engine.why or None,
            "runtime": f"{ran[engine.target].runtime} {ran[engine.target].runtime_version}",
            "card": ran[engine.target].accelerator,
        }
        for engine in engines
    }
    return {"engines": told} if told else {}


def _by_target(store: Store, trial: Trial) -> dict[str, Any]:
    """Which file each target runs, and on which guarded ones it is not offered; nothing for a single plain family."""
    config = config_of(store)
    if not config.families:
        return {}
    return {
        "models": {
            file: {**artifact.model_dump(), "targets": [t for t in config.targets if file_of(trial, t) == file]}
            for file, artifact in models(trial).items()
        },
        "not_offered": {t: why for t, why in not_offered(store.trials(), trial, config).items() if why},
    }


def _data(trial: Trial, workload: Workload) -> dict[str, Any]:
    """The samples behind the numbers; those of training where the weights were trained after compression."""
    used = {
        "search": {"digest": workload.search.digest(), "samples": len(workload.search)},
        "heldout": {"digest": workload.heldout.digest(), "samples": len(workload.heldout)},
        "calibration": {"digest": inputs_digest(workload.calibration), "samples": len(workload.calibration)},
    }
    if "recover" in trial.recipe and workload.train is not None:
        used["train"] = {"digest": workload.train.digest(), "samples": len(workload.train)}
    return used


def _numbers(values: Mapping[str, Value]) -> dict[str, dict[str, float]]:
    return {key: value.model_dump() for key, value in sorted(values.items())}


def _safe_name(name: str, folder: Path) -> str:
    """Bundles are flat: a name is a name, not a path."""
    if not name or name in (".", "..") or name != PurePosixPath(name).name or "\\" in name or not name.isprintable():
        raise DataError(f"{folder}: the manifest names the file {name!r}, which is not a plain name; do not trust it")
    return name
