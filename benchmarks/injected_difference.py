"""A difference of 3 % that is there by construction must be found.

    python benchmarks/injected_difference.py [--runs 20] [--out FILE]

Baseline and candidate are rows of equal convolutions that share one weight: 100 and 103 of them (about 3 ms), and
33 and 34 (about 1 ms). The true ratio is counted in CPU time over some thousand inferences in turns, beside the one by
construction. Wanted: the interval excludes 1, on the right side, within 60 s, in at least 18 of 20 runs. About 5
minutes. Ends with 1 if that is not reached.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import onnxruntime
from subjects import Subject, convolutions, load_average, opened, workplace, write

from hwprofiles.scenario import SEARCH

CASES = {"100 + 3 layers": (100, 103), "33 + 1 layers": (33, 34)}
WANTED, LONGEST = 0.9, 60.0  # share of the runs; seconds of one that counts


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--out", type=Path, default=None, help="where the result goes (JSON)")
    arguments = parser.parse_args()
    began, before = time.perf_counter(), load_average()
    scenario = SEARCH.model_copy(update={"memory_runs": 0})
    cases, fingerprint = {}, None
    with workplace() as folder:
        for name, (few, many) in CASES.items():
            baseline, candidate = convolutions(folder, few), convolutions(folder, many)
            runs = []
            for number in range(arguments.runs):
                with opened(folder) as device:
                    record = device.measure(
                        candidate.path,
                        [candidate.feed],
                        baseline=baseline.path,
                        scenario=scenario.model_copy(update={"seed": number}),
                    )
                    fingerprint = device.fingerprint
                if record.ratio is None:
                    raise SystemExit(f"{name}: {record.failure}")
                found = record.ratio.estimate
                runs.append(
                    {
                        "ratio": found.value,
                        "low": found.low,
                        "high": found.high,
                        "pairs": record.ratio.pairs,
                        "seconds": record.seconds,
                        "quality": list(record.quality),
                    }
                )
                print(
                    f"{name}: {found.value:.4f} [{found.low:.4f}, {found.high:.4f}] {record.seconds:.1f} s "
                    f"{', '.join(record.quality)}",
                    flush=True,
                )
            cases[name] = {
                "by_construction": many / few,
                "cpu_time_ratio": cpu_ratio(candidate, baseline),
                "found": sum(run["low"] > 1 and run["seconds"] <= LONGEST for run in runs),
                "runs": len(runs),
                "longest_seconds": max(run["seconds"] for run in runs),
                "each": runs,
            }
    write(
        "injected_difference",
        arguments.out,
        began,
        fingerprint,
        protocol=scenario,
        load_average_before=before,
        cases=cases,
    )
    print(f"\n{'case':16} {'true':>7} {'by CPU time':>12} {'found':>9} {'longest run':>12}")
    for name, case in cases.items():
        print(
            f"{name:16} {case['by_construction']:7.4f} {case['cpu_time_ratio']:12.4f} "
            f"{case['found']:3} of {case['runs']:2} {case['longest_seconds']:10.1f} s"
        )
    print(f"load average before: {before:.2f}")
    return 0 if all(case["found"] >= WANTED * case["runs"] for case in cases.values()) else 1


def cpu_ratio(candidate: Subject, baseline: Subject, rounds: int = 40, count: int = 20) -> float:
    """Median ratio of the CPU time of this thread, in turns: a check of the construction that is not our protocol."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    sessions = [onnxruntime.InferenceSession(str(subject.path), options) for subject in (candidate, baseline)]
    ratios = []
    for _ in range(rounds):
        spent = []
        for session in sessions:
            start = time.thread_time()
            for _ in range(count):
                session.run(None, candidate.feed)
            spent.append(time.thread_time() - start)
        ratios.append(spent[0] / spent[1])
    return sorted(ratios)[len(ratios) // 2]


if __name__ == "__main__":
    sys.exit(main())
