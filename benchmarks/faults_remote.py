"""The faults of `faults.py` over ssh and adb: a real sshd and a real adbd on this machine, as the tests start them.

    pytest benchmarks/faults_remote.py -s

Needs what the tests of these transports need (`make tools`; root for adb's network of its own). Results are added to
benchmarks/results/faults.json. About three minutes.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks import faults
from hwprofiles.target import Target
from tests.device.adb.conftest import SERIAL, Adbd, adbd, adbd_files, network, userland
from tests.device.conftest import sshd
from tests.device.sshd import Sshd

__all__ = ["adbd", "adbd_files", "network", "sshd", "userland"]  # fixtures

_TIMEOUT = 8.0  # seconds: a silent network must be told from a silent model


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Locks of its own: queueing behind a study on the same machine is no fault."""
    monkeypatch.setenv("HW_AUTOTUNE_LOCKS", str(tmp_path / "locks"))
    return tmp_path


def test_ssh(place: Path, sshd: Sshd) -> None:
    _examine(sshd.target(name="ssh", timeout=_TIMEOUT, memory_limit=faults.MEMORY))


def test_adb(place: Path, adbd: Adbd) -> None:
    options: dict[str, Any] = {"serial": SERIAL, "folder": str(place / "device"), "quiet_wait": 0}
    facts = {"python": sys.executable, "timeout": _TIMEOUT, "memory_limit": faults.MEMORY, "options": options}
    _examine(Target.model_validate({"name": "adb", "transport": "adb", **facts}))


def _examine(target: Target) -> None:
    found = faults.examine(target)
    faults.show(found)
    known = json.loads(faults.RESULT.read_text())["targets"] if faults.RESULT.exists() else {}
    known[target.name] = found
    faults.RESULT.write_text(json.dumps({"benchmark": "faults", "targets": known}, indent=1) + "\n")
    assert found["survived"] == len(found["cases"])
