"""What `targets list` says is missing, by what can be imported here."""

from __future__ import annotations

from pathlib import Path

import pytest

from autotune.cli.readiness import needs
from hwprofiles.registry import find_target


def _only(monkeypatch: pytest.MonkeyPatch, folder: Path, *modules: str) -> None:
    """Nothing can be imported from now on but these."""
    for module in modules:
        (folder / f"{module}.py").write_text("")
    monkeypatch.setattr("sys.path", [str(folder)])
    for name in ("torch", "tensorrt", "tensorrt_rtx", "tensorrt_rtx_bindings"):
        monkeypatch.delitem(__import__("sys").modules, name, raising=False)


@pytest.mark.parametrize("module", ["tensorrt_rtx", "tensorrt_rtx_bindings"])
def test_either_package_of_rtx_is_enough(module: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = find_target("gpu-rtx")
    monkeypatch.setattr("autotune.cli.readiness._plugins", lambda target: [])
    monkeypatch.setattr("shutil.which", lambda program: f"/usr/bin/{program}")
    _only(monkeypatch, tmp_path)
    (missing,) = needs(target)
    assert "tensorrt-rtx-cu13-libs and tensorrt-rtx-cu13-bindings" in missing
    _only(monkeypatch, tmp_path, module)
    assert needs(target) == []


def test_an_interpreter_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    target = find_target("gpu-torch").model_copy(update={"python": "/no/such/bin/python"})
    monkeypatch.setattr("shutil.which", lambda program: "/usr/bin/nvidia-smi" if program == "nvidia-smi" else None)
    assert needs(target) == ["its interpreter /no/such/bin/python, which is not there (--set python=PATH)"]


@pytest.mark.parametrize("name", ["gpu-torch", "gpu-rtx"])
def test_a_template_for_any_card_is_not_usable_without_one(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda program: None)
    assert "an NVIDIA card (no nvidia-smi here; for another machine --host)" in needs(find_target(name))
