"""How much an earlier study helps the next one, on synthetic problems with a known ground truth.

    python benchmarks/warm_start.py --variant graph            one problem of search_variants.py
    python benchmarks/warm_start.py --testbed FILE             the testbed file of search_testbed.py
    python benchmarks/warm_start.py --variant graph --write    and keep the result under results/

An earlier study of `--earlier` evaluations is run first. Then the problem is searched three times. `cold` knows
nothing. For `other target` the earlier study was of the same model on another target (same damage and data; another
latency of each choice, correlated 0.7): its damage and drops are facts, its latency is a guess. For `sibling` it was of
a model with other weights (damage times a lognormal of 0.3, same latency): damage and latency are guesses. Both begin
with recipes of the earlier front. Guesses are read off the earlier trials by the fits of `autotune.search.warm`.
Reported: share of the hypervolume gap closed, all evaluations of the later study charged, and the rank correlation of
what was guessed with what was measured.
"""

from __future__ import annotations

import argparse
import copy
import json
import statistics
import sys
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from optuna.distributions import CategoricalDistribution
from scipy.stats import spearmanr

sys.path.insert(0, str(Path(__file__).parent))
from search_testbed import RESULTS, SLICES, environment, load
from search_variants import SHAPES, module_for

from autotune.search.samplers import make_sampler
from autotune.search.warm.additive import cost_fit, damage_fit

POINTS = (30, 60, 120)
RECIPES = 6
CORRELATION, SPREAD = 0.7, 0.3


def other_target(problem: Any, seed: int) -> Any:
    """The same model where its choices gain something else: log latency correlated `CORRELATION` with the given one."""
    other = copy.deepcopy(problem)
    name = "lat_lc" if hasattr(problem, "lat_lc") else "latency"
    table = getattr(problem, name)
    share = table[:, :1]
    logs = np.log(table[:, 1:] / share)
    draw = np.random.default_rng([7000, seed])
    fresh = logs.mean() + draw.normal(0, logs.std(), logs.shape)
    mixed = logs.mean() + CORRELATION * (logs - logs.mean()) + np.sqrt(1 - CORRELATION**2) * (fresh - logs.mean())
    setattr(other, name, np.concatenate([share, share * np.exp(mixed)], axis=1))
    return other


def sibling(problem: Any, seed: int) -> Any:
    """The same layers with other weights: damage times a lognormal."""
    other = copy.deepcopy(problem)
    name = "z" if hasattr(problem, "z") else "damage"
    table = getattr(problem, name)
    setattr(other, name, table * np.random.default_rng([7100, seed]).lognormal(0, SPREAD, table.shape))
    return other


def run(module: Any, problem: Any, seed: int, evals: int, told: dict[str, Any]) -> None:
    """Search `problem`; `told` are options of the sampler, and under "facts" and "recipes" what comes from before."""
    told = dict(told)
    facts, recipes = told.pop("facts", []), told.pop("recipes", [])
    layers, choices = problem.size_lc.shape
    space = {f"layer{i}": CategoricalDistribution(list(range(choices))) for i in range(layers)}
    sizes = {f"layer{i}": {c: float(problem.size_lc[i, c]) for c in range(choices)} for i in range(layers)}
    options = {"exact": {1: sizes}, "worst_objective": 2, "reference": [float(v) for v in module.REF]}
    study = optuna.create_study(
        directions=["minimize"] * 3, sampler=make_sampler("surrogate", seed=seed, options=options | told)
    )
    for seen in facts:
        params = {name: int(c) for name, c in zip(space, seen["x"], strict=True)}
        attributes = {
            "observed": {"1": float(seen["size"])},
            "damage": per_slice(seen["kl"]),
            "drop": per_slice(seen["drop"]),
        }
        state = optuna.trial.TrialState.PRUNED
        study.add_trial(
            optuna.trial.create_trial(state=state, params=params, distributions=space, user_attrs=attributes)
        )
    for config in (*module.uniform_anchors(), *recipes):
        study.enqueue_trial({name: int(c) for name, c in zip(space, config, strict=True)})
    for _ in range(evals):
        trial = study.ask(space)
        seen = problem.measure(np.array([trial.params[name] for name in space]))
        trial.set_user_attr("damage", per_slice(seen["kl"]))
        trial.set_user_attr("drop", per_slice(seen["drop"]))
        study.tell(trial, [float(v) for v in seen["obj"]])


def per_slice(values: Any) -> dict[str, float]:
    return {f"{SLICES}{s}": float(v) for s, v in enumerate(values)}


def design(configs: Any, choices: int) -> Any:
    """(n, L, C - 1): who takes which choice, but the first one."""
    return np.stack([configs == c for c in range(1, choices)], axis=2).astype(float)


def tables(earlier: Any) -> tuple[Any, Any]:
    """Latency (L, C - 1) and damage (L, C - 1, S) read off an earlier study."""
    layers, choices = earlier.size_lc.shape
    x = design(np.array([seen["x"] for seen in earlier.evals]), choices)
    latency = np.array([seen["lat"] for seen in earlier.evals])
    share = earlier.size_lc[:, 0] / earlier.size_lc[:, 0].sum()
    costs = cost_fit(x, latency / latency[0] - 1.0, 0.9 * share + 0.1 / layers)
    return costs, damage_fit(x, np.array([seen["kl"] for seen in earlier.evals]))


def named(table: Any) -> dict[str, dict[int, Any]]:
    """parameter -> choice -> contribution, nothing for the first choice."""
    if table.ndim == 2:
        return {f"layer{i}": {0: 0.0} | {c + 1: float(v) for c, v in enumerate(row)} for i, row in enumerate(table)}
    nothing = per_slice(np.zeros(table.shape[2]))
    return {f"layer{i}": {0: nothing} | {c + 1: per_slice(v) for c, v in enumerate(row)} for i, row in enumerate(table)}


def front_of(earlier: Any, reference: Any) -> list[Any]:
    """Some configurations along the measured front, from small to large."""
    values = np.array([seen["obj"] for seen in earlier.evals])
    useful = np.flatnonzero((values < reference).all(1))
    best = [
        i for i in useful if not any((values[j] <= values[i]).all() and (values[j] < values[i]).any() for j in useful)
    ]
    best.sort(key=lambda i: float(values[i, 1]))
    places = np.linspace(0, len(best) - 1, min(RECIPES, len(best))).round().astype(int) if best else []
    return [earlier.evals[best[int(p)]]["x"] for p in places]


def compare(module: Any, seed: int, inter: float, earlier_evals: int, evals: int) -> list[dict[str, Any]]:
    rows = []
    for arm in ("cold", "other target", "sibling"):
        problem = module.Problem(seed, inter)
        told: dict[str, Any] = {}
        ranks: dict[str, float] = {}
        if arm != "cold":
            earlier = other_target(problem, seed) if arm == "other target" else sibling(problem, seed)
            earlier.evals = []
            run(module, earlier, seed + 100, earlier_evals, {})
            costs, damage = tables(earlier)
            told = {"guess": {0: named(costs)}, "recipes": front_of(earlier, module.REF)}
            if arm == "sibling":
                told["damage_guess"] = named(damage)
            else:
                told["facts"] = earlier.evals
        run(module, problem, seed, evals, told)
        if arm != "cold":
            x = design(np.array([seen["x"] for seen in problem.evals]), problem.size_lc.shape[1])
            latency = [seen["lat"] for seen in problem.evals]
            worst = [seen["kl"].max() for seen in problem.evals]
            ranks["latency"] = float(spearmanr((x * costs).sum((1, 2)), latency).statistic)
            ranks["damage"] = float(spearmanr(np.einsum("nlc,lcs->ns", x, damage).max(1), worst).statistic)
        scores = {str(n): round(float(module.score(problem, seed, inter, n)), 4) for n in POINTS if n <= evals}
        row = {"arm": arm, "seed": seed, "inter": inter, "score": scores, "rank_correlation": ranks}
        print(json.dumps(row), file=sys.stderr, flush=True)
        rows.append(row)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--variant", choices=list(SHAPES), default="graph")
    parser.add_argument("--testbed", type=Path, help="the problem's Python file, instead of a variant")
    parser.add_argument("--inter", type=float, default=0.05)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--earlier", type=int, default=80, help="evaluations of the earlier study")
    parser.add_argument("--evals", type=int, default=max(POINTS), help="evaluations of the later study")
    parser.add_argument("--write", action="store_true", help="keep the result in results/warm_start.json")
    arguments = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    name = arguments.testbed.stem if arguments.testbed else arguments.variant
    module = load(arguments.testbed) if arguments.testbed else module_for(arguments.variant, arguments.seeds)
    rows = [
        row
        for seed in arguments.seeds
        for row in compare(module, seed, arguments.inter, arguments.earlier, arguments.evals)
    ]
    for arm in dict.fromkeys(row["arm"] for row in rows):
        mine = [row["score"] for row in rows if row["arm"] == arm]
        print(f"{arm:>12}: " + ", ".join(f"{statistics.mean(s[n] for s in mine):.3f} at {n}" for n in mine[0]))
    if arguments.write:
        target = RESULTS / "warm_start.json"
        known = json.loads(target.read_text())["problems"] if target.exists() else {}
        known[name] = {"earlier": arguments.earlier, "rows": rows}
        about = environment("python benchmarks/warm_start.py --write, with --variant or --testbed")
        about["text"] = "Share of the gap closed after n evaluations of the later study; see the script for the arms."
        target.write_text(json.dumps({"about": about, "problems": known}, indent=1) + "\n")


if __name__ == "__main__":
    main()
