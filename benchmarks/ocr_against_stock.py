"""The exported model of the study `ocr` against the usual uniform 8-bit graph, on held-out data.

    python benchmarks/ocr_against_stock.py BUNDLE [--out FILE]

BUNDLE is what `autotune export ocr best BUNDLE` wrote. The usual graph is `onnxruntime.quantization` on the model at
opset 17: `quant_pre_process`, then static Q/DQ of all operators, uint8 activations, int8 weights per channel, min-max
on the study's calibration data. Both are timed in pairs against the original, and judged by the same code on the same
held-out samples. Takes about two minutes.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import tempfile
from collections.abc import Iterator
from contextlib import chdir
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from onnx import version_converter
from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process

from autotune import slices
from autotune.compress.ingest import load_model
from autotune.config import load_study, load_workload
from autotune.judge.metrics import resolve_metrics
from autotune.judge.predictions import predict
from autotune.judge.verdicts import judge
from hwprofiles.device import open_device
from hwprofiles.registry import find_target

RESULT = Path(__file__).parent / "results" / "ocr_against_stock.json"


class Pages(CalibrationDataReader):
    """The study's calibration inputs, once."""

    def __init__(self, inputs: list[dict[str, np.ndarray]]) -> None:
        self._left: Iterator[dict[str, np.ndarray]] = iter(inputs)

    def get_next(self) -> dict[str, np.ndarray] | None:
        return next(self._left, None)


def main() -> None:
    """Measure, judge, print a table, write the result file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--out", type=Path, default=RESULT)
    arguments = parser.parse_args()
    loaded = load_study("ocr")
    workload = load_workload(loaded)
    heldout = workload.heldout
    masks = slices.assign(heldout, workload.slices)
    results: dict[str, dict[str, object]] = {}
    with tempfile.TemporaryDirectory() as text, open_device(find_target("local"), work=Path(text) / "work") as device:
        folder = Path(text)
        original, converted, prepared, stock = (
            folder / f"{name}.onnx" for name in ("original", "converted", "prepared", "stock")
        )
        onnx.save(load_model(workload.model).model, original)
        onnx.save(version_converter.convert_version(onnx.load(str(workload.model)), 17), converted)
        with chdir(folder):  # it leaves files where it runs
            quant_pre_process(converted, prepared, skip_symbolic_shape=True)
        quantize_static(
            prepared,
            stock,
            Pages([dict(inputs) for inputs in workload.calibration]),
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
        )
        asked = {"device": device, "dataset": heldout, "decode": workload.decode, "workers": os.cpu_count() or 1}
        before = predict(model=original, **asked)
        timed = [dict(workload.latency_inputs or workload.search.samples[0].inputs)]
        for name, path in (("usual uniform 8 bit", stock), ("exported by autotune", arguments.bundle / "model.onnx")):
            measurement = device.measure(path, timed, baseline=original, scenario=loaded.config.remeasure)
            if measurement.ratio is None:
                raise SystemExit(f"{name}: {measurement.failure}")
            evaluation = judge(
                artifact=hashlib.sha256(path.read_bytes()).hexdigest(),
                target="local",
                dataset=heldout,
                masks=masks,
                metrics=resolve_metrics(workload.metric),
                original=before,
                candidate=predict(model=path, **asked),
                table=loaded.config.judge,
            )
            ratio, worst = measurement.ratio.estimate, evaluation.worst_drop
            smaller = original.stat().st_size / path.stat().st_size
            overall = evaluation.slice("all").drop.value
            print(f"{name}: {smaller:.2f} times smaller")
            print(f"  {ratio.value:.3f} [{ratio.low:.3f}, {ratio.high:.3f}] of the time")
            print(
                f"  loses {100 * overall:.1f} points over all, in its worst slice ({evaluation.worst_slice}) "
                f"{100 * worst.value:.1f} [{100 * worst.low:.1f}, {100 * worst.high:.1f}]"
            )
            results[name] = {
                "size_bytes": path.stat().st_size,
                "times_smaller": smaller,
                "measurement": measurement.model_dump(mode="json", exclude={"latency": {"blocks"}}),
                "worst_slice": evaluation.worst_slice,
                "worst_drop": worst.model_dump(),
                "drops": {r.name: [r.n, r.drop.model_dump(), r.verdict] for r in evaluation.slices},
            }
    record = {
        "command": "python benchmarks/ocr_against_stock.py BUNDLE",
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "onnxruntime": onnxruntime.__version__,
        "python": platform.python_version(),
        "load_average": os.getloadavg()[0],
        "heldout_samples": len(heldout),
        "results": results,
    }
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
