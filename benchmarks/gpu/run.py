"""Makes the environments, runs the steps that need a card, and writes one JSON. Called by `run.sh`; stdlib only."""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import environments
import pieces
import steps

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
# In the order of what they are worth: step -> its part of --seconds. What a step leaves goes to those behind it, and a
# step that cannot run here has none.
SHARES = {"protocol": 0.45, "study": 0.30, "tests": 0.15, "tensorrt": 0.05, "comparison": 0.05}
STEPS = tuple(SHARES)
PATIENCE = {"tests": 1200, "protocol": 3600, "study": 5400, "tensorrt": 5400, "comparison": 1800}  # seconds
_SEARCH = ("numpy", "onnx", "onnxruntime", "onnx_ir", "ml_dtypes", "pydantic", "scipy", "torch", "onnxscript")
_STUDY = (*_SEARCH, "optuna", "sqlalchemy", "alembic", "typer", "rich", "plotly", "sklearn")
# Modules without which a step cannot begin.
NEEDS = {
    "tests": (*_SEARCH, "pytest"),
    "protocol": ("numpy", "onnx", "onnxruntime", "ml_dtypes", "pydantic", "torch"),
    "study": _STUDY,
    "tensorrt": _STUDY,
    "comparison": _STUDY,
}
_SPARE = 20.0  # seconds of a budget that are kept for writing
_WINDING_UP = 55.0  # seconds that a study may need after its own limit: to stop, and to tell what there is
_LEAST = 90.0  # seconds that a step is worth beginning with


def device_side(name: str) -> Any:
    """A module of the agent, which needs nothing but the standard library; without the package around it."""
    spec = importlib.util.spec_from_file_location(name, ROOT / "hwprofiles" / "agent" / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


cuda, nvml = device_side("cuda"), device_side("nvml")


def arguments() -> argparse.Namespace:
    """The command line; ends with 2 for one that makes no sense."""
    parser = argparse.ArgumentParser(prog="benchmarks/gpu/run.sh", description=__doc__)
    parser.add_argument("wheels", type=Path)
    parser.add_argument("result", type=Path, nargs="?", default=None)
    parser.add_argument("--steps", default=",".join(STEPS), help="those of this call; the others stay as they are")
    parser.add_argument("--seconds", type=float, default=None, help="for all of this call; steps are cut short to fit")
    parser.add_argument("--keep", type=Path, default=None, metavar="FOLDER", help="environments and studies, for more")
    parser.add_argument(
        "--continue",
        dest="going_on",
        action="store_true",
        help="leave out steps that an earlier call of the same commit finished, so that the others have their time",
    )
    parser.add_argument("--quick", action="store_true", help="few runs: does everything work at all?")
    parser.add_argument("--study", default="spam", help="a ready-made study for study, tensorrt and comparison")
    parser.add_argument("--trial", action="store_true", help="try the script itself, with the CPU in the card's place")
    parser.add_argument("--wheels-needed", action="store_true", help="print the commands that fill the folder; no more")
    parser.add_argument(
        "--for", dest="version", metavar="3.12", help="with it: another machine's Python, on x86-64 Linux"
    )
    found = parser.parse_args()
    found.chosen = found.steps.split(",")
    if unknown := [step for step in found.chosen if step not in STEPS]:
        parser.error(f"no step {unknown[0]!r}; known: {', '.join(STEPS)}")
    if not found.wheels_needed and not found.wheels.is_dir():
        parser.error(f"{found.wheels} is no folder; `--wheels-needed` says what belongs there")
    return found


def main() -> int:
    given = arguments()
    if given.wheels_needed:
        print("\n".join(environments.commands(str(given.wheels), given.version)))
        return 0
    began = time.monotonic()
    deadline = began + (given.seconds or float("inf"))
    steps.adopt()
    standing_in = {"trial": "the CPU stands in the card's place: nothing here is a number of a card"}
    seen: dict[str, Any] = standing_in if given.trial else card()
    path = given.result
    if path is None and "card" in seen:
        path = HERE / "results" / (str(seen["card"]["name"]).lower().replace(" ", "-") + ".json")
    result = merged(path, seen)
    call = {
        "command": " ".join(["benchmarks/gpu/run.sh", *sys.argv[1:]]),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": commit(),
        "quick": given.quick,
    }
    result |= {**call, "machine": machine(), **seen}
    result.setdefault("steps", {step: {"not run": "not asked for"} for step in STEPS})
    if "no_card" in seen:
        result["environments"] = {}
        result["steps"] |= {step: {"not run": f"no card: {seen['no_card']}"} for step in given.chosen}
    else:
        with contextlib.ExitStack() as stack:
            work = given.keep or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="hw-autotune-gpu-")))
            work = work.absolute()
            work.mkdir(parents=True, exist_ok=True)
            joined, refused = pieces.join(given.wheels, work / environments.JOINED)
            if joined or refused:
                result["wheels_in_pieces"] = {"sha256": joined, "refused": refused}
                for name, why in refused.items():
                    print(f"wheel {name}: {why}", file=sys.stderr, flush=True)
            result["environments"] = made = {}
            for name in environments.NAMES:
                made[name] = environments.make(name, given.wheels, work / name)
                print(f"environment {name}: {made[name].get('not_installed', 'made')}", file=sys.stderr, flush=True)
            if "nvml" in result and "python" in made["main"]:
                result |= asked_again(made["main"]["python"])
            write(result, path)
            kept = result["steps"]
            same = {step: told for step, told in kept.items() if told.get("commit") == call["commit"]}
            todo = [
                step for step in STEPS if step in given.chosen and not (given.going_on and finished(same.get(step)))
            ]
            barred = {step: why for step in todo if (why := cannot(step, given, made))}
            for index, step in enumerate(todo):
                later = [name for name in todo[index:] if name not in barred]
                limit = share(step, later, deadline - time.monotonic() - _SPARE)
                if step in barred or limit < _LEAST:
                    told = {"not run": barred.get(step, "no time was left of --seconds")}
                else:
                    told = one(step, work, given, made, limit, same.get(step, {}))
                before = kept.get(step, {})
                if "not run" in told and "not run" not in before and before:
                    told = {**before, "not run again": told["not run"]}
                else:
                    told |= call
                kept[step] = told
                write(result, path)
                outcome = told.get("not run") or told.get("failed") or told.get("not run again") or "ran"
                print(f"{step}: {outcome}", file=sys.stderr, flush=True)
    result["calls"] = [*result.get("calls", []), {**call, "seconds": round(time.monotonic() - began, 1)}]
    write(result, path)
    if path is None:
        sys.stdout.write(json.dumps(result, indent=1) + "\n")
    else:
        print(f"written to {path}")
    return 1 if any("failed" in result["steps"][step] for step in given.chosen) else 0


def merged(path: Path | None, seen: dict[str, Any]) -> dict[str, Any]:
    """What an earlier call wrote, if that was on the same card; refused (exit 2) if it was another one."""
    if path is None or not path.is_file():
        return {}
    before = json.loads(path.read_text())
    names = [str(found.get("card", {}).get("name", "none")) for found in (before, seen)]
    if "card" not in before and "trial" not in before:
        return {}
    if names[0] != names[1]:
        print(f"{path} is of another card ({names[0]}, here: {names[1]}); name another file", file=sys.stderr)
        raise SystemExit(2)
    return dict(before)


def write(result: dict[str, Any], path: Path | None) -> None:
    """Whole or not at all."""
    if path is None:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    part.write_text(json.dumps(result, indent=1) + "\n")
    part.replace(path)


def card() -> dict[str, Any]:
    """What the driver says of the card, or why there is none."""
    try:
        seen = cuda.probe()
    except cuda.CudaProblem as error:
        return {"no_card": str(error)}
    try:
        return {"card": nvml.identity(uuid=seen["uuid"])}
    except nvml.NvmlProblem as error:
        return {"card": {key: value for key, value in seen.items() if key != "uuid"}, "nvml": str(error)}


def machine() -> dict[str, Any]:
    """Everything but the card."""
    processor = ""
    with contextlib.suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        processor = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
    return {
        "system": " ".join([platform.system(), platform.machine(), *platform.libc_ver()]).strip(),
        "processor": processor or platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "python": platform.python_version(),
    }


def asked_again(python: str) -> dict[str, Any]:
    """`card` by an interpreter that has nvidia-ml-py; nothing where it does not help."""
    code = "import json; from hwprofiles.agent import nvml; print(json.dumps(nvml.identity()))"
    done = environments.said([python, "-c", code])
    return {"card": json.loads(done.stdout), "nvml": "by the environment main"} if done.returncode == 0 else {}


def commit() -> str:
    """Of this source, with "+changes" if it is not what was committed. HW_AUTOTUNE_COMMIT says it where git cannot."""
    if told := os.environ.get("HW_AUTOTUNE_COMMIT"):
        return told
    try:
        head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=True)
        changed = subprocess.run(["git", "status", "--porcelain"], cwd=ROOT, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return "unknown: set HW_AUTOTUNE_COMMIT where there is no repository"
    return head.stdout.strip() + ("+changes" if changed.stdout.strip() else "")


def finished(told: dict[str, Any] | None) -> bool:
    """Whether nothing of a step is left to be done."""
    return told is not None and not any(told.get(key) for key in ("not run", "not_run", "failed", "unfinished"))


def share(step: str, todo: list[str], left: float) -> float:
    """Seconds of `left` for the first of `todo`: its part among them, or the least that it is worth beginning with."""
    if step not in todo or left < _LEAST:
        return 0.0
    part = SHARES[step] / sum(SHARES[name] for name in todo)
    return min(PATIENCE[step], left, max(_LEAST, part * left))


def cannot(step: str, given: argparse.Namespace, made: dict[str, Any]) -> str:
    """Why a step cannot run here, however much time there is; "" if it can."""
    if "not_installed" in made["main"]:
        return f"environment main: {made['main']['not_installed']}"
    if lacks := environments.lacking(made["main"]["python"], NEEDS[step]):
        return f"environment main lacks {', '.join(lacks)}"
    tensorrts = [made[name] for name in ("tensorrt", "tensorrt-rtx")]
    if step == "tensorrt" and not given.trial and not any("python" in found for found in tensorrts):
        reasons = "; ".join(str(found.get("not_installed")) for found in tensorrts)
        return f"neither TensorRT (its libraries are on NVIDIA's own index only) nor TensorRT-RTX is there: {reasons}"
    return ""


def one(
    step: str, work: Path, given: argparse.Namespace, made: dict[str, Any], limit: float, before: dict[str, Any]
) -> dict[str, Any]:
    """One step in `limit` seconds: what it found. `before`: what an earlier call of the same commit found."""
    python = made["main"]["python"]
    variables = environments.clean()
    variables |= {"XDG_CACHE_HOME": str(work / "cache"), "XDG_CONFIG_HOME": str(work / "config")}
    for name in environments.WAYS:
        if "python" in made[name]:
            variables[f"HW_AUTOTUNE_{name.upper().replace('-', '_')}_PYTHON"] = made[name]["python"]
    variables["HW_AUTOTUNE_ORT_CUDA_MISSING"] = str(made["ort-cuda"].get("not_installed", ""))
    out = work / f"{step}.json"
    quick = ["--quick"] if given.quick else []
    if step == "tests":
        out = out.with_suffix(".xml")
        command = [python, "-m", "pytest", "-q", "-rs", "-p", "no:cacheprovider", "-m", "gpu", f"--junitxml={out}"]
        variables["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"  # the parent's: their warnings would be errors here
        return steps.run([*command, "tests/device/gpu"], ROOT, variables, out, limit)
    if step == "protocol":
        command = [python, str(HERE / "protocol.py"), "--out", str(out), "--seconds", f"{limit - _SPARE:.0f}", *quick]
        if before.get("cases") and before.get("quick") == given.quick:
            earlier = work / "earlier.json"
            earlier.write_text(json.dumps(before))
            command += ["--continue", str(earlier)]
        command += ["--runtime", "torch-cpu"] if given.trial else []
        return steps.run(command, ROOT, variables, out, limit)
    study, instead = given.study, ""
    if study == "spam":
        more, instead = environments.with_spam(given.wheels, python)
        study = "digits" if instead else study
        variables |= more
    if study == "digits" and (lacks := environments.lacking(python, ("PIL",))):
        return {"not run": f"environment main lacks {', '.join(lacks)} for the study digits; spam: {instead}"}
    command = [python, str(HERE / "study.py"), step, "--study", study, "--work", str(work / "studies")]
    command += ["--out", str(out), "--seconds", f"{max(1.0, limit - _WINDING_UP):.0f}", *quick]
    command += ["--as", "local"] if given.trial else []
    found = steps.run(command, ROOT, variables, out, limit)
    return {**found, "instead_of_spam": instead} if instead else found


if __name__ == "__main__":
    sys.exit(main())
