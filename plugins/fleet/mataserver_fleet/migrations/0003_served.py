"""Since when each version has been known to be one that a Triton can load."""

import json

import sqlalchemy as sa
from alembic import op

revision, down_revision = "0003", "0002"


def upgrade() -> None:
    """Add the column. Of before it is known what served last, and what was counted."""
    op.add_column("fleet_versions", sa.Column("served_at", sa.Float))
    connection = op.get_bind()
    counted = connection.execute(sa.text("SELECT model_id, version FROM fleet_counts"))
    served = {(model, version) for model, version in counted}
    for model, good in connection.execute(sa.text("SELECT model_id, good FROM fleet_placements")):
        served |= {(model, version) for version in json.loads(good)}
    note = sa.text(
        "UPDATE fleet_versions SET served_at = created_at WHERE model_id = :model AND version = :v"
    )
    for model, version in served:
        connection.execute(note, {"model": model, "v": version})
