"""Repeated results of our protocol against those of the usual loops, on the same models, side by side.

    python benchmarks/against_loops.py [--rounds 6] [--out FILE]

Two models, 100 and 103 equal convolutions (about 3 ms; the second takes 3 % longer by construction). In each round
every tool measures both, in random order of the tools; half of the rounds on the machine as it is, half with neighbours
that take all its cores in bursts of 0.3 to 2 s. What a user of a tool learns from one round is the ratio of the two
results: its spread over the rounds, and how often it tells the slower model, are compared.

ours     `Device.measure` of the search phase (memory is not measured)
loop     the loop of `onnxruntime_perf_test -m duration -t 4`: one warm-up, then 4 s of inferences, the mean
pyperf   `pyperf.Runner.bench_func`, 5 worker processes of 3 values after 1 warm-up, the mean
olive    the loop of Olive's latency metric: 10 warm-ups, 20 runs, the mean

About 8 minutes.
"""

from __future__ import annotations

import argparse
import math
import os
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime
import pyperf
from subjects import Subject, convolutions, load_average, neighbour, opened, workplace, write

from hwprofiles.scenario import SEARCH

LOOP_SECONDS = 4.0


def open_session(subject: Subject) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(str(subject.path), options)


def loop(subject: Subject, folder: Path) -> float:
    """Seconds of one inference, as onnxruntime_perf_test says it."""
    session = open_session(subject)
    session.run(None, subject.feed)
    began, count = time.perf_counter(), 0
    while time.perf_counter() - began < LOOP_SECONDS:
        session.run(None, subject.feed)
        count += 1
    return (time.perf_counter() - began) / count


def olive(subject: Subject, folder: Path) -> float:
    """Seconds of one inference, as Olive's latency metric says it with its defaults."""
    session = open_session(subject)
    for _ in range(10):
        session.run(None, subject.feed)
    samples = []
    for _ in range(20):
        start = time.perf_counter()
        session.run(None, subject.feed)
        samples.append(time.perf_counter() - start)
    return statistics.mean(samples)


def with_pyperf(subject: Subject, folder: Path) -> float:
    """Seconds of one inference, as pyperf says it."""
    script, out = folder / "with_pyperf.py", folder / "pyperf.json"
    out.unlink(missing_ok=True)
    script.write_text(
        "import numpy, onnxruntime, pyperf\n"
        "options = onnxruntime.SessionOptions()\n"
        "options.intra_op_num_threads = 1\n"
        f"session = onnxruntime.InferenceSession({str(subject.path)!r}, options)\n"
        f"feed = {{'x': numpy.load({str(folder / 'feed.npy')!r})}}\n"
        "pyperf.Runner().bench_func('inference', session.run, None, feed)\n"
    )
    arguments = ["--processes", "5", "--values", "3", "--warmups", "1", "--quiet", "--output", str(out)]
    subprocess.run([sys.executable, str(script), *arguments], check=True, stdout=subprocess.DEVNULL)
    return float(pyperf.Benchmark.load(str(out)).mean())


def ours(candidate: Subject, baseline: Subject, folder: Path, seed: int) -> dict[str, object]:
    """The ratio, the latency of both, and what the measurement says of itself."""
    scenario = SEARCH.model_copy(update={"memory_runs": 0, "seed": seed})
    with opened(folder, quiet_wait=0.0) as device:
        record = device.measure(candidate.path, [candidate.feed], baseline=baseline.path, scenario=scenario)
    if record.ratio is None or record.latency is None or record.baseline_latency is None:
        raise SystemExit(str(record.failure))
    estimate = record.ratio.estimate
    return {
        "candidate": record.latency.median.value,
        "baseline": record.baseline_latency.median.value,
        "ratio": estimate.value,
        "low": estimate.low,
        "high": estimate.high,
        "quality": list(record.quality),
    }


def theirs(
    tool: Callable[[Subject, Path], float], candidate: Subject, baseline: Subject, folder: Path
) -> dict[str, object]:
    """One result of each model, one after the other, as a person would do it."""
    first, second = tool(candidate, folder), tool(baseline, folder)
    return {"candidate": first, "baseline": second, "ratio": first / second}


def round_of(baseline: Subject, candidate: Subject, folder: Path, number: int) -> dict[str, dict[str, object]]:
    """Every tool once, in random order."""
    tools: dict[str, Callable[[], dict[str, object]]] = {
        "ours": lambda: ours(candidate, baseline, folder, number),
        "loop": lambda: theirs(loop, candidate, baseline, folder),
        "pyperf": lambda: theirs(with_pyperf, candidate, baseline, folder),
        "olive": lambda: theirs(olive, candidate, baseline, folder),
    }
    names, found = list(tools), {}
    random.Random(number).shuffle(names)
    for name in names:
        start = time.perf_counter()
        found[name] = {**tools[name](), "seconds": time.perf_counter() - start}
        print(f"  {name:7} ratio {found[name]['ratio']:.4f}  {found[name]['seconds']:.1f} s", flush=True)
    return found


def summarise(rounds: list[dict[str, dict]], truth: float) -> dict[str, dict[str, float]]:
    """Spread of the ratios and of the latencies (of logarithms, so nearly fractions), and right answers."""
    table = {}
    for name in rounds[0]:
        ratios = [math.log(found[name]["ratio"]) for found in rounds]
        times = [math.log(found[name]["baseline"]) for found in rounds]
        table[name] = {
            "ratio_standard_deviation": statistics.stdev(ratios) if len(ratios) > 1 else 0.0,
            "ratio_range": max(ratios) - min(ratios),
            "latency_range": max(times) - min(times),
            "worst_error": max(abs(ratio - math.log(truth)) for ratio in ratios),
            "told_the_slower_one": sum(ratio > 0 for ratio in ratios),
            "seconds": statistics.mean(found[name]["seconds"] for found in rounds),
        }
    answers = [found["ours"] for found in rounds]
    table["ours"]["interval_contains_truth"] = sum(one["low"] <= truth <= one["high"] for one in answers)
    table["ours"]["interval_above_1"] = sum(one["low"] > 1 for one in answers)
    table["ours"]["interval_below_1"] = sum(one["high"] < 1 for one in answers)
    table["ours"]["flagged"] = sum("contended" in one["quality"] for one in answers)
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=6, help="on the quiet and on the loaded machine each")
    parser.add_argument("--out", type=Path, default=None, help="where the result goes (JSON)")
    arguments = parser.parse_args()
    began, before = time.perf_counter(), load_average()
    conditions = {"as it is": 0, "under load": os.cpu_count() or 1}
    rounds: dict[str, list[dict]] = {name: [] for name in conditions}
    with workplace() as folder:
        baseline, candidate = convolutions(folder, 100), convolutions(folder, 103)
        np.save(folder / "feed.npy", baseline.feed["x"])
        with opened(folder, quiet_wait=0.0) as device:
            fingerprint = device.fingerprint
        for number in range(arguments.rounds):
            for name, processes in conditions.items():
                print(f"round {number + 1}, {name}", flush=True)
                with neighbour(processes, steady=False):
                    rounds[name].append(round_of(baseline, candidate, folder, number))
    tables = {name: summarise(found, 1.03) for name, found in rounds.items()}
    write(
        "against_loops",
        arguments.out,
        began,
        fingerprint,
        protocol=SEARCH,
        load_average_before=before,
        versions={"onnxruntime": onnxruntime.__version__, "pyperf": pyperf.__version__},
        true_ratio=1.03,
        summary=tables,
        rounds=rounds,
    )
    for name, table in tables.items():
        print(
            f"\n{name}: {'ratio sd':>12} {'range':>8} {'worst error':>12} {'right':>7} {'latency range':>14} {'s':>6}"
        )
        for tool, found in table.items():
            print(
                f"{tool:{len(name) + 1}} {found['ratio_standard_deviation'] * 100:10.2f} % "
                f"{found['ratio_range'] * 100:6.2f} % {found['worst_error'] * 100:10.2f} % "
                f"{found['told_the_slower_one']:3} / {len(rounds[name])} {found['latency_range'] * 100:12.1f} % "
                f"{found['seconds']:6.1f}"
            )
        told = table["ours"]
        print(
            f"our interval: contains the truth {told['interval_contains_truth']}, above 1 {told['interval_above_1']}, "
            f"below 1 {told['interval_below_1']}, flagged {told['flagged']} of {len(rounds[name])}"
        )


if __name__ == "__main__":
    main()
