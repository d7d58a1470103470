"""Uses of held-out data: an append-only list, so that a store can prove how often it was looked at."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from autotune.store import records, rows, tables


@dataclass(frozen=True)
class HeldoutUse:
    """One look at held-out data: which artifact, when (UTC, ISO 8601), by which rules, and what for.

    `purpose` is "judge", or "noise" for the original run in another way.
    """

    artifact: str
    dataset_digest: str
    purpose: str
    rules: Mapping[str, Any]
    at: str


def add_use(
    connection: sa.Connection, study: str, artifact: str, dataset_digest: str, rules: Mapping[str, Any], purpose: str
) -> None:
    connection.execute(
        tables.heldout_use.insert().values(
            study_id=rows.make_study(connection, study),
            artifact=artifact,
            dataset_digest=dataset_digest,
            purpose=purpose,
            rules=json.dumps(rules, sort_keys=True),
            created_at=rows.now(),
        )
    )


def read_uses(connection: sa.Connection, study: str, place: str) -> list[HeldoutUse]:
    """In order; none for a store from before they were written down."""
    table = tables.heldout_use
    study_id = rows.find_study(connection, study)
    if study_id is None or not sa.inspect(connection).has_table(table.name):
        return []
    query = sa.select(table).where(table.c.study_id == study_id).order_by(table.c.id)
    return [
        HeldoutUse(
            artifact=row.artifact,
            dataset_digest=row.dataset_digest,
            purpose=row.purpose,
            rules=records.decode_json(row.rules, f"use {row.id} of held-out data in store {place}"),
            at=row.created_at,
        )
        for row in connection.execute(query)
    ]
