"""How often a nominal 95 % interval of the ratio contains the true one, on simulated machines.

    python benchmarks/interval_coverage.py [--runs 400] [--out FILE]

Pure simulation of block times in the order in which the agent would run them; openings, looks, stopping and intervals
are those of the product (`hwprofiles.openings.Tally`). Wanted: at least 90 % on every machine. For comparison the
interval as it would be without openings: one opening, bootstrap over its pairs. About 3 minutes. Ends with 1 if a
machine is covered less.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from subjects import load_average, write

from hwprofiles.agent.readings import Blocks, log_ratios
from hwprofiles.openings import Opening, Tally, median_of, ratio_of
from hwprofiles.scenario import FINAL, SEARCH, Scenario
from hwprofiles.statistics import median_interval

TRUE_RATIO = 0.9
WANTED = 0.9  # coverage
BLOCK = 0.1  # seconds, and what changing the openings costs: about as long as four blocks
GAP = 0.4
LATENCY = 0.005


@dataclass
class Machine:
    """A machine with habits; fractions of the time of a block unless said otherwise.

    noise: of each block on its own. layout: standard deviation between openings, of each side, or half the distance
    of two kinds of layout if `kinds`. drift: over ten seconds. neighbour: stationary noise of the whole machine with a
    correlation of `rho` from block to block. throttle: slower by so much for some seconds, again and again. bursts:
    share of blocks that are off by about 15 %.
    """

    noise: float = 0.005
    layout: float = 0.005
    kinds: bool = False
    drift: float = 0.0
    neighbour: float = 0.0
    rho: float = 0.0
    throttle: float = 0.0
    bursts: float = 0.0


MACHINES = {
    "quiet, openings differ by 0.5 %": Machine(),
    "quiet, openings differ by 2 %": Machine(layout=0.02),
    "two kinds of layout, 2 % apart": Machine(layout=0.01, kinds=True),
    "pairs differ by 2 %, openings by nothing": Machine(noise=0.02, layout=0.0),
    "drift of 10 % in 10 s": Machine(drift=0.1),
    "throttled by 20 % now and then": Machine(throttle=0.2),
    "noise of 3 % with correlation 0.5": Machine(neighbour=0.03, rho=0.5),
    "noise of 3 % with correlation 0.9": Machine(neighbour=0.03, rho=0.9),
    "noise of 3 % with correlation 0.98": Machine(neighbour=0.03, rho=0.98),
    "bursts in 10 % of the blocks": Machine(bursts=0.1),
    "all of it": Machine(0.01, 0.01, drift=0.1, neighbour=0.02, rho=0.9, throttle=0.2, bursts=0.05),
}


class Run:
    """One measurement on a simulated machine: its clock and its state go on from block to block."""

    def __init__(self, machine: Machine, seed: int) -> None:
        self.machine = machine
        self.random = np.random.default_rng(seed)
        self.now = self.random.uniform(0, 10)
        self.state = self.random.normal(0, machine.neighbour)
        self.slow, self.change = False, self.now + self.random.exponential(4)

    def opening(self, number: int, pairs: int) -> Opening:
        """Both sides are opened, then timed in random order."""
        machine, draw = self.machine, self.random
        self.now += GAP
        layout = {
            side: draw.choice([-1, 1]) * machine.layout if machine.kinds else draw.normal(0, machine.layout)
            for side in "ab"
        }
        sides = {side: Blocks() for side in "ab"}
        for _ in range(pairs):
            for side in draw.permutation(["a", "b"]):
                truth = LATENCY * (TRUE_RATIO if side == "a" else 1.0)
                sides[side].medians.append(truth * math.exp(layout[side] + self._disturbance()))
                sides[side].cpu.append(truth)
        return Opening(number, {"": sides})

    def _disturbance(self) -> float:
        machine, draw = self.machine, self.random
        self.now += BLOCK
        rho = machine.rho
        self.state = rho * self.state + math.sqrt(1 - rho * rho) * draw.normal(0, machine.neighbour)
        if self.now >= self.change:
            self.slow, self.change = not self.slow, self.now + draw.exponential(4)
        found = draw.normal(0, machine.noise) + self.state + machine.drift * self.now / 10
        found += machine.throttle * self.slow
        return float(found + (draw.random() < machine.bursts) * draw.exponential(0.15))


def measure(machine: Machine, scenario: Scenario, seed: int) -> tuple[Tally, Run]:
    """As `hwprofiles.measure` does it."""
    tally, run = Tally(scenario, ("",)), Run(machine, seed)
    while True:
        labels, pairs = tally.wanted()
        if not labels:
            return tally, run
        tally.add(run.opening(len(tally.openings), pairs))


def pooled(machine: Machine, seed: int, pairs: int = 21) -> tuple[float, float, float]:
    """The same number of pairs in one opening, and a bootstrap over them."""
    sides = Run(machine, seed).opening(0, pairs).shapes[""]
    return median_interval(log_ratios(sides["a"].medians, sides["b"].medians), seed=seed)


def study(machine: Machine, scenario: Scenario, runs: int) -> dict[str, float]:
    """Coverage, error and cost over many measurements."""
    truth = math.log(TRUE_RATIO)
    covered, errors, used, absolute = 0, [], [], 0
    for seed in range(runs):
        tally, _ = measure(machine, scenario, seed)
        kept, _ = tally.settle()
        value, low, high = ratio_of(kept, "")
        covered += low <= truth <= high
        errors.append(value - truth)
        used.append(sum(len(opening.shapes[""]["a"].medians) for opening in kept))
        _, low, high = median_of(kept, "", "b")
        absolute += low <= math.log(LATENCY) <= high
    return {
        "coverage": covered / runs,
        "rms_error": float(np.sqrt(np.mean(np.square(errors)))),
        "off_by_more_than_1_percent": float(np.mean(np.abs(errors) > 0.01)),
        "mean_pairs": float(np.mean(used)),
        "coverage_of_the_median": absolute / runs,
    }


def coverage(interval: Callable[[int], tuple[float, float, float]], runs: int) -> float:
    """Of an interval of the log ratio that depends on a seed."""
    truth = math.log(TRUE_RATIO)
    found = [interval(seed) for seed in range(runs)]
    return sum(low <= truth <= high for _, low, high in found) / runs


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=400)
    parser.add_argument("--out", type=Path, default=None, help="where the result goes (JSON)")
    arguments = parser.parse_args()
    began = time.perf_counter()
    rows = {}
    print(f"{'machine':42} {'search':>22} {'final':>22} {'one opening':>12} {'median':>7}")
    print(f"{'':42} {'covers  error  pairs':>22} {'covers  error  pairs':>22} {'covers':>12} {'covers':>7}")
    for name, machine in MACHINES.items():
        search, final = (study(machine, scenario, arguments.runs) for scenario in (SEARCH, FINAL))
        single = coverage(lambda seed, machine=machine: pooled(machine, seed), min(100, arguments.runs))
        # Of the absolute time where it has one true value: under drift, throttling and bursts it has none.
        lasting = not (machine.drift or machine.throttle or machine.bursts)
        rows[name] = {"machine": vars(machine), "search": search, "final": final, "one_opening_coverage": single}
        told = "  ".join(
            f"{found['coverage'] * 100:5.1f} % {found['rms_error'] * 100:4.2f} % {found['mean_pairs']:5.1f}"
            for found in (search, final)
        )
        median = f"{search['coverage_of_the_median'] * 100:5.1f} %" if lasting else "-"
        print(f"{name:42} {told} {single * 100:10.1f} % {median:>7}", flush=True)
    lowest = min(min(row[phase]["coverage"] for phase in ("search", "final")) for row in rows.values())
    write(
        "interval_coverage",
        arguments.out,
        began,
        None,
        search_protocol=SEARCH,
        final_protocol=FINAL,
        load_average_before=load_average(),
        runs=arguments.runs,
        true_ratio=TRUE_RATIO,
        lowest_coverage=lowest,
        machines=rows,
    )
    print(f"lowest coverage of the ratio: {lowest * 100:.1f} % (nominal 95 %, wanted 90 %); {arguments.runs} runs each")
    return 0 if lowest >= WANTED else 1


if __name__ == "__main__":
    sys.exit(main())
