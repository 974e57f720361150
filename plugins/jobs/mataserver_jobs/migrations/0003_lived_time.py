"""What is kept goes by the time that servers have run, not by the time of day."""

import time

import sqlalchemy as sa
from alembic import op

revision, down_revision = "0003", "0002"


def upgrade() -> None:
    """Make the table of that time, which begins now, and what is measured by it."""
    lived = op.create_table("jobs_lived", sa.Column("seconds", sa.Float, nullable=False))
    op.bulk_insert(lived, [{"seconds": time.time()}])
    op.add_column("jobs", sa.Column("kept_until", sa.Float))
    # A double on every database: PostgreSQL's Float is one by itself.
    waited = sa.Column("waited", sa.Float, nullable=False, server_default="0")
    op.add_column("jobs_deliveries", waited)
