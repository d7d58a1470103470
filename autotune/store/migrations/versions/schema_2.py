"""Schema 2: every use of held-out data is written down."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "2"
down_revision = "1"


def upgrade() -> None:
    op.create_table(
        "heldout_use",
        sa.Column("id", sa.Integer, nullable=False),
        sa.Column("study_id", sa.Integer, nullable=False),
        sa.Column("artifact", sa.String(64), nullable=False),
        sa.Column("dataset_digest", sa.String(64), nullable=False),
        sa.Column("purpose", sa.String(40), nullable=False),
        sa.Column("rules", sa.Text, nullable=False),
        sa.Column("created_at", sa.String(40), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_heldout_use"),
        sa.ForeignKeyConstraint(["study_id"], ["study.id"], name="fk_heldout_use_study_id_study"),
    )
    op.create_index("ix_heldout_use_study_id", "heldout_use", ["study_id"])
