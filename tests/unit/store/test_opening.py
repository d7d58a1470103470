"""Which places are stores, which are not, and what people are told."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from types import ModuleType

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from hypothesis import given, settings
from hypothesis import strategies as st

from autotune.errors import DataError, StoreLocked, UsageError
from autotune.recipe import Recipe
from autotune.store import Store, open_store, redact, schema, tables
from autotune.store.location import locate

GOLDEN = Path(__file__).parents[2] / "golden" / "store_schema_1.sql"


def run_sql(place: Path, *statements: str) -> None:
    raw = sqlite3.connect(place)
    for statement in statements:
        raw.executescript(statement)
    raw.close()


def snapshot(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


# ---- places


def test_stores_in_one_folder_have_an_optuna_view_each(tmp_path: Path) -> None:
    views = [locate(tmp_path / name, "digits").journal.name for name in ("store.db", "again.db")]
    assert views == ["optuna.log", "again.optuna.log"]


def test_default_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with open_store(None, "digits") as store:
        assert store.folder == tmp_path / "autotune-runs" / "digits"
        artifact = store.save_artifact(b"model", "ort-cpu")
        assert store.artifact_path(artifact.digest) == store.folder / "artifacts" / f"{artifact.digest}.onnx"
    assert (tmp_path / "autotune-runs" / "digits" / "store.db").is_file()


def test_files_and_sqlite_urls_are_the_same(tmp_path: Path, records: ModuleType) -> None:
    with open_store(tmp_path / "a b.db", "digits") as store:
        store.start_trial(records.recipe(0), "baseline")
    for place in (str(tmp_path / "a b.db"), f"sqlite:///{tmp_path / 'a b.db'}"):
        with open_store(place, "digits", must_exist=True) as store:
            assert len(store.trials()) == 1
            assert store.folder == tmp_path


@pytest.mark.parametrize(
    ("place", "message"),
    [
        ("nosuchdb://host/x", "unknown database 'nosuchdb'"),
        ("postgresql+nosuch://host/x", "unknown database"),
        ("sqlite://", "give the file itself"),
        ("sqlite:///file:x.db?mode=ro&uri=true", "give the file itself"),
        ("sqlite:x.db", "give a file, or a URL"),
        (":memory:", "give a file, or a URL"),
        ("", "give a file, or a URL"),
        ("postgresql://host:nonumber/x", "malformed"),
        (".", "is a folder"),
        ("a\0b", "not a file name"),
    ],
)
def test_places_that_cannot_be_meant(place: str, message: str) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        open_store(place, "digits")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["../evil", "", "a/b", "-rf", "a\nb", "a b", "digits\n"])
def test_study_names(name: str) -> None:
    with pytest.raises(UsageError, match="study name"):
        open_store(None, name)


def test_a_missing_driver_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "pymysql.py").write_text("raise ModuleNotFoundError('No module named pymysql', name='pymysql')")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(UsageError, match="pip install 'pymysql'") as caught:
        open_store("mysql+pymysql://me:hunter2@host/x", "digits")
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    "text",
    [
        "postgresql://me:hunter2@host/db",
        "postgresql://me:hun:ter@hunter2@host/db",
        "postgresql://host/db?user=me&password=hunter2&sslmode=require",
        "postgresql://host/db?sslpassword=hunter2",
        "could not connect to postgresql+psycopg://me:hunter2@host/db: refused",
        "host=h password=hunter2 user=u",
        "https://x/?api_key=hunter2&token=hunter2",
    ],
)
def test_redact(text: str) -> None:
    assert "hunter2" not in redact(text)
    assert "host" in redact(text) or "h" in redact(text)


def test_locations_never_show_a_password() -> None:
    place = locate("postgresql://me:hunter2@host/db?sslpassword=hunter2", "digits")
    assert "hunter2" not in str(place)
    assert place.url.drivername == "postgresql+psycopg"
    assert place.url.password == "hunter2"


@settings(deadline=None)
@given(st.text(max_size=60))
def test_redact_leaves_plain_text_alone(text: str) -> None:
    if "=" not in text and "@" not in text:
        assert redact(text) == text


# ---- readers


def test_readers_create_nothing(tmp_path: Path, store: Store, place: Path, records: ModuleType) -> None:
    with pytest.raises(DataError, match=r"there is no store .*autotune run"):
        open_store(tmp_path / "none" / "store.db", "digits", must_exist=True)
    (tmp_path / "empty.db").touch()
    with pytest.raises(DataError, match="is empty"):
        open_store(tmp_path / "empty.db", "digits", must_exist=True)
    store.start_trial(records.recipe(0), "baseline")
    store.close()
    before = snapshot(tmp_path)
    with pytest.raises(DataError, match=r"no study 'ocr' .*autotune run ocr.*studies there: digits"):
        open_store(place, "ocr", must_exist=True)
    with open_store(place, "digits", must_exist=True) as reader:
        assert len(reader.trials()) == 1
    assert snapshot(tmp_path) == before


def test_an_empty_file_becomes_a_store(tmp_path: Path) -> None:
    (tmp_path / "new.db").touch()
    with open_store(tmp_path / "new.db", "digits") as store:
        assert store.trials() == []


# ---- not ours, damaged, newer


@pytest.mark.parametrize("content", [b"no", b"just some text\n" * 500, b"\x80\x05pickle" * 99, b"SQLite format 3\0"])
@pytest.mark.parametrize("must_exist", [False, True])
def test_files_that_are_not_databases(tmp_path: Path, content: bytes, must_exist: bool) -> None:
    place = tmp_path / "store.db"
    place.write_bytes(content)
    with pytest.raises(DataError, match=r"store\.db .*another"):
        open_store(place, "digits", must_exist=must_exist)
    assert snapshot(tmp_path) == {"store.db": content}


def test_databases_of_others(tmp_path: Path) -> None:
    place = tmp_path / "app.db"
    run_sql(place, "CREATE TABLE trial (id INTEGER); CREATE TABLE alembic_version (version_num TEXT)")
    before = snapshot(tmp_path)
    with pytest.raises(DataError, match=r"another program .*alembic_version, trial"):
        open_store(place, "digits")
    assert snapshot(tmp_path) == before


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        ("UPDATE autotune_schema SET version_num = '99'", "newer autotune .schema 99, this one knows 2.*upgrade"),
        ("UPDATE autotune_schema SET version_num = 'x'", "no readable schema version"),
        ("DELETE FROM autotune_schema", "no readable schema version"),
        ("DROP TABLE metric", "lacks the tables metric"),
        ("CREATE TRIGGER evil AFTER INSERT ON trial BEGIN DELETE FROM metric; END", "trigger or view .* evil"),
        ("CREATE VIEW evil AS SELECT 1", "trigger or view .* evil"),
    ],
)
@pytest.mark.parametrize("must_exist", [False, True])
def test_stores_that_are_not_as_we_made_them(
    store: Store, place: Path, damage: str, message: str, must_exist: bool
) -> None:
    store.close()
    run_sql(place, damage)
    with pytest.raises(DataError, match=message):
        open_store(place, "digits", must_exist=must_exist)


@pytest.mark.parametrize(
    "damage",
    [
        "UPDATE trial SET state = 'won'",
        "UPDATE trial SET recipe = '[1'",
        "UPDATE trial SET recipe = '{\"quantize\": 3}'",
        "UPDATE trial SET failure = '{}'",
        "UPDATE trial SET durations = 'x'",
        "UPDATE metric SET value = 'abc'",
        "UPDATE artifact SET size_bytes = 'abc'",
        "UPDATE build SET layers = '{}'",
        "UPDATE measurement SET record = '{}'",
        "UPDATE evaluation SET record = 'x'",
        "UPDATE outcomes SET data = x'00'",
        "UPDATE outcomes SET data = 'text'",
    ],
)
def test_damaged_records_are_named(store: Store, place: Path, records: ModuleType, damage: str) -> None:
    number = store.start_trial(records.recipe(1), "uniform")
    artifact = store.save_artifact(b"model", "ort-cpu")
    store.record_build(number, artifact, records.layers())
    store.add_measurement(records.measurement(artifact.digest))
    store.add_evaluation(records.evaluation(artifact.digest))
    store.finish_trial(number, "complete", metrics=records.metrics(5))
    store.close()
    run_sql(place, damage)
    with open_store(place, "digits", must_exist=True) as again, pytest.raises(DataError, match="damaged") as caught:
        again.trial(number)
    assert str(place) in str(caught.value) and "\n" not in str(caught.value)


def test_a_store_with_broken_pages(store: Store, place: Path, records: ModuleType) -> None:
    for index in range(40):
        store.start_trial(records.recipe(index), "uniform")
    store.close()
    whole = place.read_bytes()
    for cut in range(1, 16):
        place.write_bytes(whole[: len(whole) * cut // 16])
        try:
            with open_store(place, "digits", must_exist=True) as again:
                assert len(again.trials()) <= 40
        except DataError as error:
            assert str(place) in str(error)
    for page in range(len(whole) // 4096):
        place.write_bytes(whole[: page * 4096] + b"\xff" * 4096 + whole[(page + 1) * 4096 :])
        try:
            with open_store(place, "digits", must_exist=True) as again:
                again.trials()
        except DataError as error:
            assert str(place) in str(error)


def test_a_locked_file_says_so(store: Store, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store.close()
    monkeypatch.setattr(schema, "BUSY_SECONDS", 0.05)
    raw = sqlite3.connect(place, isolation_level=None)
    raw.execute("BEGIN IMMEDIATE")
    with (
        open_store(place, "digits") as second,
        pytest.raises(StoreLocked, match="locked by another program"),
    ):
        second.set_meta("a", 1)
    raw.close()


# ---- artifacts


def test_damaged_artifacts_are_named(store: Store) -> None:
    artifact = store.save_artifact(b"model bytes", "ort-cpu")
    path = store.artifact_path(artifact.digest)
    path.write_bytes(b"model bytez")
    for ask in (store.artifact_bytes, store.verify_artifact):
        with pytest.raises(DataError, match=f"{artifact.digest}.onnx is damaged"):
            ask(artifact.digest)
    store.save_artifact(b"model bytes", "ort-cpu")
    assert store.artifact_bytes(artifact.digest) == b"model bytes", "saving again repairs it"
    path.unlink()
    for ask in (store.artifact_bytes, store.verify_artifact, store.artifact_path):
        with pytest.raises(DataError, match=r"run the trial again"):
            ask(artifact.digest)


@pytest.mark.parametrize("digest", ["../../etc/passwd", "A" * 64, "a" * 63, "a" * 64 + "\n", ""])
def test_digests_are_not_paths(store: Store, digest: str) -> None:
    with pytest.raises(DataError, match="not named by a sha256"):
        store.artifact_path(digest)


# ---- schema


def test_migrations_make_the_tables_that_the_code_knows(store: Store) -> None:
    options = {
        "include_name": lambda name, kind, parents: name != schema.VERSION_TABLE,
        "compare_type": True,
    }
    with store._engine.connect() as connection:
        context = MigrationContext.configure(connection, opts=options)
        assert compare_metadata(context, tables.metadata) == []
        assert connection.execute(sa.text("SELECT version_num FROM autotune_schema")).scalar() == str(schema.HEAD)
        assert connection.exec_driver_sql("PRAGMA journal_mode").scalar() == "wal"
        assert connection.exec_driver_sql("PRAGMA synchronous").scalar() == 2
        assert connection.exec_driver_sql("PRAGMA foreign_keys").scalar() == 1


def test_golden_store_of_schema_1_is_still_read(tmp_path: Path) -> None:
    place = tmp_path / "store.db"
    run_sql(place, GOLDEN.read_text())
    with open_store(place, "digits", must_exist=True) as store:
        baseline, quantised, failed = store.trials(outcomes=True)
        assert store.config_json == '{"name": "digits"}'
        assert store.meta("note") == {"kept": True}
    assert (baseline.number, baseline.recipe, baseline.state) == (0, {}, "complete")
    assert quantised.recipe == {"quantize": {"layer.0": "int8"}}
    assert quantised.metrics["drop/worst"].value == 0.004
    assert quantised.final["drop/worst"].value == 0.006
    assert quantised.layers[2].ran == "QLinearConv"
    assert quantised.measurements[0].ratio.log_ratios[1] == 0.01001
    assert quantised.evaluations[0].slice("font=serif").n == 30
    assert quantised.evaluations[0].outcomes[29].candidate == ["b", 29]
    assert failed.failure.kind == "timeout"
    with open_store(place, "digits") as store:
        assert store.start_trial(Recipe({"quantize": {"layer.7": "int8"}}), "user") == 3, "and is written to"
