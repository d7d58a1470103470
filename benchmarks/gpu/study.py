"""A study on a card: searched, measured and judged there, and its answers held against the CPU's.

    python benchmarks/gpu/study.py study|tensorrt|comparison --study spam --work FOLDER --out FILE [--seconds S]
        [--quick]

`study`: quantisation (float16, 8 bit, mixed) by ONNX Runtime's CUDA provider. `tensorrt`: the same by TensorRT, or by
TensorRT-RTX where only that is there; the numbers say which. `comparison`: one study whose targets are this machine's
CPU and the card, with fewer trials. Without onnxruntime-gpu the first and the last take torch on the card in its place,
which runs float16, float32 and weights that are stored in 8 bits; target and result say so. The interpreters are named
in the environment, see `run.py`. `--as TARGET` tries the script itself with any other target in the card's place; what
comes out then says so.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import tomllib
from pathlib import Path
from typing import Any

STUDIES = Path(__file__).parents[2] / "studies"
CARD = "card"
ORT = {"runtime": "onnxruntime-cuda", "dialect": "ort-cuda", "provider": "CUDAExecutionProvider"}
# In its place where it is not installed. The dialect's files of 16 bit are plain ONNX; what torch does not run is found
# out when the study begins, and is no choice then.
TORCH = {"runtime": "torch-cuda", "dialect": "ort-cuda", "provider": "cuda", "timeout": 600.0}
TORCH_OPTIONS = {"mode": "eager", "cuda_graph": True}
TENSORRT = {
    "TENSORRT": {"runtime": "tensorrt", "dialect": "tensorrt", "provider": "TensorRT"},
    "TENSORRT_RTX": {"runtime": "tensorrt-rtx", "dialect": "tensorrt", "provider": "TensorRT-RTX"},
}
# Dialect -> choices of other dialects that its runtime would not compute, and why (docs/gpu.md, Dialect).
NOT_OFFERED = {
    "ort-cuda": {
        choice: f"not offered: ONNX Runtime's CUDA provider has no fused integer kernels; {what}"
        for choice, what in {
            "int8-static": "between QuantizeLinear and DequantizeLinear it would compute in float, and convert besides",
            "int8-dynamic": "DynamicQuantizeLinear and MatMulInteger would run on the CPU, with copies",
        }.items()
    }
}
_SEARCH_SHARE = 0.55  # of the time that there is; the rest is for finalists and parity
_LAST = 12.0  # seconds that a command may go on after it was asked to stop, twice


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("step", choices=["study", "tensorrt", "comparison"])
    parser.add_argument("--study", default="spam")
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seconds", type=float, default=float("inf"), help="stop the search so that all fits")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--as", dest="instead", metavar="TARGET", default="")
    arguments = parser.parse_args()
    deadline = time.monotonic() + arguments.seconds
    profile = {"copy of": arguments.instead} if arguments.instead else wanted(arguments.step)
    if "not_run" in profile:
        arguments.out.write_text(json.dumps(profile))
        return 0
    folder = prepare(arguments, profile)
    store = folder / "store.db"
    trials = 4 if arguments.quick else 12 if arguments.step == "comparison" else 40
    found: dict[str, Any] = {"target": profile, "study": arguments.study, "trials": trials}
    found["variant"] = (
        f"quantize only: task, data and judgement of the study {arguments.study}, searched by the technique quantize "
        "alone; its other techniques and its own targets are left out"
    )
    if profile.get("runtime") == TORCH["runtime"]:
        why = os.environ.get("HW_AUTOTUNE_ORT_CUDA_MISSING", "it is not installed")
        found["instead"] = f"these are numbers of torch-cuda, not of onnxruntime-cuda: onnxruntime-gpu: {why}"
    elif profile.get("dialect") in NOT_OFFERED:
        found["not_offered"] = NOT_OFFERED[profile["dialect"]]

    def note(key: str, told: dict[str, Any]) -> dict[str, Any]:
        found[key] = told
        if "failed" in told and key == "run":
            found["failed"] = told["failed"]
        part = arguments.out.with_name(arguments.out.name + ".part")
        part.write_text(json.dumps(found, indent=1))
        part.replace(arguments.out)
        return told

    note("run", {"not finished": "the search was going on"})
    words = ["run", str(folder), "--store", str(store), "--trials", str(trials), "--all-targets", "--json"]
    if arguments.seconds < float("inf"):  # the finalists are measured after that
        words += ["--hours", f"{_SEARCH_SHARE * arguments.seconds / 3600:.5f}"]
    ran = note("run", autotune(*words, deadline=deadline))
    front = ran.get("said")
    if "failed" in ran:
        front = note("front", autotune("front", str(folder), "--store", str(store), "--json")).get("said")
    if arguments.step != "comparison" and chosen(front):
        where = ("--store", str(store), "--folder", str(folder), "--target", CARD, "--target", "local")
        spec = f"{folder}:{chosen(front)}"
        note("parity", autotune("parity", spec, *where, "--samples", "64", "--json", deadline=deadline))
    if left := missing(found, trials, arguments.step):
        note("unfinished", left)
    return 1 if "failed" in found else 0


def missing(found: dict[str, Any], trials: int, step: str) -> dict[str, str]:
    """What another call with more time would add; empty if nothing."""
    said = found["run"].get("said")
    done = said.get("trials") if isinstance(said, dict) else None
    left = {}
    if "cut short" in found["run"] or (isinstance(done, int) and done < trials):
        left["search"] = f"{done if isinstance(done, int) else 'some'} of {trials} trials"
    if step != "comparison" and "said" not in found.get("parity", {}):
        left["parity"] = str(found.get("parity", {}).get("not_run", "it has no answer"))
    return left


def wanted(step: str) -> dict[str, Any]:
    """The card's target by what is installed; or why the step cannot run."""
    if step != "tensorrt":
        python = os.environ.get("HW_AUTOTUNE_ORT_CUDA_PYTHON")
        return {**ORT, "python": python} if python else {**TORCH, "options": TORCH_OPTIONS}
    for name, profile in TENSORRT.items():
        python = os.environ.get(f"HW_AUTOTUNE_{name}_PYTHON")
        if python:
            return {**profile, "python": python, "timeout": 900.0}
    return {"not_run": "neither TensorRT (its libraries are on NVIDIA's own index only) nor TensorRT-RTX is installed"}


def prepare(arguments: argparse.Namespace, profile: dict[str, Any]) -> Path:
    """A folder with the study's task, the card's target, and settings that search quantisation on it."""
    original = STUDIES / arguments.study
    settings = tomllib.loads((original / "study.toml").read_text())
    folder: Path = arguments.work / f"{arguments.study}-{arguments.step}"
    # A store that is there already is gone on with.
    shutil.copytree(original, folder, ignore=shutil.ignore_patterns("__pycache__", "study.toml"), dirs_exist_ok=True)
    targets = ["local", CARD] if arguments.step == "comparison" else [CARD]
    tables = {name: dict(settings.get(name, {})) for name in ("judge", "measure", "remeasure")}
    if arguments.quick:
        tables["measure"] = {"max_seconds": 5.0, "memory_runs": 1}
        tables["remeasure"] = {"max_seconds": 10.0, "memory_runs": 1}
    lines = [
        f"name = {json.dumps(folder.name)}",
        'description = "made by benchmarks/gpu/study.py"',
        f"targets = {json.dumps(targets)}",
        "[search]",
        f"objectives = {json.dumps(['size_bytes', *(f'latency_ratio@{name}' for name in targets), 'drop/worst'])}",
        f"trials = {settings['search'].get('trials', 40)}",
        "[techniques.quantize]",
        "[finalists]",
        f"count = {1 if arguments.quick else 3}",
    ]
    for name, table in tables.items():
        plain = {key: value for key, value in table.items() if not isinstance(value, dict)}
        lines += [f"[{name}]", *(f"{key} = {json.dumps(value)}" for key, value in plain.items())]
    (folder / "study.toml").write_text("\n".join(lines) + "\n")
    if arguments.instead:
        from hwprofiles.profile_text import as_toml
        from hwprofiles.registry import find_target

        target = find_target(arguments.instead).model_copy(update={"name": CARD})
        (folder / f"{CARD}.toml").write_text(as_toml(target))
    else:
        facts = {
            "description": "the card of this machine",
            "transport": "local",
            "source": "made by study.py",
            **profile,
        }
        options = facts.pop("options", {})
        lines = [f"{key} = {json.dumps(value)}\n" for key, value in facts.items()]
        lines += ["[options]\n", *(f"{key} = {json.dumps(value)}\n" for key, value in options.items())]
        (folder / f"{CARD}.toml").write_text("".join(lines))
    return folder


def autotune(*words: str, deadline: float = float("inf")) -> dict[str, Any]:
    """What a command says, or how it failed; its exit codes 0, 1 and 3 are answers."""
    told: dict[str, Any] = {"command": " ".join(words)}
    left = deadline - time.monotonic()
    if left < 5:
        return {**told, "not_run": "no time was left"}
    process = subprocess.Popen(
        [sys.executable, "-m", "autotune.cli", *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        out, err = process.communicate(timeout=None if left == float("inf") else left)
        late = ""
    except subprocess.TimeoutExpired:
        late = f"it was ended after {left:.0f} s: "
        out = err = ""
        for stop in (signal.SIGINT, signal.SIGINT, signal.SIGKILL):  # after the current step; at once; now
            process.send_signal(stop)  # what it has is in the store
            try:
                out, err = process.communicate(timeout=_LAST)
                break
            except subprocess.TimeoutExpired:
                continue
    told["exit"] = process.returncode
    try:
        told["said"] = json.loads(out)
        if late:
            told["cut short"] = late.removesuffix(": ")
    except ValueError:
        told["failed"] = late + (err.strip() or out.strip() or "it said nothing")[-600:]
    return told


def chosen(said: Any) -> int:
    """The trial to ship; where there is none the latest of the front; 0, the original, where that is empty."""
    told = said if isinstance(said, dict) else {}
    if isinstance(told.get("recommended"), int):
        return int(told["recommended"])
    numbers = [entry.get("number", entry.get("trial")) for entry in told.get("front", []) if isinstance(entry, dict)]
    return max((number for number in numbers if isinstance(number, int)), default=0)


if __name__ == "__main__":
    sys.exit(main())
