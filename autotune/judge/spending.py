"""What choosing among several models costs: each gets a part of the error that all of them together may make.

Finalists are judged on the same held-out data, and one of them is shipped because it did well there. A verdict that is
wrong for one model in forty is wrong for the best of many far more often. So the error is divided (Bonferroni): the
statements about all models hold together, and therefore those about whichever one is chosen. How many models there will
be is not known beforehand, so the parts are fixed by place (alpha spending, Lan and DeMets, Biometrika 70, 1983,
659-663), and all of them sum to one.
"""

from __future__ import annotations


def share(place: int, planned: int) -> float:
    """The part of the error that the model at `place` (0 is the first one looked at) may spend.

    Each of the first `planned` models gets 1 / (planned + 1); one part more is left for all that come after:
    1/2, 1/6, 1/12, ... of it, which sum to it.
    """
    later = place - planned + 1
    return 1 / (planned + 1) if later <= 0 else 1 / ((planned + 1) * later * (later + 1))
