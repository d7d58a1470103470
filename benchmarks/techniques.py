"""Each technique alone and all together: what the search recommends, by size, latency and accuracy per slice.

    python benchmarks/techniques.py digits --trials 24

Every variant is a search of its own over the study's model and data, with its own store and the same number of trials,
finalists on held-out data and recovery as the study says. The table has what each search would ship: the recommended
trial, or the least damaged finalist where nothing keeps the limits (marked with *). A run that is interrupted goes on.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import threading
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import onnxruntime
from real_models import CORNER, Subject, _relative, subject

from autotune import pareto
from autotune.api.choice import choose
from autotune.config import StudyConfig
from autotune.keys import parse_key
from autotune.search.study import Study
from autotune.trial import Trial, Value

RESULT = Path(__file__).parent / "results" / "techniques.json"
KEYS = (parse_key("size_bytes"), parse_key("latency_ratio@local"), parse_key("drop/worst"))
EXACT = ("simplify", "equalise")  # alone they only change the shape of the problem


def variants(config: StudyConfig) -> dict[str, dict[str, dict[str, object]]]:
    """Label -> the techniques of a search: each alone, then all."""
    exact = {name: table for name, table in config.techniques.items() if name in EXACT}
    alone = {name: exact | {name: table} for name, table in config.techniques.items() if name not in EXACT}
    return alone | {"all together": dict(config.techniques)}


def run(found: Subject, label: str, techniques: dict[str, dict[str, object]], arguments: Any) -> dict[str, Any]:
    """One search, or what is left of it."""
    name = f"{found.config.name}-{label.replace(' ', '-')}"
    search = found.config.search.model_copy(update={"trials": arguments.trials})
    config = found.config.model_copy(update={"techniques": techniques, "search": search, "name": name})
    with Study.open(config, found.workload, store=arguments.store / f"{name}.db", folder=found.folder) as study:
        summary = study.run(lambda _: None, threading.Event())
        trials = study.store.trials(details=False)
    if summary.gone or summary.stopped:
        raise SystemExit(f"{name}: did not finish: {summary.gone or 'stopped'}")
    chosen = choose(trials, config)
    shown, within = chosen.recommended, True
    if shown is None:
        final = [t for t in trials if t.final and t.number]
        shown, within = min(final, key=lambda t: t.final["drop/worst"].value, default=None), False
    return {
        "model": found.config.name,
        "techniques": label,
        "trials": summary.trials,
        "wall_seconds": _wall(trials),
        "hypervolume": volume(trials),
        "within_limits": within,
        "why": chosen.reason,
        "recovered": bool(shown and "recover" in shown.recipe),
        "chosen": _numbers(shown, trials[0], found.workload.metric_name) if shown is not None else None,
    }


def _numbers(trial: Trial, baseline: Trial, metric: str) -> dict[str, Any]:
    final = trial.final or trial.metrics
    size = final["size_bytes"].value / baseline.metrics["size_bytes"].value
    wanted = (metric, f"{metric}/worst", "drop", "drop/worst")
    kept: dict[str, Any] = {key: final[key].model_dump() for key in wanted if key in final}
    if "download_bytes" in final and "download_bytes" in baseline.metrics:
        kept["download"] = final["download_bytes"].value / baseline.metrics["download_bytes"].value
    latency = {key: value.model_dump() for key, value in final.items() if key.startswith("latency_ratio@")}
    return {"number": trial.number, "proposer": trial.proposer, "size": size, **latency, **kept}


def _wall(trials: list[Trial]) -> float:
    """Seconds from the first trial's beginning to the last one's end, pauses between two runs included."""
    begun = [datetime.fromisoformat(t.started_at).timestamp() for t in trials if t.started_at]
    ended = [datetime.fromisoformat(t.finished_at).timestamp() for t in trials if t.finished_at]
    return round(max(ended) - min(begun), 1)


def volume(trials: list[Trial]) -> float:
    """Hypervolume of the complete trials between (1, 1, 5 points)."""
    done = [_relative(t, trials[0]) for t in trials if t.number and t.state == "complete"]
    return pareto.hypervolume(done, KEYS, CORNER)


def table(rows: list[dict[str, Any]]) -> str:
    """For people."""
    head = [
        "model",
        "techniques",
        "file smaller by",
        "download smaller by",
        "latency ratio",
        "all samples lose",
        "worst slice loses",
        "hypervolume",
    ]
    lines = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    for row in rows:
        chosen = row["chosen"]
        cells = ["nothing", "", "", "", ""] if chosen is None else _cells(chosen)
        mark = "" if row["within_limits"] else " *"
        mark += ", recovered" if row["recovered"] else ""
        lines.append(f"| {row['model']} | {row['techniques']}{mark} | {' | '.join(cells)} | {row['hypervolume']:.4f} |")
    return "\n".join(lines) + "\n"


def _cells(chosen: dict[str, Any]) -> list[str]:
    ratio = next(value for key, value in chosen.items() if key.startswith("latency_ratio@"))
    drops = [Value(**chosen[key]) for key in ("drop", "drop/worst")]
    points = [f"{100 * d.value:.1f} pt [{100 * d.low:.1f}, {100 * d.high:.1f}]" for d in drops]
    download = f"{1 / chosen['download']:.2f}x" if "download" in chosen else "not weighed"
    return [
        f"{1 / chosen['size']:.2f}x",
        download,
        f"{ratio['value']:.2f} [{ratio['low']:.2f}, {ratio['high']:.2f}]",
        *points,
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+")
    parser.add_argument("--trials", type=int, default=24)
    parser.add_argument("--store", type=Path, default=Path("autotune-runs/techniques"))
    parser.add_argument("--only", nargs="+", help="of the variants, e.g. quantize 'all together'")
    parser.add_argument("--out", type=Path, default=RESULT)
    arguments = parser.parse_args()
    rows: list[dict[str, Any]] = []
    if arguments.out.exists():
        rows = json.loads(arguments.out.read_text())["rows"]
    for name in arguments.models:
        found = subject(name)
        for label, techniques in variants(found.config).items():
            if arguments.only and label not in arguments.only:
                continue
            row = run(found, label, techniques, arguments)
            rows = [r for r in rows if (r["model"], r["techniques"]) != (name, label)] + [row]
            print(table([row]).splitlines()[-1], flush=True)
            write(rows, arguments)
    print(table(rows))


def write(rows: list[dict[str, Any]], arguments: argparse.Namespace) -> None:
    record = {
        "command": f"python benchmarks/techniques.py {' '.join(arguments.models)} --trials {arguments.trials}",
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "python": platform.python_version(),
        "onnxruntime": onnxruntime.__version__,
        "corner": CORNER,
        "load_average_at_end": os.getloadavg()[0],
        "cpus": os.cpu_count(),
        "rows": rows,
    }
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
