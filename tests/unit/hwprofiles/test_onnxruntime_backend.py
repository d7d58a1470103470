"""What the device side of ONNX Runtime says of itself and of a card, and that it never takes another provider."""

from __future__ import annotations

from pathlib import Path

import pytest

from hwprofiles.runtimes import onnxruntime_backend as backend

CPU = {"threads": 1, "provider": "CPUExecutionProvider"}
CUDA = {"threads": 1, "provider": "CUDAExecutionProvider"}


def test_describes_the_conditions_of_its_sessions() -> None:
    told = backend.describe(CPU)
    assert (told["arena"], told["memory_pattern"], told["cuda_graph"], told["transfers"]) == (
        "default",
        True,
        None,
        None,
    )
    assert "CPUExecutionProvider" in told["providers"] and set(told["providers"]) <= set(told["compiled"])
    assert "git-commit-id" in told["build"] and told["accelerator"] == ""
    card = backend.describe(CUDA)
    assert card["cuda_graph"] is False and card["transfers"] is True


@pytest.mark.parametrize(
    ("script", "said"),
    [
        (
            'echo "NVIDIA L4, 23034 MiB, 8.9, 570.86.15"; echo "NVIDIA L4, 23034 MiB, 8.9, 570.86.15" >/dev/null',
            "NVIDIA L4, 23034 MiB, compute capability 8.9, driver 570.86.15",
        ),
        ('echo "NVIDIA-SMI has failed because it could not communicate with the driver"; exit 9', ""),
        ("echo what", ""),
        ("exit 0", ""),
    ],
)
def test_reads_the_card_from_the_drivers_tool(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, said: str
) -> None:
    tool = tmp_path / "nvidia-smi"
    tool.write_text(f"#!/bin/sh\n{script}\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    assert backend.describe(CUDA)["accelerator"] == said


def test_another_provider_is_never_taken_in_silence(tmp_path: Path) -> None:
    """This wheel has no CUDA: ONNX Runtime would warn and go on with the CPU."""
    model = tmp_path / "trial.onnx"
    model.write_bytes(backend._TRIAL)
    with (
        pytest.warns(UserWarning, match="not in available provider names"),
        pytest.raises(backend.WrongProvider) as raised,
    ):
        backend.Session(str(model), CUDA)
    assert "opened the model on CPUExecutionProvider, not on CUDAExecutionProvider" in str(raised.value)
    assert backend.classify(raised.value, "load") == "unavailable"
    backend.check(CPU)
    with pytest.raises(backend.WrongProvider, match="ran a small model on CPUExecutionProvider"):
        backend.check({"threads": 1, "provider": "AzureExecutionProvider"})
