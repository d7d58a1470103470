"""Latency and memory of artifacts on the targets of a study, paired with another artifact of the same dialect."""

from __future__ import annotations

from collections.abc import Sequence

from autotune.search.beside import keep_beside, stored_beside
from autotune.search.prepare import Prepared
from autotune.search.side import Side, side_of
from autotune.search.targets import Targets
from autotune.store import Store
from hwprofiles.errors import DeviceFailure
from hwprofiles.measurement import Measurement
from hwprofiles.scenario import Scenario


class Timing:
    """Times what the store has not, and keeps what succeeded there."""

    def __init__(self, prepared: Prepared, store: Store, targets: Targets, sides: Sequence[Side]) -> None:
        self._prepared, self._store, self._targets, self._sides = prepared, store, targets, sides

    def measure(self, target: str, digest: str, scenario: Scenario) -> Measurement:
        """An artifact paired with the baseline of its dialect; from the store if it is there. Raises `TargetPaused`."""
        baseline = side_of(self._sides, target).judging.baseline()
        key = self._prepared.devices[target].fingerprint.key
        found = self._store.find_measurement(digest, baseline, target, key, scenario)
        if found is None:
            found = self._pair(target, digest, baseline, scenario)
            if found.failure is None:
                self._store.add_measurement(found)
        return found

    def beside(self, target: str, digest: str, other: str, scenario: Scenario) -> Measurement:
        """An artifact paired with `other` in place of the original; kept apart from the trial's own measurements
        (`search.beside`). Raises `TargetPaused`."""
        kept = stored_beside(self._store, target, digest)
        key = self._prepared.devices[target].fingerprint.key
        if kept is not None and (kept.baseline, kept.fingerprint.key) == (other, key):
            return kept
        found = self._pair(target, digest, other, scenario)
        if found.failure is None:
            keep_beside(self._store, found)
        return found

    def _pair(self, target: str, digest: str, other: str, scenario: Scenario) -> Measurement:
        path, base = self._store.artifact_path(digest), self._store.artifact_path(other)
        with self._targets.using(target):
            device = self._prepared.devices[target]
            found = device.measure(path, self._prepared.latency_inputs, baseline=base, scenario=scenario)
            if found.failure is not None and found.failure.stage == "start":
                raise DeviceFailure(found.failure)
        return found
