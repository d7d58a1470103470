"""Warm start: what earlier studies and recipes know about this one, before it has measured anything."""

from autotune.search.warm.knowledge import PROPOSER, Expected, Warm, check, knowledge

__all__ = ["PROPOSER", "Expected", "Warm", "check", "knowledge"]
