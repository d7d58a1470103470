"""Our sampler: a structured model of every objective in place of a black box."""

from autotune.search.surrogate.sampler import SurrogateSampler

__all__ = ["SurrogateSampler"]
