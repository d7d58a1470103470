"""Learning from earlier studies: fits, recipes in other words, what a warm start may name, and how much it helped."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import spearmanr

from autotune.errors import DataError
from autotune.keys import parse_key
from autotune.recipe import Recipe
from autotune.search.space import Space, Variable
from autotune.search.transfer import DAMAGE, transfer
from autotune.search.warm import Expected, Warm
from autotune.search.warm.additive import cost_fit, damage_fit
from autotune.search.warm.places import blamed_on, place_of, read_recipe
from autotune.search.warm.tables import predicted_cost, predicted_damage, whole_costs, whole_damage
from autotune.search.warm.translation import translate
from autotune.store import open_store
from autotune.store.outside import facts_of, read_other
from autotune.trial import Trial, Value

Q = "quantize"
SPACE = Space(
    (
        Variable("quantize/a", Q, ("a",), ("none", "int8", "int4")),
        Variable("quantize/b", Q, ("b",), ("none", "int8")),
        Variable("quantize/pair", Q, ("c", "d"), ("none", "int8", "int4")),
    ),
    (),
    Recipe({"simplify": {"graph": "exact"}}),
)

# ---- fits


def models(rng: np.random.Generator, count: int, layers: int, choices: int) -> Any:
    taken = rng.integers(0, choices + 1, (count, layers))
    return np.stack([taken == c + 1 for c in range(choices)], axis=2).astype(float)


def test_a_cost_fit_ranks_models_it_has_not_seen() -> None:
    rng = np.random.default_rng(0)
    share = rng.dirichlet(np.full(40, 0.5))
    truth = share[:, None] * (np.array([-0.1, -0.4, 0.2]) + rng.normal(0, 0.2, (40, 3)))
    x, new = models(rng, 60, 40, 3), models(rng, 100, 40, 3)
    y = (x * truth).sum((1, 2)) + 0.05 + rng.normal(0, 0.01, 60)  # all have a constant in common
    found = cost_fit(x, y, share)
    assert found.shape == (40, 3)
    assert spearmanr((new * found).sum((1, 2)), (new * truth).sum((1, 2))).statistic > 0.85


def test_a_damage_fit_is_positive_and_ranks_models_it_has_not_seen() -> None:
    rng = np.random.default_rng(1)
    truth = 0.01 * np.exp(rng.normal(0, 1, (20, 1, 1)) + np.array([-1, 0.5])[:, None] + rng.normal(0, 0.4, (20, 2, 3)))
    x, new = models(rng, 60, 20, 2), models(rng, 100, 20, 2)
    y = np.einsum("nlc,lcs->ns", x, truth) * np.exp(rng.normal(0, 0.1, (60, 3)))
    y[:5, 1] = np.nan
    found = damage_fit(x, y)
    assert (found > 0).all()
    predicted, true = (np.einsum("nlc,lcs->ns", new, table).max(1) for table in (found, truth))
    assert spearmanr(predicted, true).statistic > 0.85
    assert np.median(np.abs(np.log(predicted / true))) < 0.25
    y[:, 1] = np.nan
    assert np.isnan(damage_fit(x, y)[:, :, 1]).all(), "nothing is made up about a slice that was never seen"


def test_layers_that_were_tried_alone_are_believed() -> None:
    x = np.zeros((4, 3, 1))
    x[0, 0, 0] = x[1, 1, 0] = x[2, 2, 0] = 1
    x[3] = 1
    found = damage_fit(x, np.array([[0.001], [0.1], [0.01], [0.11]]))[:, 0, 0]
    assert list(np.argsort(found)) == [0, 2, 1]
    assert np.abs(np.log(found / [0.001, 0.1, 0.01])).max() < 0.3


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 1000), st.integers(3, 12), st.integers(1, 6), st.integers(1, 4))
def test_fits_are_finite_whatever_the_study(seed: int, count: int, layers: int, choices: int) -> None:
    rng = np.random.default_rng(seed)
    x = models(rng, count, layers, choices)
    y = rng.lognormal(0, 3, (count, 2)) * (rng.random((count, 2)) > 0.2)
    found = damage_fit(x, y)
    assert ((found > 0) | np.isnan(found)).all() and not np.isinf(found).any()
    assert np.isfinite(cost_fit(x, rng.normal(0, 1, count), np.full(layers, 1 / layers))).all()


# ---- recipes of another study


def test_a_recipe_in_the_words_of_this_space() -> None:
    whole = translate(SPACE, Recipe({Q: {"a": "int4", "c": "int8", "d": "int8"}, "simplify": {"graph": "exact"}}))
    assert whole.params == {"quantize/a": "int4", "quantize/b": "none", "quantize/pair": "int8"}
    assert (whole.decisions, whole.lost, whole.usable) == (3, 0, True)
    assert SPACE.recipe(whole.params)["simplify"], "graph-wide decisions are this study's own"


@pytest.mark.parametrize(
    ("recipe", "lost"),
    [
        ({Q: {"a": "int4", "b": "int4"}}, 1),  # no such choice for b
        ({Q: {"a": "int8", "c": "int8"}}, 1),  # c and d share one choice here
        ({Q: {"a": "int8", "z": "int8"}}, 1),  # no such layer
        ({Q: {"a": "int8"}, "prune": {"a": "half"}}, 1),  # a technique that this study does not have
    ],
)
def test_decisions_that_are_no_choice_here_are_lost(recipe: dict[str, dict[str, str]], lost: int) -> None:
    found = translate(SPACE, Recipe(recipe))
    assert (found.decisions, found.lost, found.usable) == (2, lost, False)


def test_a_recipe_of_graph_wide_decisions_alone_says_nothing() -> None:
    assert not translate(SPACE, Recipe({"simplify": {"graph": "exact"}})).usable


# ---- tables


def test_a_guess_has_a_value_for_every_choice() -> None:
    costs = whole_costs({"quantize/a": {"none": 0.0, "int8": -0.2}}, SPACE.variables, 2.0)
    assert costs == {"quantize/a": {"none": 0.0, "int8": -0.4, "int4": -0.4}}
    damage = whole_damage({"quantize/a": {"none": {}, "int8": {"all": 0.1}}}, SPACE.variables)
    assert damage["quantize/a"]["none"] == {"all": 0.0}
    assert damage["quantize/a"]["int4"] == pytest.approx({"all": 0.1})


def test_what_is_hardly_known_is_not_predicted() -> None:
    costs = {"quantize/a": {"none": 0.0, "int8": -0.2}, "quantize/b": {"none": 0.0, "int8": -0.1}}
    params = {"quantize/a": "int8", "quantize/b": "int8", "quantize/pair": "none"}
    assert predicted_cost(costs, params) == pytest.approx(-0.3)
    assert predicted_cost(costs, params | {"quantize/pair": "int4"}) is None
    assert predicted_cost(costs, dict.fromkeys(params, "none")) is None
    damage = {"quantize/a": {"int8": {"all": 0.1, "x": 0.2}}, "quantize/b": {"int8": {"all": 0.3}}}
    assert predicted_damage(damage, params) == pytest.approx({"all": 0.4})
    assert predicted_damage(damage, dict.fromkeys(params, "none")) == {}


# ---- places


def test_what_an_entry_may_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    store = tmp_path / "autotune-runs" / "ocr" / "store.db"
    store.parent.mkdir(parents=True)
    store.touch()
    (tmp_path / "odd#name.db").touch()
    place = place_of("postgresql://me:secret@host/db#ocr")
    assert (place.store, place.study) == ("postgresql://me:secret@host/db", "ocr")
    assert place_of("postgresql://host/db").study is None
    assert (place_of(f"{store}#ocr").store, place_of(f"{store}#ocr").study) == (store, "ocr")
    assert place_of(str(store)).study is None and place_of(str(store.parent)).store == store
    assert place_of("ocr").study == "ocr"
    assert place_of("odd#name.db").store == Path("odd#name.db")
    assert place_of("my.json").recipe == Path("my.json")
    with pytest.raises(DataError, match="there is no such store, study, bundle or recipe file"):
        place_of("ocrr")


def test_passwords_are_not_said() -> None:
    with pytest.raises(DataError) as caught, blamed_on("postgresql://me:secret@host/db"):
        raise DataError("it is gone")
    assert "secret" not in str(caught.value) and str(caught.value).endswith("it is gone")


def test_a_recipe_file_is_text_of_a_reasonable_size(tmp_path: Path) -> None:
    (tmp_path / "binary.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError, match="not UTF-8 text"):
        read_recipe(tmp_path / "binary.json")
    with (tmp_path / "large.json").open("wb") as file:
        file.truncate(17 << 20)
    with pytest.raises(DataError, match="too large"):
        read_recipe(tmp_path / "large.json")


# ---- stores of others


def test_another_store_is_only_read(tmp_path: Path) -> None:
    place = tmp_path / "store.db"
    for name in ("one", "two"):
        with open_store(place, name) as store:
            store.set_meta("damage/1", {"all": 0.1})
            store.set_meta("damages", 3)
    before = place.read_bytes()
    with pytest.raises(DataError, match=r"holds several studies; write .*store\.db#STUDY with one of one, two"):
        read_other(place, None)
    with pytest.raises(DataError, match=r"no study 'three' in store .* \(studies there: one, two\)"):
        read_other(place, "three")
    with read_other(place, "two") as store:
        assert facts_of(store, "damage/") == {"1": {"all": 0.1}}
        with pytest.raises(Exception, match=r"readonly|read-only"):
            store.set_meta("x", 1)
    assert place.read_bytes() == before
    with pytest.raises(DataError, match="there is no store"):
        read_other(tmp_path / "none.db", None)
    assert not (tmp_path / "none.db").exists()


def test_a_store_of_a_newer_version_is_refused(tmp_path: Path) -> None:
    import sqlite3

    place = tmp_path / "store.db"
    open_store(place, "one").close()
    connection = sqlite3.connect(place)
    connection.execute("UPDATE autotune_schema SET version_num = '99'")
    connection.commit()
    connection.close()
    with pytest.raises(DataError, match="written by a newer autotune"):
        read_other(place, None)


# ---- how much it helped

KEYS = [parse_key(text) for text in ("size_bytes", "latency_ratio@pi", "drop/worst")]


def trial(number: int, recipe: dict[str, str], ratio: float, drop: float) -> Trial:
    metrics = {
        "size_bytes": Value.exact(1000.0 - 10 * number),
        "latency_ratio@pi": Value.exact(ratio),
        "drop/worst": Value.exact(drop),
    }
    return Trial(number=number, recipe={Q: recipe} if recipe else {}, state="complete", metrics=metrics)


def test_expectations_are_compared_with_what_was_measured() -> None:
    trials = [
        Trial(number=0, recipe={}, state="complete", metrics=trial(0, {}, 1.0, 0.0).metrics),
        trial(1, {"a": "int8"}, 0.80, 0.01),
        trial(2, {"a": "int4"}, 0.70, 0.05),
        trial(3, {"b": "int8"}, 0.90, 0.002),
        trial(4, {"a": "int8", "b": "int8"}, 0.70, 0.012),
    ]
    space = Space(SPACE.variables, ())
    costs = {"quantize/a": {"none": 0.0, "int8": -0.2, "int4": -0.3}, "quantize/b": {"none": 0.0, "int8": -0.1}}
    damage = {
        "quantize/a": {"int8": {"all": 0.1, "x": 0.2}, "int4": {"all": 0.5, "x": 1.0}},
        "quantize/b": {"int8": {"all": 0.05, "x": 0.01}},
    }
    measured = {1: {"all": 0.1, "x": 0.2}, 2: {"all": 0.5, "x": 0.9}, 3: {"all": 0.06}, 4: {"all": 0.2, "x": 0.2}}
    warm = Warm(
        recipes=(Recipe({Q: {"a": "int8"}}), Recipe({Q: {"b": "int8"}})),
        notes=("study 'x'",),
        expected=Expected({"latency_ratio@pi": costs}, damage),
    )
    found = transfer(warm, space, trials, KEYS, lambda number: measured.get(number, {}))
    rows = {row.key: row for row in found.expectations}
    assert set(rows) == {"latency_ratio@pi", DAMAGE, "drop/worst"}
    speed = rows["latency_ratio@pi"]
    assert speed.n == 4 and speed.rank_correlation == pytest.approx(1.0) and speed.median_error == pytest.approx(0.0)
    assert rows["drop/worst"].rank_correlation == pytest.approx(1.0) and rows["drop/worst"].median_error is None
    assert rows[DAMAGE].median_error == pytest.approx(0.0805, abs=0.02)
    assert found.recipes == 2 and found.front == 3 and found.recipes_on_front == 2
    few = transfer(warm, space, trials[:3], KEYS, lambda _: {})
    assert all(row.rank_correlation is None for row in few.expectations)
    assert few.sentence == ("warm start: 1 of the 2 compressed trials of the front began as earlier recipes (1 tried)")
