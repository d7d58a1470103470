"""A study that learns from earlier ones: of the same model, of a fine-tuned sibling, of another model, and a recipe."""

from __future__ import annotations

import json
import shutil
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from autotune.errors import DataError
from autotune.recipe import Recipe
from autotune.search.progress import nobody
from autotune.search.study import Study
from autotune.search.transfer import keep_transfer, stored_transfer
from autotune.search.warm import PROPOSER, Warm, knowledge
from autotune.store import open_store
from tests.end_to_end import tiny


@pytest.fixture(scope="module")
def earlier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The store of a finished study of the tiny model."""
    store = tmp_path_factory.mktemp("earlier") / "store.db"
    with tiny.open_study(store, tiny.config(search={"trials": 10})) as study:
        study.run()
    return store


class Later:
    """A new study that has measured its original, and asks what earlier ones know."""

    def __init__(self, study: Study) -> None:
        self.study = study
        with study.store.lock():
            self.prepared, _ = study._start(nobody)
        self.space = self.prepared.space

    def learns(self, *entries: str | Path) -> Warm:
        search = self.study.config.search.model_copy(update={"warm_start": tuple(map(str, entries))})
        config = self.study.config.model_copy(update={"search": search})
        return knowledge(config, self.prepared, self.study.store, self.study.objectives)


@pytest.fixture(scope="module")
def later(earlier: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Later]:
    """A new study of the same model on the same data; the earlier one has ended, as both need the machine."""
    folder = tmp_path_factory.mktemp("later")
    with tiny.open_study(folder / "store.db", tiny.config(name="later", search={"trials": 9})) as study:
        yield Later(study)


def changed(earlier: Path, folder: Path, *statements: tuple[str, tuple[str, ...]]) -> Path:
    """A copy of the earlier store in which something is different."""
    copy = folder / "changed.db"
    shutil.copy(earlier, copy)
    connection = sqlite3.connect(copy)
    for statement, values in statements:
        connection.execute(statement, values)
    connection.commit()
    connection.close()
    return copy


def test_the_same_model_and_data_give_facts(earlier: Path, later: Later) -> None:
    warm, space = later.learns(earlier), later.space
    with open_store(earlier, "tiny", must_exist=True) as store:
        trials = [t for t in store.trials() if t.number and t.state in ("complete", "rejected")]
    assert len(warm.trials) == len(trials)
    by_params = {json.dumps(t.params, sort_keys=True): t for t in warm.trials}
    for trial in trials:
        told = by_params[json.dumps(space.params(Recipe(trial.recipe)), sort_keys=True)]
        assert told.state.name == "PRUNED" and told.user_attrs["observed"] == {"0": trial.metrics["size_bytes"].value}
        assert told.user_attrs["drop"] == {
            key.removeprefix("drop/"): value.value
            for key, value in trial.metrics.items()
            if key.startswith("drop/") and key != "drop/worst"
        }
        assert set(told.user_attrs["damage"]) >= {"all", "side=left", "side=right"}
    assert not warm.damage_guess, "facts need no guess"
    table = warm.guess[1]
    assert set(table) == {v.name for v in space.variables}
    assert all(row["none"] == 0.0 and len(row) > 1 for row in table.values())
    assert 1 <= len(warm.recipes) <= 6 and all(space.params(recipe) for recipe in warm.recipes)
    (note,) = warm.notes
    assert "the same model, 10 trials" in note and "damage and drop of 10 models are known from there" in note
    assert "latency_ratio@local guessed from its 10 trials on local" in note


def test_other_data_and_siblings_give_guesses(earlier: Path, later: Later, tmp_path: Path) -> None:
    other = changed(earlier, tmp_path, ("UPDATE study SET workload_digest = ?", ("d" * 64,)))
    warm = later.learns(other)
    assert not warm.trials and warm.damage_guess and "(other data or another metric)" in warm.notes[0]
    source = ("UPDATE meta SET value = ? WHERE key = 'source_digest'", (json.dumps("e" * 64),))
    warm = later.learns(f"{changed(earlier, tmp_path, source)}#tiny")
    assert not warm.trials and "a sibling, " in warm.notes[0] and "(other weights)" in warm.notes[0]
    for name, row in warm.damage_guess.items():
        assert name in {v.name for v in later.space.variables}
        for choice, cells in row.items():
            assert set(cells) >= {"all", "side=left"}
            assert all(value == 0 if choice == "none" else value > 0 for value in cells.values())
    assert warm.guess[1] and warm.recipes


def test_nothing_is_written_to_the_earlier_store(earlier: Path, later: Later, tmp_path: Path) -> None:
    older = ("UPDATE autotune_schema SET version_num = ?", ("1",))  # it must not be brought up to date
    copy = changed(earlier, tmp_path, ("DROP TABLE IF EXISTS heldout_use", ()), older)
    before = copy.read_bytes()
    warm = later.learns(copy)
    assert warm.trials and copy.read_bytes() == before


def test_a_recipe_begins_the_search(earlier: Path, later: Later, tmp_path: Path) -> None:
    with open_store(earlier, "tiny", must_exist=True) as store:
        trial = next(t for t in store.trials() if "quantize" in t.recipe and t.state == "complete")
    bundle = tmp_path / "bundle"
    bundle.mkdir()
    (bundle / "recipe.json").write_text(json.dumps(trial.recipe))
    for entry in (str(bundle), str(bundle / "recipe.json")):
        warm = later.learns(entry)
        assert warm.recipes == (Recipe(trial.recipe),) and not warm.trials and not warm.guess
        assert warm.notes == (f"recipe {entry}: 1 of 1 recipes begin the search",)
    misspelt = {**trial.recipe["quantize"], "blok.conv": "w8-load"}
    (bundle / "recipe.json").write_text(json.dumps({"quantize": misspelt}))
    (said,) = later.learns(bundle).notes
    assert said.endswith("; layer 'blok.conv' is not in this model: did you mean 'block.conv'?")
    layers = dict.fromkeys(trial.recipe["quantize"], "w3-unheard-of")
    (bundle / "recipe.json").write_text(json.dumps({"quantize": layers}))
    warm = later.learns(bundle)
    assert not warm.recipes and warm.notes == (
        f"recipe {bundle}: 0 of 1 recipes begin the search, 1 is not in this space",
    )


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ("nowhere.db", "there is no such store, study, bundle or recipe file"),
        ("nowhere.db#tiny", "there is no store"),
        ("EARLIER#tinny", "no study 'tinny' in store .* \\(studies there: tiny\\)"),
        ("FOLDER", "neither a recipe.json"),
        ("FOLDER/none.json", "cannot be read: No such file"),
        ("FOLDER/empty.json", "an empty recipe"),
        ("FOLDER/list.json", "recipe must be a JSON object"),
        (
            "FOLDER/other.json",
            "none of its 1 layers is in this model, not 'decoder.lm_head' for example; .*known: block.conv",
        ),
        ("FOLDER/typo.json", "not 'blok.conv' for example; .*did you mean 'block.conv'"),
        ("FOLDER/text.db", "not an autotune store"),
    ],
)
def test_bad_entries_are_one_line(earlier: Path, later: Later, tmp_path: Path, entry: str, message: str) -> None:
    folder = tmp_path / "given"
    folder.mkdir()
    (folder / "empty.json").write_text("{}")
    (folder / "list.json").write_text("[]")
    (folder / "other.json").write_text('{"quantize": {"decoder.lm_head": "w8-load"}}')
    (folder / "typo.json").write_text('{"quantize": {"blok.conv": "w8-load"}}')
    (folder / "text.db").write_text("no database" * 100)
    entry = entry.replace("EARLIER", str(earlier)).replace("FOLDER", str(folder))
    with pytest.raises(DataError, match=message) as caught:
        later.learns(entry)
    assert str(caught.value).startswith(f"warm start '{entry}': ") and "\n" not in str(caught.value)


def test_a_study_of_another_model_is_refused(earlier: Path, later: Later, tmp_path: Path) -> None:
    with open_store(earlier, "tiny", must_exist=True) as opened:
        inspection = opened.meta("inspection")
    for row in inspection["layers"][1:]:
        row["name"] = f"decoder.{row['name']}"
    statement = ("UPDATE meta SET value = ? WHERE key = 'inspection'", (json.dumps(inspection),))
    store = changed(earlier, tmp_path, statement)
    with pytest.raises(DataError, match=r"about another model: 1 of this one's \d+ layers match by name"):
        later.learns(store)


def test_a_study_does_not_learn_from_itself(later: Later) -> None:
    with pytest.raises(DataError, match="it is this study itself"):
        later.learns(f"{later.study.store.place}#later")


def test_how_much_it_helped_is_kept(earlier: Path, tmp_path: Path) -> None:
    """A study of its own: one that outlives a test would look for its lease where the next test has its own."""
    with tiny.open_study(tmp_path / "store.db", tiny.config(name="later", search={"trials": 9})) as study:
        later = Later(study)
        warm, store = later.learns(earlier), later.study.store
        for recipe in warm.recipes:
            store.start_trial(recipe, PROPOSER)
        later.study.run()
        found = keep_transfer(store, warm, later.space, later.study.objectives)
        assert found is not None and stored_transfer(store) == found
        assert keep_transfer(store, Warm(), later.space, later.study.objectives) is None
        assert found.facts == 10 and found.recipes == len(warm.recipes) and found.recipes_on_front <= found.front
        rows = {row.key: row for row in found.expectations}
        assert set(rows) == {"latency_ratio@local", "damage", "drop/worst"}
        damage = rows["damage"]
        assert damage.rank_correlation is not None and damage.rank_correlation > 0.5, (
            "the damage is that of the same files"
        )
        assert damage.median_error is not None and rows["drop/worst"].median_error is None
        assert found.sentence.startswith("warm start: latency_ratio@local was expected with rank correlation")
