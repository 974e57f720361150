"""The tables: jobs, turns, webhooks, pending deliveries, and for how long servers have run."""

from __future__ import annotations

import sqlalchemy as sa

from mataserver_database import Schema

SCHEMA = Schema("jobs", "mataserver_jobs")
_METADATA = sa.MetaData()
JOBS = sa.Table(
    "jobs",
    _METADATA,
    sa.Column("id", sa.String(36), primary_key=True),
    sa.Column("kind", sa.String(64)),
    sa.Column("owner", sa.String(64)),
    sa.Column("state", sa.String(16)),
    sa.Column("stage", sa.String(64)),
    sa.Column("progress", sa.Float),
    sa.Column("message", sa.Text),
    sa.Column("spec", sa.Text),
    sa.Column("result", sa.Text),
    sa.Column("error", sa.Text),
    sa.Column("deaths", sa.Integer),
    sa.Column("losses", sa.Integer),
    sa.Column("cancel", sa.Boolean),
    sa.Column("holder", sa.String(200)),
    sa.Column("claim", sa.Integer),
    sa.Column("lease_until", sa.Float),
    sa.Column("created_at", sa.Float),
    sa.Column("started_at", sa.Float),
    sa.Column("finished_at", sa.Float),
    sa.Column("expires_at", sa.Float),
    sa.Column("kept_until", sa.Float),
    sa.Column("idempotency_key", sa.String(200)),
    sa.Column("bytes_used", sa.BigInteger),
)
CHANNEL = "jobs"
"""What is announced when a job or its pending deliveries changed."""
PROGRESS = "jobs-progress"
"""What is announced when a job's progress changed, which needs no work."""

TURNS = sa.Table(
    "jobs_turns",
    _METADATA,
    sa.Column("owner", sa.String(64), primary_key=True),
    sa.Column("turn", sa.BigInteger),
)
"""Who had the last turn: each start of a job gives its owner a higher number than any has."""

WEBHOOKS = sa.Table(
    "jobs_webhooks",
    _METADATA,
    sa.Column("id", sa.String(36), primary_key=True),
    sa.Column("owner", sa.String(64)),
    sa.Column("url", sa.Text),
    sa.Column("secret", sa.String(64)),
    sa.Column("created_at", sa.Float),
    sa.Column("last_at", sa.Float),
    sa.Column("last_error", sa.Text),
)
DELIVERIES = sa.Table(
    "jobs_deliveries",
    _METADATA,
    sa.Column("id", sa.String(36), primary_key=True),
    sa.Column("webhook", sa.String(36)),
    sa.Column("owner", sa.String(64)),
    sa.Column("body", sa.Text),
    sa.Column("attempts", sa.Integer),
    sa.Column("created_at", sa.Float),
    sa.Column("next_at", sa.Float),
    sa.Column("waited", sa.Float),
)
LIVED = sa.Table("jobs_lived", _METADATA, sa.Column("seconds", sa.Float))
"""One row: see ``LivedTime``."""
