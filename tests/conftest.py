"""What all tests share: no store, cache or profile of the person who runs them is touched."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def own_folders(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Every test has a home of its own and starts in an empty folder, where default stores would be written."""
    home = tmp_path_factory.mktemp("home")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(home / "config"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(home / "cache"))
    monkeypatch.setenv("XDG_STATE_HOME", str(home / "state"))
    runtime = home / "runtime"
    runtime.mkdir(mode=0o700)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(runtime))
    # Leases lie here: a test does not queue behind a study that runs on the same machine.
    monkeypatch.setenv("HW_AUTOTUNE_LOCKS", str(home / "locks"))
    monkeypatch.delenv("COLUMNS", raising=False)
    work = tmp_path_factory.mktemp("work")
    monkeypatch.chdir(work)
    return work
