"""What measured swaps say of latency, against what the profile and the size say: on trials that were really timed.

    python benchmarks/swaps.py angles --stores autotune-runs/real-models/angles-*.db --minutes 10

Before it proposes, a search times choices in one block of layers at a time (`search.swaps`). Here that is done for
studies that have run, in a copy of the first of the stores, until `--minutes` are spent or every block has had every
choice. What the resulting table adds up to is compared with the latency ratio of every trial of all stores whose
recipe is mixed: the uniform recipes, which the tables are made of, are left out, and so are trials whose ratio is known
no better than by 5 %. The stores must be of the same study on this machine.

Guesses: `size`, the model is as fast as it is small; `profile`, the kernels of the uniform recipes, which is used
without swaps; `first swaps`, as many as a tenth of a search pays for where a swap takes as long as here (longer on a
busy machine), on top of the profile; `all swaps`. For each the rank correlation with what was measured, the mean error
of the ratio, and that after the one scale that fits best, because the sampler believes guesses up to scale. The
difference to the profile has a bootstrap interval over trials.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sqlite3
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from real_models import subject
from scipy.stats import spearmanr

from autotune.config import StudyConfig
from autotune.recipe import NONE, Recipe
from autotune.search.knowledge import latency_guesses
from autotune.search.progress import nobody
from autotune.search.space import Space
from autotune.search.study import Study
from autotune.search.swap_table import table as swap_table
from autotune.search.swaps import Swap, Swaps, starting_ratio
from autotune.store import Store, open_store
from autotune.trial import Trial

RESULT = Path(__file__).parent / "results" / "swaps.json"
EXACT = 0.05  # half width of a ratio's interval above which a trial is no yardstick
DRAWS = 2000  # of the bootstrap
Table = Mapping[str, Mapping[str, float]]  # parameter -> choice -> what it adds
Numbers = NDArray[np.float64]


def run(name: str, stores: Sequence[Path], minutes: float, seconds: float | None) -> dict[str, Any]:
    """Times the swaps in a copy of the first store and compares the guesses."""
    found = subject(name)
    with tempfile.TemporaryDirectory(prefix="hw-autotune-swaps-") as folder:
        copies = [_copied(path, Path(folder) / str(n) / "store.db") for n, path in enumerate(stores)]
        first, config = copies[0]
        if seconds is not None:
            measure = config.measure.model_copy(update={"max_seconds": seconds})
            config = config.model_copy(update={"measure": measure})
        with Study.open(config, found.workload, store=first, folder=found.folder) as study, study.store.lock():
            prepared, runner = study._start(nobody)
            target = prepared.timed[0]
            key = f"latency_ratio@{target}"
            space, start = prepared.space, starting_ratio(study.store, prepared.space, target) or 1.0
            profile = latency_guesses(study.store, prepared, [key]).get(0, {})
            if not profile:
                raise SystemExit(f"{first}: no profile of a uniform recipe, so there is nothing to compare with")
            swaps = Swaps(config, prepared, study.store, runner)
            begun, load = time.monotonic(), os.getloadavg()[0]
            swaps.run(60 * minutes, lambda told: print(told, flush=True), print)
            spent = time.monotonic() - begun
            timed = [each for each in swaps.known(target) if each.gain is not None]
            paid = timed[: _paid(study.store, config, timed)]
        points = list(_points(copies, space, key))
    measured = np.array([ratio for _, ratio, _ in points])
    tables: dict[str, Table] = {
        "profile": profile,
        "first swaps": swap_table(space, paid, 1.0, profile) or profile,
        "all swaps": swap_table(space, timed, 1.0, profile) or profile,
    }
    guessed = {"size": np.array([size for _, _, size in points])}
    guessed |= {
        label: np.array([start + _sum(each, params) for params, _, _ in points]) for label, each in tables.items()
    }
    return {
        "model": name,
        "stores": [path.name for path in stores],
        "trials": len(points),
        "measured_ratio": [float(measured.min()), float(measured.max())],
        "swaps": {"all": len(timed), "first": len(paid), "seconds": round(spent, 1)},
        "gains": [each.model_dump(exclude={"params"}) for each in timed],
        "swap_margin": float(np.median([each.margin for each in timed])),
        "guesses": {label: _judged(each, measured, guessed["profile"]) for label, each in guessed.items()},
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "load_average": [load, os.getloadavg()[0]],
    }


def _copied(source: Path, to: Path) -> tuple[Path, StudyConfig]:
    """A consistent copy, also of a store that is being written to, and the configuration of its study."""
    to.parent.mkdir(parents=True)
    with closing(sqlite3.connect(f"file:{source}?mode=ro", uri=True)) as old, closing(sqlite3.connect(to)) as new:
        old.backup(new)
        (name,) = new.execute("select name from study").fetchone()
        new.execute("delete from meta where key like 'swaps/%' or key like 'baseline%'")  # the artifacts stay behind
        new.commit()
    with closing(open_store(to, name)) as store:
        if store.config_json is None:
            raise SystemExit(f"{source}: holds no study that was begun")
        return to, StudyConfig.model_validate_json(store.config_json)


def _paid(store: Store, config: StudyConfig, timed: Sequence[Swap]) -> int:
    """How many swaps a tenth of a search of 40 trials pays for: a swap costs what its pairs cost, a trial what it took
    in the store."""
    seconds = [sum(t.durations.values()) for t in store.trials() if t.number and t.state == "complete"]
    budget = 0.1 * 40 * float(np.mean(seconds))
    cost = np.cumsum([each.seconds for each in timed])
    return max(1, int(np.searchsorted(cost, budget, side="right")))


def _points(
    copies: Sequence[tuple[Path, StudyConfig]], space: Space, key: str
) -> list[tuple[dict[str, str], float, float]]:
    """(point, measured latency ratio, size over the original's) of every mixed recipe that was timed well, once."""
    found: dict[str, tuple[dict[str, str], float, float]] = {}
    uniform = {recipe for _, recipe in space.uniform}
    for path, config in copies:
        with closing(open_store(path, config.name)) as store:
            trials = store.trials(details=False)
            size = trials[0].metrics["size_bytes"].value
            for trial in trials:
                recipe = Recipe(trial.recipe)
                params = space.params(recipe)
                if params is None or recipe in uniform or all(choice == NONE for choice in params.values()):
                    continue
                if _well_timed(trial, key):
                    ratio, own = trial.metrics[key].value, trial.metrics["size_bytes"].value / size
                    found.setdefault(recipe.digest, (params, ratio, own))
    return list(found.values())


def _well_timed(trial: Trial, key: str) -> bool:
    value = trial.metrics.get(key)
    return value is not None and (value.high - value.low) / 2 <= EXACT * value.value


def _sum(table: Table, params: Mapping[str, str]) -> float:
    return sum(table.get(name, {}).get(choice, 0.0) for name, choice in params.items())


def _judged(guess: Numbers, measured: Numbers, profile: Numbers) -> dict[str, Any]:
    rank, error = _rank(guess, measured), float(np.mean(np.abs(guess - measured)))
    draw = np.random.default_rng(0)
    ranks, errors = [], []
    for _ in range(DRAWS if guess is not profile else 0):
        at = draw.integers(len(measured), size=len(measured))
        ranks.append(_rank(guess[at], measured[at]) - _rank(profile[at], measured[at]))
        errors.append(np.mean(np.abs(guess[at] - measured[at]) - np.abs(profile[at] - measured[at])))
    return {
        "rank_correlation": rank,
        "error": error,
        "error_to_scale": _scaled(guess, measured),
        "rank_correlation_over_profile": _interval(ranks),
        "error_over_profile": _interval(errors),
    }


def _rank(guess: Numbers, measured: Numbers) -> float:
    if len(np.unique(guess)) < 2 or len(np.unique(measured)) < 2:
        return 0.0
    return float(spearmanr(guess, measured).statistic)


def _scaled(guess: Numbers, measured: Numbers) -> float:
    """Mean error where what the guess says of the distance from the original is scaled by least squares."""
    away, wanted = guess - 1.0, measured - 1.0
    scale = float(away @ wanted / (away @ away)) if away.any() else 0.0
    return float(np.mean(np.abs(scale * away - wanted)))


def _interval(values: Sequence[float]) -> list[float] | None:
    return [float(v) for v in np.quantile(values, [0.025, 0.975])] if len(values) else None


def markdown(record: dict[str, Any]) -> str:
    head = ("model", "trials, their ratios", "guess", "rank correlation", "mean error", "error to scale")
    lines = [
        "# Measured swaps against other guesses of latency",
        "",
        "What tables of what each choice adds say of the latency ratio of mixed recipes, against what was measured; "
        "see `swaps.py`. In brackets the difference to the profile (95 % bootstrap over trials). "
        f"Written {record['date']}.",
        "",
        "| " + " | ".join(head) + " |",
        "|---" * len(head) + "|",
    ]
    for row in record["rows"]:
        low, high = row["measured_ratio"]
        for label, each in row["guesses"].items():
            count = {"first swaps": row["swaps"]["first"], "all swaps": row["swaps"]["all"]}.get(label)
            shown = label if count is None else f"{label} ({count})"
            rank = f"{each['rank_correlation']:.2f}{_brackets(each['rank_correlation_over_profile'])}"
            error = f"{each['error']:.3f}{_brackets(each['error_over_profile'], 3)}"
            lines.append(
                f"| {row['model']} | {row['trials']}, {low:.2f} to {high:.2f} | {shown} | {rank} | {error} | "
                f"{each['error_to_scale']:.3f} |"
            )
    lines += [
        "",
        *(
            f"- {row['model']}: {row['swaps']['all']} swaps took {row['swaps']['seconds']:.0f} s, the half width of "
            f"the median one is {row['swap_margin']:.3f}; load average {row['load_average'][0]:.1f} to "
            f"{row['load_average'][1]:.1f}; `{row['command']}`"
            for row in record["rows"]
        ),
    ]
    return "\n".join(lines) + "\n"


def _brackets(interval: Sequence[float] | None, digits: int = 2) -> str:
    return "" if interval is None else f" [{interval[0]:+.{digits}f}, {interval[1]:+.{digits}f}]"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="a ready-made study or a workload of workloads.py")
    parser.add_argument("--stores", type=Path, nargs="+", required=True, help="of the same study; only read")
    parser.add_argument("--minutes", type=float, default=10.0, help="for timing swaps, at most")
    parser.add_argument("--seconds", type=float, help="for one swap, at most; more than the study's on a busy machine")
    parser.add_argument("--out", type=Path, default=RESULT)
    arguments = parser.parse_args()
    row = run(arguments.model, arguments.stores, arguments.minutes, arguments.seconds)
    rows = json.loads(arguments.out.read_text())["rows"] if arguments.out.exists() else []
    names = " ".join(path.name for path in arguments.stores)
    row["command"] = f"python benchmarks/swaps.py {arguments.model} --stores {names} --minutes {arguments.minutes:g}"
    row["command"] += f" --seconds {arguments.seconds:g}" if arguments.seconds else ""
    record = {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "python": platform.python_version(),
        "onnxruntime": onnxruntime.__version__,
        "machine": platform.machine(),
        "cpus": os.cpu_count(),
        "rows": [each for each in rows if each["model"] != arguments.model] + [row],
    }
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(record, indent=1) + "\n")
    arguments.out.with_suffix(".md").write_text(markdown(record))
    print(markdown(record))


if __name__ == "__main__":
    main()
