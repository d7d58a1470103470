"""An interpreter that is not there: the error says how to make it, with what the target's runtime needs."""

from __future__ import annotations

from pathlib import Path

import pytest

from hwprofiles.device import open_device
from hwprofiles.errors import TargetUnavailable
from hwprofiles.registry import find_target


@pytest.mark.parametrize(
    ("template", "package"),
    [("h200", "onnxruntime-gpu[cuda,cudnn]"), ("gpu-rtx", "tensorrt-rtx-cu13-libs"), ("gpu-torch", "torch>=2.10")],
)
def test_it_is_made_with_what_the_runtime_needs(tmp_path: Path, template: str, package: str) -> None:
    python = tmp_path / "env" / "bin" / "python"
    target = find_target(template).model_copy(update={"python": str(python)})
    with pytest.raises(TargetUnavailable) as caught, open_device(target, work=tmp_path / "work"):
        pass
    said = str(caught.value)
    assert f"cannot start the interpreter '{python}'" in said and "\n" not in said
    assert f"python3 -m venv {tmp_path / 'env'}" in said
    assert f"{python} -m pip install" in said and package in said


def test_one_that_may_not_be_run_is_not_to_be_made(tmp_path: Path) -> None:
    python = tmp_path / "bin" / "python"
    python.parent.mkdir()
    python.write_text("")
    target = find_target("local").model_copy(update={"python": str(python)})
    with pytest.raises(TargetUnavailable) as caught, open_device(target, work=tmp_path / "work"):
        pass
    assert "Permission denied" in str(caught.value) and "venv" not in str(caught.value)
