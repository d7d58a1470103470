"""Structured pruning: channels, neurons, attention heads and whole blocks go, and the graph gets smaller."""

from autotune.techniques.prune.technique import Prune
from autotune.techniques.prune.units import Unit

__all__ = ["Prune", "Unit"]
