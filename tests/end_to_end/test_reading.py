"""Activation ranges where the first target is no processor that can give them: they come from this machine's."""

from __future__ import annotations

import json
import sys
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from autotune.errors import AutotuneError
from autotune.search.progress import Progress
from autotune.search.study import Study
from hwprofiles.errors import HardwareError
from tests.end_to_end import tiny

# A card's dialect, and a runtime that cannot compute in 8 bit at all; on the processor, for want of a card.
CARD = """
runtime = "torch-cpu"
provider = "cpu"
dialect = "tensorrt"
threads = 1

[options]
quiet_wait = 0.0
"""
RUNNER = """
runtime = "runner"
python = "{python}"
threads = 1

[options]
runner = "{folder}/runner.py"
runner_warmup = 0.0
quiet_wait = 0.0
"""
# Dies when the searched model has more than its own output, as it has for calibration.
REFUSES = """
def refuse(session):
    if session.get_inputs()[0].name == "x" and len(session.get_outputs()) > 1:
        os.kill(os.getpid(), 11)
    return session


open_plainly = open_model


def open_model(request, profile_to=""):
    return refuse(open_plainly(request, profile_to))


if __name__ == "__main__":
"""


def ranges(folder: Path, *targets: str, techniques: dict[str, Any] | None = None) -> tuple[dict[str, Any], list[str]]:
    """What a check calibrates: activation -> [low, high, counts]; and what it said."""
    told: list[Progress] = []
    changes = {} if techniques is None else {"techniques": techniques}
    store = folder / "-".join(targets) / "store.db"
    with Study.open(tiny.config(targets=targets, **changes), tiny.workload(), store=store, folder=folder) as study:
        study.check(told.append)
    (file,) = store.parent.glob("calibration-*.json")
    return json.loads(file.read_text()), [each.message for each in told]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "local.toml").write_text((tiny.TARGETS / "local.toml").read_text())
    (tmp_path / "card.toml").write_text(CARD)
    source = resources.files("hwprofiles.runtimes").joinpath("reference_runner.py").read_text("utf-8")
    main = 'if __name__ == "__main__":\n'
    assert source.count(main) == 1
    (tmp_path / "runner.py").write_text(source.replace(main, REFUSES.lstrip()))
    (tmp_path / "runner.toml").write_text(RUNNER.format(python=sys.executable, folder=tmp_path))
    return tmp_path


def test_a_first_target_with_a_cards_dialect_leaves_them_to_this_machine(folder: Path) -> None:
    found, said = ranges(folder, "card", techniques={"quantize": {"calibration_samples": 4}})
    assert "opening this machine, to read activations" in said
    expected, _ = ranges(folder, "local", techniques={"quantize": {"calibration_samples": 4}})
    pictures = np.stack([sample["x"] for sample in tiny.workload().calibration])
    assert found["x"][:2] == [float(pictures.min()), float(pictures.max())]
    assert len(found) > 2 and found == {name: expected[name] for name in found}


def test_a_processor_of_the_study_is_not_opened_twice(folder: Path) -> None:
    found, said = ranges(folder, "card", "local")
    assert len(found) > 2 and not any("to read activations" in each for each in said)


def test_a_first_target_that_dies_of_it_is_replaced_and_that_is_said(folder: Path) -> None:
    found, said = ranges(folder, "runner")
    (line,) = [each for each in said if "cannot give them" in each]
    assert line.startswith("activations are read on local: runner cannot give them: ") and "SIGSEGV" in line
    assert found == ranges(folder, "local")[0]


def test_where_this_machine_cannot_either_the_reason_is_the_answer(folder: Path) -> None:
    (folder / "local.toml").unlink()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CONFIG_HOME", str(folder / "config"))
        own = folder / "config" / "hw-autotune" / "targets"
        own.mkdir(parents=True)
        (own / "local.toml").write_text('runtime = "runner"\n[options]\nrunner = "/nowhere"\n')
        with pytest.raises((AutotuneError, HardwareError), match="SIGSEGV"):
            ranges(folder, "runner")
