"""The plugin's settings."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, Struct

Port = Annotated[int, Meta(ge=0, le=65_535, extra={"environment": "MATA_SERVER_GRPC_PORT"})]


class Settings(Struct, frozen=True, forbid_unknown_fields=True):
    """``plugins.oip``: where gRPC listens, 0 for a free port, None for nowhere."""

    grpc_port: Port | None = None
