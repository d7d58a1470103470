"""A TensorRT target where there is no card: what the command line and a study say, and what goes on."""

from __future__ import annotations

from pathlib import Path

import pytest

from autotune.search.progress import Progress
from autotune.search.study import Study
from hwprofiles.errors import TargetUnavailable
from tests.end_to_end import tiny
from tests.end_to_end.test_cli import autotune, new_study

pytest.importorskip("tensorrt_rtx_bindings", reason="TensorRT-RTX is not installed: pip install '.[dev]'")
pytestmark = pytest.mark.skipif(
    Path("/proc/driver/nvidia").exists(), reason="this machine has an NVIDIA driver: tests/device/gpu is for it"
)

RTX = 'runtime = "tensorrt-rtx"\nprovider = "TensorRT-RTX"\ndialect = "tensorrt"\n'
WRONG = RTX + "[options]\nbuilder_leval = 3\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "card.toml").write_text(RTX)
    (tmp_path / "local.toml").write_text((tiny.TARGETS / "local.toml").read_text())
    return tmp_path


def test_probing_it_is_one_clear_line(folder: Path) -> None:
    answer = autotune("targets", "probe", "card", "--folder", folder, folder=folder, code=69)
    said = answer.stderr.splitlines()
    assert len(said) == 2 and answer.stdout == ""
    assert said[1].startswith("autotune: target 'card': no NVIDIA driver here: libcuda.so.1")
    assert said[1].endswith("install the driver, or start the container with it (docker run --gpus all)")


def test_a_wrong_builder_option_is_refused_before_anything_starts(folder: Path) -> None:
    (folder / "card.toml").write_text(WRONG)
    answer = autotune("targets", "probe", "card", "--folder", folder, folder=folder, code=2)
    assert "runtime 'tensorrt-rtx' has no option 'builder_leval'; did you mean 'builder_level'?" in answer.stderr


def test_a_study_that_insists_on_it_does_not_start_and_says_why(folder: Path) -> None:
    """What a target cannot run is no choice for any, and nobody knows that of a target that is not there."""
    config = tiny.config(targets=("local", "card"), all_targets=True)
    with (
        Study.open(config, tiny.workload(), store=folder / "store.db", folder=folder) as study,
        pytest.raises(TargetUnavailable) as caught,
    ):
        study.run()
    said = str(caught.value)
    assert said.startswith("target 'card': no NVIDIA driver here: libcuda.so.1") and "\n" not in said
    assert said.endswith("; all_targets: this study starts when all of its targets are there")


def test_the_same_study_goes_on_with_the_others(folder: Path) -> None:
    told: list[Progress] = []
    config = tiny.config(
        targets=("local", "card"), search={"trials": 1, "swaps": 0}, measure=tiny.QUICK, finalists={"count": 0}
    )
    with Study.open(config, tiny.workload(), store=folder / "store.db", folder=folder) as study:
        assert study.run(told.append).trials == 2
        (left,) = study.config.left_out
        assert [str(key) for key in study.objectives] == ["size_bytes", "latency_ratio@local", "drop/worst"]
    assert left.target == "card" and left.why.startswith("no NVIDIA driver here: libcuda.so.1")
    said, *others = [each.message for each in told if each.stage == "targets"]
    missing = left.why.partition("; ")[0]
    assert said == f"target card is LEFT OUT of this study: {missing}; it goes on with local"
    assert "autotune targets probe card" in others[-1] and all(len(line) < 250 for line in (said, *others))


def test_the_command_line_goes_on_and_every_reader_is_told(tmp_path: Path) -> None:
    study = new_study(tmp_path)
    (study / "card.toml").write_text(RTX)
    text = (study / "study.toml").read_text()
    assert 'targets = ["local"]' in text
    (study / "study.toml").write_text(text.replace('targets = ["local"]', 'targets = ["local", "card"]'))
    answer = autotune("run", "tiny", "--all-targets", folder=tmp_path, code=69)
    (said,) = [line for line in answer.stderr.splitlines() if line.startswith("autotune:")]
    assert "target 'card': no NVIDIA driver here" in said and said.endswith("when all of its targets are there")
    answer = autotune("run", "tiny", "--trials", "1", folder=tmp_path)
    assert "target card is LEFT OUT of this study: no NVIDIA driver here" in answer.stderr
    begun = "target card was left out of this study: no NVIDIA driver here"
    assert begun in answer.stdout
    assert begun in autotune("front", "tiny", folder=tmp_path).stdout
    assert begun in autotune("show", "tiny", "1", folder=tmp_path).stdout
    (page,) = tmp_path.glob("autotune-runs/tiny/report.html")
    assert "Target card was left out of this study" in page.read_text()
