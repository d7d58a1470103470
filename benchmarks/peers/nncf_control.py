"""NNCF: quantisation by its presets, its accuracy control, and weight compression. Run in an environment of its own.

python nncf_control.py DATA OUT TRIALS
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import nncf
import onnx
import onnxruntime as ort
from data import Data


def main() -> None:
    data, out = Data(Path(sys.argv[1])), Path(sys.argv[2])
    model = onnx.load(data.model)
    calibration = nncf.Dataset(data.calibration)
    labelled = list(zip(data.validation, data.labels, strict=True))
    validation = nncf.Dataset(labelled, lambda item: item[0])

    def validate(candidate: onnx.ModelProto, items: Iterable[Any]) -> tuple[float, list[float]]:
        session = ort.InferenceSession(candidate.SerializeToString(), providers=["CPUExecutionProvider"])
        right = [float(data.decode(session.run(None, x)) == y) for x, y in items]
        return sum(right) / len(right), right

    presets = nncf.QuantizationPreset
    modes = nncf.CompressWeightsMode
    # Not every channel is a multiple of 32: then the tool asks to be told what it may do.
    adjust = nncf.AdvancedCompressionParameters(group_size_fallback_mode=nncf.GroupSizeFallbackMode.ADJUST)
    attempts = {  # the control, which may take very long, last
        "performance": lambda: nncf.quantize(model, calibration, preset=presets.PERFORMANCE),
        "mixed": lambda: nncf.quantize(model, calibration, preset=presets.MIXED),
        "transformer": lambda: nncf.quantize(model, calibration, model_type=nncf.ModelType.TRANSFORMER),
        "weights8": lambda: nncf.compress_weights(model, mode=modes.INT8_ASYM),
        "weights4": lambda: nncf.compress_weights(
            model, mode=modes.INT4_SYM, group_size=32, advanced_parameters=adjust
        ),
        "control": lambda: nncf.quantize_with_accuracy_control(
            model, calibration, validation, validate, max_drop=0.01, preset=presets.MIXED
        ),
    }
    for name, attempt in attempts.items():
        try:
            onnx.save(attempt(), out / f"{name}.onnx")
        except (Exception, SystemExit) as error:  # noqa: BLE001 what the tool cannot do is reported, the rest goes on
            print(f"{name}: {type(error).__name__}: {str(error)[:200]}", flush=True)


if __name__ == "__main__":
    main()
