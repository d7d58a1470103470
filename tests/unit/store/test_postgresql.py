"""The same on a database server. Needs an empty PostgreSQL database of its own, named by its URL."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from subprocess import Popen
from types import ModuleType

import pytest
import sqlalchemy as sa

from autotune.errors import DataError, DiskError, StoreLocked, UsageError
from autotune.store import Store, open_store
from autotune.store.location import locate, make_engine

URL = os.environ.get("HW_AUTOTUNE_TEST_POSTGRESQL", "")
pytestmark = pytest.mark.skipif(not URL, reason="HW_AUTOTUNE_TEST_POSTGRESQL names no database")


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    monkeypatch.chdir(tmp_path)
    engine = make_engine(locate(URL, "digits"))
    with engine.begin() as connection:
        connection.execute(sa.text("DROP SCHEMA public CASCADE"))
        connection.execute(sa.text("CREATE SCHEMA public"))
    engine.dispose()
    with open_store(URL, "digits") as opened:
        yield opened


def test_a_writer_is_killed_and_goes_on(
    store: Store, tmp_path: Path, child: Callable[..., Popen[str]], records: ModuleType
) -> None:
    program = str(Path(__file__).parent / "writer.py")
    first = child(program, URL, "8", cwd=tmp_path)
    assert first.stdout is not None
    for _ in range(12):
        first.stdout.readline()
    with pytest.raises(StoreLocked, match=f"autotune digits pid {first.pid} on"), store.lock():
        pass
    first.kill()
    first.communicate()
    _, err = child(program, URL, "8", cwd=tmp_path).communicate()
    assert err == ""
    trials = store.trials(outcomes=True)
    assert [trial.number for trial in trials] == list(range(8))
    assert all(len(t.measurements) == 1 and len(t.evaluations[0].outcomes) == 30 for t in trials)
    assert store.folder == tmp_path / "autotune-runs" / "digits"
    store.verify_artifact(trials[3].artifact.digest)
    with store.lock():
        store.set_final(3, records.metrics(7))
    assert store.trial(3).final == records.metrics(7)


def test_readers_and_newer_schemas(store: Store) -> None:
    with pytest.raises(DataError, match="no study 'ocr'"):
        open_store(URL, "ocr", must_exist=True)
    with store._engine.begin() as connection:
        connection.execute(sa.text("UPDATE autotune_schema SET version_num = '99'"))
    with pytest.raises(DataError, match="newer autotune"):
        open_store(URL, "digits")


def test_a_server_that_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises((DiskError, UsageError), match="cannot be reached") as caught:
        open_store("postgresql://me:hunter2@127.0.0.1:1/none", "digits")
    assert "hunter2" not in str(caught.value)
    assert "\n" not in str(caught.value)
