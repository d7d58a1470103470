"""Writing a bundle: whole or not at all."""

from __future__ import annotations

import shlex
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from autotune import plugins
from autotune.bundle.evidence import evidence
from autotune.bundle.files import Exported, engine_file, models, write, write_json
from autotune.bundle.manifest import MANIFEST, manifest_of, read_manifest
from autotune.bundle.pages import infer, readme
from autotune.errors import DataError, DiskError, UsageError
from autotune.trial import Trial
from autotune.workload import Workload

if TYPE_CHECKING:
    from autotune.search.engines import Engine
    from autotune.store import Store


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
    contents = {file: store.artifact_bytes(artifact.digest) for file, artifact in models(trial).items()}  # checked
    where = ["--store", place] if place else []
    named = folder.name if folder.is_absolute() else str(folder)  # no path of this machine in what ships
    command = shlex.join(["autotune", "export", study or store.study, str(trial.number), named, *where])
    exported = Exported(store, trial, workload, command, engines)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}-") as parent:
            draft = Path(parent) / "bundle"
            draft.mkdir()
            _write_files(draft, exported, contents, folder.name)
            write_json(draft / MANIFEST, manifest_of(draft, exported))
            _swap(draft, folder, Path(parent) / "old")
    except OSError as error:
        raise DiskError(
            f"{folder}: the bundle cannot be written ({error.strerror}); free space or choose another folder"
        ) from error
    return folder


def _write_files(draft: Path, exported: Exported, contents: Mapping[str, bytes], name: str) -> None:
    """All but the manifest, which knows the others' hashes."""
    store, trial = exported.store, exported.trial
    for engine in exported.engines:
        if engine.plan is not None:
            write(draft / engine_file(engine), engine.plan)
    for file, data in contents.items():
        write(draft / file, data)
    write_json(draft / "recipe.json", trial.recipe)
    write_json(draft / "evidence.json", evidence(store, trial))
    plugins.load("hw_autotune.reports", "html")(store, draft / "report.html")
    write(draft / "infer.py", infer(exported).encode())
    write(draft / "README.md", readme(exported, name).encode())


def _is_bundle(folder: Path) -> bool:
    """Only a folder that holds nothing but what its manifest names may be replaced."""
    try:
        manifest = read_manifest(folder)
    except DataError:
        return False
    return {entry.name for entry in folder.iterdir()} <= {*manifest["files"], MANIFEST}


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
