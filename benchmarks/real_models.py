"""Samplers inside our own loop on real models: hypervolume of size, latency and worst-slice drop.

    python benchmarks/real_models.py digits ocr filetypes --trials 60

MODEL is a ready-made study, or a workload of `benchmarks/workloads.py` that was not used while the search was
developed. Every sampler gets a store of its own, so each pays for every measurement it asks for. The hypervolume is
that of the complete trials after n trials, and after equal wall time (that of the quickest sampler's whole run),
between (1, 1, 5 points): the original's size and latency, and five points lost in the worst slice. Values are those of
the search itself, equally noisy for all samplers; the latency ratio counts with the upper end of its interval, because
a measurement that went wrong is no fast model. `--seconds` is the most that one latency measurement may take.
A run that is interrupted goes on. Peers' tools are compared by `benchmarks/against_tools.py`.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import optuna

from autotune import pareto
from autotune.config import StudyConfig, load_study, load_workload
from autotune.keys import parse_key
from autotune.search.study import Study
from autotune.trial import Trial, Value
from autotune.workload import Workload

RESULT = Path(__file__).parent / "results" / "real_models.json"
SAMPLERS: dict[str, dict[str, Any]] = {
    "surrogate": {},
    "tpe": {},
    "nsgaii": {"population_size": 20},
    "gp": {},
    "random": {},
}
CORNER = (1.0, 1.0, 0.05)  # of size and latency relative to the original, and the drop of the worst slice
POINTS = (30, 60, 120)
INTERRUPTED = 120.0  # seconds between two trials in which nothing ran: no sampler takes as long to ask


@dataclass(frozen=True)
class Subject:
    """A study's configuration and the folder it lies in, and its workload."""

    config: StudyConfig
    folder: Path | None
    workload: Workload


def subject(name: str) -> Subject:
    """A ready-made study, or a workload of ours that is none."""
    import workloads

    if name in workloads.WORKLOADS:
        return Subject(workloads.study(name), None, workloads.WORKLOADS[name]())
    loaded = load_study(name)
    return Subject(loaded.config, loaded.folder, load_workload(loaded))


def configured(config: StudyConfig, sampler: str, seed: int, trials: int, seconds: float) -> StudyConfig:
    """The study with another sampler, without finalists; every sampler begins with the same uniform recipes."""
    search = config.search.model_copy(
        update={"sampler": sampler, "sampler_options": SAMPLERS[sampler], "trials": trials, "seed": seed}
    )
    update = {
        "search": search,
        "measure": config.measure.model_copy(update={"max_seconds": min(seconds, config.measure.max_seconds)}),
        "finalists": config.finalists.model_copy(update={"count": 0}),
        "name": f"{config.name}-{sampler}-{seed}",
    }
    return config.model_copy(update=update)


def run(found: Subject, sampler: str, seed: int, arguments: argparse.Namespace) -> dict[str, Any]:
    """One search, or what is left of it; the hypervolumes over its trials."""
    config = configured(found.config, sampler, seed, arguments.trials, arguments.seconds)
    store = arguments.store / f"{config.name}.db"
    with Study.open(config, found.workload, store=store, folder=found.folder) as study:
        summary = study.run(lambda _: None, threading.Event())
        trials = study.store.trials(details=False)
    if summary.gone or summary.stopped:
        raise SystemExit(f"{config.name}: did not finish: {summary.gone or 'stopped'}")
    points = curve(trials)
    return {
        "model": found.config.name,
        "sampler": sampler,
        "seed": seed,
        "trials": len(points),
        "wall_seconds": round(points[-1]["at"], 1),
        "finished": [round(point["at"], 2) for point in points],
        "hypervolume": [point["hypervolume"] for point in points],
        "failed": sum(trial.state == "failed" for trial in trials),
        "rejected": sum(trial.state == "rejected" for trial in trials),
    }


def curve(trials: list[Trial]) -> list[dict[str, float]]:
    """The hypervolume after every trial, and when it finished: seconds of running since the baseline was there."""
    baseline = trials[0]
    done = sorted((t for t in trials if t.number and t.state != "running"), key=lambda t: t.finished_at)
    keys = [parse_key("size_bytes"), *(parse_key(k) for k in sorted(baseline.metrics) if k.startswith("latency_ratio"))]
    keys = [*keys[:2], parse_key("drop/worst")]
    found, points = [], []
    at, last = 0.0, _seconds(baseline.finished_at)
    for trial in done:
        began, ended = _seconds(trial.started_at), _seconds(trial.finished_at)
        at += ended - (began if began - last > INTERRUPTED else last)
        last = ended
        found.append(counted(trial, baseline))
        volume = pareto.hypervolume(found, keys, CORNER)
        points.append({"at": at, "hypervolume": round(volume, 6)})
    return points


def counted(trial: Trial, baseline: Trial) -> Trial:
    """With the size relative to the original's, and a latency ratio that is certainly not larger."""
    size = trial.metrics.get("size_bytes")
    if size is None:
        return trial
    share = size.value / baseline.metrics["size_bytes"].value
    slow = {key: Value.exact(value.high) for key, value in trial.metrics.items() if key.startswith("latency_ratio")}
    return trial.model_copy(update={"metrics": {**trial.metrics, **slow, "size_bytes": Value.exact(share)}})


def _seconds(stamp: str) -> float:
    return datetime.fromisoformat(stamp).timestamp()


def table(rows: list[dict[str, Any]]) -> str:
    """Hypervolume after n trials and after equal time, mean over seeds, and as a ratio to random search's."""
    points = [n for n in POINTS if any(row["trials"] >= n for row in rows)]
    head = ["model", "sampler", *(f"{n} trials" for n in points), "equal time", "wall seconds"]
    lines = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    for model in dict.fromkeys(row["model"] for row in rows):
        chosen = [row for row in rows if row["model"] == model]
        limit = min(row["finished"][-1] for row in chosen if row["finished"])
        for sampler in dict.fromkeys(row["sampler"] for row in chosen):
            own = [row for row in chosen if row["sampler"] == sampler]
            plain = [row for row in chosen if row["sampler"] == "random"]
            cells = [_cell([_after(row, n) for row in own], [_after(row, n) for row in plain]) for n in points]
            timed = _cell([_within(row, limit) for row in own], [_within(row, limit) for row in plain])
            wall = statistics.mean(row["wall_seconds"] for row in own)
            lines.append(f"| {model} | {sampler} | {' | '.join(cells)} | {timed} | {wall:.0f} |")
    return "\n".join(lines) + "\n"


def _after(row: dict[str, Any], n: int) -> float | None:
    return row["hypervolume"][n - 1] if len(row["hypervolume"]) >= n else None


def _within(row: dict[str, Any], seconds: float) -> float:
    reached = [v for at, v in zip(row["finished"], row["hypervolume"], strict=True) if at <= seconds]
    return reached[-1] if reached else 0.0


def _cell(values: Sequence[float | None], plain: Sequence[float | None]) -> str:
    known, base = ([value for value in each if value is not None] for each in (values, plain))
    if not known:
        return "not run"
    mean = statistics.mean(known)
    return f"{mean:.4f} ({mean / statistics.mean(base):.2f}x)" if base and any(base) else f"{mean:.4f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+")
    parser.add_argument("--trials", type=int, default=60)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--samplers", nargs="+", choices=list(SAMPLERS), default=list(SAMPLERS))
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--store", type=Path, default=Path("autotune-runs/real-models"))
    parser.add_argument("--out", type=Path, default=RESULT)
    arguments = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    rows: list[dict[str, Any]] = []
    if arguments.out.exists():
        rows = json.loads(arguments.out.read_text())["rows"]
    for name in arguments.models:
        found = subject(name)
        for seed in arguments.seeds:
            for sampler in arguments.samplers:
                command = f"python benchmarks/real_models.py {name} --trials {arguments.trials} --seconds "
                command += f"{arguments.seconds:g} --samplers {sampler} --seeds {seed}"
                row = {**run(found, sampler, seed, arguments), "command": command, "date": now()}
                key = ("model", "sampler", "seed")
                rows = [r for r in rows if any(r[k] != row[k] for k in key)] + [row]
                print(json.dumps({k: row[k] for k in (*key, "wall_seconds")}), row["hypervolume"][-1], flush=True)
                write(rows, arguments)
    print(table(rows))


def now() -> str:
    """UTC."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def write(rows: list[dict[str, Any]], arguments: argparse.Namespace) -> None:
    record = {
        "date": now(),
        "python": platform.python_version(),
        "optuna": optuna.__version__,
        "corner": CORNER,
        "load_average_at_end": os.getloadavg()[0],
        "cpus": os.cpu_count(),
        "rows": rows,
    }
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(record, indent=1) + "\n")
    arguments.out.with_suffix(".md").write_text(
        "# Samplers on real models\n\nHypervolume of size, latency and worst-slice drop; see `real_models.py`. "
        f"Written {record['date']} from runs of their own, whose commands are in the JSON; a sampler that was run for "
        "fewer trials than another one says `not run`.\n\n" + table(rows)
    )


if __name__ == "__main__":
    main()
