"""The gateway within the fleet's service: its start, updates from the database, and end."""

from __future__ import annotations

import asyncio
import csv
import hmac
import io
import secrets
import socket
from datetime import date
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from aiohttp import web

from mataserver import Body, InvalidParams, MataError, NotFound, Principal, Route, check_query
from mataserver_database import finish
from mataserver_fleet.gateway.accounting import Accounting, date_of, day_of, rows
from mataserver_fleet.gateway.failures import FailureList
from mataserver_fleet.gateway.gateway import Gateway
from mataserver_fleet.gateway.gauges import GatewayCollector
from mataserver_fleet.gateway.refused_keys import RefusedKeys
from mataserver_fleet.gateway.snapshot import Target
from mataserver_fleet.gateway.updating import SnapshotUpdater
from mataserver_fleet.gateway.usage import DAY
from mataserver_fleet.gateway.video_sessions import VideoSessions
from mataserver_fleet.pages import JSON, FleetProblem

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from mataserver import Context, Credentials
    from mataserver_fleet.gateway.options import GatewaySettings
    from mataserver_fleet.gateway.rpc import RpcGateway
    from mataserver_fleet.store import Store

CSV = "text/csv"
COLUMNS = ("day", "consumer", "application", "model", "requests", "failed", "bytes_in", "bytes_out")
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n")
_DAYS: dict[str, tuple[Any, bool, str]] = {
    "since": (date, False, "The first day, as YYYY-MM-DD, of UTC [today]."),
    "until": (date, False, "The last day [today]."),
}


class DataPlane:
    """The gateway as the fleet's service uses it."""

    def __init__(self, ctx: Context) -> None:
        self._ctx = ctx
        self._settings = ctx.settings.gateway
        unread = ctx.server.unread_timeout
        self._gateway = Gateway(
            ctx.http, self._settings, unread, VideoSessions.create, self.has_own_model
        )
        self.refused_keys = RefusedKeys(self._gateway.follow)
        self._store: Store | None = None
        self._token = secrets.token_urlsafe(32)
        ctx.metrics.register(GatewayCollector(self._gateway.usage, self._gateway.servers))

    def routes(self) -> list[Route]:
        """Return the control plane's routes about the gateway."""
        return [
            Route("GET", "/api/usage", self.usage, "Requests of each consumer by day, as CSV",
                  tag="fleet", needs="fleet:read", problem=FleetProblem, parameters=_DAYS,
                  response=(Body(CSV, str),), errors=(422, 503)),
            Route("GET", "/api/errors", self.errors, "The last errors of this server's gateway",
                  tag="fleet", needs="fleet:read", problem=FleetProblem,
                  response=(Body(JSON, FailureList),), errors=(422, 503)),
            # Never reached, for each such request is claimed; without it aiohttp would look at
            # every other route first.
            Route("*", "/gateway/{application}/{path:.*}", _no_route, public=True),
        ]  # fmt: skip

    def claims(
        self, request: web.Request
    ) -> Callable[[web.Request], Awaitable[web.StreamResponse]] | None:
        """Return what answers a request of a consumer."""
        return self._gateway.claims(request)

    def waiting(self) -> dict[str, str]:
        """Return why the gateway may be behind the database."""
        problem = self._updater.problem if self._store is not None else ""
        return {"gateway": problem} if problem else {}

    async def begin(self, store: Store) -> None:
        """Start answering. Raises ``Unavailable``."""
        await self._gateway.__aenter__()
        self._rpc_gateway = _rpc_gateway(self._ctx, self._gateway)
        follow, timeout = self.refused_keys.follow, self._settings.timeout
        self._updater = SnapshotUpdater(store, follow, timeout, _peers(self._settings))
        folder = self._ctx.data_dir / "gateways"
        self._accounting = Accounting(store, self._gateway, self._settings.settle, folder)
        try:
            await self._updater.start()
            await self._accounting.begin()  # before the first request: a quota may be used up
            if self._rpc_gateway is not None:
                await self._rpc_gateway.__aenter__()
        except BaseException:
            self._accounting.withdraw()
            await self._gateway.__aexit__()
            raise
        self._store = store
        self._tasks = (
            self._ctx.tasks.spawn(self._updater.watch, "gateway"),
            self._ctx.tasks.spawn(self._accounting.run, "usage"),
            self._ctx.tasks.spawn(self._publish_own, "own models"),
            self._ctx.tasks.spawn(self._store_revocations, "revocations"),
        )

    @property
    def grpc_port(self) -> int | None:
        """The gateway's port of gRPC while it is open; None where it is turned off."""
        return None if self._store is None or self._rpc_gateway is None else self._rpc_gateway.port

    def serves(self, model: str) -> bool:
        """Whether this server or another mataserver has a model."""
        return self.has_own_model(model) or self._gateway.has_peer_model(model)

    def has_own_model(self, model: str) -> bool:
        """Whether this server has a model itself."""
        try:
            self._ctx.models.info(model)
        except NotFound:
            return False
        return True

    async def _store_revocations(self) -> None:
        """Store what could not be stored when it was asked for."""
        await self.refused_keys.store(self._updater.refresh, lambda: not self._updater.problem)

    async def _publish_own(self) -> None:
        """Lead routes to this server's own models back to it, once it listens."""
        url = urlsplit(await self._ctx.address())
        if url.hostname is not None and url.port is not None:
            # Resolved once: the setting ``host`` may be a name.
            (_, _, _, _, place), *_ = await asyncio.get_running_loop().getaddrinfo(
                url.hostname, url.port, type=socket.SOCK_STREAM
            )
            rpc = getattr(self._ctx.peer("oip", optional=True), "grpc_port", None) or 0
            own = Target(str(place[0]), url.port, rpc=rpc, token=self._token, kind="own")
            await self._updater.serve_own(own)

    async def authenticate(self, credentials: Credentials) -> Principal | None:
        """Return the consumer for whom the gateway asks this server's own models."""
        token, _, consumer = credentials.secret.partition(".")
        secret = token.encode("utf-8", "surrogateescape")
        if not hmac.compare_digest(secret, self._token.encode()):
            return None
        identity, scopes = f"fleet:consumer:{consumer}", frozenset({"infer", "models:read"})
        return Principal(identity, f"consumer {consumer}", "fleet", scopes)

    async def end(self) -> None:
        """Stop answering, and write the last usage counts."""
        if self._store is None:
            return
        self._updater.stop()
        if self._rpc_gateway is not None:
            await self._rpc_gateway.__aexit__()
        await self._accounting.close()
        self._store = None
        await self._gateway.__aexit__()

    async def usage(self, request: web.Request) -> web.Response:
        """Answer ``GET /api/usage``."""
        check_query(request, _DAYS)
        store = self._store
        assert store is not None  # noqa: S101 - for the type checker: it is answered meanwhile
        today = date_of(int(store.clock() // DAY))
        try:
            since, until = (day_of(request.query.get(name, today)) for name in _DAYS)
        except ValueError:
            raise InvalidParams("since, until: must be days, as YYYY-MM-DD") from None
        await self._accounting.settle()
        found = await finish(self._usage_csv(store, since, until))
        return web.Response(text=found, content_type=CSV)

    async def errors(self, request: web.Request) -> web.Response:
        """Answer ``GET /api/errors``."""
        check_query(request, ())
        return self._ctx.http.respond(self._gateway.usage.failures.newest())

    async def _usage_csv(self, store: Store, since: int, until: int) -> str:
        out = io.StringIO()
        writer = csv.writer(out, lineterminator="\n")
        writer.writerow(COLUMNS)
        async with store.read() as connection:
            for row in await rows(connection, since, until):
                told = (as_cell(row[name]) for name in COLUMNS[1:])
                writer.writerow([date_of(row["day"]), *told])
        return out.getvalue()


def as_cell(value: str | int) -> str | int:
    """Return a value as a spreadsheet shows it: a name that it took for a formula gets a ``'``.

    A model may be called ``=1+1``, and an operator opens the file (OWASP, "CSV injection").
    """
    return f"'{value}" if isinstance(value, str) and value.startswith(_FORMULA) else value


def _rpc_gateway(ctx: Context, gateway: Gateway) -> RpcGateway | None:
    """Return what answers gRPC, if that is wanted. Raises ``MataError`` without its package."""
    port = ctx.settings.gateway.grpc_port
    if port is None:
        return None
    try:
        from mataserver import RpcPort
        from mataserver_fleet.gateway.rpc import RpcGateway
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] != "grpc":
            raise
        raise MataError("gateway.grpc_port needs a package: pip install 'grpcio>=1.66'") from None
    return RpcGateway(gateway, RpcPort(ctx.server, ctx.stopping, port))


def _peers(settings: GatewaySettings) -> tuple[Target, ...]:
    """Return the other mataservers."""
    return tuple(
        Target(
            each.host.strip("[]").lower(),
            each.port,
            rpc=each.grpc_port or 0,
            token=each.key,
            kind="mataserver",
        )
        for each in settings.mataservers
    )


async def _no_route(_request: web.Request) -> web.StreamResponse:
    raise NotFound("No such route")
