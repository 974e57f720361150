"""The settings of the gateway."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, Struct

Seconds = Annotated[float, Meta(gt=0.0, le=3600.0)]
Port = Annotated[int, Meta(ge=1, le=65_535)]


class Peer(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Another mataserver, whose models routes may lead to. ``key`` is one of its keys."""

    host: Annotated[
        str, Meta(pattern=r"^[A-Za-z0-9_.:-]{1,253}\Z", description="a host's name or address")
    ]
    port: Port
    grpc_port: Port | None = None
    key: Annotated[
        str, Meta(pattern=r"^[\x21-\x7e]*\Z", description="printable ASCII without spaces")
    ] = ""


class GatewaySettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``plugins.fleet.gateway``: what a request may cost, and how servers are looked at.

    buffer_mb:     a body up to this is kept while it is asked for, and can be sent again; a longer
                   one passes through and must tell its length.
    max_body_mb:   the largest body.
    timeout:       seconds to the first byte of an answer, and between two of its parts.
    probe:         seconds between two looks at a server.
    probe_timeout: seconds that a server has to answer one; it is asked nothing after that.
    grpc_port:     where gRPC is answered; null answers none.
    settle:        seconds between two times that what was counted is written to the database.
    mataservers:   other mataservers, whose models consumers are offered as this server's own are.
    shared_memory: names of applications whose consumers may name regions of shared memory.
    """

    buffer_mb: Annotated[float, Meta(gt=0.0, le=1024.0)] = 8.0
    max_body_mb: Annotated[float, Meta(gt=0.0, le=65_536.0)] = 1024.0
    timeout: Seconds = 60.0
    probe: Seconds = 1.0
    probe_timeout: Seconds = 1.0
    settle: Seconds = 5.0
    mataservers: list[Peer] = []
    shared_memory: list[str] = []
    grpc_port: Annotated[int, Meta(ge=0, le=65_535)] | None = None
