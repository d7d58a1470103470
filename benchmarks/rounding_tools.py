"""Damage in the same format: our rounding against the published quantisers, on the same model and calibration inputs.

    python benchmarks/rounding_tools.py [--studies spam ocr] [--samples 150] [--calibration 32] --tool NAME PYTHON ...

NAME is onnxruntime, neural-compressor, nncf, modelopt or aimet, PYTHON the interpreter of the environment where it is
installed. Each tool gets the normalised original and the calibration inputs and writes what it has of the formats
w4-b32, int8-static and int8-dynamic, with its defaults (`peers/quantise.py`). All artifacts, and ours, then answer the
same held-out inputs, and are judged by `rounding.damage`. Ratios of damage, with 95 % intervals from a bootstrap over
samples: to our rounding to nearest in the format, and of ours with GPTQ and bias correction to it. Which operators do
the quantised work is told for each: where they are the same, so is the kernel and its time; nothing is timed here.
Bytes are told because a tool may also leave layers out or compress tables, which we do not here. A file that
onnxruntime opens only without its extended optimisations is judged so, and the row says it. A tool is stopped after
`--limit` seconds; what it had written counts. The result file and the same name with `.md` are written anew after every
row; rows of other studies, and of tools that are not named, stay.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import shlex
import signal
import subprocess
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

from autotune.judge.metrics import resolve_metrics
from autotune.recipe import Recipe

RESULT = Path(__file__).parent / "results" / "rounding_tools.json"
FORMATS = ("w4-b32", "int8-static", "int8-dynamic")
PACKAGES = {
    "onnxruntime": "onnxruntime", "neural-compressor": "onnx-neural-compressor", "nncf": "nncf",
    "modelopt": "nvidia-modelopt", "aimet": "aimet-onnx",
}  # fmt: skip
OURS = "gptq, bias"  # what the tools are compared with; chosen before any of them ran
LIMIT = 3600  # seconds for one tool
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
            yield choice, way, made.assemble(Recipe({"quantize": uniform(made, choice)}))


def theirs(on: Subject, tool: str, python: str, folder: Path, limit: float) -> tuple[dict[str, Any], Path]:
    """What the tool said of each attempt, and the folder with its files."""
    data, out = folder / "data", folder / tool
    data.mkdir(exist_ok=True)
    out.mkdir()
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
            [str(Path(python).absolute()), str(script.absolute()), tool, str(data), str(out)],
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
    return {name: each if each else {"failed": ended} for name, each in found.items()}, out


def version(tool: str, python: str) -> str:
    code = f"from importlib.metadata import version; print(version({PACKAGES[tool]!r}))"
    ran = subprocess.run([python, "-c", code], capture_output=True, text=True, check=False)
    return ran.stdout.strip() or "not installed"


def rows_of(study: str, on: Subject, tools: Sequence[tuple[str, str]], limit: float) -> Iterator[dict[str, Any]]:
    """One row per artifact or failure; ours first."""
    lost: dict[tuple[str, str], np.ndarray] = {}
    for choice, way, model in ours(on):
        yield row(study, on, choice, "ours", way, model, lost)
    with tempfile.TemporaryDirectory(prefix="hw-autotune-benchmark-") as text:
        for tool, python in tools:
            told, out = theirs(on, tool, python, Path(text), limit)
            for name, each in told.items():
                choice, _, way = name.partition("/")
                failed = {"study": study, "format": choice, "tool": tool, "way": way, **each}
                file = out / f"{name}.onnx"
                if "failed" not in each:
                    try:
                        found = row(study, on, choice, tool, way, file.read_bytes(), lost) | each
                    except Exception as error:  # noqa: BLE001 a file that onnxruntime refuses is a result
                        first = next(iter(str(error).strip().splitlines()), "")
                        failed["failed"] = f"the file does not run: {type(error).__name__}: {first[:200]}"
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


def row(
    study: str, on: Subject, choice: str, tool: str, way: str, model: bytes, lost: dict[tuple[str, str], np.ndarray]
) -> dict[str, Any]:
    found = judged(on, model, tool != "ours")
    mine, size = found.pop("lost"), found.pop("size")
    if tool == "ours":
        lost[choice, way] = mine
    made = {
        "study": study,
        "format": choice,
        "tool": tool,
        "way": way,
        "relative_error": float(mine.sum() / size.sum()),
        "against_nearest": compared(mine, lost[choice, "nearest"]),
        **found,
        "size_bytes": len(model),
        "operators": operators(model),
    }
    if tool != "ours":
        made["ours_against_it"] = compared(lost[choice, OURS], mine)
    against = made["against_nearest"]
    print(
        f"{study:6} {choice:14} {tool:18} {way:22} {made['relative_error']:.3g} {against['ratio']:.3f} "
        f"[{against['low']:.3f}, {against['high']:.3f}] accuracy {made['accuracy']:.3f} {len(model):,} bytes",
        flush=True,
    )
    return made


def markdown(record: Mapping[str, Any]) -> str:
    """The record as a page of tables, one per study."""
    versions = ", ".join(f"{name} {version}" for name, version in record["tools"].items())
    text = [
        "# Damage in the same format: ours and the published quantisers",
        "",
        f"Written {record['date'][:10]}; {versions}; judged by onnxruntime {record['onnxruntime']}, one "
        "thread. Damage is sum |dy|² / sum |y|² of the outputs on held-out inputs; in brackets 95 % intervals. "
        f"“Ours / it” is the damage of our {OURS} over that of the tool in the same format: below 1 ours is better. "
        "Nothing is timed here: the operators say which kernels run, and the same kernels take the same time.",
    ]
    for study, facts in record["studies"].items():
        text += [
            "",
            f"## {study}",
            "",
            *(f"- `{command}`" for command in facts.get("commands", [])),
            "",
            f"{facts['samples']} held-out inputs, {facts['calibration_inputs']} for calibration; accuracy of the "
            f"original {facts['accuracy']:.3f}.",
            "",
            "| format | by | way | damage | to our nearest | ours / it | KL | accuracy | bytes | operators |",
            "|---|---|---|---|---|---|---|---|---|---|",
        ]
        rows = [each for each in record["results"] if each["study"] == study]
        for each in sorted(rows, key=_place):
            begin = f"| {each['format']} | {each['tool']} | {each['way']} | "
            if "failed" in each:
                text.append(begin + each["failed"].replace("|", "/").replace("\n", " ") + " | | | | | | |")
                continue
            mine = _ratio(each["ours_against_it"]) if "ours_against_it" in each else ""
            counts = ", ".join(f"{count} {op}" for op, count in each["operators"].items())
            if "only_basic_optimisations" in each:
                counts += "; runs with basic optimisations only: " + each["only_basic_optimisations"].replace("|", "/")
            text.append(
                f"{begin}{each['relative_error']:.3g} | {_ratio(each['against_nearest'])} | {mine} | "
                f"{each['divergence']:.3g} | {each['accuracy']:.3f} | {each['size_bytes']:,} | {counts} |"
            )
    return "\n".join(text) + "\n"


def _place(row: Mapping[str, Any]) -> tuple[int, bool]:
    """By format, ours first."""
    return FORMATS.index(row["format"]) if row["format"] in FORMATS else len(FORMATS), row["tool"] != "ours"


def _ratio(told: Mapping[str, float]) -> str:
    return f"{told['ratio']:.3g} [{told['low']:.3g}, {told['high']:.3g}]"


def main() -> None:
    """Measure, print a line per artifact, write the result files."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--studies", nargs="+", default=["spam", "ocr"])
    parser.add_argument("--samples", type=int, default=150)
    parser.add_argument("--calibration", type=int, default=32)
    parser.add_argument("--tool", nargs=2, action="append", default=[], metavar=("NAME", "PYTHON"))
    parser.add_argument("--limit", type=float, default=LIMIT, help="seconds for one tool")
    parser.add_argument("--out", type=Path, default=RESULT)
    arguments = parser.parse_args()
    record: dict[str, Any] = {"studies": {}, "results": []}
    if arguments.out.exists():
        record = json.loads(arguments.out.read_text())
        if old := record.pop("command", ""):  # a file of before has that of its last study only
            last = record["results"][-1]["study"]
            record["studies"][last].setdefault("commands", [old])
    names = [part for name, _ in arguments.tool for part in ("--tool", name, "PYTHON")]
    versions = {name: version(name, python) for name, python in arguments.tool}
    asked = ["--samples", str(arguments.samples), "--calibration", str(arguments.calibration), *names]
    for study in arguments.studies:
        on = subject(study, arguments.samples, arguments.calibration)
        original = [prediction for answer in on.answers for prediction in on.workload.decode(answer)]
        known = record["studies"].get(study, {}).get("commands", [])
        command = shlex.join(["python", "benchmarks/rounding_tools.py", "--studies", study, *asked])
        record["studies"][study] = {
            "commands": [*(each for each in known if each != command), command],
            "accuracy": resolve_metrics(on.workload.metric)[0](original, list(on.labels)),
            "samples": len(on.inputs),
            "calibration_inputs": len(on.workload.calibration),
        }
        anew = {"ours", *versions}
        record["results"] = [r for r in record["results"] if r["study"] != study or r["tool"] not in anew]
        for each in rows_of(study, on, arguments.tool, arguments.limit):
            record["results"].append(each)
            record |= {
                "date": datetime.now(UTC).isoformat(timespec="seconds"),
                "onnxruntime": onnxruntime.__version__,
                "tools": record.get("tools", {}) | versions,
                "python": platform.python_version(),
                "machine": f"{platform.machine()}, {len(os.sched_getaffinity(0))} core",
                "load_average": os.getloadavg()[0],
            }
            arguments.out.parent.mkdir(parents=True, exist_ok=True)
            arguments.out.write_text(json.dumps(record, indent=1) + "\n")
            arguments.out.with_suffix(".md").write_text(markdown(record))


if __name__ == "__main__":
    main()
