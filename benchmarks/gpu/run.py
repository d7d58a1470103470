"""Makes the environments, runs the steps that need a card, and writes one JSON. Called by `run.sh`; stdlib only."""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ElementTree
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
ROOT = HERE.parents[1]


def device_side(name: str) -> Any:
    """A module of the agent, which needs nothing but the standard library; without the package around it."""
    spec = importlib.util.spec_from_file_location(name, ROOT / "hwprofiles" / "agent" / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


cuda, nvml = device_side("cuda"), device_side("nvml")

# Environment -> what pip is to find among the wheels. An environment holds only one onnxruntime.
ENVIRONMENTS = {
    "main": [
        "numpy",
        "onnx",
        "onnxruntime",
        "pydantic",
        "pytest",
        "scikit-learn",
        "nvidia-ml-py",
        "hw-autotune[torch]",
    ],
    "ort-cuda": ["numpy", "nvidia-ml-py", "onnxruntime-gpu[cuda,cudnn]"],
    "tensorrt-rtx": ["numpy", "nvidia-ml-py", "cuda-bindings", "tensorrt-rtx-cu13-libs", "tensorrt-rtx-cu13-bindings"],
    "tensorrt": ["numpy", "nvidia-ml-py", "cuda-bindings", "tensorrt-cu13"],
}
STEPS = ("tests", "protocol", "study", "tensorrt", "comparison")  # in the order of what they are worth
PATIENCE = {"tests": 1200, "protocol": 2400, "study": 5400, "tensorrt": 5400, "comparison": 1200}  # seconds


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("wheels", type=Path)
    parser.add_argument("result", type=Path, nargs="?", default=None)
    parser.add_argument("--steps", default=",".join(STEPS))
    parser.add_argument("--quick", action="store_true", help="few runs: does everything work at all?")
    parser.add_argument("--study", default="spam", help="a ready-made study for the steps study and tensorrt")
    arguments = parser.parse_args()
    chosen = [step for step in STEPS if step in arguments.steps.split(",")]
    began = time.monotonic()
    result: dict[str, Any] = {
        "command": " ".join(["benchmarks/gpu/run.sh", *sys.argv[1:]]),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": commit(),
        "quick": arguments.quick,
        **card(),
    }
    with tempfile.TemporaryDirectory(prefix="hw-autotune-gpu-") as folder:
        work = Path(folder)
        if "no_card" in result:
            why = dict.fromkeys(STEPS, f"no card: {result['no_card']}")
            result["environments"] = {}
        else:
            result["environments"] = {name: environment(name, arguments.wheels, work) for name in ENVIRONMENTS}
            if "nvml" in result and "python" in result["environments"]["main"]:
                result |= asked_again(result["environments"]["main"]["python"])
            why = {step: "not asked for" for step in STEPS if step not in chosen}
            if "not_installed" in result["environments"]["main"]:
                reason = f"environment main: {result['environments']['main']['not_installed']}"
                why |= dict.fromkeys(chosen, reason)
        result["steps"] = {
            step: {"not run": why[step]} if step in why else run(step, work, arguments, result["environments"])
            for step in STEPS
        }
    result["seconds"] = round(time.monotonic() - began, 1)
    text = json.dumps(result, indent=1) + "\n"
    path = arguments.result
    if path is None and "no_card" not in result:
        path = HERE / "results" / (result["card"]["name"].lower().replace(" ", "-") + ".json")
    if path is None:
        sys.stdout.write(text)
    else:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        print(f"written to {path}")
    for step, told in result["steps"].items():
        print(f"{step}: {told.get('not run') or told.get('failed') or 'ran'}", file=sys.stderr)
    return 1 if any("failed" in told for told in result["steps"].values()) else 0


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


def asked_again(python: str) -> dict[str, Any]:
    """`card` by an interpreter that has nvidia-ml-py; nothing where it does not help."""
    code = "import json; from hwprofiles.agent import nvml; print(json.dumps(nvml.identity()))"
    done = subprocess.run([python, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    return {"card": json.loads(done.stdout), "nvml": "by the environment main"} if done.returncode == 0 else {}


def commit() -> str:
    """Of this source, with "+changes" if it is not what was committed; "unknown" outside of a repository."""
    try:
        head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=True)
        changed = subprocess.run(["git", "status", "--porcelain"], cwd=ROOT, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return head.stdout.strip() + ("+changes" if changed.stdout.strip() else "")


def environment(name: str, wheels: Path, work: Path) -> dict[str, Any]:
    """A virtual environment with what it needs from the wheels and from what is installed; its versions, or why not."""
    folder = work / name
    python = folder / "bin" / "python"
    commands = [
        [sys.executable, "-m", "venv", "--system-site-packages", str(folder)],
        [
            str(python),
            "-m",
            "pip",
            "install",
            "--quiet",
            "--no-index",
            "--find-links",
            str(wheels),
            *ENVIRONMENTS[name],
        ],
    ]
    for command in commands:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            said = [line for line in (done.stderr + done.stdout).splitlines() if "ERROR" in line or "Error" in line]
            return {"not_installed": (said or ["pip failed"])[-1].strip()[:400]}
    listed = subprocess.run(
        [str(python), "-m", "pip", "list", "--format=json"], capture_output=True, text=True, check=True
    )
    wanted = ("torch", "onnx", "numpy", "tensorrt", "nvidia", "cuda", "hw-autotune")
    versions = {entry["name"]: entry["version"] for entry in json.loads(listed.stdout)}
    return {
        "python": str(python),
        "versions": {name: version for name, version in versions.items() if name.lower().startswith(wanted)},
    }


def run(step: str, work: Path, arguments: argparse.Namespace, environments: dict[str, Any]) -> dict[str, Any]:
    """One step in a process of its own: what it found, or why it did not run."""
    python = environments["main"]["python"]
    variables = {**os.environ, "PYTHONPATH": str(ROOT), "XDG_CACHE_HOME": str(work / "cache")}
    variables["XDG_CONFIG_HOME"] = str(work / "config")
    for name in ("ort-cuda", "tensorrt-rtx", "tensorrt"):
        if "python" in environments[name]:
            variables[f"HW_AUTOTUNE_{name.upper().replace('-', '_')}_PYTHON"] = environments[name]["python"]
    out = work / f"{step}.json"
    if step == "tests":
        command = [python, "-m", "pytest", "-q", "-rs", "-m", "gpu", f"--junitxml={out}", "tests/device/gpu"]
    elif step == "protocol":
        command = [python, str(HERE / "protocol.py"), "--out", str(out), *(["--quick"] if arguments.quick else [])]
    else:
        command = [python, str(HERE / "study.py"), step, "--study", arguments.study, "--work", str(work / "studies")]
        command += ["--out", str(out), *(["--quick"] if arguments.quick else [])]
    began = time.monotonic()
    try:
        done = subprocess.run(
            command, cwd=ROOT, env=variables, capture_output=True, text=True, timeout=PATIENCE[step], check=False
        )
    except subprocess.TimeoutExpired:
        return {"failed": f"it took longer than {PATIENCE[step]} s"}
    seconds = round(time.monotonic() - began, 1)
    last = (done.stderr.strip() or done.stdout.strip()).splitlines()[-1:] or ["it said nothing"]
    if not out.is_file():
        return {"failed": f"exit code {done.returncode}: {last[0][:400]}", "seconds": seconds}
    found = tests(out) if step == "tests" else json.loads(out.read_text())
    if done.returncode and "failed" not in found and "not run" not in found:
        found["failed"] = f"exit code {done.returncode}: {last[0][:400]}"
    return {**found, "seconds": seconds}


def tests(report: Path) -> dict[str, Any]:
    """Counts out of pytest's report, every failure by name, every skipped test with its reason."""
    cases = list(ElementTree.parse(report).getroot().iter("testcase"))
    found: dict[str, Any] = {"passed": 0, "skipped": {}, "failures": {}}
    for case in cases:
        name = f"{case.get('classname', '').rpartition('.')[2]}.{case.get('name')}"
        skipped, broken = case.find("skipped"), [*case.findall("failure"), *case.findall("error")]
        if broken:
            found["failures"][name] = (broken[0].get("message") or "")[:400]
        elif skipped is not None:
            found["skipped"][name] = (skipped.get("message") or "")[:400]
        else:
            found["passed"] += 1
    if found["failures"]:
        found["failed"] = f"{len(found['failures'])} of {len(cases)} tests"
    return found


if __name__ == "__main__":
    sys.exit(main())
