"""Killed writers, full disks, readers beside a writer, two coordinators."""

from __future__ import annotations

import random
import resource
import shutil
import signal
import sqlite3
import subprocess
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

from autotune.errors import DiskError, StoreLocked
from autotune.store import Store, open_store

Child = Callable[..., "subprocess.Popen[str]"]
WRITER = str(Path(__file__).parent / "writer.py")
TRIALS = 25
KILLS = 6


def test_killed_writers_lose_nothing_and_measure_nothing_twice(place: Path, child: Child, records: ModuleType) -> None:
    chance = random.Random(5)
    said: list[list[str]] = []
    for _ in range(KILLS):
        process = child(WRITER, str(place), str(TRIALS))
        assert process.stdout is not None
        for _ in range(chance.randrange(1, 30)):
            said.append(process.stdout.readline().split())
        time.sleep(chance.random() * 0.01)
        process.send_signal(signal.SIGKILL)
        rest, _ = process.communicate()
        said += [line.split() for line in rest.splitlines() if line.endswith(tuple("0123456789abcdef"))]
        assert_all_there(place, said, records)
    out, err = child(WRITER, str(place), str(TRIALS)).communicate()
    assert err == ""
    said += [line.split() for line in out.splitlines()]
    assert_all_there(place, said, records)
    with open_store(place, "digits", must_exist=True) as store:
        trials = store.trials(outcomes=True)
        assert [trial.number for trial in trials] == list(range(TRIALS))
        assert all(trial.state == "complete" and trial.metrics for trial in trials)
        assert all(len(t.measurements) == 1 and len(t.evaluations[0].outcomes) == 30 for t in trials)
        for trial in trials:
            store.verify_artifact(trial.artifact.digest)
    measured = Counter(words[1] for words in said if words[0] == "measured")
    assert max(measured.values()) == 1


def assert_all_there(place: Path, said: list[list[str]], records: ModuleType) -> None:
    """What the writer said it had done is in the store, which is whole."""
    raw = sqlite3.connect(place)
    assert raw.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    assert raw.execute("PRAGMA foreign_key_check").fetchall() == []
    raw.close()
    with open_store(place, "digits", must_exist=True) as store:
        for words in said:
            if words[0] == "started":
                assert store.find_trial(records.recipe(int(words[1]))).number == int(words[2])
            elif words[0] == "built":
                store.verify_artifact(words[2])
            elif words[0] == "measured":
                key = records.FINGERPRINT.key
                assert store.find_measurement(words[2], records.BASELINE, "local", key, records.SEARCH)
            elif words[0] == "judged":
                assert store.find_evaluation(words[2], records.DATA, "local")
            elif words[0] == "finished":
                assert store.trial(int(words[2])).state == "complete"


def test_readers_see_whole_trials_while_a_writer_writes(
    store: Store, place: Path, child: Child, records: ModuleType
) -> None:
    store.begin("{}", "w" * 64)
    process = child(WRITER, str(place), str(TRIALS))
    problems: list[str] = []

    def read() -> None:
        seen = 0
        while process.poll() is None:
            with open_store(place, "digits", must_exist=True) as reader:
                trials = reader.trials(outcomes=True)
            if len(trials) < seen:
                problems.append(f"{len(trials)} trials after {seen}")
            seen = len(trials)
            for trial in trials:
                if trial.state == "complete" and not (trial.metrics and trial.measurements and trial.evaluations):
                    problems.append(f"trial {trial.number} is half there")

    readers = [threading.Thread(target=read) for _ in range(2)]
    for reader in readers:
        reader.start()
    _, err = process.communicate()
    for reader in readers:
        reader.join()
    assert (err, problems) == ("", [])
    assert len(store.trials()) == TRIALS


def test_an_open_reader_does_not_keep_a_writer_waiting(store: Store, place: Path, records: ModuleType) -> None:
    store.start_trial(records.recipe(0), "baseline")
    raw = sqlite3.connect(place, isolation_level=None)
    raw.execute("BEGIN")
    assert raw.execute("SELECT count(*) FROM trial").fetchone() == (1,)
    assert store.start_trial(records.recipe(1), "uniform") == 1
    assert raw.execute("SELECT count(*) FROM trial").fetchone() == (1,), "a reader sees one moment"
    raw.close()


def test_threads_that_open_a_new_store_at_once_all_get_it(place: Path, records: ModuleType) -> None:
    start = threading.Barrier(4)
    numbers: list[int] = []

    def work(index: int) -> None:
        start.wait()
        with open_store(place, "digits") as store:
            numbers.append(store.start_trial(records.recipe(index + 1), "uniform"))

    threads = [threading.Thread(target=work, args=(index,)) for index in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(numbers) == [1, 2, 3, 4]


def test_the_second_coordinator_is_told_who_is_first(store: Store, place: Path, child: Child) -> None:
    script = (
        "import sys; from autotune.store import open_store\n"
        "with open_store(sys.argv[1], 'digits').lock(): print('held', flush=True); sys.stdin.read()"
    )
    process = child("-c", script, str(place))
    assert process.stdout is not None and process.stdout.readline() == "held\n"
    with pytest.raises(StoreLocked, match=f"process {process.pid} on .*wait for it"), store.lock():
        pass
    with open_store(place, "ocr") as other, other.lock():
        pass  # another study of the same store is free
    process.kill()
    process.wait()
    with store.lock(), pytest.raises(StoreLocked, match="this process"), store.lock():
        pass


FULL = """
import resource, sys
from autotune.errors import DiskError
from autotune.recipe import Recipe
from autotune.store import open_store
store = open_store(sys.argv[1], "digits")
number = store.start_trial(Recipe(), "baseline")
resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))
try:
    store.save_artifact(b"x" * 300_000, "ort-cpu")
except DiskError as error:
    print(error)
try:
    for index in range(2000):
        store.set_meta(f"key {index}", "x" * 2000)
        last = index
except DiskError as error:
    print(error)
print(last)
"""


def test_no_space(place: Path, child: Child) -> None:
    out, err = child("-c", FULL, str(place)).communicate()
    assert err == ""
    first, second, last = out.splitlines()
    assert str(place.parent / "artifacts") in first and "file too large; free some space" in first
    assert str(place) in second and "free some space" in second
    assert list((place.parent / "artifacts").iterdir()) == [], "no half file"
    with open_store(place, "digits", must_exist=True) as store:
        assert store.meta(f"key {last}") == "x" * 2000
        assert store.meta(f"key {int(last) + 1}") is None
        assert store.trial(0).state == "running"


READ_ONLY = """
import os, pathlib, sys
from autotune.errors import DiskError
from autotune.recipe import Recipe
from autotune.store import open_store
folder = pathlib.Path(sys.argv[1])
with open_store(folder / "store.db", "digits") as store:
    store.start_trial(Recipe(), "baseline")
(folder / "store.db").chmod(0o444)
folder.chmod(0o555)
if os.geteuid() == 0:  # who may write everywhere
    os.setgid(65534)
    os.setuid(65534)
with open_store(folder / "store.db", "digits", must_exist=True) as store:
    print(len(store.trials()))
    try:
        store.set_meta("a", 1)
    except DiskError as error:
        print(error)
try:
    open_store(folder / "new" / "store.db", "digits")
except DiskError as error:
    print(error)
"""


def test_a_store_that_may_not_be_written_can_be_read(child: Child) -> None:
    folder = Path(tempfile.mkdtemp())  # pytest's own folders are closed to others
    try:
        out, err = child("-c", READ_ONLY, str(folder)).communicate()
        assert err == ""
        count, refused, not_made = out.splitlines()
        assert count == "1"
        assert "readonly database" in refused and str(folder) in refused
        assert str(folder / "new") in not_made and "permission denied" in not_made
        assert sorted(path.name for path in folder.iterdir()) == ["store.db"]
    finally:
        folder.chmod(0o755)
        shutil.rmtree(folder)


def test_artifacts_on_a_full_device(store: Store) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, hard))
    try:
        with pytest.raises(DiskError, match="free some space"):
            store.save_artifact(b"x" * 200, "ort-cpu")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert list(store.artifacts.iterdir()) == []
    assert store.save_artifact(b"x" * 200, "ort-cpu").size_bytes == 200
