"""The service: the routes of REST, and gRPC beside them where it is turned on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Self

from mataserver import MataError
from mataserver_oip.installation import GRPC_MISSING
from mataserver_oip.problem import inference_problem
from mataserver_oip.routes import RestRoutes
from mataserver_oip.server import InferenceServer

if TYPE_CHECKING:
    from collections.abc import Callable

    from mataserver import Context, Route
    from mataserver_oip.problem import InferenceProblem
    from mataserver_oip.rpc.server import RpcServer


class InferenceProtocol:
    """The protocol over REST, and over gRPC from entering to leaving."""

    def __init__(self, ctx: Context) -> None:
        self._ctx = ctx
        self._server = InferenceServer(ctx.models, ctx.server.queue_limit)
        self._rest = RestRoutes(ctx, self._server)
        self._rpc: RpcServer | None = None

    @property
    def grpc_port(self) -> int | None:
        """The port of gRPC while it is entered; None where it is turned off."""
        return None if self._rpc is None else self._rpc.port

    def routes(self) -> list[Route]:
        """Return the routes."""
        return self._rest.routes()

    def error_forms(self) -> dict[str, Callable[[int, str], InferenceProblem]]:
        """Return the form of errors."""
        return {"/v2": inference_problem}

    async def __aenter__(self) -> Self:
        """Listen for gRPC. Raises ``MataError`` without the extra, and for a port that is taken."""
        port = self._ctx.settings.grpc_port
        if port is not None:
            rpc = _rpc_server()(self._ctx, self._server, port)
            self._rpc = await rpc.__aenter__()
        return self

    async def __aexit__(self, *exc: object) -> None:
        """Wait for the calls that are under way."""
        if self._rpc is not None:
            await self._rpc.__aexit__(*exc)


def _rpc_server() -> type[RpcServer]:
    """Import gRPC. Raises ``MataError`` without its packages."""
    try:
        from mataserver_oip.rpc.server import RpcServer
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] not in {"grpc", "google"}:
            raise
        raise MataError(GRPC_MISSING) from None
    return RpcServer
