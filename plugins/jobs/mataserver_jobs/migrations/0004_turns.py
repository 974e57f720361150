"""Owners of jobs take turns: whose job began last is kept, and the queue is read by owner."""

import sqlalchemy as sa
from alembic import op

revision, down_revision = "0004", "0003"


def upgrade() -> None:
    """Make the table of turns, and the index that has all that decides which job is next."""
    op.create_table(
        "jobs_turns",
        sa.Column("owner", sa.String(64), primary_key=True),
        sa.Column("turn", sa.BigInteger, nullable=False),
    )
    op.drop_index("jobs_queue", "jobs")
    columns = ["state", "started_at", "owner", "created_at", "id", "kind"]
    op.create_index("jobs_queue", "jobs", columns)
