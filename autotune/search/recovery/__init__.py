"""Recovery by training inside a study: which trials are trained, on what, and what becomes of their checkpoints."""

from autotune.search.recovery.run import Recovery, check_notes, seconds

__all__ = ["Recovery", "check_notes", "seconds"]
