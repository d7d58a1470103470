"""Our search against Olive's search, Neural Compressor's autotune and NNCF's accuracy control.

    python benchmarks/against_tools.py digits --store autotune-runs/real-models/digits-surrogate-0.db \
        --olive PYTHON --neural-compressor PYTHON --nncf PYTHON

Each tool runs in its own environment (PYTHON is its interpreter; the packages are olive-ai with torch,
onnx-neural-compressor, nncf) on the same model, calibration and validation data as our search, and everything that it
tries is kept. Where the model is a file, the tools get that file: NNCF fails on some graphs that we have normalised.
Then all artifacts, and those on our front, are measured in pairs with the original and judged on the held-out data, by
the same code; beside that by a plain loop (the median of `LOOPS` inferences, accuracy by counting). The hypervolume is
of size, latency and worst-slice drop between (1, 1, 5 points). Ours are the artifacts of the front of an earlier
`real_models.py` run; a model that onnxruntime does not open counts as failed.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import shutil
import subprocess
import tempfile
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from real_models import CORNER, Subject, subject

from autotune import pareto, slices
from autotune.compress.ingest import load_model
from autotune.judge.metrics import resolve_metrics
from autotune.judge.predictions import predict
from autotune.judge.verdicts import judge
from autotune.keys import parse_key
from autotune.store import open_store
from autotune.trial import Trial, Value
from hwprofiles.device import Device, open_device
from hwprofiles.errors import DeviceFailure
from hwprofiles.registry import find_target
from hwprofiles.scenario import SEARCH

RESULT = Path(__file__).parent / "results" / "against_tools.json"
SCRIPTS = {"olive": "olive_search.py", "neural-compressor": "neural_compressor.py", "nncf": "nncf_control.py"}
KEYS = (parse_key("size_bytes"), parse_key("latency_ratio@local"), parse_key("drop/worst"))
LOOPS = 50
LIMIT = 2400  # seconds for one tool


def export(found: Subject, model: Path, folder: Path) -> None:
    """What `peers/data.py` reads; raises `SystemExit` where its way to read outputs is not that of the workload."""
    workload = found.workload
    names, kind = _reading(found)
    given = Path(workload.model) if isinstance(workload.model, str | Path) else model
    shutil.copyfile(given, folder / "model.onnx")
    samples = workload.search.samples
    np.savez(folder / "calibration.npz", **_arrays([dict(x) for x in workload.calibration]))
    np.savez(folder / "validation.npz", **_arrays([dict(s.inputs) for s in samples]))
    told = {"labels": [s.label for s in samples], "names": names, "decode": kind}
    (folder / "data.json").write_text(json.dumps(told))


def _reading(found: Subject) -> tuple[list[Any], str]:
    """Names of classes and how they are read: found out by showing the workload's `decode` one class at a time."""
    if found.config.name == "ocr":
        return list(found.workload.decode.characters), "ctc"  # type: ignore[attr-defined]
    name, width = _output(found)
    return [found.workload.decode({name: row[None]})[0] for row in np.eye(width, dtype=np.float32)], "argmax"


def _output(found: Subject) -> tuple[str, int]:
    session = ort.InferenceSession(load_model_bytes(found), providers=["CPUExecutionProvider"])
    outputs = session.run(None, dict(found.workload.search.samples[0].inputs))
    return session.get_outputs()[0].name, outputs[0].shape[-1]


def load_model_bytes(found: Subject) -> bytes:
    """The normalised original."""
    workload = found.workload
    ingested = load_model(workload.model, example_inputs=workload.example_inputs, dynamic_axes=workload.dynamic_axes)
    import onnx_ir

    model = ingested.model
    proto = onnx_ir.to_proto(model) if not isinstance(model, onnx.ModelProto) else model
    return bytes(proto.SerializeToString())


def _arrays(samples: list[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    return {f"{i}/{name}": array for i, sample in enumerate(samples) for name, array in sample.items()}


def run_tool(name: str, python: str, data: Path, out: Path, trials: int) -> tuple[float, str]:
    """Wall seconds, and the end of what it printed where it failed."""
    out.mkdir(parents=True, exist_ok=True)
    script = Path(__file__).parent / "peers" / SCRIPTS[name]
    begun = time.monotonic()
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CI": "true"}  # CI: Olive then sends no telemetry
    with (out / "log.txt").open("w") as log:
        try:
            done = subprocess.run(
                [python, str(script), str(data), str(out), str(trials)],
                stdout=log, stderr=log, timeout=LIMIT, env=environment, check=False,
            )  # fmt: skip
            code = f"exit code {done.returncode}" if done.returncode else ""
        except subprocess.TimeoutExpired:
            code = f"stopped after {LIMIT} s"
    return time.monotonic() - begun, code


def ours(store: Path) -> tuple[list[bytes], float]:
    """The artifacts of the front of a recorded search, and the seconds it took."""
    with open_store(store, store.stem, must_exist=True) as opened:
        trials = opened.trials(details=True)
        front = [t for t in pareto.front(trials, KEYS) if t.artifact is not None and t.number]
        found = [opened.artifact_bytes(t.artifact.digest) for t in front if t.artifact is not None]
    stamps = [datetime.fromisoformat(t.finished_at).timestamp() for t in trials if t.finished_at]
    starts = [datetime.fromisoformat(t.started_at).timestamp() for t in trials if t.started_at]
    return found, max(stamps) - min(starts)


class Bench:
    """Measures and judges artifacts against one original."""

    def __init__(self, found: Subject, device: Device, original: Path) -> None:
        self.found, self.device, self.original = found, device, original
        self.metrics = resolve_metrics(found.workload.metric)
        self.masks = slices.assign(found.workload.heldout, found.workload.slices)
        self.asked = {
            "dataset": found.workload.heldout,
            "decode": found.workload.decode,
            "workers": os.cpu_count() or 1,
        }
        self.before = predict(device, original, **self.asked)
        self.feed = dict(found.workload.latency_inputs or found.workload.search.samples[0].inputs)
        self.loop = self._loop(original)

    def row(self, artifact: Path) -> dict[str, Any]:
        """Size, latency ratio and drops of one artifact, or why there are none."""
        digest = hashlib.sha256(artifact.read_bytes()).hexdigest()
        row: dict[str, Any] = {"file": artifact.name, "sha256": digest}
        try:
            measured = self.device.measure(artifact, [self.feed], baseline=self.original, scenario=SEARCH)
            if measured.ratio is None:
                return row | {"failed": str(measured.failure)[:200]}
            after = predict(self.device, artifact, **self.asked)
        except DeviceFailure as error:
            return row | {"failed": error.failure.message[:200]}
        evaluation = judge(
            artifact=digest, target="local", dataset=self.found.workload.heldout, masks=self.masks,
            metrics=self.metrics, original=self.before, candidate=after, table=self.found.config.judge,
        )  # fmt: skip
        ratio = measured.ratio.estimate
        return row | {
            "size": artifact.stat().st_size / self.original.stat().st_size,
            "ratio": ratio.model_dump(),
            "quality": measured.quality,
            "drop": evaluation.slice("all").drop.value,
            "worst_slice": evaluation.worst_slice,
            "worst_drop": evaluation.worst_drop.model_dump(),
            "plain_loop_ratio": self._loop(artifact) / self.loop,
        }

    def _loop(self, model: Path) -> float:
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        session = ort.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
        seconds = []
        for _ in range(LOOPS):
            begun = time.perf_counter()
            session.run(None, self.feed)
            seconds.append(time.perf_counter() - begun)
        return float(np.median(seconds))


def volume(rows: list[Mapping[str, Any]]) -> float:
    """Hypervolume of measured artifacts."""
    trials = [
        Trial(
            number=index + 1, recipe={}, state="complete",
            metrics={"size_bytes": Value.exact(row["size"]), "latency_ratio@local": Value.exact(row["ratio"]["value"]),
                     "drop/worst": Value.exact(row["worst_drop"]["value"])},
        )
        for index, row in enumerate(rows) if "size" in row
    ]  # fmt: skip
    return pareto.hypervolume(trials, KEYS, CORNER) if trials else 0.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--store", type=Path, required=True, help="of a real_models.py run of our sampler")
    for name in SCRIPTS:
        parser.add_argument(f"--{name}", metavar="PYTHON")
    parser.add_argument("--trials", type=int, default=24, help="the most that a tool may try")
    parser.add_argument("--out", type=Path, default=RESULT)
    arguments = parser.parse_args()
    found = subject(arguments.model)
    results: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as text, open_device(find_target("local"), work=Path(text) / "work") as device:
        folder = Path(text)
        original = folder / "original.onnx"
        original.write_bytes(load_model_bytes(found))
        data = folder / "data"
        data.mkdir()
        export(found, original, data)
        groups: dict[str, tuple[list[Path], float, str]] = {}
        for name in SCRIPTS:
            python = getattr(arguments, name.replace("-", "_"))
            if python is None:
                print(f"{name}: not run, no --{name} was given")
                continue
            seconds, code = run_tool(name, python, data, folder / name, arguments.trials)
            files = _distinct(sorted((folder / name).glob("*.onnx")))
            groups[name] = files, seconds, code
            print(f"{name}: {len(files)} distinct artifacts in {seconds:.0f} s {code}", flush=True)
            if code or not files:
                print("\n".join((folder / name / "log.txt").read_text().splitlines()[-12:]))
        artifacts, seconds = ours(arguments.store)
        own = []
        for index, content in enumerate(artifacts):
            own.append(folder / f"ours-{index:02d}.onnx")
            own[-1].write_bytes(content)
        groups["hw-autotune"] = own, seconds, ""
        bench = Bench(found, device, original)
        for name, (files, seconds, code) in groups.items():
            rows = [bench.row(path) for path in files]
            results[name] = {
                "seconds": round(seconds, 1),
                "ended": code or "done",
                "rows": rows,
                "volume": volume(rows),
            }
            print(f"{name}: hypervolume {results[name]['volume']:.4f} of {len(rows)} artifacts", flush=True)
    others = [row for name, result in results.items() if name != "hw-autotune" for row in result["rows"]]
    union = volume(others)
    own_volume = results["hw-autotune"]["volume"]
    print(f"all tools together: {union:.4f}; ours {own_volume / union if union else float('inf'):.2f} times that")
    write(arguments, results, union)


def _distinct(files: list[Path]) -> list[Path]:
    seen: dict[str, Path] = {}
    for path in files:
        seen.setdefault(hashlib.sha256(path.read_bytes()).hexdigest(), path)
    return list(seen.values())


def write(arguments: argparse.Namespace, results: dict[str, Any], union: float) -> None:
    known = json.loads(arguments.out.read_text())["models"] if arguments.out.exists() else {}
    known[arguments.model] = {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "union_of_tools": union,
        "load_average_at_end": os.getloadavg()[0],
        "tools": results,
    }
    record = {
        "command": "python benchmarks/against_tools.py MODEL --store STORE --olive PYTHON --neural-compressor PYTHON "
        "--nncf PYTHON",
        "onnxruntime": ort.__version__,
        "python": platform.python_version(),
        "corner": CORNER,
        "models": known,
    }
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
