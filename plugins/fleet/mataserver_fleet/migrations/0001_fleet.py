"""Tritons, models with versions, where they are wanted, applications and consumers."""

import sqlalchemy as sa
from alembic import op

revision, down_revision = "0001", None


def upgrade() -> None:
    """Make the tables."""
    _tritons()
    _models()
    _placements()
    _apps()
    _consumers()
    op.create_table(
        "fleet_facts",
        sa.Column("name", sa.String(32), primary_key=True),
        sa.Column("value", sa.String(255), nullable=False),
        sa.Column("until", sa.Float, nullable=False),
    )


def _numbered(name: str, *columns: sa.Column[object] | sa.Constraint) -> None:
    """Make a table whose ids are never given twice."""
    op.create_table(
        f"fleet_{name}",
        sa.Column("id", sa.Integer, primary_key=True, autoincrement=True),
        *columns,
        sqlite_autoincrement=True,
    )


def _to(table: str) -> sa.ForeignKey:
    return sa.ForeignKey(f"fleet_{table}.id", ondelete="CASCADE")


def _tritons() -> None:
    _numbered(
        "tritons",
        sa.Column("name", sa.String(128), nullable=False, unique=True),
        sa.Column("host", sa.String(255), nullable=False),
        sa.Column("port", sa.Integer, nullable=False),
        sa.Column("grpc_port", sa.Integer),
        sa.Column("metrics_port", sa.Integer),
        sa.Column("gpus", sa.Integer),
        sa.Column("path", sa.Text),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("answered_at", sa.Float),
        sa.Column("seen", sa.Text, nullable=False),
        sa.Column("created_at", sa.Float, nullable=False),
        sa.Column("revision", sa.Integer, nullable=False),
        sa.UniqueConstraint("host", "port", name="fleet_triton_address"),
    )


def _models() -> None:
    _numbered(
        "models",
        sa.Column("name", sa.String(128), nullable=False, unique=True),
        sa.Column("description", sa.Text, nullable=False),
        sa.Column("everywhere", sa.Boolean, nullable=False),
        sa.Column("everywhere_versions", sa.Text, nullable=False),
        sa.Column("created_at", sa.Float, nullable=False),
        sa.Column("revision", sa.Integer, nullable=False),
    )
    _numbered(
        "versions",
        sa.Column("model_id", sa.Integer, _to("models"), nullable=False),
        sa.Column("version", sa.Integer, nullable=False),
        sa.Column("config", sa.Text, nullable=False),
        sa.Column("digest", sa.String(64), nullable=False),
        sa.Column("size", sa.BigInteger, nullable=False),
        sa.Column("created_at", sa.Float, nullable=False),
        sa.UniqueConstraint("model_id", "version", name="fleet_version_number"),
    )
    op.create_table(
        "fleet_files",
        sa.Column("version_id", sa.Integer, _to("versions"), primary_key=True),
        sa.Column("path", sa.String(255), primary_key=True),
        sa.Column("digest", sa.String(64), nullable=False),
        sa.Column("size", sa.BigInteger, nullable=False),
    )
    op.create_index("fleet_files_digest", "fleet_files", ["digest"])


def _placements() -> None:
    op.create_table(
        "fleet_placements",
        sa.Column("model_id", sa.Integer, _to("models"), primary_key=True),
        sa.Column("triton_id", sa.Integer, _to("tritons"), primary_key=True),
        sa.Column("wanted", sa.Boolean, nullable=False),
        sa.Column("versions", sa.Text, nullable=False),
        sa.Column("generation", sa.Integer, nullable=False),
        sa.Column("done", sa.Integer, nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("serving", sa.Text, nullable=False),
        sa.Column("digest", sa.String(64), nullable=False),
        sa.Column("good", sa.Text, nullable=False),
        sa.Column("changed_at", sa.Float, nullable=False),
    )
    op.create_table(
        "fleet_counts",
        sa.Column("model_id", sa.Integer, _to("models"), primary_key=True),
        sa.Column("version", sa.Integer, primary_key=True, autoincrement=False),
        # No foreign key: what a Triton that is gone has served still counts.
        sa.Column("triton_id", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("inferences", sa.BigInteger, nullable=False),
        sa.Column("executions", sa.BigInteger, nullable=False),
        sa.Column("last", sa.Float, nullable=False),
        sa.Column("seen_inferences", sa.BigInteger, nullable=False),
        sa.Column("seen_executions", sa.BigInteger, nullable=False),
    )


def _apps() -> None:
    _numbered(
        "apps",
        sa.Column("name", sa.String(64), nullable=False, unique=True),
        sa.Column("host", sa.String(255)),
        sa.Column("ip", sa.String(255)),
        sa.Column("gpus", sa.Integer, nullable=False),
        sa.Column("retries", sa.Integer, nullable=False),
        sa.Column("resend", sa.Boolean, nullable=False),
        sa.Column("created_at", sa.Float, nullable=False),
        sa.Column("updated_at", sa.Float, nullable=False),
        sa.Column("revision", sa.Integer, nullable=False),
    )
    op.create_table(
        "fleet_routes",
        sa.Column("app_id", sa.Integer, _to("apps"), primary_key=True),
        sa.Column("model", sa.String(255), primary_key=True),
        sa.Column("own", sa.Boolean, nullable=False),
        sa.Column("protocols", sa.Text, nullable=False),
        sa.Column("paths", sa.Text, nullable=False),
        sa.Column("weights", sa.Text, nullable=False),
        sa.Column("mirror", sa.Integer),
        sa.Column("created_at", sa.Float, nullable=False),
        sa.Column("revision", sa.Integer, nullable=False),
    )
    op.create_table(
        "fleet_grants",
        sa.Column("user_id", sa.String(36), primary_key=True),
        sa.Column("app_id", sa.Integer, _to("apps"), primary_key=True),
    )


def _consumers() -> None:
    _numbered(
        "consumers",
        sa.Column("name", sa.String(64), nullable=False, unique=True),
        sa.Column("tags", sa.Text, nullable=False),
        sa.Column("digest", sa.String(64), unique=True),
        sa.Column("rate", sa.Integer),
        sa.Column("quota", sa.BigInteger),
        sa.Column("created_at", sa.Float, nullable=False),
        sa.Column("revision", sa.Integer, nullable=False),
    )
    op.create_table(
        "fleet_links",
        sa.Column("app_id", sa.Integer, _to("apps"), primary_key=True),
        sa.Column("consumer_id", sa.Integer, _to("consumers"), primary_key=True),
        sa.Column("created_at", sa.Float, nullable=False),
    )
