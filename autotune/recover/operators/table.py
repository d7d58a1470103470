"""All operators that recovery can train through, by name (`com.microsoft.Gelu` for another domain)."""

from __future__ import annotations

from autotune.recover.operators import (
    elementwise,
    indexing,
    movement,
    normalisations,
    products,
    recurrent,
    reductions,
    resizing,
    windows,
)
from autotune.recover.operators.node import Builder

OPERATORS: dict[str, Builder] = {
    **elementwise.OPERATORS,
    **movement.OPERATORS,
    **indexing.OPERATORS,
    **reductions.OPERATORS,
    **normalisations.OPERATORS,
    **products.OPERATORS,
    **windows.OPERATORS,
    **resizing.OPERATORS,
    **recurrent.OPERATORS,
}
