"""CPU seconds and memory that our sampler takes to propose, in a large space with a long history.

    python benchmarks/ask_cost.py                 100, 500, 1,000 and 2,000 finished trials, written to results/
    python benchmarks/ask_cost.py --trials 500    one of them, printed

The space has 200 parameters of 8 choices, the study 3 objectives and 12 slices. The history is made up (random changes
of uniform configurations, additive costs with noise) and told through Optuna's public interface alone. Each history
has a process of its own, with one thread. Counted is `study.ask` alone:

- `resume`: the first proposal of a new process. It reads all trials, and fits the models of the last two batches again
  for the health check.
- `batch`: seconds of later batches of 5, `relearn`: those of the batch in which prior scales are chosen anew.
- `per_proposal`: one relearning and the ordinary batches up to the next one, over the number of proposals.
- `most`: the longest single call of `study.ask` after the first.
- `tell`: the longest `study.tell`.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from numpy.typing import NDArray
from optuna.distributions import BaseDistribution, CategoricalDistribution

sys.path.insert(0, str(Path(__file__).parent))
from search_testbed import RESULTS, environment

from autotune.search.surrogate import SurrogateSampler
from autotune.search.surrogate.state import LATE, RELEARN, RELEARN_LATE

Ints = NDArray[np.int64]
LAYERS, CHOICES, SLICES, BATCH = 200, 8, 12, 5
TRIALS = (100, 500, 1000, 2000)
START = CHOICES + 2 * CHOICES  # uniform configurations and designs: the model's batches begin after them


class Costs:
    """Exact sizes, latencies with a price for switches, damage per slice."""

    def __init__(self) -> None:
        self.rng = np.random.default_rng(0)
        share = self.rng.dirichlet(np.ones(LAYERS))[:, None]
        self.size = share * np.linspace(1.0, 0.2, CHOICES)
        self.latency = share * self.rng.uniform(0.4, 1.0, (LAYERS, CHOICES))
        self.harm = self.rng.lognormal(-6, 1, (LAYERS, 1, SLICES)) * np.linspace(0, 1, CHOICES)[None, :, None] ** 3
        self.space: dict[str, BaseDistribution] = {
            f"layer{i}": CategoricalDistribution(list(range(CHOICES))) for i in range(LAYERS)
        }

    def some(self, number: int) -> Ints:
        """A uniform configuration with between none and all of its layers changed."""
        config = np.full(LAYERS, number % CHOICES)
        changed = self.rng.random(LAYERS) < (0.0 if number < CHOICES else self.rng.random())
        return np.where(changed, self.rng.integers(0, CHOICES, LAYERS), config)

    def measure(self, config: Ints) -> tuple[list[float], dict[str, dict[str, float]]]:
        rows = np.arange(LAYERS)
        latency = self.latency[rows, config].sum() + 0.05 * (config[1:] != config[:-1]).mean()
        damage = self.harm[rows, config].sum(0)
        drop = 0.6 * -np.expm1(-damage / 0.6)
        seen = drop + self.rng.normal(0, 0.003, SLICES) * bool(drop.max() > 0)
        named = [f"slice{s}" for s in range(SLICES)]
        attrs = {"damage": dict(zip(named, (damage * self.rng.normal(1, 0.05, SLICES)).tolist(), strict=True)),
                 "drop": dict(zip(named, seen.tolist(), strict=True))}  # fmt: skip
        size = float(self.size[rows, config].sum())
        return [float(latency * self.rng.normal(1, 0.01)), size, float(seen.max())], attrs


def one(trials: int) -> dict[str, Any]:
    """Proposals with about `trials` finished ones: the third batch that is asked for is one that relearns."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    spacing = RELEARN if trials < LATE else RELEARN_LATE
    before = START + (trials - START) // spacing * spacing - 2 * BATCH
    costs = Costs()
    exact = {1: {f"layer{i}": dict(enumerate(row.tolist())) for i, row in enumerate(costs.size)}}
    sampler = SurrogateSampler(seed=0, space=costs.space, exact=exact, worst_objective=2, batch=BATCH,
                               reference=[1.0, 1.0, 0.1])  # fmt: skip
    study = optuna.create_study(directions=["minimize"] * 3, sampler=sampler)
    for number in range(before):
        config = costs.some(number)
        values, attrs = costs.measure(config)
        params = {name: int(c) for name, c in zip(costs.space, config, strict=True)}
        study.add_trial(optuna.create_trial(params=params, distributions=costs.space, values=values, user_attrs=attrs))
    loaded = _memory()
    asked, told = [], []
    for _ in range(4 * BATCH):
        start = time.process_time()
        trial = study.ask(costs.space)
        asked.append(time.process_time() - start)
        values, attrs = costs.measure(np.array([trial.params[name] for name in costs.space]))
        for name, table in attrs.items():
            trial.set_user_attr(name, table)
        start = time.process_time()
        study.tell(trial, values)
        told.append(time.process_time() - start)
    batches = [sum(asked[i : i + BATCH]) for i in range(0, len(asked), BATCH)]
    ordinary = statistics.mean([batches[1], batches[3]])
    per_proposal = (batches[2] + (spacing // BATCH - 1) * ordinary) / spacing
    figures = {"resume": asked[0], "batch": ordinary, "relearn": batches[2], "per_proposal": per_proposal,
               "most": max(asked[1:]), "tell": max(told)}  # fmt: skip
    return {
        "trials": before,
        "proposals_per_relearning": spacing,
        "cpu_seconds": {name: round(value, 4) for name, value in figures.items()},
        "memory_mib": {"loaded": loaded, "peak": _memory()},
    }


def _memory() -> int:
    """The largest resident size so far, of this process."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


def main() -> None:
    parser = argparse.ArgumentParser(description="CPU seconds per proposal")
    parser.add_argument("--trials", type=int, help="one history of about so many trials, printed")
    arguments = parser.parse_args()
    if arguments.trials is not None:
        print(json.dumps(one(arguments.trials)))
        return
    rows = []
    for trials in TRIALS:
        alone = os.environ | dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
        command = [sys.executable, __file__, "--trials", str(trials)]
        row = json.loads(subprocess.run(command, env=alone, check=True, capture_output=True, text=True).stdout)
        print(json.dumps(row), flush=True)
        rows.append(row)
    about = environment("python benchmarks/ask_cost.py")
    about["text"] = (
        f"CPU seconds (one thread) of `study.ask` with {LAYERS} parameters x {CHOICES} choices, {SLICES} slices, 3 "
        f"objectives and batches of {BATCH}; memory is the largest resident size of the process, history included."
    )
    (RESULTS / "ask_cost.json").write_text(json.dumps({"about": about, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
