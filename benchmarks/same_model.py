"""A/A: the same model as candidate and baseline. Nothing differs, so the ratio must be 1.

    python benchmarks/same_model.py [--runs 20] [--models recogniser convolutions dense] [--out FILE]
    python benchmarks/same_model.py --busy [--out FILE]

Each run opens the target afresh, as a study would, with the protocol of the search phase (memory is not measured).
Wanted on a quiet machine: within 1 % in at least 18 of 20 runs, with an interval that contains 1 in as many. With
`--busy` half of the cores are kept busy: within 3 %, or flagged, in every run. About 7 minutes, or 3 with `--busy`.
Ends with 1 if that is not reached.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path

from subjects import convolutions, dense, load_average, neighbour, opened, recogniser, workplace, write

from hwprofiles.scenario import SEARCH

WANTED = 0.9  # share of the runs on a quiet machine


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--models", nargs="+", default=None, choices=["recogniser", "convolutions", "dense"])
    parser.add_argument("--busy", action="store_true", help="keep half of the cores busy")
    parser.add_argument("--out", type=Path, default=None, help="where the result goes (JSON)")
    arguments = parser.parse_args()
    began, before = time.perf_counter(), load_average()
    names = arguments.models or (["convolutions"] if arguments.busy else ["recogniser", "convolutions", "dense"])
    scenario = SEARCH.model_copy(update={"memory_runs": 0})
    processes = max(1, (os.cpu_count() or 1) // 2) if arguments.busy else 0
    runs, fingerprint = [], None
    with workplace() as folder, neighbour(processes, steady=True):
        models = {"dense": dense, "convolutions": lambda where: convolutions(where, 100)}
        subjects = {name: recogniser() if name == "recogniser" else models[name](folder) for name in names}
        for number in range(arguments.runs):
            for name, subject in subjects.items():
                with opened(folder, quiet_wait=0.0 if arguments.busy else None) as device:
                    record = device.measure(
                        subject.path,
                        [subject.feed],
                        baseline=subject.path,
                        scenario=scenario.model_copy(update={"seed": number}),
                    )
                    fingerprint = device.fingerprint
                if record.ratio is None or record.latency is None:
                    raise SystemExit(f"{name}: {record.failure}")
                estimate = record.ratio.estimate
                runs.append(
                    {
                        "model": name,
                        "ratio": estimate.value,
                        "low": estimate.low,
                        "high": estimate.high,
                        "median_seconds": record.latency.median.value,
                        "pairs": record.ratio.pairs,
                        "openings": len(set(record.ratio.openings)),
                        "quality": list(record.quality),
                        "seconds": record.seconds,
                    }
                )
                run = runs[-1]
                print(
                    f"{name:13} {run['ratio']:.4f} [{run['low']:.4f}, {run['high']:.4f}] {run['pairs']} pairs "
                    f"{run['openings']} openings {run['seconds']:.1f} s {', '.join(run['quality'])}",
                    flush=True,
                )
    summary = {name: summarise([run for run in runs if run["model"] == name]) for name in names}
    result = write(
        "same_model_busy" if arguments.busy else "same_model",
        arguments.out,
        began,
        fingerprint,
        protocol=scenario,
        busy_processes=processes,
        load_average_before=before,
        summary=summary,
        runs=runs,
    )
    show(result)
    return 0 if all(reached(found, busy=arguments.busy) for found in summary.values()) else 1


def reached(found: dict[str, float], *, busy: bool) -> bool:
    """Whether the runs of one model are as wanted."""
    if busy:
        return found["within_3_percent_or_flagged"] == found["runs"]
    return min(found["within_1_percent"], found["interval_contains_1"]) >= WANTED * found["runs"]


def summarise(runs: list[dict]) -> dict[str, float]:
    """Counts of the runs that are as they should be."""
    return {
        "runs": len(runs),
        "median_seconds": sorted(run["median_seconds"] for run in runs)[len(runs) // 2],
        "within_1_percent": sum(abs(run["ratio"] - 1) <= 0.01 for run in runs),
        "interval_contains_1": sum(run["low"] <= 1 <= run["high"] for run in runs),
        "both": sum(abs(run["ratio"] - 1) <= 0.01 and run["low"] <= 1 <= run["high"] for run in runs),
        "flagged": sum("contended" in run["quality"] for run in runs),
        "within_3_percent_or_flagged": sum(
            abs(run["ratio"] - 1) <= 0.03 or "contended" in run["quality"] for run in runs
        ),
        "largest_error": max(abs(run["ratio"] - 1) for run in runs),
        "seconds_per_run": sum(run["seconds"] for run in runs) / len(runs),
    }


def show(result: dict) -> None:
    print(
        f"\n{'model':13} {'latency':>10} {'runs':>5} {'<= 1 %':>7} {'has 1':>6} {'<= 3 % or flagged':>18} "
        f"{'worst':>7} s/run"
    )
    for name, found in result["summary"].items():
        print(
            f"{name:13} {found['median_seconds'] * 1e3:7.3f} ms {found['runs']:5} {found['within_1_percent']:7} "
            f"{found['interval_contains_1']:6} {found['within_3_percent_or_flagged']:18} "
            f"{found['largest_error'] * 100:5.2f} % {found['seconds_per_run']:.1f}"
        )
    print(f"load average before: {result['load_average_before']:.2f}, busy processes: {result['busy_processes']}")


if __name__ == "__main__":
    sys.exit(main())
