"""What Tritons that were away may still have of models that were removed meanwhile."""

import sqlalchemy as sa
from alembic import op

revision, down_revision = "0004", "0003"


def upgrade() -> None:
    """Make the table: by the models' names, since nothing else is left of them."""
    triton = sa.ForeignKey("fleet_tritons.id", ondelete="CASCADE")
    op.create_table(
        "fleet_leftovers",
        sa.Column("triton_id", sa.Integer, triton, primary_key=True, autoincrement=False),
        sa.Column("name", sa.String(128), primary_key=True),
    )
