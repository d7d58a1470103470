"""How long a ready-made study takes from the command to the report, and what its trials spend the time on.

    python benchmarks/study_time.py digits

Runs `autotune run STUDY` as a user does, in a folder of its own and with the study file as it is: nothing is cached
from before but what the study keeps for all (a trained network, fetched data). Wall time is that of the whole command,
with the load of the machine when it began and ended: on a busy one it says little.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from collections import Counter, defaultdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import onnxruntime as ort

from autotune.store import open_store

RESULT = Path(__file__).parent / "results" / "study_time.json"


def run(study: str, folder: Path) -> dict[str, Any]:
    """One run of a study, timed."""
    store = folder / "store.db"
    command = [str(Path(sys.executable).with_name("autotune")), "run", study, "--store", str(store)]
    load, begun, cpu = os.getloadavg()[0], time.monotonic(), _cpu()
    with (folder / "log.txt").open("w") as log:
        code = subprocess.run(command, stdout=log, stderr=log, check=False).returncode
    seconds, spent = time.monotonic() - begun, _cpu() - cpu
    if code:
        raise SystemExit(f"autotune run {study}: exit code {code}: {(folder / 'log.txt').read_text()[-500:]}")
    with open_store(store, study, must_exist=True) as opened:
        trials = opened.trials(details=False)
    stages: dict[str, float] = defaultdict(float)
    for trial in trials:
        for stage, took in trial.durations.items():
            stages[stage] += took
    return {
        "seconds": round(seconds, 1),
        "cpu_seconds": round(spent, 1),
        "trials": len(trials) - 1,
        "states": Counter(trial.state for trial in trials if trial.number),
        "proposers": Counter(trial.proposer for trial in trials if trial.number),
        "seconds_of_stages": {stage: round(took, 1) for stage, took in sorted(stages.items())},
        "load_average": [load, os.getloadavg()[0]],
    }


def _cpu() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("studies", nargs="+")
    parser.add_argument("--out", type=Path, default=RESULT)
    arguments = parser.parse_args()
    known = json.loads(arguments.out.read_text())["studies"] if arguments.out.exists() else {}
    for study in arguments.studies:
        with tempfile.TemporaryDirectory() as folder:
            row = {"date": datetime.now(UTC).isoformat(timespec="seconds"), **run(study, Path(folder))}
        known[study] = row
        print(f"{study}: {row['trials']} trials, {row['seconds'] / 60:.1f} minutes", flush=True)
        record = {
            "command": "python benchmarks/study_time.py STUDY",
            "onnxruntime": ort.__version__,
            "python": platform.python_version(),
            "machine": f"{platform.machine()}, {len(os.sched_getaffinity(0))} cores",
            "studies": known,
        }
        arguments.out.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
