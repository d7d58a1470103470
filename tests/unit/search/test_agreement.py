"""Parity of a finalist: made within its time, kept, and never kept about a target that went away."""

from __future__ import annotations

import threading
from collections.abc import Generator, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest

from autotune.config import FinalistsTable, PatienceTable
from autotune.errors import DataError
from autotune.recipe import Recipe
from autotune.search.agreement import doubts, has_parity, keep_parity, stored_parity
from autotune.search.targets import TargetPaused, Targets
from autotune.store import Store, open_store
from hwprofiles.errors import TargetLost
from hwprofiles.registry import find_target
from tests.unit import zoo

INPUTS = [{"x": np.random.default_rng(n).normal(size=(1, 3, 8, 8)).astype(np.float32)} for n in range(6)]


class Runtime:
    """ONNX Runtime in this process. `skew` is added to every answer: a processor that computes something else."""

    target = find_target("local")

    def __init__(self, *, skew: float = 0.0, lost_after: int = 1000) -> None:
        self.skew, self.left = skew, lost_after

    def holder(self) -> str | None:
        return None

    def infer(
        self, model: Path, batches: Iterable[Mapping[str, Any]], *, workers: int = 1
    ) -> Generator[dict[str, Any]]:
        session = ort.InferenceSession(model, providers=["CPUExecutionProvider"])
        names = [output.name for output in session.get_outputs()]
        for batch in batches:
            if self.left == 0:
                raise TargetLost("target 'pi': the connection broke")
            self.left -= 1
            skew = np.linspace(self.skew, 0.0, 5, dtype=np.float32)
            answers = zip(names, session.run(None, dict(batch)), strict=True)
            yield {n: a + skew if n == "y" else a for n, a in answers}


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(tmp_path / "store.db", "small")


def keep(store: Store, devices: Mapping[str, Runtime], **table: Any) -> Any:
    number = store.start_trial(Recipe({"quantize": {"fc": "w8-load"}}), "user")
    artifact = store.save_artifact(zoo.conv_residual().SerializeToString(), "ort-cpu")
    store.record_build(number, artifact, ())
    targets = Targets(devices, PatienceTable(), threading.Event())
    options = FinalistsTable(**table)
    return keep_parity(store, artifact.digest, INPUTS, devices, targets, options, lambda _: None)  # type: ignore[arg-type]


def test_a_report_is_kept_and_is_about_the_targets_it_was_made_on(store: Store) -> None:
    report = keep(store, {"local": Runtime(), "pi": Runtime()}, parity=3)
    assert report.agrees and report.samples == 3
    trial = store.trial(1)
    assert trial.artifact is not None
    assert stored_parity(store, trial.artifact.digest) == report
    assert has_parity(store, trial.artifact.digest, ["pi"]) and has_parity(
        store, trial.artifact.digest, ["local", "pi"]
    )
    assert not has_parity(store, trial.artifact.digest, ["local", "phone"])
    assert not has_parity(store, "e" * 64, ["local"])
    assert doubts(store, trial) == "" and doubts(store, None) == ""


def test_answers_that_differ_stand_against_the_trial(store: Store) -> None:
    report = keep(store, {"local": Runtime(), "pi": Runtime(skew=50.0)}, parity=2)
    assert report.agrees is False
    doubt = doubts(store, store.trial(1))
    assert doubt.startswith("trial 1 does not answer the same on local and pi (")


def test_one_target_that_rounds_away_from_the_reference_is_no_doubt(store: Store) -> None:
    report = keep(store, {"local": Runtime(skew=50.0)}, parity=2)  # what was judged there, was judged with its answers
    assert report.agrees is False and report.same_everywhere and doubts(store, store.trial(1)) == ""


def test_it_takes_as_many_samples_as_fit_and_at_least_one(store: Store) -> None:
    assert keep(store, {"local": Runtime()}, parity=6, parity_seconds=1e-6).samples == 1
    assert keep(store, {"local": Runtime()}, parity=6, parity_seconds=1e6).samples == 6


def test_the_time_ends_between_two_samples(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    class Slow(Runtime):
        def infer(self, model: Path, batches: Any, *, workers: int = 1) -> Generator[dict[str, Any]]:
            nonlocal now
            now += 10.0
            yield from super().infer(model, batches, workers=workers)

    now = 0.0
    monkeypatch.setattr("autotune.search.agreement.time.monotonic", lambda: now)
    report = keep(store, {"local": Slow()}, parity=6, parity_seconds=25)
    assert report.samples == 3 and report.targets[0].outputs[0].rows == 3


def test_a_target_that_goes_away_is_paused_and_nothing_is_kept(store: Store) -> None:
    with pytest.raises(TargetPaused, match="connection broke") as caught:
        keep(store, {"local": Runtime(), "pi": Runtime(lost_after=0)}, parity=2)
    assert caught.value.target == "pi"
    artifact = store.trial(1).artifact
    assert artifact is not None and stored_parity(store, artifact.digest) is None
    assert keep(store, {"local": Runtime(), "pi": Runtime()}, parity=2).agrees, "and made when it is back"


def test_a_damaged_report_is_one_line(store: Store) -> None:
    store.set_meta("parity/" + "a" * 64, {"model": 3})
    with pytest.raises(DataError, match="cannot be read") as caught:
        stored_parity(store, "a" * 64)
    assert "\n" not in str(caught.value)
