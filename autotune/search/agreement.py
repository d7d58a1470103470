"""Do finalists answer the same on every target? Their parity reports, made once and kept in the store."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from pydantic import ValidationError

from autotune.errors import DataError
from autotune.parity.report import ParityReport
from autotune.search.targets import TargetPaused, Targets

if TYPE_CHECKING:
    from autotune.config import FinalistsTable
    from autotune.store import Store
    from autotune.trial import Trial
    from hwprofiles.device import Device
    from hwprofiles.target import Target

Feed = Mapping[str, "np.ndarray[Any, Any]"]


class Notes(Protocol):
    """The part of a store that a reader of reports needs."""

    def meta(self, key: str) -> Any:
        """The JSON value saved under `key`, None if there is none."""


def stored_parity(store: Notes, digest: str | None) -> ParityReport | None:
    """The report of an artifact, None if none was made. Raises `DataError` for one that cannot be read."""
    kept = store.meta(_key(digest)) if digest is not None else None
    if kept is None:
        return None
    try:
        return ParityReport.model_validate(kept, strict=False)
    except ValidationError as error:
        raise DataError(
            f"the parity report of artifact {digest} cannot be read; upgrade, or run the study again"
        ) from error


def has_parity(store: Notes, digest: str, targets: Iterable[str]) -> bool:
    """Whether there is a report about all of `targets`."""
    report = stored_parity(store, digest)
    return report is not None and {target.target for target in report.targets} >= set(targets)


def doubts(store: Notes, trial: Trial | None) -> str:
    """What stands against taking this trial: its answers differ between targets, or could not be compared. Else ""."""
    if trial is None:
        return ""
    reports = [stored_parity(store, artifact.digest) for artifact in trial.artifacts]
    said = [report.doubt for report in reports if report is not None and report.doubt]
    return f"trial {trial.number} {'; it '.join(said)}" if said else ""


def keep_parity(
    store: Store,
    digest: str,
    inputs: Sequence[Feed],
    devices: Mapping[str, Device],
    targets: Targets,
    table: FinalistsTable,
    watch: Callable[[str], None],
) -> ParityReport:
    """Check `table.parity` of `inputs` on every target, and keep the report.

    No further sample is begun after `table.parity_seconds`. Raises `TargetPaused` when a target goes
    away meanwhile: then nothing is kept, as that says nothing about the model.
    """
    from autotune.parity.check import check_parity  # the reference is slow to import

    folder = store.folder / "parity"
    folder.mkdir(parents=True, exist_ok=True)
    path = store.artifact_path(digest)
    watched = {name: Watched(name, device, targets) for name, device in devices.items()}
    report = check_parity(
        path, _WhileThereIsTime(inputs[: table.parity], table.parity_seconds), watched, folder=folder, watch=watch
    )
    for name in watched:  # the check goes on with the other targets and calls this one not compared
        if name in targets.paused:
            raise TargetPaused(name, targets.state()[name])
    store.set_meta(_key(digest), report.model_dump(mode="json"))
    return report


class _WhileThereIsTime(Sequence[Feed]):
    """Samples of which none but the first is handed out after `seconds`; its length is then that of what was."""

    def __init__(self, samples: Sequence[Feed], seconds: float) -> None:
        self._samples = list(samples)
        self._end = time.monotonic() + seconds

    def __len__(self) -> int:
        return len(self._samples)

    def __getitem__(self, index: Any) -> Any:
        return self._samples[index]

    def __iter__(self) -> Iterator[Feed]:
        for index, sample in enumerate(list(self._samples)):
            if index and time.monotonic() > self._end:
                del self._samples[index:]
                return
            yield sample


@dataclass(frozen=True)
class Watched:
    """A device that pauses its target when it is gone, whoever uses it."""

    name: str
    device: Device
    targets: Targets

    @property
    def target(self) -> Target:
        """The report says which of its answers come from an emulator."""
        return self.device.target

    def infer(
        self, model: Path, batches: Iterable[Feed], *, workers: int = 1
    ) -> Generator[dict[str, np.ndarray[Any, Any]]]:
        with self.targets.using(self.name):
            yield from self.device.infer(model, batches, workers=workers)


def _key(digest: str) -> str:
    return f"parity/{digest}"
