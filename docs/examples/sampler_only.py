"""Choose a compressor for each part of an archive: SurrogateSampler in a study that has nothing to do with networks.

    python docs/examples/sampler_only.py

An archive has sixteen parts. Every part is stored by one of seven compressors; the choices decide the size of the
archive and the seconds to write it. Sizes are known beforehand, as each part is compressed by itself. Seconds are
measured on the whole archive, as it is written. Wanted: the smallest archive that is written within a budget.
"""

# ruff: noqa: T201 - it is a program that prints

from __future__ import annotations

import bz2
import lzma
import random
import time
import zlib
from collections.abc import Callable

import optuna
from optuna.distributions import CategoricalDistribution

from autotune.search.surrogate import SurrogateSampler

COMPRESSORS: dict[str, Callable[[bytes], bytes]] = {
    "store": lambda data: data,
    "zlib-1": lambda data: zlib.compress(data, 1),
    "zlib-6": lambda data: zlib.compress(data, 6),
    "zlib-9": lambda data: zlib.compress(data, 9),
    "bz2": bz2.compress,
    "lzma-0": lambda data: lzma.compress(data, preset=0),
    "lzma-6": lambda data: lzma.compress(data, preset=6),
}
SIZE, SECONDS = 0, 1  # the objectives


def make_parts() -> dict[str, bytes]:
    """Log lines, tables of numbers, repeated blocks and noise, of different lengths."""
    draw = random.Random(0)
    words = ["".join(draw.choices("etaoinshrdlu", k=draw.randint(2, 9))) for _ in range(400)]
    parts = {}
    for i in range(4):
        lines = 300 * 2**i
        parts[f"log{i}"] = "\n".join(f"{n} {' '.join(draw.choices(words, k=6))}" for n in range(lines)).encode()
        parts[f"table{i}"] = "\n".join(f"{draw.gauss(0, 1):.3f},{n}" for n in range(2 * lines)).encode()
        parts[f"blocks{i}"] = draw.randbytes(2000) * (lines // 50)
        parts[f"noise{i}"] = draw.randbytes(lines * 20)
    return parts


def main() -> None:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    parts = make_parts()
    sizes = {part: {name: float(len(f(data))) for name, f in COMPRESSORS.items()} for part, data in parts.items()}

    def seconds(params: dict[str, str], most: float) -> float:
        """Seconds of CPU to write the archive; stops soon after `most`."""
        start = time.process_time()
        for part, data in parts.items():
            COMPRESSORS[params[part]](data)
            if time.process_time() - start > most:
                break
        return time.process_time() - start

    quick = seconds(dict.fromkeys(parts, "zlib-1"), 60)
    slow = seconds(dict.fromkeys(parts, "lzma-6"), 60)
    budget = quick + 0.25 * (slow - quick)

    space = {part: CategoricalDistribution(list(COMPRESSORS)) for part in parts}
    sampler = SurrogateSampler(
        seed=0,
        space=space,
        exact={SIZE: sizes},
        edges=[],  # what one part costs does not depend on its neighbours
        aim={SECONDS: budget},
        aim_at=SIZE,
    )
    study = optuna.create_study(directions=["minimize", "minimize"], sampler=sampler)
    for _ in range(60):
        trial = study.ask(space)
        size = sum(sizes[part][name] for part, name in trial.params.items())
        spent = seconds(trial.params, 2 * budget)
        if spent > 2 * budget:  # hopeless: stop early, and tell what is known
            trial.set_user_attr("observed", {str(SIZE): size})
            study.tell(trial, state=optuna.trial.TrialState.PRUNED)
        else:
            study.tell(trial, [size, spent])

    print(f"budget: {1000 * budget:.1f} ms; zlib-1 everywhere takes {1000 * quick:.1f}, lzma-6 {1000 * slow:.1f} ms")
    measured = [t for t in study.get_trials(states=[optuna.trial.TrialState.COMPLETE]) if t.values[SECONDS] <= budget]
    best = min(measured, key=lambda t: t.values[SIZE])
    everywhere = {name: sum(of[name] for of in sizes.values()) for name in COMPRESSORS}
    print(f"zlib-9 everywhere: {everywhere['zlib-9'] / 1000:.1f} kB")
    print(f"best measured in {len(study.trials)} trials: {best.values[SIZE] / 1000:.1f} kB, "
          f"{1000 * best.values[SECONDS]:.1f} ms")  # fmt: skip

    solution = sampler.solve({SECONDS: budget}, minimise=SIZE)
    if solution.params is not None:
        again = 1000 * seconds(dict(solution.params), 60)
        print(f"predicted best: {solution.values[SIZE] / 1000:.1f} kB, {1000 * solution.values[SECONDS]:.1f} ms; "
              f"measured now: {again:.1f} ms")  # fmt: skip
        costs = sampler.contributions(solution.params)[SIZE]
        for part in sorted(costs, key=lambda name: -costs[name])[:3]:
            print(f"  {part}: {solution.params[part]}, {costs[part] / 1000:.1f} kB")
    health = sampler.health()
    if health is not None:
        print(f"health: rank correlation of the seconds {health.rank_correlation[SECONDS]:.2f}, "
              f"error {100 * health.relative_error[SECONDS]:.0f} %")  # fmt: skip
    tight = sampler.solve({SIZE: 0.9 * min(everywhere.values()), SECONDS: 0.5 * quick}, minimise=SIZE)
    for limit, excess in tight.excess.items():
        print(f"too tight a budget: limit {limit} alone would have to give {excess:.4g}")


if __name__ == "__main__":
    main()
