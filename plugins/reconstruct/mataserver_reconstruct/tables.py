"""The tables: the measures of each upload, and the last retraining of each DAG."""

from __future__ import annotations

import sqlalchemy as sa

from mataserver_database import Schema

SCHEMA = Schema("reconstruct", "mataserver_reconstruct")
_METADATA = sa.MetaData()

ENTRIES = sa.Table(
    "reconstruct_entries",
    _METADATA,
    sa.Column("id", sa.String(36), primary_key=True),
    sa.Column("kind", sa.String(16)),
    sa.Column("owner", sa.String(64)),
    sa.Column("at", sa.Float),
    sa.Column("dataset_name", sa.String(200)),
    sa.Column("scene_name", sa.String(200)),
    sa.Column("n_images", sa.Integer),
    sa.Column("registration_rate", sa.Float),
    sa.Column("measures", sa.Text),
    sa.Column("report", sa.Text),
)

RETRAININGS = sa.Table(
    "reconstruct_retrainings",
    _METADATA,
    sa.Column("dag", sa.String(250), primary_key=True),
    sa.Column("run", sa.String(250)),
    sa.Column("at", sa.Float),
)
