"""Artifacts that were timed beside another one than the original: what the guard of accelerators rests on.

Kept apart from the measurements of a trial, which are all paired with the original.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from pydantic import ValidationError

from autotune.errors import DataError
from hwprofiles.measurement import Measurement

if TYPE_CHECKING:
    from autotune.store import Store


def stored_beside(store: Store, target: str, digest: str) -> Measurement | None:
    """What was kept of an artifact on a target, its `baseline` the other one; None where it was not timed beside any.
    Raises `DataError`."""
    kept = store.meta(_key(target, digest))
    if kept is None:
        return None
    try:
        return Measurement.model_validate_json(json.dumps(kept))
    except ValidationError as error:
        raise DataError(
            f"what artifact {digest} was timed beside on {target} cannot be read; upgrade, or run the study again"
        ) from error


def keep_beside(store: Store, measurement: Measurement) -> None:
    """The last one of an artifact on a target counts."""
    store.set_meta(_key(measurement.target, measurement.model), measurement.model_dump(mode="json"))


def _key(target: str, digest: str) -> str:
    return f"beside/{target}/{digest}"
