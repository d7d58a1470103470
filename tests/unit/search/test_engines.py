"""An engine goes into a bundle only if it is the one that was measured."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from autotune.bundle import export_bundle, verify_bundle
from autotune.search.engines import Engine, engines_of
from autotune.store import Store
from autotune.trial import Trial
from hwprofiles.errors import TargetUnavailable
from hwprofiles.measurement import Accelerator, Build, Measurement
from hwprofiles.scenario import Scenario
from tests.unit.made_up import CONDITIONS, FINGERPRINT, latency
from tests.unit.test_bundle import store, workload

__all__ = ["store"]  # a fixture

PLAN = b"what was built and measured"
DIGEST = hashlib.sha256(PLAN).hexdigest()
INPUTS = [{"x": np.ones((1, 3), np.float32)}]


class Device:
    """Has this engine, or raises."""

    def __init__(self, plan: bytes | Exception) -> None:
        self.plan = plan
        self.asked: list[tuple[Path, str]] = []

    def engine(self, model: Path, inputs: Sequence[Any], scenario: Scenario) -> bytes:
        self.asked.append((model, scenario.phase))
        if isinstance(self.plan, Exception):
            raise self.plan
        return self.plan


def measured(
    target: str, digest: str = DIGEST, *, phase: str = "final", day: int = 2, builds: bool = True
) -> Measurement:
    card = Accelerator(
        card="NVIDIA H200",
        driver="580.95",
        timer="cuda-events",
        builds=(Build(digest=digest, seconds=9.0, latency=1e-3), Build(digest="0" * 64, seconds=8.0, latency=2e-3)),
    )
    return Measurement(
        target=target,
        model="a" * 64,
        baseline=None,
        scenario=Scenario.model_validate({"phase": phase}),
        fingerprint=FINGERPRINT.model_copy(update={"runtime": "tensorrt", "accelerator": "NVIDIA H200, 143771 MiB"}),
        provenance="hardware",
        latency=latency(1e-3),
        conditions=CONDITIONS,
        accelerator=card if builds else None,
        started_at=f"2026-11-0{day}T00:00:00.000+00:00",
        seconds=1.0,
    )


def trial(*measurements: Measurement) -> Trial:
    made = Trial(number=1, recipe={}, state="complete")
    return made.model_copy(update={"measurements": measurements})


def test_the_engine_that_was_measured_last_counts() -> None:
    device = Device(PLAN)
    done = trial(
        measured("h200", day=2), measured("h200", "1" * 64, phase="search", day=3), measured("cpu", builds=False)
    )
    found = engines_of(done, {"h200": device, "cpu": Device(b"")}, INPUTS, lambda digest: Path(digest))
    assert found == [Engine("h200", DIGEST, PLAN)]
    assert device.asked == [(Path("a" * 64), "final")], "as the measurement opened it"


@pytest.mark.parametrize(
    ("plan", "why"),
    [
        (b"another build", "the device does not have it any more, and what it builds now was not measured"),
        (TargetUnavailable("target 'h200' is gone"), "target 'h200' is gone"),
    ],
)
def test_another_build_is_left_out_and_it_is_said(plan: bytes | Exception, why: str) -> None:
    (found,) = engines_of(trial(measured("h200")), {"h200": Device(plan)}, INPUTS, Path)
    assert (found.plan, found.digest, found.why) == (None, DIGEST, why)


def test_the_bundle_has_it_and_says_what_alone_runs_it(store: Store, tmp_path: Path) -> None:
    done = store.trial(1).model_copy(update={"measurements": (measured("h200"), measured("l4"))})
    engines = [Engine("h200", DIGEST, PLAN), Engine("l4", DIGEST, None, "it is gone")]
    folder = export_bundle(store, done, tmp_path / "bundle", workload=workload(), engines=engines)
    manifest = verify_bundle(folder)
    assert (folder / "engine-h200.plan").read_bytes() == PLAN
    assert manifest["engines"]["h200"]["file"] == "engine-h200.plan"
    assert manifest["engines"]["h200"]["sha256"] == manifest["files"]["engine-h200.plan"]["sha256"] == DIGEST
    assert manifest["engines"]["l4"] == {
        "sha256": DIGEST,
        "file": None,
        "left_out": "it is gone",
        "runtime": f"tensorrt {FINGERPRINT.runtime_version}",
        "card": "NVIDIA H200, 143771 MiB",
    }
    readme = (folder / "README.md").read_text()
    assert "`engine-h200.plan` is the very engine that was measured on h200" in readme
    assert "The engine that was measured on l4 is not here: it is gone." in readme
    (folder / "engine-h200.plan").write_bytes(b"changed")
    with pytest.raises(Exception, match=r"engine-h200.plan is not the file that was exported"):
        verify_bundle(folder)


def test_a_bundle_without_engines_says_nothing_of_them(store: Store, tmp_path: Path) -> None:
    folder = export_bundle(store, store.trial(1), tmp_path / "bundle", workload=workload())
    assert "engines" not in json.loads((folder / "manifest.json").read_text())
