"""Neural Compressor's autotune: every configuration it tries is kept. Run in an environment of its own.

python neural_compressor.py DATA OUT TRIALS
"""

from __future__ import annotations

import sys
from pathlib import Path

import onnx
import onnxruntime.quantization as ort_quantization
from data import Data, Reader
from onnx_neural_compressor.data_reader import CalibrationDataReader
from onnx_neural_compressor.quantization import QuantFormat, config, tuning


class Inputs(Reader, CalibrationDataReader):
    """The same under the class that the tool asks for."""


class Evaluation:
    """The metric for the tool, which keeps a copy of every candidate; each call of autotune begins with the
    original."""

    def __init__(self, data: Data, out: Path) -> None:
        self.data, self.out, self.kept, self.original = data, out, 0, True

    def __call__(self, model: str) -> float:
        if not self.original:
            self.kept += 1
            onnx.save(onnx.load(model), self.out / f"{self.kept:03d}.onnx")
        self.original = False
        return self.data.accuracy(model)


def main() -> None:
    data, out, trials = Data(Path(sys.argv[1])), Path(sys.argv[2]), int(sys.argv[3])
    evaluate = Evaluation(data, out)
    reader = Inputs(data.calibration)
    methods = ort_quantization.CalibrationMethod
    common = {"calibration_data_reader": reader, "execution_provider": "CPUExecutionProvider"}
    groups = (  # one for each method of calibration: autotune takes a list of them for one value and fails
        config.StaticQuantConfig(quant_format=QuantFormat.QOperator, per_channel=[True, False],
                                 calibrate_method=methods.MinMax, **common),
        config.StaticQuantConfig(quant_format=QuantFormat.QOperator, per_channel=[True, False],
                                 calibrate_method=methods.Entropy, **common),
        config.StaticQuantConfig(quant_format=QuantFormat.QDQ, per_channel=[True, False], **common),
        config.DynamicQuantConfig(per_channel=[True, False], execution_provider="CPUExecutionProvider"),
        config.SmoothQuantConfig(**common),
        config.RTNConfig(weight_bits=[4, 8]),
    )  # fmt: skip
    for group in groups:
        if evaluate.kept >= trials:
            break
        evaluate.original = True
        tuned = tuning.TuningConfig(config_set=[group], tolerable_loss=-1.0, max_trials=trials - evaluate.kept)
        try:
            tuning.autotune(str(data.model), tuned, evaluate, calibration_data_reader=reader)
        except (Exception, SystemExit) as error:  # noqa: BLE001 what the tool cannot do ends its group, not the run
            print(f"{type(group).__name__}: {type(error).__name__}: {str(error)[:200]}", flush=True)


if __name__ == "__main__":
    main()
