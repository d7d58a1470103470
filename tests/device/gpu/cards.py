"""Whether there is a card, and interpreters whose runtimes can use it; why not, in words that a skipped test shows.

`benchmarks/gpu/run.sh` makes the interpreters and names them in the environment: HW_AUTOTUNE_ORT_CUDA_PYTHON (with
onnxruntime-gpu, which cannot live beside ours); without, the one that runs the tests is asked.
"""

from __future__ import annotations

import functools
import os
import subprocess
import sys
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest

from hwprofiles.agent import cuda
from hwprofiles.device import open_device
from hwprofiles.measurement import Measurement
from hwprofiles.runtimes.conformance import _QUICK, RuntimeConformance
from hwprofiles.scenario import Scenario

ORT_CUDA_PYTHON = os.environ.get("HW_AUTOTUNE_ORT_CUDA_PYTHON", sys.executable)


@functools.cache
def without_card() -> str:
    """Why no card can be used here; "" if one can."""
    try:
        cuda.probe()
    except cuda.CudaProblem as error:
        return str(error)
    return ""


@functools.cache
def without(python: str, code: str) -> str:
    """Why `code` does not hold there (it prints True): its last line; "" if it does."""
    try:
        done = subprocess.run([python, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    except OSError as error:
        return str(error)
    lines = (done.stdout + done.stderr).strip().splitlines()
    return "" if lines and lines[-1] == "True" else (lines or ["it says nothing"])[-1]


def need_card() -> None:
    """Skip the test, with the reason, unless a card can be used."""
    if without_card():
        pytest.skip(f"no card: {without_card()}")


def need_ort_cuda() -> None:
    """Skip likewise unless an onnxruntime with CUDA is there."""
    need_card()
    code = "import onnxruntime as o; print('CUDAExecutionProvider' in o.get_available_providers())"
    if why := without(ORT_CUDA_PYTHON, code):
        pytest.skip(f"{ORT_CUDA_PYTHON} has no onnxruntime with CUDA: {why}")


def need_torch_cuda() -> None:
    """Skip likewise unless this interpreter's torch can use the card."""
    need_card()
    if why := without(sys.executable, "import torch; print(torch.cuda.is_available())"):
        pytest.skip(f"torch in {sys.executable} cannot use the card: {why}")


class OnACard(RuntimeConformance):
    """The suite of a runtime, on a real card; and what every runtime there tells of a measurement."""

    opens = staticmethod(open_device)
    patience: ClassVar[float] = 300.0

    def measured(self, folder: Path, scenario: Scenario = _QUICK) -> Measurement:
        """A small model, timed."""
        with self._open(folder) as device:
            found = device.measure(self._model(folder), [{"x": np.ones((2, 8), np.float32)}], scenario=scenario)
        assert found.failure is None, found.failure
        return found

    def test_the_measurement_tells_the_card_and_its_times(self, tmp_path: Path) -> None:
        found = self.measured(tmp_path)
        card = found.accelerator
        assert card is not None and found.latency is not None and found.conditions is not None
        assert card.card and card.driver != "unknown" and card.timer == "cuda-events"
        assert card.enqueue is not None and card.end_to_end is not None
        assert card.end_to_end > found.latency.median.value, "copies take time"
        assert found.conditions.transfers is False
