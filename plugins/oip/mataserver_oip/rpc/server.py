"""The gRPC server: beside HTTP in the same event loop, with the same keys, limits and drain."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any, Self

import grpc
from google.protobuf.message import DecodeError

from mataserver import BadRequest, MataError, TooSlow
from mataserver_oip.rpc.messages import PACKAGE
from mataserver_oip.rpc.methods import methods
from mataserver_oip.rpc.turns import Turns

if TYPE_CHECKING:
    from mataserver import Context, Share
    from mataserver_oip.rpc.methods import Method
    from mataserver_oip.server import InferenceServer

SERVICE = f"{PACKAGE}.GRPCInferenceService"
_CODES = {
    400: grpc.StatusCode.INVALID_ARGUMENT,
    401: grpc.StatusCode.UNAUTHENTICATED,
    403: grpc.StatusCode.PERMISSION_DENIED,
    404: grpc.StatusCode.NOT_FOUND,
    408: grpc.StatusCode.DEADLINE_EXCEEDED,
    503: grpc.StatusCode.UNAVAILABLE,
    507: grpc.StatusCode.RESOURCE_EXHAUSTED,
}

_OPTIONS = (
    ("grpc.max_send_message_length", -1),
    ("grpc.so_reuseport", 0),  # a port that is taken is an error
    ("grpc.http2.bdp_probe", 0),  # what is not asked for stays with its sender
    ("grpc.max_concurrent_streams", 128),
    ("grpc.server_handshake_timeout_ms", 10_000),
    ("grpc.max_connection_idle_ms", 300_000),
)


class RpcServer:
    """Serves the protocol while it is entered, until the server begins to stop.

    Its clients may have a quarter of the connections that HTTP's have, and send a quarter of what
    may be in flight at a time.
    """

    def __init__(self, ctx: Context, server: InferenceServer, port: int) -> None:
        self._ctx = ctx
        self._protocol = server
        self._body_timeout = ctx.server.body_timeout
        self._turns = Turns(ctx.server.max_inflight // (4 * ctx.server.max_body))
        self._connections = max(1, ctx.server.max_connections // 4)
        self._server: Any = None
        self._draining: asyncio.Task[None] | None = None
        self.port = port

    async def __aenter__(self) -> Self:
        """Listen. Raises ``MataError`` when it cannot."""
        options = [
            *_OPTIONS,
            ("grpc.max_receive_message_length", self._ctx.server.max_body),
            ("grpc.max_allowed_incoming_connections", self._connections),
        ]
        self._server = grpc.aio.server(options=options)
        handlers = {
            name: self._handler(name, m) for name, m in methods(self._ctx, self._protocol).items()
        }
        generic = grpc.method_handlers_generic_handler(SERVICE, handlers)
        self._server.add_generic_rpc_handlers((generic,))
        host = self._ctx.server.host
        host = f"[{host}]" if ":" in host else host
        where = f"{host}:{self.port}"
        try:
            self.port = self._server.add_insecure_port(where)
        except RuntimeError:
            raise MataError(f"cannot listen on {where} for gRPC") from None
        await self._server.start()
        self._ctx.log.info("gRPC on %s:%s", host, self.port)
        self._draining = asyncio.create_task(self._drain())
        return self

    async def _drain(self) -> None:
        """Take no more calls once the server stops; those under way have ``drain_timeout``."""
        await self._ctx.stopping.wait()
        await self._server.stop(self._ctx.server.drain_timeout)

    async def __aexit__(self, *exc: object) -> None:
        """Wait for the calls that are under way."""
        if self._draining is not None and self._ctx.stopping.is_set():
            await self._draining
        else:  # the start failed
            await self._server.stop(None)
            if self._draining is not None:
                self._draining.cancel()

    def _handler(self, name: str, method: Method) -> Any:
        """Return how gRPC calls a method: as one that takes a stream of messages.

        On the wire that is the same; here it lets the key be looked at before a message is read.
        """

        async def call(_messages: object, context: Any) -> Any:
            begun, code, detail = time.perf_counter(), grpc.StatusCode.CANCELLED, ""
            try:
                answer = await self._answer(method, context)
                code = grpc.StatusCode.OK
            except MataError as error:
                code, detail = _CODES.get(error.status, grpc.StatusCode.INTERNAL), error.detail
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
            return await context.abort(code, detail)

        return grpc.stream_unary_rpc_method_handler(
            call, response_serializer=lambda message: message.SerializeToString()
        )

    async def _answer(self, method: Method, context: Any) -> Any:
        if method.public:  # nothing of what a stranger sends is read
            return await method.answer(method.request())
        share = self._ctx.http.budget()
        try:
            data = await self._read(method, context, share)
            try:
                message = method.request.FromString(data)
            except DecodeError:
                raise BadRequest("The message cannot be read") from None
            del data
            return await method.answer(message)
        finally:
            share.give_back()

    async def _check_key(self, context: Any, method: Method) -> str:
        """Return who asks. Raises 401 or 403."""
        given = {name: str(value) for name, value in context.invocation_metadata()}
        principal = await self._ctx.admit(given, f"/{SERVICE}", context.peer(), method.needs)
        return principal.id

    async def _read(self, method: Method, context: Any, share: Share) -> bytes:
        """Read the message of whoever may send it; its bytes are counted.

        Not from gRPC's iterator: one that is not read to its end keeps its last message for good.
        """
        try:
            async with asyncio.timeout(self._body_timeout):
                who = await self._check_key(context, method)
                async with self._turns.taken(who):
                    share.check(1)
                    message: Any = await context.read()
        except TimeoutError:
            raise TooSlow("The message did not arrive in time") from None
        if message is grpc.aio.EOF:
            raise BadRequest("The call has no message")
        share.take(len(message))
        return bytes(message)

    def _count(self, name: str, status: str, spent: float) -> None:
        self._ctx.count("gRPC", f"/{SERVICE}/{name}", status, spent)
