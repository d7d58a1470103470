"""Damage on the probe samples: how far a recipe's outputs drift from the original's, per slice. Needs no labels.

It is computed on the device that judges, or, where that is far away and this machine has the same runtime, here: what
it is good for (which layers are sensitive) hardly depends on the machine, and the target's time is precious.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping
from contextlib import AbstractContextManager, closing, nullcontext
from pathlib import Path

import numpy as np

from autotune.config import StudyConfig
from autotune.judge.damage import Damage, probe_indices
from autotune.judge.predictions import check_finite
from autotune.recipe import Recipe
from autotune.search.prepare import Prepared
from autotune.search.targets import Targets
from autotune.store import Store
from autotune.workload import Dataset
from hwprofiles.errors import DeviceFailure


class Probing:
    """Keeps the original's outputs on the probe samples, and every damage in the store."""

    def __init__(self, config: StudyConfig, prepared: Prepared, store: Store, targets: Targets) -> None:
        self._config, self._prepared, self._store, self._targets = config, prepared, store, targets
        self._damage: Damage | None = None
        self._samples = Dataset("probe", ())
        self._known: dict[int, dict[str, float]] = {}  # trial -> slice -> damage
        self._here: set[int] = set()  # trials whose damage was computed in this run

    def start(self, masks: Mapping[str, np.ndarray], baseline: Path) -> None:
        """Choose the samples and run the original (`baseline`) on them. Raises `TargetPaused`."""
        count = self._config.judge.probe
        if not count:
            return
        dataset = self._prepared.workload.search
        indices = probe_indices(masks, count, self._config.search.seed)
        self._samples = Dataset("probe", [dataset.samples[i] for i in indices])
        with self._using(), closing(self._outputs(baseline)) as outputs:
            self._damage = Damage(indices, masks, outputs)

    @property
    def active(self) -> bool:
        """Whether there are probe samples."""
        return self._damage is not None

    @property
    def where(self) -> str:
        """Where damage is computed, in words."""
        host = self._prepared.host
        return f"on {self._prepared.judge_target}" if host is None else f"here ({host.target.name})"

    def of(self, number: int) -> dict[str, float] | None:
        """Slice -> damage of a trial, from this run or an earlier one."""
        if number not in self._known:
            kept = self._store.meta(f"damage/{number}")
            self._known[number] = dict(kept) if isinstance(kept, Mapping) else {}
        return self._known[number] or None

    def probe(self, number: int, path: Path) -> None:
        """Find out the damage of a trial, whose model is at `path`; once per run.

        Raises `DeviceFailure` where the model fails or answers NaN on the device that judges, `TargetPaused`. What
        this machine cannot run says nothing about the target: the trial then goes on without damage.
        """
        if self._damage is None or number in self._here:
            return
        try:
            self._known[number] = self._compare(path)
        except DeviceFailure:
            if self._prepared.host is None:
                raise
            self._known[number] = {}
        else:
            self._store.set_meta(f"damage/{number}", self._known[number])
        self._here.add(number)

    def sensitivity(self, recipe: Recipe) -> dict[str, float]:
        """Slice -> damage of a recipe, built in passing, not a trial. Kept in the store.

        Raises `DeviceFailure`/`TrialFailure` when it cannot be built or run, `TargetPaused`.
        """
        key = f"sensitivity/{recipe.digest}"
        kept = self._store.meta(key)
        if isinstance(kept, Mapping):
            return dict(kept)
        path = self._store.folder / "sensitivity.onnx"
        path.write_bytes(self._prepared.assembler.assemble(recipe))
        try:
            damage = self._compare(path)
        finally:
            path.unlink()
        self._store.set_meta(key, damage)
        return damage

    def _compare(self, path: Path) -> dict[str, float]:
        if self._damage is None:
            raise RuntimeError("there are no probe samples; set judge.probe above 0")
        with self._using(), closing(self._outputs(path)) as outputs:
            return self._damage.compare(self._finite(outputs, path))

    def _finite(self, outputs: Iterator[dict[str, np.ndarray]], path: Path) -> Iterator[dict[str, np.ndarray]]:
        for sample, output in zip(self._samples.samples, outputs, strict=True):
            check_finite(output, path, sample.id)
            yield output

    def _outputs(self, path: Path) -> Generator[dict[str, np.ndarray]]:
        """What a model answers on the probe samples, one by one."""
        prepared, host = self._prepared, self._prepared.host
        batches = (sample.inputs for sample in self._samples.samples)
        if host is None:
            return prepared.judge_device.infer(path, batches, workers=prepared.workers[prepared.judge_target])
        workers = self._config.judge.workers or max(1, host.fingerprint.cores // host.target.threads)
        return host.infer(path, batches, workers=workers)

    def _using(self) -> AbstractContextManager[None]:
        if self._prepared.host is not None:
            return nullcontext()
        return self._targets.using(self._prepared.judge_target)
