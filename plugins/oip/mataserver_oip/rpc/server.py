"""The gRPC server: beside HTTP in the same event loop, with the same keys, limits and drain."""

from __future__ import annotations

import contextlib
import time
from typing import TYPE_CHECKING, Any, Self

import grpc
from google.protobuf.message import DecodeError

from mataserver import BadRequest, MataError, RpcPort
from mataserver_oip.rpc.messages import PACKAGE
from mataserver_oip.rpc.methods import methods

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from mataserver import Context
    from mataserver_oip.rpc.methods import Method
    from mataserver_oip.server import InferenceServer

SERVICE = f"{PACKAGE}.GRPCInferenceService"
_CODES = {
    400: grpc.StatusCode.INVALID_ARGUMENT,
    401: grpc.StatusCode.UNAUTHENTICATED,
    403: grpc.StatusCode.PERMISSION_DENIED,
    404: grpc.StatusCode.NOT_FOUND,
    408: grpc.StatusCode.DEADLINE_EXCEEDED,
    429: grpc.StatusCode.RESOURCE_EXHAUSTED,
    503: grpc.StatusCode.UNAVAILABLE,
    507: grpc.StatusCode.RESOURCE_EXHAUSTED,
}


def _trailers(error: MataError) -> tuple[tuple[str, str], ...]:
    """Return the metadata at a failed call's end: what is a header of HTTP's, whole seconds."""
    seconds = error.retry_seconds
    return () if seconds is None else (("retry-after", str(seconds)),)


class RpcServer:
    """Serves the protocol while it is entered, until the server begins to stop."""

    def __init__(self, ctx: Context, server: InferenceServer, port: int) -> None:
        self._ctx = ctx
        self._protocol = server
        self._rpc_port = RpcPort(ctx.server, ctx.stopping, port)

    @property
    def port(self) -> int:
        """Where it listens."""
        return self._rpc_port.port

    async def __aenter__(self) -> Self:
        """Listen. Raises ``MataError`` when it cannot."""
        handlers = {
            name: self._handler(name, m) for name, m in methods(self._ctx, self._protocol).items()
        }
        generic = grpc.method_handlers_generic_handler(SERVICE, handlers)
        await self._rpc_port.serve(generic).__aenter__()
        self._ctx.log.info("gRPC on %s:%s", self._ctx.server.host, self.port)
        return self

    async def __aexit__(self, *exc: object) -> None:
        """Wait for the calls that are under way."""
        await self._rpc_port.__aexit__(*exc)

    def _handler(self, name: str, method: Method) -> Any:
        """Return how gRPC calls a method: as one that takes a stream of messages.

        On the wire that is the same; here it lets the key be looked at before a message is read.
        """

        async def call(_messages: object, context: Any) -> Any:
            begun, code, detail = time.perf_counter(), grpc.StatusCode.CANCELLED, ""
            trailers: tuple[tuple[str, str], ...] = ()
            try:
                answer = await self._answer(method, context)
                self._rpc_port.answer(context, self._ctx.http.budget(), answer.ByteSize())
                code = grpc.StatusCode.OK
            except MataError as error:
                code, detail = _CODES.get(error.status, grpc.StatusCode.INTERNAL), error.detail
                trailers = _trailers(error)
                if error.status >= 500:
                    self._ctx.log.warning("%s: %s", name, detail)
            except Exception:
                self._ctx.log.exception("%s failed", name)
                code, detail = grpc.StatusCode.INTERNAL, "Internal server error"
            finally:
                self._count(name, code.name, time.perf_counter() - begun)
            if code is grpc.StatusCode.OK:
                return answer
            # Not while the error is handled: gRPC keeps what this raises for a while, and with it
            # would keep the error's frames and the message in them.
            return await context.abort(code, detail, trailers)

        return grpc.stream_unary_rpc_method_handler(
            call, response_serializer=lambda message: message.SerializeToString()
        )

    async def _answer(self, method: Method, context: Any) -> Any:
        if method.public:  # nothing of what a stranger sends is read
            return await method.answer(method.request())
        share = self._ctx.http.budget()
        try:
            data = await self._rpc_port.read(context, share, self._caller(context, method))
            try:
                message = method.request.FromString(data)
            except DecodeError:
                raise BadRequest("The message cannot be read") from None
            del data
            return await method.answer(message)
        finally:
            share.give_back()

    @contextlib.asynccontextmanager
    async def _caller(self, context: Any, method: Method) -> AsyncIterator[str]:
        """Give the caller. Raises 400, 401 or 403; 401 also if the key is revoked within."""
        given = [(name, str(value)) for name, value in context.invocation_metadata()]
        principal = await self._ctx.admit(given, f"/{SERVICE}", context.peer(), method.needs)
        with self._ctx.watch(principal) as credentials:
            yield principal.id
            credentials.check()

    def _count(self, name: str, status: str, spent: float) -> None:
        self._ctx.count("gRPC", f"/{SERVICE}/{name}", status, spent)
