"""Blocks of layers: the units of decisions about structure, few and coarse where formats are many and fine."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import groupby


def blocks(names: Sequence[str], most: int) -> dict[str, str]:
    """Layer -> its block, at most `most` of them; `names` are in execution order.

    Blocks are the modules that hold layers (`encoder.layer.3`), neighbours taken together where they are too many.
    Models whose names say nothing of that are cut into runs of equal length, named after their first layer.
    """
    module = {name: _module(name) for name in names}
    runs = [list(run) for _, run in groupby(names, key=module.__getitem__)]
    repeated = len({module[name] for name in names if module[name] != name})
    if repeated < 2 or len(runs) > 4 * most:
        runs = [[name] for name in names]
    each = math.ceil(len(runs) / most)
    found: dict[str, str] = {}
    for start in range(0, len(runs), each):
        members = [name for run in runs[start : start + each] for name in run]
        first, last = module[members[0]], module[members[-1]]
        label = first if first == last else f"{first}..{last}"
        label = members[0] if len(members) == 1 else label
        found.update(dict.fromkeys(members, label))
    return found


def _module(name: str) -> str:
    """The module that a layer belongs to: its name up to the first number, or all of it but the last part."""
    parts = name.split(".")
    number = next((i for i, part in enumerate(parts[:-1]) if part.isdigit()), len(parts) - 2)
    return ".".join(parts[: number + 1]) or name
