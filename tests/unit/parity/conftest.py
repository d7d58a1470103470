"""Targets of this machine that really differ: two numbers of threads, and one whose runtime optimises nothing."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from hwprofiles.device import Device
from hwprofiles.runtimes.onnxruntime import OnnxRuntime
from hwprofiles.target import Target
from hwprofiles.transports.local import LocalTransport


class Unoptimised(OnnxRuntime):
    """ONNX Runtime that runs every node as it is written."""

    def backend(self) -> str:
        line = "settings.inter_op_num_threads = 1\n"
        text = super().backend()
        assert line in text
        level = "onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL"
        return text.replace(line, f"{line}        settings.graph_optimization_level = {level}\n")


@pytest.fixture(scope="module")
def devices(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Device]]:
    """`here` (one thread), `two` (two threads), `plain` (no graph optimisation)."""
    # Module scope comes before the folders of single tests, so the locks get a place of their own here.
    with pytest.MonkeyPatch.context() as patch:
        locks = tmp_path_factory.mktemp("locks")
        patch.setenv("XDG_RUNTIME_DIR", str(locks))
        patch.setenv("HW_AUTOTUNE_LOCKS", str(locks))
        opened: dict[str, Device] = {}
        try:
            for name, threads, runtime in (
                ("here", 1, OnnxRuntime()),
                ("two", 2, OnnxRuntime()),
                ("plain", 1, Unoptimised()),
            ):
                target = Target(name=name, threads=threads, options={"quiet_wait": 0})
                opened[name] = Device(target, LocalTransport(), runtime, tmp_path_factory.mktemp(name))
            yield opened
        finally:
            for device in opened.values():
                device.close()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    place = tmp_path / "exposed"
    place.mkdir()
    return place
