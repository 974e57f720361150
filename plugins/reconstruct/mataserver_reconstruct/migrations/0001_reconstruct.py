"""Uploads that were measured, and retraining."""

import sqlalchemy as sa
from alembic import op

revision, down_revision = "0001", None


def upgrade() -> None:
    """Create the tables."""
    op.create_table(
        "reconstruct_entries",
        sa.Column("id", sa.String(36), primary_key=True),
        sa.Column("kind", sa.String(16), nullable=False),
        sa.Column("owner", sa.String(64), nullable=False),
        sa.Column("at", sa.Float, nullable=False),
        sa.Column("dataset_name", sa.String(200), nullable=False),
        sa.Column("scene_name", sa.String(200), nullable=False),
        sa.Column("n_images", sa.Integer, nullable=False),
        sa.Column("registration_rate", sa.Float),
        sa.Column("measures", sa.Text, nullable=False),
        sa.Column("report", sa.Text, nullable=False),
    )
    op.create_index("reconstruct_entries_owner", "reconstruct_entries", ["owner", "at"])
    op.create_table(
        "reconstruct_retrainings",
        sa.Column("dag", sa.String(250), primary_key=True),
        sa.Column("run", sa.String(250), nullable=False),
        sa.Column("at", sa.Float, nullable=False),
    )
