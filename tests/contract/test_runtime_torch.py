"""torch as a runtime, on the CPU: the same code as on a card, under a name that says so."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest

from autotune.recover.runtime import TorchCpu, TorchCuda
from hwprofiles.device import open_device
from hwprofiles.errors import BadProfile, TargetUnavailable
from hwprofiles.runtimes.conformance import _QUICK, RuntimeConformance
from hwprofiles.runtimes.protocol import Runtime
from hwprofiles.target import Target

pytest.importorskip("torch")

_DRIVER = r"""
#include <string.h>
int cuDriverGetVersion(int *version) { *version = 13000; return 0; }
int cuInit(unsigned flags) { return 0; }
int cuDeviceGetCount(int *count) { *count = 1; return 0; }
int cuDeviceGet(int *device, int index) { *device = index; return 0; }
int cuDeviceGetName(char *name, int size, int device) { strncpy(name, "Made up", size); return 0; }
int cuDeviceTotalMem_v2(size_t *size, int device) { *size = (size_t)1 << 34; return 0; }
int cuDeviceGetAttribute(int *value, int attribute, int device) { *value = attribute == 75 ? 9 : 0; return 0; }
int cuDeviceGetUuid(char *uuid, int device) { memset(uuid, 7, 16); return 0; }
"""


class TestTorchCpu(RuntimeConformance):
    runtime: ClassVar[Runtime] = TorchCpu()
    target = Target(name="here", runtime="torch-cpu", provider="cpu", memory_limit=8 << 30)
    opens = staticmethod(open_device)
    module = "torch"
    oldest = (3, 11)

    def test_is_never_called_cuda(self, tmp_path: Path) -> None:
        with self._open(tmp_path) as device:
            found = device.fingerprint
            measured = device.measure(self._model(tmp_path), [{"x": np.ones((2, 8), np.float32)}], scenario=_QUICK)
        assert "cuda" not in found.runtime.lower() and found.accelerator == ""
        assert measured.failure is None and measured.accelerator is None
        assert measured.conditions is not None and measured.conditions.transfers is None

    def test_on_a_machine_without_a_card_torch_cuda_says_so_in_one_line(self, tmp_path: Path) -> None:
        if Path("/dev/nvidia0").exists():
            pytest.skip("this machine has a card")
        with pytest.raises(TargetUnavailable, match="no NVIDIA driver here") as raised:
            self._open(tmp_path, runtime="torch-cuda", provider="cuda").close()
        import torch

        said = str(raised.value)
        assert "\n" not in said
        # All that is missing is said at once: the driver, and a torch that has CUDA.
        assert ("was built without CUDA; try: " in said and "whl/cu130" in said) is (torch.version.cuda is None)

    def test_a_torch_without_cuda_is_named_where_there_is_a_driver(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """With a libcuda that is built here and shows a card: everything but the card is real."""
        import torch

        if torch.version.cuda is not None or shutil.which("cc") is None:
            pytest.skip("this torch has CUDA, or there is no C compiler")
        (tmp_path / "driver.c").write_text(_DRIVER)
        library = tmp_path / "libcuda.so.1"
        subprocess.run(["cc", "-shared", "-fPIC", "-o", library, tmp_path / "driver.c"], check=True, timeout=60)
        monkeypatch.setenv("LD_LIBRARY_PATH", str(tmp_path))
        with pytest.raises(TargetUnavailable, match="cannot use the card: it was built without CUDA; try: ") as raised:
            self._open(tmp_path, runtime="torch-cuda", provider="cuda").close()
        assert "\n" not in str(raised.value)


@pytest.mark.parametrize("options", [{"mode": "fast"}, {"cuda_graph": "yes"}])
def test_options_that_are_none_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(BadProfile, match=f"options.{next(iter(options))}"):
        TorchCuda().options(Target(name="x", runtime="torch-cuda", options=options))


def test_install_hint_names_the_interpreter() -> None:
    assert TorchCpu().install_hint(Target(name="x")).startswith(sys.executable)
    assert (
        "py -m pip install --force-reinstall 'torch>=2.10' --index-url https://download.pytorch.org/whl/cu130"
        in TorchCuda().install_hint(Target(name="x", python="py"))
    )
