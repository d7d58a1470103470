"""Damage in the same format: our rounding against the published quantisers, on the same model and calibration inputs.

    python benchmarks/rounding_tools.py [--studies spam ocr] [--samples 150] [--calibration 32] --tool NAME PYTHON ...
        [--only FORMAT/WAY ...] [--keep FOLDER]

NAME is onnxruntime, neural-compressor, nncf, modelopt or aimet, PYTHON the interpreter of the environment where it is
installed. Each tool gets the normalised original and the calibration inputs and writes what it has of the formats
w4-b32, int8-static and int8-dynamic, with its defaults (`peers/quantise.py`). All artifacts, and ours, then answer the
same held-out inputs, and are judged by `rounding.damage`. Ratios of damage, with 95 % intervals from a bootstrap over
samples: to our rounding to nearest in the format, and of ours with GPTQ and bias correction to it. Which operators do
the quantised work is told for each: where they are the same, so is the kernel and its time; nothing is timed here.

Tools differ in what else they compress: some write tables in 8 bit, some leave convolutions alone. So each artifact's
size is told relative to ours in the same format, and ours is made a second time as the tools do it: `EQUAL_SIZE`. A
tool's file is held against the largest of ours that is not more than 10 % larger than it, so far as there is one.

A file that onnxruntime opens only without its extended optimisations is judged so, and the row says it. A tool is
stopped after `--limit` seconds; what it had written counts. `--only` restricts its attempts. `--keep` is where a tool's
files stay for another run, which does not repeat what is there. The result file and the same name with `.md` are
written anew after every row; other rows stay, if ours still does the damage that they were held against.
"""

from __future__ import annotations

import argparse
import fcntl
import json
import os
import platform
import resource
import shlex
import signal
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnxruntime import GraphOptimizationLevel as Level
from rounding import WAYS, Subject, compared, damage, subject, uniform
from rounding_pages import tools_page

from autotune.judge.metrics import resolve_metrics
from autotune.recipe import Recipe

RESULT = Path(__file__).parent / "results" / "rounding_tools.json"
FORMATS = ("w4-b32", "int8-static", "int8-dynamic")
PACKAGES = {
    "onnxruntime": "onnxruntime", "neural-compressor": "onnx-neural-compressor", "nncf": "nncf",
    "modelopt": "nvidia-modelopt", "aimet": "aimet-onnx",
}  # fmt: skip
OURS = "gptq, bias"  # what the tools are compared with; chosen before any of them ran
# What tools compress besides, or leave alone: label -> (formats, operators of the layers, their choice; "": float32).
EQUAL_SIZE = {
    "tables in 8 bit": (FORMATS, {"Gather"}, "w8-load"),
    "convolutions in 8 bit": (("w4-b32",), {"Conv"}, "w8-load"),
    "convolutions left in float32": (("w4-b32",), {"Conv"}, ""),
}
NEAR = 1.1  # ours may be this much larger than a tool's file to count as no larger
LIMIT = 3600  # seconds for one tool
Lost = dict[tuple[str, str], tuple[np.ndarray, int]]  # (format, way of ours) -> damage of each sample, bytes
QUANTISED = (
    "MatMulNBits", "MatMulInteger", "MatMulIntegerToFloat", "DynamicQuantizeMatMul", "ConvInteger", "QLinearConv",
    "QLinearMatMul", "QGemm", "DequantizeLinear", "QuantizeLinear", "DynamicQuantizeLinear", "GatherBlockQuantized",
)  # fmt: skip


def operators(model: bytes) -> dict[str, int]:
    """Operators of the file that read or write quantised numbers, and products and convolutions that are left."""
    counts = Counter(node.op_type for node in onnx.load_from_string(model).graph.node)
    return {op: counts[op] for op in (*QUANTISED, "MatMul", "Gemm", "Conv") if counts[op]}


def ours(on: Subject) -> Iterable[tuple[str, str, bytes]]:
    """(format, way, artifact); `rounding.py` has all other ways of ours."""
    for choice in FORMATS:
        for way in ("nearest", OURS):
            made = on.assembler(**WAYS[way])
            usual = uniform(made, choice)
            yield choice, way, made.assemble(Recipe({"quantize": usual}))
            for label, (formats, kinds, other) in EQUAL_SIZE.items():
                layers = [name for name, layer in made.source.layers.items() if layer.op in kinds]
                decisions = {name: pick for name, pick in usual.items() if name not in layers}
                decisions |= dict.fromkeys(layers, other) if other else {}
                if layers and choice in formats and way == OURS:
                    yield choice, f"{way}, {label}", made.assemble(Recipe({"quantize": decisions}))


def theirs(
    on: Subject, tool: str, python: str, folder: Path, limit: float, only: Sequence[str]
) -> tuple[dict[str, Any], Path]:
    """What the tool said of each attempt, and the folder with its files."""
    data, out = folder / "data", folder / tool
    data.mkdir(parents=True, exist_ok=True)
    out.mkdir(exist_ok=True)
    (data / "model.onnx").write_bytes(on.assembler().assemble(Recipe()))
    arrays: dict[str, Any] = {
        f"{i}/{name}": np.asarray(a) for i, x in enumerate(on.workload.calibration) for name, a in x.items()
    }
    np.savez(data / "calibration.npz", **arrays)
    script = Path(__file__).parent / "peers" / "quantise.py"
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CI": "true"}
    environment.pop("PYTHONPATH", None)
    log, before = out / "log.txt", resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
    with log.open("w") as file:
        # In its own folder: ModelOpt builds an extension there, and setuptools must not find this project.
        ran = subprocess.Popen(
            [str(Path(python).absolute()), str(script.absolute()), tool, str(data), str(out), *only],
            stdout=file, stderr=file, cwd=out, env=environment, start_new_session=True,
        )  # fmt: skip
        try:
            ended = f"ended with {ran.wait(limit)}"
        except subprocess.TimeoutExpired:
            os.killpg(ran.pid, signal.SIGKILL)
            ran.wait()
            used = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - before
            ended = (
                f"had not ended when the tool was stopped after {limit:g} s for all its attempts, {used:.0f} s of CPU"
            )
    told = out / "told.json"
    if not told.exists():
        last = (log.read_text().strip().splitlines() or [""])[-1][:200]
        return {"/": {"failed": f"{ended}: {last}"}}, out
    found: dict[str, Any] = json.loads(told.read_text())
    found = {name: each if each else {"failed": ended} for name, each in found.items()}
    told.write_text(json.dumps(found))  # what was stopped is not tried again either
    return {name: each for name, each in found.items() if not only or name in only}, out


def version(tool: str, python: str) -> str:
    code = f"from importlib.metadata import version; print(version({PACKAGES[tool]!r}))"
    ran = subprocess.run([python, "-c", code], capture_output=True, text=True, check=False)
    return ran.stdout.strip() or "not installed"


def rows_of(study: str, on: Subject, arguments: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """One row per artifact or failure; ours first."""
    lost: Lost = {}
    for choice, way, model in ours(on):
        yield row(study, on, choice, "ours", way, model, lost)
    with tempfile.TemporaryDirectory(prefix="hw-autotune-benchmark-") as text:
        for tool, python in arguments.tool:
            folder = (arguments.keep or Path(text)).absolute() / study
            told, out = theirs(on, tool, python, folder, arguments.limit, arguments.only)
            for name, each in told.items():
                choice, _, way = name.partition("/")
                failed = {"study": study, "format": choice, "tool": tool, "way": way, **each}
                file = out / f"{name}.onnx"
                if "failed" not in each:
                    try:
                        found = row(study, on, choice, tool, way, file.read_bytes(), lost) | each
                    except Exception as error:  # noqa: BLE001 a file that onnxruntime refuses is a result
                        first = next(iter(str(error).strip().splitlines()), "")
                        failed["failed"] = f"the file does not run: {type(error).__name__}: {first[:300]}"
                    else:
                        yield found
                        continue
                print(f"{study:6} {choice:14} {tool:18} {way:22} {failed['failed']}", flush=True)
                yield failed


def judged(on: Subject, model: bytes, foreign: bool) -> dict[str, Any]:
    """`rounding.damage`, of another tool's file without extended optimisations where onnxruntime refuses it with them.

    Reading a file wrongly is onnxruntime's fault, not that of the numbers in it, and only those are compared here.
    """
    try:
        return damage(on, model)
    except Exception as error:  # onnxruntime's errors have no public root
        if not foreign:
            raise
        refused = next(iter(str(error).strip().splitlines()), "")[:200]
        try:
            found = damage(on, model, Level.ORT_ENABLE_BASIC)
        except Exception:  # noqa: BLE001 the first reason is the one to tell
            raise error from None
        return found | {"only_basic_optimisations": refused}


def row(study: str, on: Subject, choice: str, tool: str, way: str, model: bytes, lost: Lost) -> dict[str, Any]:
    found = judged(on, model, tool != "ours")
    mine, size = found.pop("lost"), found.pop("size")
    if tool == "ours":
        lost[choice, way] = mine, len(model)
    made = {
        "study": study,
        "format": choice,
        "tool": tool,
        "way": way,
        "relative_error": float(mine.sum() / size.sum()),
        "against_nearest": compared(mine, lost[choice, "nearest"][0]),
        **found,
        "size_bytes": len(model),
        "size_against_ours": len(model) / lost[choice, "nearest"][1],
        "operators": operators(model),
    }
    if tool != "ours":
        made["ours_against_it"] = compared(lost[choice, OURS][0], mine)
        made |= at_equal_size(choice, mine, len(model), lost)
    against = made["against_nearest"]
    print(
        f"{study:6} {choice:14} {tool:18} {way:22} {made['relative_error']:.3g} {against['ratio']:.3f} "
        f"[{against['low']:.3f}, {against['high']:.3f}] accuracy {made['accuracy']:.3f} {len(model):,} bytes",
        flush=True,
    )
    return made


def at_equal_size(choice: str, its: np.ndarray, size: int, lost: Lost) -> dict[str, Any]:
    """Our largest file, with GPTQ and bias correction, that is no larger than it, against it; {} where all are."""
    ours_ = {way: found for (format_, way), found in lost.items() if format_ == choice and way.startswith(OURS)}
    near = [way for way, (_, bytes_) in ours_.items() if bytes_ <= NEAR * size]
    if not near:
        return {}
    way = max(near, key=lambda each: ours_[each][1])
    mine, bytes_ = ours_[way]
    return {"equal_size": {"way": way, "size": bytes_ / size, **compared(mine, its)}}


def place(made: Mapping[str, Any]) -> tuple[str, int, bool, int]:
    """By study and format, ours first, then the tools in the order of `PACKAGES`; a tool's attempts as they came."""
    format_, tool = made["format"], made["tool"]
    at = FORMATS.index(format_) if format_ in FORMATS else len(FORMATS)
    return made["study"], at, tool != "ours", list(PACKAGES).index(tool) if tool in PACKAGES else 0


def same_as_before(old: Sequence[Mapping[str, Any]], new: Mapping[str, Any]) -> None:
    """Raises `SystemExit` where ours does other damage than the rows that stay were held against."""
    for each in old:
        if like(each, new):
            before, now = each["relative_error"], new["relative_error"]
            if abs(now - before) > 1e-3 * before:
                sys.exit(
                    f"{new['study']} {new['format']}: ours, {new['way']}, did a damage of {before:.6g} and does "
                    f"{now:.6g} now, so rows of before do not compare with new ones: take the result file away, or "
                    "give another --out"
                )


def like(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    return all(one[name] == other[name] for name in ("study", "format", "tool", "way"))


def write(out: Path, study: str, facts: Mapping[str, Any], row: Mapping[str, Any], **about: Any) -> None:
    """Put a row in the place of its like, under a lock: studies may run beside each other."""
    out.parent.mkdir(parents=True, exist_ok=True)
    with out.open("a+") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.seek(0)
        text = file.read()
        record: dict[str, Any] = json.loads(text) if text else {"studies": {}, "results": []}
        rows = record["results"]
        at = next((index for index, each in enumerate(rows) if like(each, row)), len(rows))
        rows[at : at + 1] = [row]
        rows.sort(key=place)
        record["studies"][study] = {**record["studies"].get(study, {}), **facts}
        about["tools"] = {**record.get("tools", {}), **about["tools"]}
        record |= {
            **about,
            "date": datetime.now(UTC).isoformat(timespec="seconds"),
            "onnxruntime": onnxruntime.__version__,
            "python": platform.python_version(),
            "machine": f"{platform.machine()}, {len(os.sched_getaffinity(0))} core",
            "load_average": os.getloadavg()[0],
        }
        file.truncate(0)
        file.write(json.dumps(record, indent=1) + "\n")
        out.with_suffix(".md").write_text(tools_page(record, OURS))


def main() -> None:
    """Measure, print a line per artifact, write the result files."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--studies", nargs="+", default=["spam", "ocr"])
    parser.add_argument("--samples", type=int, default=150)
    parser.add_argument("--calibration", type=int, default=32)
    parser.add_argument("--tool", nargs=2, action="append", default=[], metavar=("NAME", "PYTHON"))
    parser.add_argument("--limit", type=float, default=LIMIT, help="seconds for one tool")
    parser.add_argument("--only", nargs="+", default=[], metavar="FORMAT/WAY", help="these of a tool's attempts")
    parser.add_argument("--keep", type=Path, help="folder where tools' files stay for another run")
    parser.add_argument("--out", type=Path, default=RESULT)
    arguments = parser.parse_args()
    rows = json.loads(arguments.out.read_text())["results"] if arguments.out.exists() else []
    versions = {name: version(name, python) for name, python in arguments.tool}
    names = [part for name, _ in arguments.tool for part in ("--tool", name, "PYTHON")]
    asked = ["--samples", str(arguments.samples), "--calibration", str(arguments.calibration), *names]
    asked += ["--limit", f"{arguments.limit:g}"] if arguments.limit != LIMIT else []
    asked += ["--only", *arguments.only] if arguments.only else []
    for study in arguments.studies:
        on = subject(study, arguments.samples, arguments.calibration)
        original = [prediction for answer in on.answers for prediction in on.workload.decode(answer)]
        command = shlex.join(["python", "benchmarks/rounding_tools.py", "--studies", study, *asked])
        facts = {
            "accuracy": resolve_metrics(on.workload.metric)[0](original, list(on.labels)),
            "samples": len(on.inputs),
            "calibration_inputs": len(on.workload.calibration),
        }
        for each in rows_of(study, on, arguments):
            if each["tool"] == "ours":
                same_as_before(rows, each)
            write(arguments.out, study, facts, {**each, "command": command}, tools=versions)


if __name__ == "__main__":
    main()
