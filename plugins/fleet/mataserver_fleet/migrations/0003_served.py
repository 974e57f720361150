"""Since when each version has been known to be one that a Triton can load."""

import json

import sqlalchemy as sa
from alembic import op

revision, down_revision = "0003", "0002"


def upgrade() -> None:
    """Add the column. Of before it is known what serves, served last, or was counted."""
    op.add_column("fleet_versions", sa.Column("served_at", sa.Float))
    connection = op.get_bind()
    served = set(connection.execute(sa.text("SELECT model_id, version FROM fleet_counts")).tuples())
    placed = sa.text("SELECT model_id, serving, good FROM fleet_placements")
    for model, serving, good in connection.execute(placed):
        served |= {(model, version) for version in (*json.loads(serving), *json.loads(good))}
    note = sa.text(
        "UPDATE fleet_versions SET served_at = created_at WHERE model_id = :model AND version = :v"
    )
    for model, version in served:
        connection.execute(note, {"model": model, "v": version})
