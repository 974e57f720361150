"""What consumers have asked, by day."""

import sqlalchemy as sa
from alembic import op

revision, down_revision = "0002", "0001"


def upgrade() -> None:
    """Make the table: by names, since what is counted outlives what it was counted of."""
    op.create_table(
        "fleet_usage",
        sa.Column("day", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("consumer", sa.String(64), primary_key=True),
        sa.Column("application", sa.String(64), primary_key=True),
        sa.Column("model", sa.String(255), primary_key=True),
        sa.Column("requests", sa.BigInteger, nullable=False),
        sa.Column("failed", sa.BigInteger, nullable=False),
        sa.Column("bytes_in", sa.BigInteger, nullable=False),
        sa.Column("bytes_out", sa.BigInteger, nullable=False),
    )
