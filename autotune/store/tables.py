"""The tables of a store, as SQLAlchemy knows them. What creates and changes them are the migrations.

    study ─┬─ run            one row for every (re)start with another configuration
           ├─ meta           small facts, JSON values
           ├─ trial ─┬─ build ── artifact     the files lie in the artifact folder, under their digests
           │         └─ metric                one row per number: made to be queried with SQL
           ├─ evaluation ── outcomes          per-sample outcomes, zlib-compressed JSON
           └─ heldout_use    one row for every look at held-out data, written before the look
    measurement                               belongs to the bytes that were measured, not to a study

Records (`measurement.record`, `evaluation.record`, `build.layers`, ...) are JSON of the pydantic records; the
columns beside them are what they are looked up by.
"""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Column,
    Float,
    ForeignKey,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
)

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(column_0_label)s",
        "uq": "uq_%(table_name)s_%(column_0_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s_%(referred_table_name)s",
        "pk": "pk_%(table_name)s",
    }
)

DIGEST = String(64)
TIME = String(40)  # UTC, ISO 8601

study = Table(
    "study",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("name", String(200), nullable=False, unique=True),
    Column("workload_digest", DIGEST),  # NULL until the first run began
    Column("created_at", TIME, nullable=False),
)

run = Table(
    "run",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("study_id", ForeignKey("study.id"), nullable=False, index=True),
    Column("config", Text, nullable=False),
    Column("version", String(40), nullable=False),  # of autotune
    Column("started_at", TIME, nullable=False),
)

meta = Table(
    "meta",
    metadata,
    Column("study_id", ForeignKey("study.id"), primary_key=True),
    Column("key", String(200), primary_key=True),
    Column("value", Text, nullable=False),
)

trial = Table(
    "trial",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("study_id", ForeignKey("study.id"), nullable=False),
    Column("number", Integer, nullable=False),
    Column("recipe_digest", DIGEST, nullable=False),
    Column("recipe", Text, nullable=False),
    Column("proposer", String(200), nullable=False),
    Column("state", String(20), nullable=False),
    Column("reason", Text, nullable=False, default=""),
    Column("failure", Text),
    Column("durations", Text, nullable=False, default="{}"),
    Column("started_at", TIME, nullable=False),
    Column("finished_at", TIME, nullable=False, default=""),
    UniqueConstraint("study_id", "number", name="uq_trial_number"),
    UniqueConstraint("study_id", "recipe_digest", name="uq_trial_recipe_digest"),
)

artifact = Table(
    "artifact",
    metadata,
    Column("digest", DIGEST, primary_key=True),
    Column("size_bytes", BigInteger, nullable=False),
    Column("created_at", TIME, nullable=False),
)

build = Table(
    "build",
    metadata,
    Column("trial_id", ForeignKey("trial.id"), primary_key=True),
    Column("dialect", String(40), primary_key=True),
    Column("artifact", ForeignKey("artifact.digest"), nullable=False, index=True),
    Column("layers", Text, nullable=False),
    Column("created_at", TIME, nullable=False),
)

measurement = Table(
    "measurement",
    metadata,
    Column("id", Integer, primary_key=True),
    # Digest over what makes two measurements the same one. NULL for failures: all are kept.
    Column("identity", DIGEST, unique=True),
    Column("model", DIGEST, nullable=False, index=True),
    Column("baseline", DIGEST),
    Column("target", String(200), nullable=False),
    Column("fingerprint_key", String(64), nullable=False),
    Column("scenario_digest", DIGEST, nullable=False),
    Column("record", Text, nullable=False),
    Column("created_at", TIME, nullable=False),
)

evaluation = Table(
    "evaluation",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("study_id", ForeignKey("study.id"), nullable=False),
    Column("artifact", DIGEST, nullable=False, index=True),
    Column("dataset_digest", DIGEST, nullable=False),
    Column("target", String(200), nullable=False),
    Column("fingerprint_key", String(64), nullable=False),  # "" where the judge does not tell devices apart
    Column("record", Text, nullable=False),  # without the outcomes
    Column("created_at", TIME, nullable=False),
    UniqueConstraint(
        "study_id", "artifact", "dataset_digest", "target", "fingerprint_key", name="uq_evaluation_identity"
    ),
)

outcomes = Table(
    "outcomes",
    metadata,
    Column("evaluation_id", ForeignKey("evaluation.id"), primary_key=True),
    Column("data", LargeBinary, nullable=False),
)

heldout_use = Table(
    "heldout_use",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("study_id", ForeignKey("study.id"), nullable=False, index=True),
    Column("artifact", DIGEST, nullable=False),
    Column("dataset_digest", DIGEST, nullable=False),
    Column("purpose", String(40), nullable=False),  # "judge" or "noise"
    Column("rules", Text, nullable=False),  # JSON: what the verdict was to be judged by
    Column("created_at", TIME, nullable=False),
)

metric = Table(
    "metric",
    metadata,
    Column("trial_id", ForeignKey("trial.id"), primary_key=True),
    Column("phase", String(20), primary_key=True),  # "search" or "final"
    Column("key", String(400), primary_key=True),
    Column("value", Float, nullable=False),
    Column("low", Float, nullable=False),
    Column("high", Float, nullable=False),
)
