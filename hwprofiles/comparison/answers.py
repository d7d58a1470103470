"""Does a model answer with numbers at all? And failures in the words of whoever gave the file."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from hwprofiles.device import Device
from hwprofiles.errors import Failure

Feed = Mapping[str, np.ndarray[Any, Any]]

_LOOKS = 16  # inputs whose answers are looked at


def nan_failure(device: Device, model: Path, inputs: Sequence[Feed]) -> Failure | None:
    """A failure of kind "nonfinite" if the model answers NaN to one of the inputs (the first 16 are tried).

    Infinity is let through: masked scores are infinite in many sound models. Raises `DeviceFailure` if it does not
    run at all.
    """
    with contextlib.closing(device.infer(model, inputs[:_LOOKS])) as answers:
        for number, outputs in enumerate(answers, 1):
            for name, array in outputs.items():
                if array.dtype.kind == "f" and np.isnan(array).any():
                    share = float(np.isnan(array).mean())
                    message = (
                        f"output {name!r} is NaN in {share:.0%} of its values for input {number}; how fast a wrong "
                        "answer is, is of no use: give inputs that the model is made for, or repair the model"
                    )
                    return Failure(kind="nonfinite", stage="infer", message=message)
    return None


def with_file_names(failure: Failure, names: Mapping[str, str]) -> Failure:
    """The failure with the user's own file in place of the device's copy. `names` are paths by sha256."""

    def own(text: str) -> str:
        for digest, name in names.items():
            text = name.join(re.split(rf"[^\s'\"`:=(]*{digest}(?:\.onnx)?", text))
        return text

    traceback = own(failure.traceback) if failure.traceback is not None else None
    return failure.model_copy(update={"message": own(failure.message), "traceback": traceback})
