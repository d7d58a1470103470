"""Block swaps in a real study: timed on the target, kept, never trials, never measured twice."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from autotune.search import knowledge
from autotune.search.study import Study
from autotune.search.swaps import Swaps
from autotune.search.targets import TargetPaused
from hwprofiles.device import Device
from tests.end_to_end import tiny


def open_study(path: Path, **search: Any) -> Study:
    techniques = {"quantize": {"calibration_samples": 4, "choices": ["int8-static", "w8-load"]}}
    judge = {"limit": 0.2, "floor": 5, "probe": 0, "workers": 1, "noise": False, "automatic": ()}
    config = tiny.config(
        search={"trials": 3, **search},
        techniques=techniques,
        judge=judge,
        finalists={"count": 0, "parity": 0},
        measure={**tiny.QUICK, "memory_runs": 1, "max_seconds": 60.0},  # three pairs, however busy the machine is
    )
    return tiny.open_study(path, config)


def test_swaps_are_timed_once_and_are_no_trials(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    measure, calls = Device.measure, []

    def counted(self: Device, *given: Any, **named: Any) -> Any:
        calls.append(named["scenario"].max_pairs)
        return measure(self, *given, **named)

    with open_study(tmp_path / "s.db", swaps=0.0) as study:
        study.run(lambda progress: said.append(progress.message))
        assert not [message for message in said if "alone, on" in message]
        prepared, runner = study._start(lambda _: None)
        before = [trial.number for trial in study.store.trials()]
        monkeypatch.setattr(Device, "measure", counted)
        swaps = Swaps(study.config, prepared, study.store, runner)
        assert swaps.run(0.0, said.append, said.append) == 0
        done = swaps.run(3600.0, said.append, said.append)
        kept = swaps.known("local")
        assert done == len(calls) == len(kept) >= 2 and set(calls) == {3}  # the study's own few pairs
        assert all(swap.gain is not None and len(swap.params) < len(prepared.space.variables) for swap in kept)
        assert swaps.run(3600.0, said.append, said.append) == 0
        assert [trial.number for trial in study.store.trials()] == before
        assert not list(tmp_path.rglob("swap.onnx"))
        keys = [str(key) for key in study.objectives]
        found = knowledge._latencies(study.store, prepared, keys)[keys.index("latency_ratio@local")]
        assert {choice for row in found.values() for choice in row} == {"none", "int8-static", "w8-load"}
    with open_study(tmp_path / "s.db") as again:
        prepared, runner = again._start(lambda _: None)
        assert Swaps(again.config, prepared, again.store, runner).run(3600.0, said.append, said.append) == 0


def test_the_loop_times_swaps_within_its_share(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[float] = []
    monkeypatch.setattr(Swaps, "run", lambda self, seconds, tell, say: asked.append(seconds) or 0)
    with open_study(tmp_path / "s.db", trials=4, swaps=0.5) as study:
        study.run()
    assert len(asked) == 1 and asked[0] > 0


def test_a_target_that_goes_away_costs_only_its_swaps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with open_study(tmp_path / "s.db", swaps=0.0) as study:
        study.run()
        prepared, runner = study._start(lambda _: None)

        def gone(*_: Any, **__: Any) -> Any:
            raise TargetPaused("local", "unplugged")

        monkeypatch.setattr(Device, "measure", gone)
        swaps = Swaps(study.config, prepared, study.store, runner)
        assert swaps.run(3600.0, lambda _: None, lambda _: None) == 0
        assert swaps.known("local") == []


def test_one_pair_has_no_interval_and_is_no_gain(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    measure = Device.measure

    def hurried(self: Device, *given: Any, **named: Any) -> Any:
        scenario = named["scenario"].model_copy(update={"max_seconds": 1e-6, "generation_pairs": 1})
        found = measure(self, *given, **{**named, "scenario": scenario})
        assert found.ratio is not None and found.ratio.pairs == 1
        return found

    said: list[str] = []
    with open_study(tmp_path / "s.db", swaps=0.0) as study:
        study.run()
        prepared, runner = study._start(lambda _: None)
        monkeypatch.setattr(Device, "measure", hurried)
        swaps = Swaps(study.config, prepared, study.store, runner)
        assert swaps.run(3600.0, said.append, said.append) >= 2
        assert all(swap.gain is None and "one pair" in swap.failure for swap in swaps.known("local"))
        assert [message for message in said if "could not be timed" in message and "max_seconds" in message]
