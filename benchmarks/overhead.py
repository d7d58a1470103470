"""Seconds of a trial that are neither inference nor timing, on the study `ocr`.

    python benchmarks/overhead.py [--study ocr] [--trials 10] [--out FILE]

Runs the real study in a fresh store and takes the clock of the whole search loop. Inference and timing are the steps
`probe`, `measure` and `judge` of each trial; everything else counts as overhead: proposing, assembling, storing,
reading the kernels that ran, telling the sampler, progress. Takes a few minutes.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path

import onnxruntime

from autotune.config import load_study, load_workload
from autotune.search.progress import Progress
from autotune.search.study import Study

RESULT = Path(__file__).parent / "results" / "overhead.json"
INFERENCE = ("probe", "measure", "judge")


def main() -> None:
    """Run, print, write the result file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--study", default="ocr")
    parser.add_argument("--trials", type=int, default=10)
    parser.add_argument("--out", type=Path, default=RESULT)
    arguments = parser.parse_args()
    loaded = load_study(arguments.study)
    changes = {
        "search": loaded.config.search.model_copy(update={"trials": arguments.trials}),
        "finalists": loaded.config.finalists.model_copy(update={"count": 0}),
    }
    config = loaded.config.model_copy(update=changes)
    clock: dict[str, float] = {}
    probing = [0.0, 0.0]  # seconds in sensitivity probes (inference), time of the last message of one

    def watch(progress: Progress) -> None:
        now = time.perf_counter()
        if progress.stage == "search":
            clock.setdefault("begin", now)
            clock["end"] = now
            if probing[1]:
                probing[0] += now - probing[1]
            probing[1] = now if progress.message.startswith("how much") else 0.0

    with tempfile.TemporaryDirectory() as folder:
        store = Path(folder) / "store.db"
        with Study.open(config, load_workload(loaded), store=store, folder=loaded.folder) as study:
            study.run(watch)
            trials = [t for t in study.store.trials() if t.number]
    whole = clock["end"] - clock["begin"] - probing[0]
    inference = sum(t.durations.get(step, 0.0) for t in trials for step in INFERENCE)
    steps = {step: sum(t.durations.get(step, 0.0) for t in trials) for t in trials for step in t.durations}
    overhead = whole - inference
    share = overhead / whole
    each, busy = whole / len(trials), inference / len(trials)
    print(f"{len(trials)} trials, {each:.2f} s each, of which inference and timing {busy:.2f} s;")
    print(f"overhead {overhead / len(trials):.2f} s = {100 * share:.1f} % of a trial")
    record = {
        "command": f"python benchmarks/overhead.py --study {arguments.study} --trials {arguments.trials}",
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "onnxruntime": onnxruntime.__version__,
        "python": platform.python_version(),
        "cores": os.cpu_count(),
        "load_average": os.getloadavg()[0],
        "trials": len(trials),
        "seconds": whole,
        "seconds_by_step": steps,
        "sensitivity_probes_seconds": probing[0],
        "overhead_seconds_per_trial": overhead / len(trials),
        "definition": "overhead = loop - (probe + measure + judge); sensitivity probes are inference, listed apart",
        "overhead_share": share,
    }
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
