"""Compare models on hardware: who wins, by how much, how sure that is, and what it costs.

NOTE: the package is not called `compare`, because importing it would then put a module where
`hwprofiles.compare`, the function, has to be.
"""

from hwprofiles.comparison.records import METRICS, Comparison, Pairing, Place, Ranking, Row, Side, Subject
from hwprofiles.comparison.run import ComparisonProgress, compare
from hwprofiles.comparison.words import summary

__all__ = [
    "METRICS",
    "Comparison",
    "ComparisonProgress",
    "Pairing",
    "Place",
    "Ranking",
    "Row",
    "Side",
    "Subject",
    "compare",
    "summary",
]
