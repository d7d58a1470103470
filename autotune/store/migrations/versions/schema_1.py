"""Schema 1: the first tables."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "1"
down_revision = None

DIGEST = sa.String(64)
TIME = sa.String(40)


def upgrade() -> None:
    _studies()
    _trials()
    _builds()
    _measurements()
    _evaluations()


def _studies() -> None:
    op.create_table(
        "study",
        sa.Column("id", sa.Integer, nullable=False),
        sa.Column("name", sa.String(200), nullable=False),
        sa.Column("workload_digest", DIGEST),
        sa.Column("created_at", TIME, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_study"),
        sa.UniqueConstraint("name", name="uq_study_name"),
    )
    op.create_table(
        "run",
        sa.Column("id", sa.Integer, nullable=False),
        sa.Column("study_id", sa.Integer, nullable=False),
        sa.Column("config", sa.Text, nullable=False),
        sa.Column("version", sa.String(40), nullable=False),
        sa.Column("started_at", TIME, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_run"),
        sa.ForeignKeyConstraint(["study_id"], ["study.id"], name="fk_run_study_id_study"),
    )
    op.create_index("ix_run_study_id", "run", ["study_id"])
    op.create_table(
        "meta",
        sa.Column("study_id", sa.Integer, nullable=False),
        sa.Column("key", sa.String(200), nullable=False),
        sa.Column("value", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("study_id", "key", name="pk_meta"),
        sa.ForeignKeyConstraint(["study_id"], ["study.id"], name="fk_meta_study_id_study"),
    )


def _trials() -> None:
    op.create_table(
        "trial",
        sa.Column("id", sa.Integer, nullable=False),
        sa.Column("study_id", sa.Integer, nullable=False),
        sa.Column("number", sa.Integer, nullable=False),
        sa.Column("recipe_digest", DIGEST, nullable=False),
        sa.Column("recipe", sa.Text, nullable=False),
        sa.Column("proposer", sa.String(200), nullable=False),
        sa.Column("state", sa.String(20), nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("failure", sa.Text),
        sa.Column("durations", sa.Text, nullable=False),
        sa.Column("started_at", TIME, nullable=False),
        sa.Column("finished_at", TIME, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_trial"),
        sa.ForeignKeyConstraint(["study_id"], ["study.id"], name="fk_trial_study_id_study"),
        sa.UniqueConstraint("study_id", "number", name="uq_trial_number"),
        sa.UniqueConstraint("study_id", "recipe_digest", name="uq_trial_recipe_digest"),
    )
    op.create_table(
        "metric",
        sa.Column("trial_id", sa.Integer, nullable=False),
        sa.Column("phase", sa.String(20), nullable=False),
        sa.Column("key", sa.String(400), nullable=False),
        sa.Column("value", sa.Float, nullable=False),
        sa.Column("low", sa.Float, nullable=False),
        sa.Column("high", sa.Float, nullable=False),
        sa.PrimaryKeyConstraint("trial_id", "phase", "key", name="pk_metric"),
        sa.ForeignKeyConstraint(["trial_id"], ["trial.id"], name="fk_metric_trial_id_trial"),
    )


def _builds() -> None:
    op.create_table(
        "artifact",
        sa.Column("digest", DIGEST, nullable=False),
        sa.Column("size_bytes", sa.BigInteger, nullable=False),
        sa.Column("created_at", TIME, nullable=False),
        sa.PrimaryKeyConstraint("digest", name="pk_artifact"),
    )
    op.create_table(
        "build",
        sa.Column("trial_id", sa.Integer, nullable=False),
        sa.Column("dialect", sa.String(40), nullable=False),
        sa.Column("artifact", DIGEST, nullable=False),
        sa.Column("layers", sa.Text, nullable=False),
        sa.Column("created_at", TIME, nullable=False),
        sa.PrimaryKeyConstraint("trial_id", "dialect", name="pk_build"),
        sa.ForeignKeyConstraint(["trial_id"], ["trial.id"], name="fk_build_trial_id_trial"),
        sa.ForeignKeyConstraint(["artifact"], ["artifact.digest"], name="fk_build_artifact_artifact"),
    )
    op.create_index("ix_build_artifact", "build", ["artifact"])


def _measurements() -> None:
    op.create_table(
        "measurement",
        sa.Column("id", sa.Integer, nullable=False),
        sa.Column("identity", DIGEST),
        sa.Column("model", DIGEST, nullable=False),
        sa.Column("baseline", DIGEST),
        sa.Column("target", sa.String(200), nullable=False),
        sa.Column("fingerprint_key", sa.String(64), nullable=False),
        sa.Column("scenario_digest", DIGEST, nullable=False),
        sa.Column("record", sa.Text, nullable=False),
        sa.Column("created_at", TIME, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_measurement"),
        sa.UniqueConstraint("identity", name="uq_measurement_identity"),
    )
    op.create_index("ix_measurement_model", "measurement", ["model"])


def _evaluations() -> None:
    op.create_table(
        "evaluation",
        sa.Column("id", sa.Integer, nullable=False),
        sa.Column("study_id", sa.Integer, nullable=False),
        sa.Column("artifact", DIGEST, nullable=False),
        sa.Column("dataset_digest", DIGEST, nullable=False),
        sa.Column("target", sa.String(200), nullable=False),
        sa.Column("fingerprint_key", sa.String(64), nullable=False),
        sa.Column("record", sa.Text, nullable=False),
        sa.Column("created_at", TIME, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_evaluation"),
        sa.ForeignKeyConstraint(["study_id"], ["study.id"], name="fk_evaluation_study_id_study"),
        sa.UniqueConstraint(
            "study_id",
            "artifact",
            "dataset_digest",
            "target",
            "fingerprint_key",
            name="uq_evaluation_identity",
        ),
    )
    op.create_index("ix_evaluation_artifact", "evaluation", ["artifact"])
    op.create_table(
        "outcomes",
        sa.Column("evaluation_id", sa.Integer, nullable=False),
        sa.Column("data", sa.LargeBinary, nullable=False),
        sa.PrimaryKeyConstraint("evaluation_id", name="pk_outcomes"),
        sa.ForeignKeyConstraint(["evaluation_id"], ["evaluation.id"], name="fk_outcomes_evaluation_id_evaluation"),
    )
