"""A tiny but real problem: a small random CNN whose own answers are the labels, on random pictures."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np

from autotune.config import StudyConfig
from autotune.judge.metrics import accuracy
from autotune.search.study import Study
from autotune.workload import Arrays, Dataset, Sample, Workload
from tests.unit import zoo

TARGETS = Path(__file__).parent / "targets"
QUICK = {
    "warmup_seconds": 0.0,
    "warmup_iterations": 1,
    "block_seconds": 0.002,
    "block_iterations": 2,
    "min_pairs": 3,
    "max_pairs": 3,
    "max_seconds": 2.0,
}


def decode(outputs: Arrays) -> list[int]:
    return [int(row) for row in outputs["y"].argmax(axis=1)]


def workload(**changes: Any) -> Workload:
    """40 pictures to search on, 40 held out, two slices; labels are what the original answers."""
    model = zoo.conv_residual()
    rng = np.random.default_rng(0)
    import onnxruntime as ort

    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])

    def dataset(name: str) -> Dataset:
        samples = []
        for index in range(40):
            picture = rng.normal(size=(1, 3, 8, 8)).astype(np.float32)
            label = int(session.run(None, {"x": picture})[0].argmax())
            side = "left" if index % 2 else "right"
            samples.append(Sample(f"{name}{index}", {"x": picture}, label, {"side": side}, display=f"picture {index}"))
        return Dataset(name, samples)

    given: dict[str, Any] = {
        "model": model,
        "search": dataset("search"),
        "heldout": dataset("heldout"),
        "calibration": [{"x": rng.normal(size=(1, 3, 8, 8)).astype(np.float32)} for _ in range(4)],
        "decode": decode,
        "metric": accuracy,
        "slices": ["side"],
    }
    return Workload(**(given | changes))


def config(**changes: Any) -> StudyConfig:
    """A study of a few quick trials."""
    given: dict[str, Any] = {
        "name": "tiny",
        "search": {"trials": 6},
        "techniques": {"quantize": {"calibration_samples": 4}, "simplify": {}},
        "judge": {"limit": 0.2, "floor": 5, "probe": 10, "workers": 1},
        "measure": {**QUICK, "memory_runs": 1},
        "remeasure": {**QUICK, "phase": "final", "memory_runs": 1},
        "finalists": {"count": 1},
    }
    return StudyConfig(**(given | changes))


def open_study(store: Path, config_: StudyConfig | None = None, workload_: Workload | None = None) -> Study:
    """Measured on this CPU, without waiting for it to be quiet."""
    return Study.open(config_ or config(), workload_ or workload(), store=store, folder=TARGETS)


if __name__ == "__main__":  # the child of the kill test: run the study in the given store
    with open_study(Path(sys.argv[1])) as study:
        study.run(lambda progress: print(progress.message, flush=True))  # noqa: T201 the parent reads it
