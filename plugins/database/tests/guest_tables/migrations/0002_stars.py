"""A note may have stars."""

import sqlalchemy as sa
from alembic import op

revision, down_revision = "0002", "0001"


def upgrade() -> None:
    """Add the column."""
    with op.batch_alter_table("notes") as table:
        table.add_column(sa.Column("stars", sa.Integer, nullable=False, server_default="0"))
