"""A budget on the mixed-precision testbed: the fastest model of at most 45 % of the size that loses at most 1 point.

    python benchmarks/search_budget.py --testbed FILE                     seeds 0 to 4, written to results/
    python benchmarks/search_budget.py --testbed FILE --seeds 5 --arms aim    some of it, printed
    python benchmarks/search_budget.py --testbed FILE --rows A.log B.log      what was printed so, written to results/

Arms: `front`, our sampler with nothing but the reference point of the whole front; `limits`, the same with the corner
of the hypervolume at the limits; `aim`, with the budget as its aim; `tpe`, which is told the limits as Optuna's
constraints. After 60 and 120 measurements, the uniform configurations included, the figure is the smallest true
latency of what was measured and truly is within the limits, over that of a noise-free solution: a climb over single and
double changes, with the true functions, from the best of all arms.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import optuna
from numpy.typing import NDArray
from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.samplers import BaseSampler

sys.path.insert(0, str(Path(__file__).parent))
from search_testbed import RESULTS, environment, load, sampler_for

from autotune.search.samplers import make_sampler
from autotune.search.surrogate import SurrogateSampler

SIZE, DROP = 0.45, 0.01
POINTS = (60, 120)
ARMS = ("front", "limits", "aim", "tpe")
STARTS = 1  # per arm, of the climb


def sampler_of(arm: str, module: ModuleType, problem: Any, seed: int) -> BaseSampler:
    if arm == "front":
        return sampler_for("surrogate", module, problem, seed)
    if arm == "tpe":
        return sampler_for("tpe", module, problem, seed)
    layers, choices = problem.size_lc.shape
    sizes = {f"layer{i}": {c: float(problem.size_lc[i, c]) for c in range(choices)} for i in range(layers)}
    options: dict[str, Any] = {"exact": {1: sizes}, "worst_objective": 2, "reference": [float(v) for v in module.REF]}
    within = {1: SIZE, 2: DROP}
    options |= {"limits": within} if arm == "limits" else {"aim": within, "aim_at": 0}
    return make_sampler("surrogate", seed=seed, options=options)


def search(module: ModuleType, problem: Any, sampler: BaseSampler, evals: int) -> None:
    layers, choices = problem.size_lc.shape
    space: dict[str, BaseDistribution] = {
        f"layer{i}": CategoricalDistribution(list(range(choices))) for i in range(layers)
    }
    study = optuna.create_study(directions=["minimize"] * 3, sampler=sampler)
    for anchor in module.uniform_anchors():
        study.enqueue_trial({name: int(c) for name, c in zip(space, anchor, strict=True)})
    for _ in range(evals):
        trial = study.ask(space)
        params = trial.params
        seen = problem.measure(np.array([params[name] for name in space]))
        if not isinstance(sampler, SurrogateSampler):
            trial.set_constraint("size", float(seen["obj"][1]) - SIZE)
            trial.set_constraint("drop", float(seen["obj"][2]) - DROP)
        trial.set_user_attr("damage", {f"slice{s}": float(v) for s, v in enumerate(seen["kl"])})
        trial.set_user_attr("drop", {f"slice{s}": float(v) for s, v in enumerate(seen["drop"])})
        study.tell(trial, [float(v) for v in seen["obj"]])


def cost(problem: Any, configs: NDArray[np.int64]) -> NDArray[np.float64]:
    """True latency (n,), infinite outside the limits."""
    latency, size, drop, _ = problem.true(configs)
    inside = (size <= SIZE) & (drop.max(1) <= DROP)
    return np.where(inside, latency, np.inf)


def climbed(problem: Any, config: NDArray[np.int64]) -> float:
    """The latency at the end of a climb over all single and double changes, with the true functions."""
    layers, choices = problem.size_lc.shape
    rows, options = np.repeat(np.arange(layers), choices), np.tile(np.arange(choices), layers)
    first, second = np.triu_indices(len(rows), 1)
    best = float(cost(problem, config[None])[0])
    while True:
        near = np.repeat(config[None], len(first), axis=0)
        at = np.arange(len(first))
        near[at, rows[first]] = options[first]
        near[at, rows[second]] = options[second]
        costs = cost(problem, near)
        if costs.min() >= best - 1e-9:
            return best
        best, config = float(costs.min()), near[int(costs.argmin())]


def run_seed(module: ModuleType, arms: list[str], seed: int, inter: float) -> list[dict[str, Any]]:
    reached, configs = {}, []
    for arm in arms:
        problem = module.Problem(seed, inter)
        search(module, problem, sampler_of(arm, module, problem, seed), max(POINTS))
        measured = np.array([seen["x"] for seen in problem.evals])
        costs = cost(problem, measured)
        reached[arm] = {str(n): float(costs[:n].min()) for n in POINTS}
        configs += [measured[i] for i in np.argsort(costs)[:STARTS] if np.isfinite(costs[i])]
    best = min((climbed(problem, config) for config in configs), default=float("inf"))
    rows = []
    for arm in arms:
        ratio = {n: round(v / best, 4) if np.isfinite(v) else None for n, v in reached[arm].items()}
        rows.append({"arm": arm, "seed": seed, "inter": inter, "best_known": round(best, 5), "ratio": ratio})
        print(json.dumps(rows[-1]), flush=True)
    return rows


def printed(files: list[Path]) -> list[dict[str, Any]]:
    """The rows in what earlier runs have printed; of one that is there twice the last."""
    known: dict[tuple[Any, ...], dict[str, Any]] = {}
    for line in (line for file in files for line in file.read_text().splitlines() if line.startswith("{")):
        row = json.loads(line)
        known[row["inter"], row["seed"], row["arm"]] = row
    order = {arm: place for place, arm in enumerate(ARMS)}
    return [known[key] for key in sorted(known, key=lambda key: (*key[:2], order[key[2]]))]


def markdown(rows: list[dict[str, Any]], about: dict[str, Any]) -> str:
    lines = [f"# {about['title']}", "", about["text"], "", "| interaction | arm | "
             + " | ".join(f"seeds within the limits at {n} | latency at {n}" for n in POINTS) + " |",
             "|---" * (2 + 2 * len(POINTS)) + "|"]  # fmt: skip
    for inter in sorted({row["inter"] for row in rows}):
        for arm in dict.fromkeys(row["arm"] for row in rows):
            chosen = [row for row in rows if row["inter"] == inter and row["arm"] == arm]
            cells = []
            for n in map(str, POINTS):
                ratios = [row["ratio"][n] for row in chosen if row["ratio"][n] is not None]
                cells.append(f"{len(ratios)} of {len(chosen)}")
                cells.append(f"{statistics.mean(ratios):.3f} ({max(ratios):.3f})" if ratios else "none")
            lines.append(f"| {inter} | {arm} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description="the fastest model within a budget")
    parser.add_argument("--testbed", type=Path, required=True, help="the problem's Python file")
    parser.add_argument("--seeds", type=int, nargs="*", help="print these instead of writing the table")
    parser.add_argument("--rows", type=Path, nargs="+", help="what runs of some seeds have printed; nothing is run")
    parser.add_argument("--arms", nargs="*", default=list(ARMS), choices=ARMS)
    parser.add_argument("--inter", type=float, nargs="*", default=[0.05, 0.20])
    arguments = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    module = load(arguments.testbed)
    if arguments.rows is not None:
        rows = printed(arguments.rows)
    else:
        wanted = arguments.seeds if arguments.seeds is not None else [0, 1, 2, 3, 4]
        rows = [row for i in arguments.inter for seed in wanted for row in run_seed(module, arguments.arms, seed, i)]
    if arguments.seeds is not None:
        return
    seeds = sorted({row["seed"] for row in rows})
    gathered = " --rows LOGS" if arguments.rows is not None else ""
    about = environment(f"python benchmarks/search_budget.py --testbed FILE{gathered}")
    about["title"] = "A budget on the mixed-precision testbed"
    about["text"] = (
        f"The smallest true latency within size <= {SIZE} and worst drop <= {DROP} among what was measured, over that "
        f"of a noise-free solution: mean (largest) of the seeds of {seeds} that have one, by strength of interaction. "
        f"`{about['command']}`, {about['date']}, Optuna {about['optuna']}, numpy {about['numpy']}, one thread."
    )
    (RESULTS / "search_budget.json").write_text(json.dumps({"about": about, "rows": rows}, indent=1) + "\n")
    (RESULTS / "search_budget.md").write_text(markdown(rows, about))


if __name__ == "__main__":
    main()
