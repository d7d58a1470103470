"""One step in a process of its own, with a limit, and with nothing of it left on the card afterwards. Stdlib only."""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import signal
import subprocess
import sys
import time
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

from outcomes import Outcome, of_step

_SUBREAPER = 36  # PR_SET_CHILD_SUBREAPER: orphans below us become our children, whatever session they are in
_GRACE = 10.0  # seconds to stop by oneself, each time that it is asked to


def adopt() -> None:
    """From now on whatever a step leaves behind is found below this process (Linux)."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_SUBREAPER, 1, 0, 0, 0)


def run(command: list[str], folder: Path, variables: dict[str, str], out: Path, limit: float) -> Outcome:
    """Run it for at most `limit` seconds; with what it wrote into `out`, also where it failed or was ended."""
    began = time.monotonic()
    out.unlink(missing_ok=True)
    log = out.with_suffix(".log")
    failed = ""
    with log.open("wb") as told:
        process = subprocess.Popen(command, cwd=folder, env=variables, stdout=told, stderr=told, start_new_session=True)
        try:
            code = process.wait(timeout=limit)
            if code:
                failed = f"exit code {code}: {_last(log)}"
        except subprocess.TimeoutExpired:
            failed = f"ended after {limit:.0f} s; what is here was found until then"
            for stop in (signal.SIGINT, signal.SIGTERM):  # after the first pytest still writes its report
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, stop)
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(timeout=_GRACE)
                    break
        finally:
            _end_all(process)
    found: dict[str, Any] = {}
    if out.is_file():
        try:
            found = tests(out) if out.suffix == ".xml" else json.loads(out.read_text())
        except (ValueError, ElementTree.ParseError) as error:
            failed = f"{failed}; {out.name} cannot be read: {error}".removeprefix("; ")
    elif not failed:
        failed = f"it wrote no result: {_last(log)}"
    if failed and "failed" not in found and "not_run" not in found:
        found["said"] = log.read_text(errors="replace")[-2000:]
    return of_step({**found, "seconds": round(time.monotonic() - began, 1)}, failed)


def tests(report: Path) -> dict[str, Any]:
    """Counts out of pytest's report, every failure by name, the skipped ones under their reason."""
    cases = list(ElementTree.parse(report).getroot().iter("testcase"))
    found: dict[str, Any] = {"passed": 0, "skipped": {}, "failures": {}}
    cases = [case for case in cases if case.get("name")]  # one that was interrupted has none, nor an outcome
    for case in cases:
        name = f"{case.get('classname', '').rpartition('.')[2]}.{case.get('name')}"
        skipped, broken = case.find("skipped"), [*case.findall("failure"), *case.findall("error")]
        if broken:
            found["failures"][name] = (broken[0].get("message") or "")[:400]
        elif skipped is not None:
            found["skipped"].setdefault((skipped.get("message") or "")[:400], []).append(name)
        else:
            found["passed"] += 1
    if found["failures"]:
        found["failed"] = f"{len(found['failures'])} of {len(cases)} tests"
    elif not found["passed"]:
        reasons = sorted(found["skipped"]) or ["pytest found none"]
        found["not_run"] = f"every test was skipped: {reasons[0]}"
    return found


def _last(log: Path) -> str:
    lines = log.read_text(errors="replace").strip().splitlines()
    return lines[-1][:400] if lines else "it said nothing"


def _end_all(process: subprocess.Popen[bytes]) -> None:
    """Kill what is left of a step: its process, and all below it or orphaned by it."""
    for _ in range(20):
        left = _below(os.getpid())
        if not left:
            break
        for number in left:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(number, signal.SIGKILL)
        time.sleep(0.1)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=0.1)
        while True:  # those that we adopted
            try:
                if os.waitpid(-1, os.WNOHANG)[0] == 0:
                    break
            except ChildProcessError:
                break


def _below(root: int) -> list[int]:
    """Numbers of the processes that descend from `root`, which end this process's own steps and no others."""
    parents: dict[int, int] = {}
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError, ValueError, IndexError):
            after_name = (entry / "stat").read_text().rpartition(")")[2].split()
            parents[int(entry.name)] = int(after_name[1])
    found: list[int] = []
    reached = {root}
    while more := {number for number, parent in parents.items() if parent in reached and number not in reached}:
        found += sorted(more)
        reached |= more
    return found


if __name__ == "__main__":
    sys.exit("called by run.py")
