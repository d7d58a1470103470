"""The Bundle: a folder with one model and everything that proves what it is.

    model.onnx      byte for byte what was measured; with targets of several dialects model-DIALECT.onnx for the others
    recipe.json     technique -> layer -> choice
    manifest.json   sha256 and size of every file, digests of model and data, versions, metrics, how to make
    it again evidence.json   measurements with raw samples, judgements with the outcome of every sample
    report.html     the study's report infer.py        how to run it: needs onnxruntime and numpy README.md
    what this is, for whoever finds the folder

Manifest history: 1, the first.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import shlex
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from autotune import plugins
from autotune.config import StudyConfig
from autotune.errors import DataError, DiskError, UsageError
from autotune.keys import format_amount, parse_key
from autotune.search.agreement import doubts, stored_parity
from autotune.search.drift import drifts
from autotune.search.evidence import further_evidence, main_family, not_offered
from autotune.trial import Artifact, Trial, Value
from autotune.workload import Workload
from hwprofiles.measurement import Measurement

if TYPE_CHECKING:
    from autotune.search.engines import Engine
    from autotune.store import Store

MANIFEST = "manifest.json"
_FIRST = "model.onnx"  # of the first target
API_VERSION = 1
_VERSIONS_OF = ("hw-autotune", "onnx", "onnxruntime", "numpy", "optuna")
_SHOWN_IN_README = ("size_bytes", "latency_p50", "latency_ratio", "uniform_ratio", "memory_peak", "energy_j", "drop")

INFER = '''\
"""Run the model once on made-up input. Needs: pip install onnxruntime numpy"""
from pathlib import Path

import numpy as np
import onnxruntime as ort

session = ort.InferenceSession(Path(__file__).with_name("{model}"), providers={providers})
inputs = {{  # name: shape and type of what was measured; put your own arrays here
{inputs}
}}
for output, value in zip(session.get_outputs(), session.run(None, inputs)):
    print(output.name, value.dtype, value.shape)
'''

README = """\
# {name}, trial {number}

A compressed ONNX model with its evidence, written by hw-autotune {version}.

- `model.onnx` runs in a plain `onnxruntime.InferenceSession`; `python infer.py` shows how.
- `report.html` shows how it was found and what it loses where.
- `evidence.json` holds every measurement and the outcome of every judged sample.
- `manifest.json` holds the sha256 of every file; `autotune.verify_bundle("{folder}")` checks them.

| metric | value | 95 % interval |
|---|---|---|
{rows}

Numbers are from {phase}. {remarks}Make it again with `{command}`.
"""


def check_destination(folder: Path) -> None:
    """Raises `UsageError` unless `folder` can become a bundle: absent, empty, or a bundle already."""
    if folder.is_symlink() or (folder.exists() and not folder.is_dir()):
        raise UsageError(f"{folder}: not a folder; name a new one for the bundle")
    if folder.is_dir() and any(folder.iterdir()) and not _is_bundle(folder):
        raise UsageError(f"{folder}: the folder is not empty and not a bundle; name a new one, nothing was touched")


def export_bundle(
    store: Store,
    trial: Trial,
    folder: Path,
    *,
    workload: Workload,
    study: str | None = None,
    place: str | None = None,
    engines: Sequence[Engine] = (),
) -> Path:
    """Write the bundle of `trial` to `folder`, whole or not at all; an older bundle there is replaced.

    `study` and `place` are how the user names the study and its store, for the command to make it again; `engines` are
    what targets built and measured (`autotune.search.study.Study.engines`). Verify the trial first. Raises
    `UsageError` (a trial without a model, a folder that holds something else), `DataError` (the artifact is not what
    was measured), `DiskError`.
    """
    check_destination(folder)
    if trial.artifact is None or trial.state != "complete":
        raise UsageError(f"trial {trial.number} is {trial.state} and has no model to export; choose a complete one")
    models = {file: store.artifact_bytes(artifact.digest) for file, artifact in _models(trial).items()}  # checked
    where = ["--store", place] if place else []
    named = folder.name if folder.is_absolute() else str(folder)  # no path of this machine in what ships
    command = shlex.join(["autotune", "export", study or store.study, str(trial.number), named, *where])
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}-") as parent:
            draft = Path(parent) / "bundle"
            draft.mkdir()
            for engine in engines:
                if engine.plan is not None:
                    _write(draft / _engine_file(engine), engine.plan)
            _write_files(draft, store, trial, models, workload, command, folder.name, engines)
            _write_manifest(draft, store, trial, workload, command, engines)
            _swap(draft, folder, Path(parent) / "old")
    except OSError as error:
        raise DiskError(
            f"{folder}: the bundle cannot be written ({error.strerror}); free space or choose another folder"
        ) from error
    return folder


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
        if path.stat().st_size != facts.get("size") or _sha256(path) != facts.get("sha256"):
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


def _is_bundle(folder: Path) -> bool:
    """Only a folder that holds nothing but what its manifest names may be replaced."""
    try:
        manifest = read_manifest(folder)
    except DataError:
        return False
    return {entry.name for entry in folder.iterdir()} <= {*manifest["files"], MANIFEST}


def _write_files(
    draft: Path,
    store: Store,
    trial: Trial,
    models: Mapping[str, bytes],
    workload: Workload,
    command: str,
    name: str,
    engines: Sequence[Engine],
) -> None:
    for file, data in models.items():
        _write(draft / file, data)
    _write_json(draft / "recipe.json", trial.recipe)
    _write_json(draft / "evidence.json", _evidence(store, trial))
    plugins.load("hw_autotune.reports", "html")(store, draft / "report.html")
    inputs = dict(workload.latency_inputs or workload.search.samples[0].inputs)
    lines = [f'    {n!r}: np.ones({tuple(a.shape)}, dtype="{a.dtype}"),' for n, a in inputs.items()]
    runs = main_family(_config(store).families)
    told = {"model": _FIRST, "providers": '["CPUExecutionProvider"]'}
    if runs is not None:
        told = {"model": _file_of(trial, runs.judge), "providers": json.dumps([runs.provider])}
    _write(draft / "infer.py", INFER.format(inputs="\n".join(lines), **told).encode())
    _write(draft / "README.md", _readme(store, trial, command, name, engines).encode())


def _write_manifest(
    draft: Path, store: Store, trial: Trial, workload: Workload, command: str, engines: Sequence[Engine]
) -> None:
    assert trial.artifact is not None  # checked by the caller
    files = {path.name: {"sha256": _sha256(path), "size": path.stat().st_size} for path in sorted(draft.iterdir())}
    for file, artifact in _models(trial).items():
        if files[file]["sha256"] != artifact.digest:
            raise DataError(f"{draft}: {file} was not written as it is in the store; the disk may be faulty")
    _write_json(
        draft / MANIFEST,
        {
            "api_version": API_VERSION,
            "created_at": datetime.now(UTC).isoformat(timespec="seconds"),
            "study": store.study,
            "trial": trial.number,
            "command": command,
            "model": {**trial.artifact.model_dump(), "file": _FIRST},
            **_by_target(store, trial),
            **_engines(trial, engines),
            "source_digest": store.meta("source_digest"),
            "baseline_digest": store.meta("baseline"),
            "workload_digest": store.workload_digest,
            "data": {
                **_trained_on(trial, workload),
                "search": {"digest": workload.search.digest(), "samples": len(workload.search)},
                "heldout": {"digest": workload.heldout.digest(), "samples": len(workload.heldout)},
                "calibration": {"samples": len(workload.calibration)},
            },
            "metrics": {"search": _numbers(trial.metrics), "final": _numbers(trial.final)},
            "targets": {
                m.target: {
                    **m.fingerprint.model_dump(mode="json"),
                    "key": m.fingerprint.key,
                    "provenance": m.provenance,
                }
                for m in _last(trial)
            },
            "versions": {"python": platform.python_version(), **{name: version(name) for name in _VERSIONS_OF}},
            "files": files,
        },
    )


def _models(trial: Trial) -> dict[str, Artifact]:
    """File of the bundle -> what is in it."""
    assert trial.artifact is not None  # checked by the caller
    further = {_named(other.artifact): other.artifact for other in trial.elsewhere}
    further.pop(_named(trial.artifact), None)
    return {_FIRST: trial.artifact, **further}


def _engine_file(engine: Engine) -> str:
    return f"engine-{engine.target}.plan"


def _engines(trial: Trial, engines: Sequence[Engine]) -> dict[str, Any]:
    """Where each target's engine is and what alone can run it, or why it is not there; nothing without any."""
    ran = {m.target: m.fingerprint for m in _last(trial)}
    told = {
        engine.target: {
            "sha256": engine.digest,
            "file": None if engine.plan is None else _engine_file(engine),
            "left_out": engine.why or None,
            "runtime": f"{ran[engine.target].runtime} {ran[engine.target].runtime_version}",
            "card": ran[engine.target].accelerator,
        }
        for engine in engines
    }
    return {"engines": told} if told else {}


def _about(engine: Engine, trial: Trial) -> str:
    """A sentence on a target's engine."""
    if engine.plan is None:
        return f"The engine that was measured on {engine.target} is not here: {engine.why}."
    ran = next(m.fingerprint for m in _last(trial) if m.target == engine.target)
    return (
        f"`{_engine_file(engine)}` is the very engine that was measured on {engine.target}; it runs with {ran.runtime} "
        f"{ran.runtime_version} on such a card ({ran.accelerator}) and nowhere else."
    )


def _named(artifact: Artifact) -> str:
    return f"model-{artifact.dialect}.onnx"


def _file_of(trial: Trial, target: str) -> str:
    artifact = trial.artifact_for(target)
    return _FIRST if artifact is None or artifact == trial.artifact else _named(artifact)


def _by_target(store: Store, trial: Trial) -> dict[str, Any]:
    """Which file each target runs, and on which guarded ones it is not offered; nothing for a single plain family."""
    config = _config(store)
    if not config.families:
        return {}
    return {
        "models": {
            file: {**artifact.model_dump(), "targets": [t for t in config.targets if _file_of(trial, t) == file]}
            for file, artifact in _models(trial).items()
        },
        "not_offered": {t: why for t, why in not_offered(store.trials(), trial, config).items() if why},
    }


def _config(store: Store) -> StudyConfig:
    """As the store keeps it. Raises `DataError` for one of another version."""
    try:
        text = store.config_json
        return StudyConfig(name=store.study) if text is None else StudyConfig.model_validate_json(text)
    except ValidationError as error:
        raise DataError(f"store {store.place} holds a configuration of another version; upgrade") from error


def _trained_on(trial: Trial, workload: Workload) -> dict[str, Any]:
    """The training data, where the weights were trained after compression."""
    if "recover" not in trial.recipe or workload.train is None:
        return {}
    return {"train": {"digest": workload.train.digest(), "samples": len(workload.train)}}


def _evidence(store: Store, trial: Trial) -> dict[str, Any]:
    """`drift`: sentences on targets that changed their speed meanwhile; `parity`: the report, None if none was made."""
    parity = stored_parity(store, trial.artifact.digest) if trial.artifact is not None else None
    return {
        "api_version": API_VERSION,
        "measurements": [measurement.model_dump(mode="json") for measurement in trial.measurements],
        "evaluations": [evaluation.model_dump(mode="json") for evaluation in trial.evaluations],
        "layers": [layer.model_dump(mode="json") for layer in trial.layers],
        "targets": store.meta("targets") or {},
        "parity": parity.model_dump(mode="json") if parity is not None else None,
        "drift": [str(drift) for drift in drifts(store.trials())],
        **further_evidence(store, trial, _config(store)),
    }


def _readme(store: Store, trial: Trial, command: str, name: str, engines: Sequence[Engine]) -> str:
    values = trial.final or trial.metrics
    rows = []
    for text, value in sorted(values.items()):
        key = parse_key(text)
        if key.name in _SHOWN_IN_README or key.slice is None or key.slice == "worst":
            low, high = format_amount(value.low, key), format_amount(value.high, key)
            interval = "exact" if value.low == value.high else f"{low} to {high}"
            rows.append(f"| {text} | {format_amount(value.value, key)} | {interval} |")
    remarks = [f"On {m.target}: {', '.join(m.quality)}." for m in _last(trial) if m.quality != ("ok",)]
    if trial.elsewhere:
        files = ", ".join(f"`{_file_of(trial, target)}` for {target}" for target in _config(store).targets)
        remarks.append(f"Each target has a file in its own dialect: {files}.")
    why_not = not_offered(store.trials(), trial, _config(store))
    remarks += [f"On {target} this model is not offered: {why}." for target, why in why_not.items() if why]
    remarks += [_about(engine, trial) for engine in engines]
    doubt = doubts(store, trial)
    remarks += [f"{doubt[0].upper()}{doubt[1:]}."] if doubt else []
    if "recover" in trial.recipe:
        remarks.append("Its weights were trained after compression; the study's store keeps them under their name.")
    return README.format(
        name=store.study,
        number=trial.number,
        version=version("hw-autotune"),
        folder=name,
        rows="\n".join(rows),
        remarks="".join(f"{remark} " for remark in remarks),
        phase="a final measurement and held-out data" if trial.final else "the search",
        command=command,
    )


def _last(trial: Trial) -> list[Measurement]:
    """The measurement of each target that counts: the final one where there is one."""
    ordered = sorted(trial.measurements, key=lambda m: (m.scenario.phase == "final", m.started_at))
    return list({m.target: m for m in ordered}.values())


def _numbers(values: Mapping[str, Value]) -> dict[str, dict[str, float]]:
    return {key: value.model_dump() for key, value in sorted(values.items())}


def _swap(draft: Path, folder: Path, aside: Path) -> None:
    """Put `draft` where `folder` is. Between the two renames there is no bundle, never half a one."""
    if not folder.exists():
        draft.rename(folder)
        return
    folder.rename(aside)
    try:
        draft.rename(folder)
    except OSError:
        aside.rename(folder)
        raise
    shutil.rmtree(aside)


def _safe_name(name: str, folder: Path) -> str:
    """Bundles are flat: a name is a name, not a path."""
    if not name or name in (".", "..") or name != PurePosixPath(name).name or "\\" in name or not name.isprintable():
        raise DataError(f"{folder}: the manifest names the file {name!r}, which is not a plain name; do not trust it")
    return name


def _write(path: Path, data: bytes) -> None:
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _write_json(path: Path, value: Any) -> None:
    _write(path, (json.dumps(value, indent=2, sort_keys=True, allow_nan=False) + "\n").encode())


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
