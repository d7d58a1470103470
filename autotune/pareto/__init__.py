"""The Pareto front, and choosing from it.

Everything works on the point values of complete trials; a trial without one of the keys, or with a value that
is not finite, is not a candidate. Two values of a key that differ by no more than its resolution count as
equal (`epsilon`), so that measuring noise cannot flood the front with copies of one trade-off.
"""

from autotune.pareto.choice import best
from autotune.pareto.dominance import front, ties
from autotune.pareto.families import of_target
from autotune.pareto.guard import Guard, guards, held_back, is_uniform
from autotune.pareto.limits import Explanation, explain_infeasible, within
from autotune.pareto.points import COST_EPSILON, JUDGED_EPSILON, RELATIVE_EPSILON, epsilon
from autotune.pareto.targets import Difference, Served, serve, timed_targets
from autotune.pareto.volume import hypervolume

__all__ = [
    "COST_EPSILON",
    "JUDGED_EPSILON",
    "RELATIVE_EPSILON",
    "Difference",
    "Explanation",
    "Guard",
    "Served",
    "best",
    "epsilon",
    "explain_infeasible",
    "front",
    "guards",
    "held_back",
    "hypervolume",
    "is_uniform",
    "of_target",
    "serve",
    "ties",
    "timed_targets",
    "within",
]
