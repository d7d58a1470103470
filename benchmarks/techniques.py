"""Each technique alone and all together: what the search recommends, by size, latency and accuracy per slice.

    python benchmarks/techniques.py digits --trials 14

Every variant is a search of its own over the study's model and data, with its own store, finalists on held-out data and
recovery as the study says: a technique alone is trained back too, so that it is at its best. Exact rewrites are part of
every variant. `recover` alone is the original, trained further; the product does not offer that, so it is told to. All
together has `--factor` times the trials of the others, because it decides about all of their layers. With `--steps`
training is limited by steps (of a new structure, of a finalist) and not by the study's times, so that a busy machine
trains as much as an idle one.

The table has what each search would ship: the recommended trial; the original where nothing is better (marked with =);
or the least damaged finalist where nothing keeps the limits (marked with *). Whether all together dominates that is
said by all of its complete trials in the study's objectives: "yes" where one is worse in none and better in one, "not
told apart" where one is worse only within the intervals. Finalists are compared by their held-out judgement, others by
that of the search. A run that is interrupted goes on.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import threading
import time
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from unittest.mock import patch

import onnxruntime
from real_models import CORNER, Subject, counted, subject

from autotune import pareto
from autotune.api.choice import choose
from autotune.config import RecoverTable, StudyConfig
from autotune.keys import parse_key
from autotune.search.recovery import run as recovery
from autotune.search.study import Study
from autotune.store import Store
from autotune.trial import Trial, Value

RESULT = Path(__file__).parent / "results" / "techniques.json"
KEYS = (parse_key("size_bytes"), parse_key("latency_ratio@local"), parse_key("drop/worst"))
EXACT = "simplify"  # part of every variant: alone it changes neither accuracy nor, on most models, anything else
TRAINING, TOGETHER = "recover", "all together"
SOMETHING: dict[str, dict[str, object]] = {"quantize": {"choices": ["float16"]}}  # no search is without a choice
WALL, HOUR = "benchmark/wall", 3600.0
Point = dict[str, Any]  # number, and key -> Value of the search and of the final judgement


def variants(config: StudyConfig) -> dict[str, dict[str, dict[str, object]]]:
    """Label -> the techniques of a search: each alone, then all."""
    exact = {name: table for name, table in config.techniques.items() if name == EXACT}
    alone = {name: exact | {name: table} for name, table in config.techniques.items() if name != EXACT}
    training = {TRAINING: exact or SOMETHING} if config.recover is not None else {}
    return alone | training | {TOGETHER: dict(config.techniques)}


def run(found: Subject, label: str, techniques: dict[str, dict[str, object]], arguments: Any) -> dict[str, Any]:
    """One search, or what is left of it."""
    name = f"{found.config.name}-{label.replace(' ', '-')}"
    wanted = arguments.trials * (arguments.factor if label == TOGETHER else 1)
    search = found.config.search.model_copy(update={"trials": wanted})
    recover = _limited(found.config.recover, arguments.steps)
    update = {"techniques": techniques, "search": search, "recover": recover, "name": name}
    if arguments.seconds is not None:
        seconds = min(arguments.seconds, found.config.measure.max_seconds)
        update["measure"] = found.config.measure.model_copy(update={"max_seconds": seconds})
    config = found.config.model_copy(update=update)
    with Study.open(config, found.workload, store=arguments.store / f"{name}.db", folder=found.folder) as study:
        with _timed(study.store), _trained_as_it_is() if label == TRAINING else contextlib.nullcontext():
            summary = study.run(lambda _: None, threading.Event())
        wall = study.store.meta(WALL)["seconds"]
        trials = study.store.trials(details=False)
    if summary.gone or summary.stopped:
        raise SystemExit(f"{name}: did not finish: {summary.gone or 'stopped'}")
    if label == TRAINING:
        trials = [t for t in trials if not t.number or t.recovered]
    chosen = choose(trials, config)
    shown, mark = chosen.recommended, ""
    untrained = label == TRAINING and not any(t.number for t in trials)  # nothing was gained by it
    if untrained or (shown is None and "the original is the best" in chosen.reason):
        shown, mark = trials[0], "="
    elif shown is None:
        final = [t for t in trials if t.final and t.number]
        shown, mark = min(final, key=lambda t: t.final["drop/worst"].value, default=None), "*"
    metric = found.workload.metric_name
    wanted_keys = (*(str(key) for key in config.objective_keys), metric, f"{metric}/worst", "drop", "drop/worst")
    complete = [t for t in trials if t.state == "complete"]
    done = [t for t in complete if t.number]
    return {
        "model": found.config.name,
        "techniques": label,
        "command": _command(found.config.name, arguments),
        "metric": metric,
        "objectives": [str(key) for key in config.objective_keys],
        "trials": wanted,
        "finished": len([t for t in trials if t.number and t.state != "running"]),
        "wall_seconds": wall,
        "hypervolume": {
            "first trials": volume([t for t in done if t.number <= arguments.trials], trials[0]),
            "all": volume(done, trials[0]),
        },
        "mark": mark,
        "why": chosen.reason,
        "recovered": bool(shown and shown.recovered),
        "shipped": None if shown is None else shown.number,
        "points": [_point(t, dict.fromkeys(wanted_keys)) for t in complete],
        "load_average_at_end": os.getloadavg()[0],
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }


@contextlib.contextmanager
def _trained_as_it_is() -> Iterator[None]:
    """Recovery begins with the original: it loses nothing that could be won back, so the product would not train it."""

    def first(trials: Sequence[Trial], *_: object) -> list[Trial]:
        return [t for t in trials if not t.number]

    with patch.object(recovery, "candidates", first):
        yield


def _point(trial: Trial, keys: dict[str, None]) -> Point:
    phases = {"search": trial.metrics, "final": trial.final}
    values = {name: {k: known[k].model_dump() for k in keys if k in known} for name, known in phases.items()}
    return {"number": trial.number, "proposer": trial.proposer, **values}


@contextlib.contextmanager
def _timed(store: Store) -> Iterator[None]:
    """Wall seconds of the whole search go into its store; what an interrupted run took counts too."""
    known = store.meta(WALL) or {"seconds": 0.0, "finished": False}
    begun, finished = time.monotonic(), False
    try:
        yield
        finished = True
    finally:
        if not known["finished"]:
            seconds = round(known["seconds"] + time.monotonic() - begun, 1)
            store.set_meta(WALL, {"seconds": seconds, "finished": finished})


def _limited(table: RecoverTable | None, steps: Sequence[int] | None) -> RecoverTable | None:
    """Training that ends by steps: of a new structure, of a finalist."""
    if table is None or steps is None:
        return table
    return table.model_copy(update={"start": HOUR, "start_steps": steps[0], "minutes": HOUR / 60, "steps": steps[1]})


def volume(trials: list[Trial], baseline: Trial) -> float:
    """Hypervolume between (1, 1, 5 points)."""
    return pareto.hypervolume([counted(t, baseline) for t in trials], KEYS, CORNER)


def dominated(shipped: Point, together: Sequence[Point], objectives: Sequence[str]) -> dict[str, str]:
    """`answer`: yes, not told apart, or no; `by`: the point of all together that comes nearest, and what it misses."""
    best: tuple[int, int, float, str] | None = None
    for point in together:
        if not point["number"]:
            continue  # the original is everybody's
        better, worse, unclear, away = 0, 0, 0, 0.0
        said: list[str] = []
        phase = "final" if point["final"] and shipped["final"] else "search"
        for text in objectives:
            here, there = (Value(**each[phase][text]) for each in (point, shipped))
            key = parse_key(text)
            step = pareto.epsilon(key, there.value)
            gap = (here.value - there.value) * (1 if key.smaller_is_better else -1)
            better += gap < -step
            if gap <= step:
                continue
            overlap = here.low <= there.high and there.low <= here.high
            worse, unclear, away = worse + (not overlap), unclear + overlap, away + gap / step
            said.append(f"{text} {_shown(text, here, there)}{' (intervals overlap)' if overlap else ''}")
        if not better:
            continue
        ranked = (worse, unclear, away, f"trial {point['number']}, {phase}: " + ("; ".join(said) or "worse in nothing"))
        best = ranked if best is None or ranked < best else best
    if best is None:
        return {"answer": "no", "by": "no complete trial is better in anything"}
    answer = "no" if best[0] else "not told apart" if best[1] else "yes"
    return {"answer": answer, "by": best[3]}


def _shown(text: str, here: Value, there: Value) -> str:
    if parse_key(text).name in ("drop",):
        return f"{_points(here)} against {_points(there)}"
    if text.endswith("_bytes"):
        return f"{here.value:,.0f} against {there.value:,.0f}"
    return f"{_ratio(here)} against {_ratio(there)}"


def _points(value: Value) -> str:
    return f"{100 * value.value:.1f} pt [{100 * value.low:.1f}, {100 * value.high:.1f}]"


def _share(value: Value) -> str:
    return f"{100 * value.value:.1f} % [{100 * value.low:.1f}, {100 * value.high:.1f}]"


def _ratio(value: Value) -> str:
    return f"{value.value:.2f} [{value.low:.2f}, {value.high:.2f}]"


def table(rows: list[dict[str, Any]]) -> str:
    """For people, and what all together misses where it does not dominate."""
    head = [
        "model", "techniques", "trials", "wall seconds", "file smaller by", "download smaller by", "latency ratio",
        "metric", "lowest slice", "worst slice loses", "hypervolume (of the first trials)",
        "all together has a point that dominates it",
    ]  # fmt: skip
    lines = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    notes = []
    for row in rows:
        whole = next((r for r in rows if (r["model"], r["techniques"]) == (row["model"], TOGETHER)), None)
        shipped = next((p for p in row["points"] if p["number"] == row["shipped"]), None)
        cells = ["nothing", "", "", "", "", ""] if shipped is None else _cells(row, shipped)
        said = "not run" if whole is None else "nothing shipped"
        if row is whole:
            said = ""
        elif whole is not None and shipped is not None:
            found = dominated(shipped, whole["points"], row["objectives"])
            said = found["answer"]
            notes.append(f"- {row['model']}, {row['techniques']}: {said}. {found['by']}.")
        name = (
            row["techniques"] + (f" {row['mark']}" if row["mark"] else "") + (", trained" if row["recovered"] else "")
        )
        volumes = f"{row['hypervolume']['all']:.4f} ({row['hypervolume']['first trials']:.4f})"
        spent = f"{row['trials']} | {row['wall_seconds']:.0f}"
        lines.append(f"| {row['model']} | {name} | {spent} | {' | '.join(cells)} | {volumes} | {said} |")
    return "\n".join([*lines, "", *notes]) + "\n"


def _cells(row: dict[str, Any], shipped: Point) -> list[str]:
    known = {key: Value(**value) for key, value in (shipped["final"] or shipped["search"]).items()}
    original = row["points"][0]["search"]
    times = [f"{original[k]['value'] / known[k].value:.2f}x" if k in known and k in original else "not weighed"
             for k in ("size_bytes", "download_bytes")]  # fmt: skip
    ratio = next(value for key, value in known.items() if key.startswith("latency_ratio@"))
    judged = [_share(known[key]) if key in known else "" for key in (row["metric"], f"{row['metric']}/worst")]
    return [*times, _ratio(ratio), *judged, _points(known["drop/worst"])]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+")
    parser.add_argument("--trials", type=int, default=14, help="of each technique alone")
    parser.add_argument("--factor", type=int, default=2, help="how many times as many all together gets")
    parser.add_argument("--steps", type=int, nargs=2, metavar=("START", "FINALIST"), help="limits of training")
    parser.add_argument("--seconds", type=float, help="the most that one latency measurement of the search may take")
    parser.add_argument("--store", type=Path, default=Path("autotune-runs/techniques"))
    parser.add_argument("--only", nargs="+", help="of the variants, e.g. quantize 'all together'")
    parser.add_argument("--rows", type=Path, nargs="+", help="results of runs with --only; gathered, nothing is run")
    parser.add_argument("--out", type=Path, default=RESULT)
    arguments = parser.parse_args()
    rows: list[dict[str, Any]] = []
    if arguments.out.exists():
        rows = [row for row in json.loads(arguments.out.read_text())["rows"] if "points" in row]
    for name in arguments.models:
        found = subject(name)
        wanted = variants(found.config)
        gathered = {row["techniques"]: row for path in arguments.rows or () for row in _rows(path, name)}
        for label, techniques in wanted.items():
            if (arguments.only and label not in arguments.only) or (arguments.rows and label not in gathered):
                continue
            gathered_now = {"command": _command(name, arguments), **gathered.get(label, {})}
            row = gathered_now if arguments.rows else run(found, label, techniques, arguments)
            rows = [r for r in rows if (r["model"], r["techniques"]) != (name, label)] + [row]
            places = {each: place for place, each in enumerate(wanted)}
            rows.sort(key=lambda r: (r["model"], places.get(r["techniques"], 0) if r["model"] == name else 0))
            print(table([row]).splitlines()[2], flush=True)
            write(rows, arguments)
    print(table(rows))


def _rows(path: Path, model: str) -> list[dict[str, Any]]:
    return [row for row in json.loads(path.read_text())["rows"] if row["model"] == model]


def _command(model: str, arguments: argparse.Namespace) -> str:
    command = f"python benchmarks/techniques.py {model} --trials {arguments.trials} --factor {arguments.factor}"
    steps = " --steps {} {}".format(*arguments.steps) if arguments.steps else ""
    return command + steps + (f" --seconds {arguments.seconds:g}" if arguments.seconds is not None else "")


def write(rows: list[dict[str, Any]], arguments: argparse.Namespace) -> None:
    """The JSON, and the table beside it."""
    commands = ", ".join(f"`{each}`" for each in dict.fromkeys(row["command"] for row in rows))
    record = {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "python": platform.python_version(),
        "onnxruntime": onnxruntime.__version__,
        "machine": platform.machine(),
        "corner": CORNER,
        "load_average_at_end": os.getloadavg()[0],
        "cpus": os.cpu_count(),
        "rows": rows,
    }
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(record, indent=1) + "\n")
    loads = ", ".join(f"{row['load_average_at_end']:.1f}" for row in rows)
    arguments.out.with_suffix(".md").write_text(
        "# Each technique alone and all together\n\n"
        "What each search would ship, on held-out data, with 95 % intervals; see `techniques.py`. "
        "= the original, nothing is better; * nothing keeps the limits, the least damaged is shown. The hypervolume is "
        f"that of size, latency and worst-slice drop between {CORNER}, in brackets without training at the end and of "
        "as many trials as each technique alone has. Wall seconds count what the whole search took on a machine whose "
        f"load average at the end of each row was {loads} on {os.cpu_count()} CPUs. "
        f"{commands}, {record['date']}.\n\n" + table(rows)
    )


if __name__ == "__main__":
    main()
