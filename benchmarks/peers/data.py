"""What a tool is given: a model, calibration inputs, validation inputs with labels, and how to read the outputs.

A folder holds `model.onnx`, `calibration.npz` and `validation.npz` (arrays named INDEX/INPUT) and `data.json`
(`labels`, and `decode`: "argmax" with `names`, or "ctc" with `names` of characters, class 0 the blank). Needs numpy and
onnxruntime only, so that every tool's own environment can read it.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort


class Data:
    """The content of such a folder."""

    def __init__(self, folder: Path) -> None:
        told = json.loads((folder / "data.json").read_text())
        self.model = folder / "model.onnx"
        self.labels, self.names, self._kind = told["labels"], told["names"], told["decode"]
        self.calibration = _samples(folder / "calibration.npz")
        self.validation = _samples(folder / "validation.npz")

    def decode(self, outputs: list[np.ndarray]) -> Any:
        """The prediction of one sample."""
        classes = outputs[0].argmax(-1)[0]
        if self._kind == "argmax":
            return self.names[int(classes)]
        keep = classes != 0
        keep[1:] &= classes[1:] != classes[:-1]
        return "".join(self.names[int(i)] for i in classes[keep]).strip()

    def accuracy(self, model: str | Path) -> float:
        """Share of validation samples that a model file answers right, by a plain loop."""
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        session = ort.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
        right = [self.decode(session.run(None, x)) == y for x, y in zip(self.validation, self.labels, strict=True)]
        return float(np.mean(right))


class Reader:
    """onnxruntime's CalibrationDataReader over the calibration inputs."""

    def __init__(self, inputs: list[dict[str, np.ndarray]]) -> None:
        self._inputs = inputs
        self.rewind()

    def get_next(self) -> dict[str, np.ndarray] | None:
        return next(self._left, None)

    def rewind(self) -> None:
        self._left = iter(self._inputs)


def _samples(file: Path) -> list[dict[str, np.ndarray]]:
    found: dict[int, dict[str, np.ndarray]] = {}
    with np.load(file) as arrays:
        for name in arrays.files:
            index, _, key = name.partition("/")
            found.setdefault(int(index), {})[key] = arrays[name]
    return [found[index] for index in sorted(found)]
