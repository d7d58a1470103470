"""Structures are trained for a moment before they are judged, once each."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import pytest

from autotune.config import StudyConfig
from autotune.recipe import Recipe
from autotune.search.progress import Progress
from autotune.search.study import Study
from autotune.techniques.recover import START, searched
from autotune.trial import Trial
from autotune.workload import Dataset, Sample
from tests.end_to_end import tiny


def training_data() -> Dataset:
    rng = np.random.default_rng(9)
    pictures = rng.normal(size=(64, 1, 3, 8, 8)).astype(np.float32)
    return Dataset("train", [Sample(f"train{i}", {"x": x}, 0, {"side": "left"}) for i, x in enumerate(pictures)])


def config(trials: int, learning_rate: float = 3e-3) -> StudyConfig:
    return StudyConfig.model_validate(
        {
            "name": "tiny",
            "targets": ["local"],
            "search": {"trials": trials, "swaps": 0},
            "techniques": {
                "factorize": {"ranks": [0.5], "round_to": 1},
                "quantize": {"choices": ["w8-load", "float16"]},
            },
            "judge": {"floor": 5, "limit": 0.2, "probe": 8, "automatic": [], "discover": 0},
            "measure": tiny.QUICK,
            # Steps and no clock: what comes of it is the same on every machine.
            "recover": {
                "start": 3600.0,
                "start_steps": 60,
                "learning_rate": learning_rate,
                "minutes": 60.0,
                "steps": 10,
                "count": 1,
            },
            "finalists": {"count": 0},
        }
    )


def run(store: Path, trials: int) -> tuple[list[Trial], list[str]]:
    told: list[str] = []

    def watch(progress: Progress) -> None:
        told.append(progress.message)

    with Study.open(config(trials), tiny.workload(train=training_data()), store=store) as study:
        study.run(watch, threading.Event())
        return study.store.trials(details=False), told


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("starting") / "store.db"


@pytest.fixture(scope="module")
def first(store: Path) -> tuple[list[Trial], list[str]]:
    return run(store, 8)


def test_only_new_structures_are_trained(first: tuple[list[Trial], list[str]]) -> None:
    trials, told = first
    structured = [t for t in trials if "factorize" in t.recipe]
    assert structured and all(START in t.recipe["recover"] for t in structured)
    assert all("recover" not in t.recipe for t in trials if "factorize" not in t.recipe)
    trained = [message for message in told if message.startswith("a new structure")]
    assert len(trained) == len({str(sorted(t.recipe["factorize"].items())) for t in structured})


def test_one_structure_has_one_beginning(first: tuple[list[Trial], list[str]]) -> None:
    trials, _ = first
    beginnings: dict[str, set[str]] = {}
    for trial in trials:
        if "factorize" in trial.recipe:
            key = str(sorted(trial.recipe["factorize"].items()))
            beginnings.setdefault(key, set()).add(trial.recipe["recover"][START])
    assert all(len(names) == 1 for names in beginnings.values())


def test_going_on_neither_trains_again_nor_repeats_a_recipe(store: Path, first: tuple[list[Trial], list[str]]) -> None:
    before, _ = first
    after, told = run(store, 10)
    known = {str(sorted(t.recipe["factorize"].items())) for t in before if "factorize" in t.recipe}
    new = [t for t in after[len(before) :] if "factorize" in t.recipe and not t.recovered]
    fresh = {str(sorted(t.recipe["factorize"].items())) for t in new} - known
    assert len([message for message in told if message.startswith("a new structure")]) == len(fresh)
    tried = [searched(Recipe(t.recipe)) for t in after if not t.recovered]
    assert len(tried) == len(set(tried))


def test_what_the_search_decided_is_read_back() -> None:
    recipe = Recipe({"factorize": {"a": "rank-50%"}, "recover": {START: "0" * 16}})
    assert searched(recipe) == Recipe({"factorize": {"a": "rank-50%"}})
    further = Recipe({"recover": {START: "0" * 16, "weights": "1" * 16}})
    assert searched(further) == Recipe({"recover": {"weights": "1" * 16}})


def test_a_loss_that_breaks_is_told_with_its_place_and_the_trial_goes_on(tmp_path: Path) -> None:
    def wrong(outputs: object, labels: object) -> object:
        return {}["nothing"]

    told: list[Progress] = []
    made = tiny.workload(train=training_data(), loss=wrong)
    with Study.open(config(3), made, store=tmp_path / "store.db") as study:
        study.run(told.append, threading.Event())
        trials = study.store.trials(details=False)
    (broken,) = [each.message for each in told if each.message.startswith("a new structure: ")]
    assert "KeyError" in broken and "test_starting.py:" in broken and broken.endswith("it is tried as it is")
    structured = [t for t in trials if "factorize" in t.recipe]
    assert structured and all(t.state == "complete" and "recover" not in t.recipe for t in structured)


def test_a_rate_that_is_too_high_is_told_and_nothing_is_said_to_be_kept(tmp_path: Path) -> None:
    told: list[Progress] = []
    made = tiny.workload(train=training_data())
    with Study.open(config(3, learning_rate=1e30), made, store=tmp_path / "store.db") as study:
        study.run(told.append, threading.Event())
    broken = [each.message for each in told if each.message.startswith("a new structure: ")]
    assert broken and all(each.endswith("lower learning_rate (now 1e+30); it is tried as it is") for each in broken)
