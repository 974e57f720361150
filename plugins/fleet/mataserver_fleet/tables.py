"""The tables of the fleet. Their constraints stand in the migrations."""

from __future__ import annotations

import sqlalchemy as sa

from mataserver_database import Schema

SCHEMA = Schema("fleet", "mataserver_fleet")
CHANNEL = "fleet"
"""What is announced when anything that the gateway or the reconciler goes by changed."""
_METADATA = sa.MetaData()


def _table(name: str, *columns: sa.Column[object]) -> sa.Table:
    return sa.Table(f"fleet_{name}", _METADATA, *columns)


def _id() -> sa.Column[object]:
    return sa.Column("id", sa.Integer, primary_key=True)


TRITONS = _table(
    "tritons",
    _id(),
    sa.Column("name", sa.String(128)),
    sa.Column("host", sa.String(255)),
    sa.Column("port", sa.Integer),
    sa.Column("grpc_port", sa.Integer),
    sa.Column("metrics_port", sa.Integer),
    sa.Column("gpus", sa.Integer),
    sa.Column("path", sa.Text),
    sa.Column("state", sa.String(16)),
    sa.Column("reason", sa.Text),
    sa.Column("answered_at", sa.Float),
    sa.Column("seen", sa.Text),
    sa.Column("created_at", sa.Float),
    sa.Column("revision", sa.Integer),
)
MODELS = _table(
    "models",
    _id(),
    sa.Column("name", sa.String(128)),
    sa.Column("description", sa.Text),
    sa.Column("everywhere", sa.Boolean),
    sa.Column("everywhere_versions", sa.Text),
    sa.Column("created_at", sa.Float),
    sa.Column("revision", sa.Integer),
)
VERSIONS = _table(
    "versions",
    _id(),
    sa.Column("model_id", sa.Integer),
    sa.Column("version", sa.Integer),
    sa.Column("config", sa.Text),
    sa.Column("digest", sa.String(64)),
    sa.Column("size", sa.BigInteger),
    sa.Column("created_at", sa.Float),
    sa.Column("served_at", sa.Float),
)
REMOVED_VERSIONS = _table(
    "removed_versions",
    sa.Column("model_id", sa.Integer, primary_key=True),
    sa.Column("version", sa.Integer, primary_key=True),
    sa.Column("digest", sa.String(64)),
)
"""Their numbers are given to no other version; ``digest`` is empty where it is not known."""
FILES = _table(
    "files",
    sa.Column("version_id", sa.Integer, primary_key=True),
    sa.Column("path", sa.String(255), primary_key=True),
    sa.Column("digest", sa.String(64)),
    sa.Column("size", sa.BigInteger),
)
PLACEMENTS = _table(
    "placements",
    sa.Column("model_id", sa.Integer, primary_key=True),
    sa.Column("triton_id", sa.Integer, primary_key=True),
    sa.Column("wanted", sa.Boolean),
    sa.Column("versions", sa.Text),
    sa.Column("generation", sa.Integer),
    sa.Column("done", sa.Integer),
    sa.Column("state", sa.String(16)),
    sa.Column("reason", sa.Text),
    sa.Column("serving", sa.Text),
    sa.Column("digest", sa.String(64)),
    sa.Column("good", sa.Text),
    sa.Column("changed_at", sa.Float),
)
COUNTS = _table(
    "counts",
    sa.Column("model_id", sa.Integer, primary_key=True),
    sa.Column("version", sa.Integer, primary_key=True),
    sa.Column("triton_id", sa.Integer, primary_key=True),
    sa.Column("inferences", sa.BigInteger),
    sa.Column("executions", sa.BigInteger),
    sa.Column("last", sa.Float),
    sa.Column("seen_inferences", sa.BigInteger),
    sa.Column("seen_executions", sa.BigInteger),
)
LEFTOVERS = _table(
    "leftovers",
    sa.Column("triton_id", sa.Integer, primary_key=True),
    sa.Column("name", sa.String(128), primary_key=True),
)
APPS = _table(
    "apps",
    _id(),
    sa.Column("name", sa.String(64)),
    sa.Column("host", sa.String(255)),
    sa.Column("ip", sa.String(255)),
    sa.Column("gpus", sa.Integer),
    sa.Column("retries", sa.Integer),
    sa.Column("resend", sa.Boolean),
    sa.Column("created_at", sa.Float),
    sa.Column("updated_at", sa.Float),
    sa.Column("revision", sa.Integer),
)
ROUTES = _table(
    "routes",
    sa.Column("app_id", sa.Integer, primary_key=True),
    sa.Column("model", sa.String(255), primary_key=True),
    sa.Column("own", sa.Boolean),
    sa.Column("protocols", sa.Text),
    sa.Column("paths", sa.Text),
    sa.Column("weights", sa.Text),
    sa.Column("mirror", sa.Integer),
    sa.Column("created_at", sa.Float),
    sa.Column("revision", sa.Integer),
)
CONSUMERS = _table(
    "consumers",
    _id(),
    sa.Column("name", sa.String(64)),
    sa.Column("tags", sa.Text),
    sa.Column("digest", sa.String(64)),
    sa.Column("rate", sa.Integer),
    sa.Column("quota", sa.BigInteger),
    sa.Column("created_at", sa.Float),
    sa.Column("revision", sa.Integer),
)
LINKS = _table(
    "links",
    sa.Column("app_id", sa.Integer, primary_key=True),
    sa.Column("consumer_id", sa.Integer, primary_key=True),
    sa.Column("created_at", sa.Float),
)
GRANTS = _table(
    "grants",
    sa.Column("user_id", sa.String(36), primary_key=True),
    sa.Column("app_id", sa.Integer, primary_key=True),
)
USAGE = _table(
    "usage",
    sa.Column("day", sa.Integer, primary_key=True),
    sa.Column("consumer", sa.String(64), primary_key=True),
    sa.Column("application", sa.String(64), primary_key=True),
    sa.Column("model", sa.String(255), primary_key=True),
    sa.Column("requests", sa.BigInteger),
    sa.Column("failed", sa.BigInteger),
    sa.Column("bytes_in", sa.BigInteger),
    sa.Column("bytes_out", sa.BigInteger),
)
"""``day`` counts from 1970 in UTC."""
FACTS = _table(
    "facts",
    sa.Column("name", sa.String(32), primary_key=True),
    sa.Column("value", sa.String(255)),
    sa.Column("until", sa.Float),
)
"""``version``, another text after each change; ``leader``, who probes and reconciles; gateways."""
