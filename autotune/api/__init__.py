"""For Python: `optimize` and the `Result` it returns. The command line is built from the same parts."""

from autotune.api.choice import Choice, choose
from autotune.api.entry import optimize
from autotune.api.result import Result

__all__ = ["Choice", "Result", "choose", "optimize"]
