"""A Recipe: one point of the search space, a plain, hashable, printable table technique -> layer -> choice."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Any

from autotune.errors import DataError

NONE = "none"  # the choice that leaves a layer as it is; never stored in a recipe


class Recipe:
    """`{technique: {layer: choice}}`, immutable. The empty recipe is the original model: trial 0, the
    baseline.

    Layers whose choice is `none` are left out, so two recipes that mean the same are equal and have one
    digest.
    """

    __slots__ = ("_decisions", "_digest")

    def __init__(self, decisions: Mapping[str, Mapping[str, str]] | None = None) -> None:
        clean = {
            technique: {layer: choice for layer, choice in sorted(layers.items()) if choice != NONE}
            for technique, layers in sorted((decisions or {}).items())
        }
        self._decisions = {technique: layers for technique, layers in clean.items() if layers}
        self._digest = hashlib.sha256(self.to_json().encode()).hexdigest()

    def __getitem__(self, technique: str) -> Mapping[str, str]:
        return MappingProxyType(self._decisions.get(technique, {}))

    def __iter__(self) -> Iterator[str]:
        return iter(self._decisions)

    def __bool__(self) -> bool:
        return bool(self._decisions)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Recipe) and self._decisions == other._decisions

    def __hash__(self) -> int:
        return hash(self._digest)

    def __repr__(self) -> str:
        return f"Recipe({self.to_json()})"

    @property
    def digest(self) -> str:
        """sha256 of the canonical JSON."""
        return self._digest

    def to_dict(self) -> dict[str, dict[str, str]]:
        return {technique: dict(layers) for technique, layers in self._decisions.items()}

    def to_json(self) -> str:
        """Canonical JSON: sorted keys, no spaces."""
        return json.dumps(self._decisions, sort_keys=True, separators=(",", ":"), ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str) -> Recipe:
        """Raises `DataError` when `text` is not a table of tables of strings."""
        try:
            data: Any = json.loads(text)
        except ValueError as error:
            raise DataError(f"recipe is not JSON: {error}") from error
        if not isinstance(data, dict) or not all(
            isinstance(layers, dict) and all(isinstance(c, str) for c in layers.values()) for layers in data.values()
        ):
            raise DataError("recipe must be a JSON object {technique: {layer: choice}}")
        return cls(data)
