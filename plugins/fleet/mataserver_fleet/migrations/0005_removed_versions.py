"""The numbers of versions that were removed, which no other version is given."""

import sqlalchemy as sa
from alembic import op

revision, down_revision = "0005", "0004"


def upgrade() -> None:
    """Make the table."""
    model = sa.ForeignKey("fleet_models.id", ondelete="CASCADE")
    op.create_table(
        "fleet_removed_versions",
        sa.Column("model_id", sa.Integer, model, primary_key=True, autoincrement=False),
        sa.Column("version", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("digest", sa.String(64), nullable=False),
        if_not_exists=True,
    )
