"""Webhooks, and what they are still to be told."""

import sqlalchemy as sa
from alembic import op

revision, down_revision = "0002", "0001"


def upgrade() -> None:
    """Make the tables."""
    op.create_table(
        "jobs_webhooks",
        sa.Column("id", sa.String(36), primary_key=True),
        sa.Column("owner", sa.String(64), nullable=False),
        sa.Column("url", sa.Text, nullable=False),
        sa.Column("secret", sa.String(64), nullable=False),
        sa.Column("created_at", sa.Float, nullable=False),
        sa.Column("last_at", sa.Float),
        sa.Column("last_error", sa.Text),
    )
    op.create_index("jobs_webhooks_owner", "jobs_webhooks", ["owner"])
    op.create_table(
        "jobs_deliveries",
        sa.Column("id", sa.String(36), primary_key=True),
        sa.Column(
            "webhook",
            sa.String(36),
            sa.ForeignKey("jobs_webhooks.id", ondelete="CASCADE"),
            nullable=False,
        ),
        sa.Column("owner", sa.String(64), nullable=False),
        sa.Column("body", sa.Text, nullable=False),
        sa.Column("attempts", sa.Integer, nullable=False),
        sa.Column("created_at", sa.Float, nullable=False),
        sa.Column("next_at", sa.Float, nullable=False),
    )
    op.create_index("jobs_deliveries_webhook", "jobs_deliveries", ["webhook"])
    op.create_index("jobs_deliveries_next", "jobs_deliveries", ["next_at"])
