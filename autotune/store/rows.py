"""Single rows inside a transaction: finding them, and writing what belongs together."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import sqlalchemy as sa

from autotune.errors import UsageError
from autotune.store import records, tables
from autotune.trial import Value


def now() -> str:
    """UTC, ISO 8601."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def find_study(connection: sa.Connection, name: str) -> int | None:
    table = tables.study
    return connection.execute(sa.select(table.c.id).where(table.c.name == name)).scalar()


def make_study(connection: sa.Connection, name: str) -> int:
    """The study's id; the study is made with its first record."""
    found = find_study(connection, name)
    if found is not None:
        return found
    table = tables.study
    inserted = connection.execute(table.insert().values(name=name, created_at=now()).returning(table.c.id))
    return int(inserted.scalar_one())


def last_config(connection: sa.Connection, study_id: int) -> str | None:
    table = tables.run
    query = sa.select(table.c.config).where(table.c.study_id == study_id).order_by(table.c.id.desc()).limit(1)
    return connection.execute(query).scalar()


def add_run(connection: sa.Connection, study_id: int, config: str) -> None:
    try:
        package = version("hw-autotune")
    except PackageNotFoundError:  # run from a folder that is not installed
        package = "unknown"
    row = {"study_id": study_id, "config": config, "version": package, "started_at": now()}
    connection.execute(tables.run.insert().values(**row))


def put_meta(connection: sa.Connection, study_id: int, key: str, value: str) -> None:
    table = tables.meta
    connection.execute(table.delete().where(sa.and_(table.c.study_id == study_id, table.c.key == key)))
    connection.execute(table.insert().values(study_id=study_id, key=key, value=value))


def get_trial(connection: sa.Connection, study: str, number: int) -> tuple[int, str]:
    """The trial's id and state. Raises `UsageError` if the study has no such trial."""
    table = tables.trial
    query = (
        sa.select(table.c.id, table.c.state)
        .join(tables.study)
        .where(sa.and_(tables.study.c.name == study, table.c.number == number))
    )
    row = connection.execute(query).one_or_none()
    if row is None:
        last = sa.select(sa.func.max(table.c.number)).join(tables.study).where(tables.study.c.name == study)
        newest = connection.execute(last).scalar()
        there = "it has none yet" if newest is None else f"its trials are numbered up to {newest}"
        raise UsageError(f"study {study!r} has no trial {number}; {there}")
    return int(row.id), str(row.state)


def replace_metrics(connection: sa.Connection, trial_id: int, phase: str, metrics: Mapping[str, Value]) -> None:
    rows = records.metric_rows(trial_id, phase, metrics)
    table = tables.metric
    connection.execute(table.delete().where(sa.and_(table.c.trial_id == trial_id, table.c.phase == phase)))
    if rows:
        connection.execute(table.insert(), rows)


def add_artifact(connection: sa.Connection, digest: str, size: int) -> None:
    table = tables.artifact
    if connection.execute(sa.select(table.c.digest).where(table.c.digest == digest)).scalar() is None:
        connection.execute(table.insert().values(digest=digest, size_bytes=size, created_at=now()))


def find_measurement(connection: sa.Connection, identity: str) -> sa.Row[Any] | None:
    table = tables.measurement
    return connection.execute(sa.select(table).where(table.c.identity == identity)).one_or_none()


def find_evaluation(
    connection: sa.Connection,
    study: str,
    artifact: str,
    dataset_digest: str,
    target: str,
    fingerprint_key: str | None,
) -> sa.Row[Any] | None:
    """The evaluation's row, with its outcomes as `data`; the first one by any key where that is None."""
    table = tables.evaluation
    query = (
        sa.select(table, tables.outcomes.c.data)
        .join(tables.study)
        .join(tables.outcomes)
        .where(
            sa.and_(
                tables.study.c.name == study,
                table.c.artifact == artifact,
                table.c.dataset_digest == dataset_digest,
                table.c.target == target,
                sa.true() if fingerprint_key is None else table.c.fingerprint_key == fingerprint_key,
            )
        )
        .order_by(table.c.id)
        .limit(1)
    )
    return connection.execute(query).one_or_none()
