"""Small generated models: every shape of graph that a technique has to cope with, at opsets 11 to 20.

`ZOO` maps a name to a function of the opset that builds the model with weights from a fixed seed; `build` checks that
the operators exist there, `feeds` makes inputs that fit. They are what `autotune.compress.conformance` runs on.
"""

from __future__ import annotations

from autotune.compress.zoo.catalogue import FIRST_OPSETS, OPSETS, ZOO, build
from autotune.compress.zoo.graph import Feeds, feeds

__all__ = ["FIRST_OPSETS", "OPSETS", "ZOO", "Feeds", "build", "feeds"]
