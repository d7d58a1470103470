"""The steps: in which order, in how much time, what each needs, and how it is started. Stdlib only."""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import environments
import steps
from outcomes import Outcome

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
SPARE = 20.0  # seconds of a budget that are kept for writing
LEAST = 90.0  # seconds that a step is worth beginning with
_WINDING_UP = 55.0  # seconds that a study may need after its own limit: to stop, and to tell what there is


@dataclass(frozen=True)
class Place:
    """Where steps run: their folder and the environments. `made`: by name, as `environments.make` tells."""

    work: Path
    made: dict[str, dict[str, Any]]
    given: argparse.Namespace

    @property
    def python(self) -> str:
        """The interpreter of the environment main, where there is one."""
        return str(self.made["main"]["python"])


def share(step: str, todo: list[str], left: float) -> float:
    """Seconds of `left` for the first of `todo`: its part among them, or the least that it is worth beginning with."""
    if step not in todo or left < LEAST:
        return 0.0
    part = SHARES[step] / sum(SHARES[name] for name in todo)
    return min(PATIENCE[step], left, max(LEAST, part * left))


def cannot(step: str, place: Place) -> str:
    """Why a step cannot run here, however much time there is; "" if it can."""
    made = place.made
    if "not_installed" in made["main"]:
        return f"environment main: {made['main']['not_installed']}"
    if lacks := environments.lacking(place.python, NEEDS[step]):
        return f"environment main lacks {', '.join(lacks)}"
    tensorrts = [made[name] for name in ("tensorrt", "tensorrt-rtx")]
    if step == "tensorrt" and not place.given.trial and not any("python" in found for found in tensorrts):
        reasons = "; ".join(str(found.get("not_installed")) for found in tensorrts)
        return f"neither TensorRT (its libraries are on NVIDIA's own index only) nor TensorRT-RTX is there: {reasons}"
    return ""


def carry_out(step: str, place: Place, limit: float, before: Outcome | None) -> Outcome:
    """One step in `limit` seconds. `before`: what an earlier call of the same commit found."""
    if step == "tests":
        return _tests(place, limit)
    if step == "protocol":
        return _protocol(place, limit, before)
    return _study(step, place, limit)


def _tests(place: Place, limit: float) -> Outcome:
    out = place.work / "tests.xml"
    command = [place.python, "-m", "pytest", "-q", "-rs", "-p", "no:cacheprovider", "-m", "gpu", f"--junitxml={out}"]
    variables = _variables(place)
    variables["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"  # the parent's: their warnings would be errors here
    return steps.run([*command, "tests/device/gpu"], ROOT, variables, out, limit)


def _protocol(place: Place, limit: float, before: Outcome | None) -> Outcome:
    given, out = place.given, place.work / "protocol.json"
    command = [place.python, str(HERE / "protocol.py"), "--out", str(out), "--seconds", f"{limit - SPARE:.0f}"]
    command += ["--quick"] if given.quick else []
    if before is not None and before.call is not None and before.call.quick == given.quick and "cases" in before.found:
        earlier = place.work / "earlier.json"
        earlier.write_text(json.dumps(before.found))
        command += ["--continue", str(earlier)]
    command += ["--runtime", "torch-cpu"] if given.trial else []
    return steps.run(command, ROOT, _variables(place), out, limit)


def _study(step: str, place: Place, limit: float) -> Outcome:
    given, out = place.given, place.work / f"{step}.json"
    variables, study, instead = _variables(place), given.study, ""
    if study == "spam":
        more, instead = environments.with_spam(given.wheels, place.python)
        study = "digits" if instead else study
        variables |= more
    if study == "digits" and (lacks := environments.lacking(place.python, ("PIL",))):
        why = f"environment main lacks {', '.join(lacks)} for the study digits; spam: {instead}"
        return Outcome("not_run", why)
    command = [place.python, str(HERE / "study.py"), step, "--study", study, "--work", str(place.work / "studies")]
    command += ["--out", str(out), "--seconds", f"{max(1.0, limit - _WINDING_UP):.0f}"]
    command += ["--quick"] if given.quick else []
    command += ["--as", "local"] if given.trial else []
    ended = steps.run(command, ROOT, variables, out, limit)
    return replace(ended, found={**ended.found, "instead_of_spam": instead}) if instead else ended


def _variables(place: Place) -> dict[str, str]:
    """This process's, with folders of the steps' own and the interpreters of the environments."""
    variables = environments.clean()
    variables |= {"XDG_CACHE_HOME": str(place.work / "cache"), "XDG_CONFIG_HOME": str(place.work / "config")}
    for name in environments.WAYS:
        if "python" in place.made[name]:
            variables[f"HW_AUTOTUNE_{name.upper().replace('-', '_')}_PYTHON"] = place.made[name]["python"]
    variables["HW_AUTOTUNE_ORT_CUDA_MISSING"] = str(place.made["ort-cuda"].get("not_installed", ""))
    return variables
