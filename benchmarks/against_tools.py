"""Our search against Olive's search, Neural Compressor's autotune and NNCF's accuracy control.

    python benchmarks/against_tools.py digits --store autotune-runs/real-models/digits-surrogate-0.db \
        --olive PYTHON --neural-compressor PYTHON --nncf PYTHON

Each tool runs in its own environment (PYTHON is its interpreter; the packages are olive-ai with torch,
onnx-neural-compressor, nncf) on the same model, calibration and validation data as our search, and everything that it
tries is kept. The tools get the model's file, or what torch exports: NNCF fails on some graphs that we have normalised.
Then all artifacts, and those on our front, are measured in pairs with the original and judged on the held-out data, by
the same code; beside that by a plain loop (the median of `LOOPS` inferences, accuracy by counting). The hypervolume is
of size, latency (the upper end of its interval) and worst-slice drop between (1, 1, 5 points). Ours are the artifacts
of the front of an earlier run, of `real_models.py` or of `autotune run`, as far as the search saw them between these; a
model that onnxruntime does not open counts as failed. What is larger than the original, or slower by the whole
interval, is not judged: it adds nothing.

A tool is stopped after `--limit` seconds, and what it had written counts. With `--work FOLDER` its files stay, and a
tool that ended there does not run again. A tool that is not named keeps its rows in the result file, and so do ours
without `--store`. `--in-the-time-of TOOL` runs our search anew, as a process that is ended after as many seconds as
TOOL took from its start to its end, and measures and judges the front of what it had found by then: what both reach in
equal time, where both had the machine for themselves. The page of tables, the same name with `.md`, is written from the
whole result file.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import own_search
from against_tables import OURS, markdown
from real_models import CORNER, Subject, subject
from tool_runs import run_process

from autotune import pareto, slices
from autotune.compress.ingest import load_model
from autotune.compress.torch_export import export as export_torch
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
PACKAGES = {"olive": "olive-ai", "neural-compressor": "onnx-neural-compressor", "nncf": "nncf"}
LIMIT = 2400  # seconds for one tool


def export(found: Subject, folder: Path) -> None:
    """What `peers/data.py` reads."""
    workload = found.workload
    names, kind = _reading(found)
    if isinstance(workload.model, str | Path):
        shutil.copyfile(workload.model, folder / "model.onnx")
    elif isinstance(workload.model, onnx.ModelProto):
        onnx.save(workload.model, folder / "model.onnx")
    else:
        exported = export_torch(workload.model, workload.example_inputs, workload.dynamic_axes)
        onnx.save(exported, folder / "model.onnx")
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


def _arrays(samples: list[dict[str, np.ndarray]]) -> dict[str, Any]:
    return {f"{i}/{name}": array for i, sample in enumerate(samples) for name, array in sample.items()}


def run_tool(name: str, python: str, data: Path, out: Path, trials: int, limit: float) -> dict[str, Any]:
    """What is told of a tool's run, by `run_process`."""
    script = Path(__file__).parent / "peers" / SCRIPTS[name]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CI": "true"}  # CI: Olive then sends no telemetry
    environment.pop("PYTHONPATH", None)
    told = run_process([python, str(script), str(data), str(out), str(trials)], environment, out, limit)
    return {"version": _version(name, python), **told}


def _version(name: str, python: str) -> str:
    code = f"from importlib.metadata import version; print(version({PACKAGES[name]!r}))"
    return subprocess.run([python, "-c", code], capture_output=True, text=True, check=True).stdout.strip()


def ours_within(model: str, out: Path, seconds: float) -> tuple[list[bytes], dict[str, Any]]:
    """Our search for so many seconds of wall time, the start of its process included; the artifacts of its front."""
    command = [sys.executable, own_search.__file__, model, str(out), str(seconds)]
    told = run_process(command, {**os.environ, "OMP_NUM_THREADS": "1"}, out, seconds)
    if told["ended"].startswith("exit code"):
        raise SystemExit(f"our own search of {model}: {told['ended']}: {' '.join(told['errors'][-1:])}")
    told |= {"ended": "done", "errors": []}
    store = out / own_search.STORE
    if not store.exists():
        return [], {**told, "errors": ["the time was over before the search began"]}
    artifacts, found = ours(store, own_search.STUDY)
    return artifacts, {**told, "trials": found["trials"], "recorded": found["recorded"]}


def ours(store: Path, study: str) -> tuple[list[bytes], dict[str, Any]]:
    """The artifacts of the front of a recorded search, and what is told of it."""
    with open_store(store, study, must_exist=True) as opened:
        trials = opened.trials(details=True)
        front = [t for t in pareto.front(trials, KEYS) if t.artifact is not None and t.number and _counts(t)]
        found = [opened.artifact_bytes(t.artifact.digest) for t in front if t.artifact is not None]
    stamps = [datetime.fromisoformat(t.finished_at).timestamp() for t in trials if t.finished_at]
    starts = [datetime.fromisoformat(t.started_at).timestamp() for t in trials if t.started_at]
    return found, {
        "seconds": round(max(stamps, default=min(starts)) - min(starts), 1),
        "ended": "done",
        "errors": [],
        "trials": sum(trial.state != "running" for trial in trials if trial.number),
        "recorded": max((trial.finished_at for trial in trials if trial.finished_at), default="never"),
    }


def _counts(trial: Trial) -> bool:
    """Whether the search saw it faster than the original and with a drop that the hypervolume counts."""
    seen = [trial.metrics[str(key)].value for key in KEYS[1:]]
    return all(value < most for value, most in zip(seen, CORNER[1:], strict=True))


class Bench:
    """Measures and judges artifacts against one original."""

    def __init__(self, found: Subject, device: Device, original: Path, seconds: float) -> None:
        self.found, self.device, self.original = found, device, original
        self.scenario = SEARCH.model_copy(update={"max_seconds": seconds})
        self.metrics = resolve_metrics(found.workload.metric)
        self.masks = slices.assign(found.workload.heldout, found.workload.slices)
        self.asked: dict[str, Any] = {
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
            measured = self.device.measure(artifact, [self.feed], baseline=self.original, scenario=self.scenario)
            if measured.ratio is None:
                return row | {"failed": without_folders(str(measured.failure))[:200]}
            row |= {
                "size": artifact.stat().st_size / self.original.stat().st_size,
                "ratio": measured.ratio.estimate.model_dump(),
                "quality": measured.quality,
                "plain_loop_ratio": self._loop(artifact) / self.loop,
            }
            if row["size"] >= CORNER[0] or measured.ratio.estimate.low >= CORNER[1]:
                return row | {"not_judged": "larger or slower than the original"}
            after = predict(self.device, artifact, **self.asked)
        except DeviceFailure as error:
            return row | {"failed": without_folders(error.failure.message)[:200]}
        evaluation = judge(
            artifact=digest, target="local", dataset=self.found.workload.heldout, masks=self.masks,
            metrics=self.metrics, original=self.before, candidate=after, table=self.found.config.judge,
        )  # fmt: skip
        return row | {
            "drop": evaluation.slice("all").drop.value,
            "worst_slice": evaluation.worst_slice,
            "worst_drop": evaluation.worst_drop.model_dump(),
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


def without_folders(text: str) -> str:
    """An error's text without where the files lay: that is gone, and of no use to a reader."""
    return re.sub(r"(?:/[\w.-]+)+/", "", text)


def volume(rows: Sequence[Mapping[str, Any]]) -> float:
    """Hypervolume of measured artifacts; a latency counts with the upper end of its interval, as in `real_models`."""
    trials = [
        Trial(
            number=index + 1, recipe={}, state="complete",
            metrics={"size_bytes": Value.exact(row["size"]), "latency_ratio@local": Value.exact(row["ratio"]["high"]),
                     "drop/worst": Value.exact(row["worst_drop"]["value"])},
        )
        for index, row in enumerate(rows) if "worst_drop" in row
    ]  # fmt: skip
    return pareto.hypervolume(trials, KEYS, CORNER) if trials else 0.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--store", type=Path, help="of a run of our sampler")
    parser.add_argument("--study", help="its name in the store; by default the file's")
    for name in SCRIPTS:
        parser.add_argument(f"--{name}", metavar="PYTHON")
    parser.add_argument("--in-the-time-of", choices=list(SCRIPTS), help="run ours for as long as that tool took")
    parser.add_argument("--trials", type=int, default=24, help="the most that a tool may try")
    parser.add_argument("--limit", type=float, default=LIMIT, help="seconds for one tool")
    parser.add_argument("--seconds", type=float, default=SEARCH.max_seconds, help="for one latency measurement")
    parser.add_argument("--work", type=Path, help="where the tools' files stay")
    parser.add_argument("--remark", default="", help="on the conditions, for the result file")
    parser.add_argument("--out", type=Path, default=RESULT)
    arguments = parser.parse_args()
    found = subject(arguments.model)
    with tempfile.TemporaryDirectory() as text, open_device(find_target("local"), work=Path(text) / "work") as device:
        folder = Path(text)
        original = folder / "original.onnx"
        original.write_bytes(load_model_bytes(found))
        work = arguments.work or folder / "tools"
        data = work / "data"
        if not data.exists():
            data.mkdir(parents=True)
            export(found, data)
        bench, given = Bench(found, device, original, arguments.seconds), data / "model.onnx"
        if arguments.store is not None:
            artifacts, told = ours(arguments.store, arguments.study or arguments.store.stem)
            own = _files(folder, "ours", artifacts)
            write(arguments, OURS, told, [bench.row(path) for path in own])
        for name in SCRIPTS:
            python = getattr(arguments, name.replace("-", "_"))
            if python is None:
                continue
            told = run_tool(name, python, data, work / name, arguments.trials, arguments.limit)
            made = sorted((work / name).glob("*.onnx"))
            files = _distinct(made or sorted((work / name / "cache").rglob("*.onnx")))  # of Olive, where it was stopped
            print(f"{name}: {len(files)} distinct artifacts in {told['seconds']:.0f} s, {told['ended']}", flush=True)
            print("\n".join(told["errors"]), flush=True)
            write(arguments, name, told, [bench.row(path) for path in files], bench.row(given))
        if arguments.in_the_time_of is not None:
            other = arguments.in_the_time_of
            seconds = _seconds_of(arguments, other)
            artifacts, told = ours_within(arguments.model, work / f"ours-in-the-time-of-{other}", seconds)
            rows = [bench.row(path) for path in _files(folder, "timed", artifacts)]
            write(arguments, f"{OURS} in the time of {other}", told, rows)


def _files(folder: Path, name: str, contents: Sequence[bytes]) -> list[Path]:
    paths = [folder / f"{name}-{index:02d}.onnx" for index in range(len(contents))]
    for path, content in zip(paths, contents, strict=True):
        path.write_bytes(content)
    return paths


def _seconds_of(arguments: argparse.Namespace, tool: str) -> float:
    """What the tool took, by the result file."""
    models = json.loads(arguments.out.read_text())["models"] if arguments.out.exists() else {}
    result = models.get(arguments.model, {}).get("tools", {}).get(tool)
    if result is None:
        raise SystemExit(f"--in-the-time-of {tool}: {arguments.out} has no run of it on {arguments.model}")
    return float(result["seconds"])


def _distinct(files: list[Path]) -> list[Path]:
    seen: dict[str, Path] = {}
    for path in files:
        seen.setdefault(hashlib.sha256(path.read_bytes()).hexdigest(), path)
    return list(seen.values())


def write(
    arguments: argparse.Namespace,
    name: str,
    told: Mapping[str, Any],
    rows: list[dict[str, Any]],
    given: dict[str, Any] | None = None,
) -> None:
    """Put one tool's rows, and that of the model it was given, into the result file and write the tables anew."""
    models = json.loads(arguments.out.read_text())["models"] if arguments.out.exists() else {}
    model = models.setdefault(arguments.model, {"tools": {}})
    model["tools"][name] = {**told, "rows": rows, "volume": volume(rows)}
    for result in model["tools"].values():
        result["volume"] = volume(result["rows"])
    others = [row for tool, result in model["tools"].items() if not tool.startswith(OURS) for row in result["rows"]]
    model |= {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "union_of_tools": volume(others),
        "load_average_at_end": os.getloadavg()[0],
    }
    if given is not None:
        model["given"] = given
    if arguments.remark:
        model["remark"] = arguments.remark
    record = {
        "command": "python benchmarks/against_tools.py MODEL --store STORE --olive PYTHON --neural-compressor PYTHON "
        "--nncf PYTHON",
        "onnxruntime": ort.__version__,
        "python": platform.python_version(),
        "machine": f"{platform.machine()}, {len(os.sched_getaffinity(0))} core",
        "corner": CORNER,
        "models": models,
    }
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(record, indent=1) + "\n")
    arguments.out.with_suffix(".md").write_text(markdown(record))
    print(
        f"{name}: hypervolume {volume(rows):.4f} of {len(rows)} artifacts; {model['union_of_tools']:.4f} of all tools"
    )


if __name__ == "__main__":
    main()
