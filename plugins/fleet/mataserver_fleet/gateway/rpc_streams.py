"""Streams of gRPC messages between a consumer and one server."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import grpc

from mataserver import MataError
from mataserver_fleet.gateway.rpc_forwarding import SERVICE

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from mataserver import Share
    from mataserver_fleet.gateway.servers import Server

STREAM_METHOD = "ModelStreamInfer"


class ServerStream:
    """One stream of messages to a server, each looked at before it is sent.

    admit:    returns what the server is sent for a message; raises ``MataError`` for a refused one.
    metadata: what the server is sent with the call.
    share:    holds the bytes of the message in flight.
    """

    def __init__(
        self,
        admit: Callable[[bytes], bytes],
        server: Server,
        metadata: tuple[tuple[str, str], ...],
        share: Share,
    ) -> None:
        self._admit = admit
        self._server = server
        self._metadata = metadata
        self._share = share
        self._call: Any = None
        self.refusal: MataError | None = None

    def end(self, why: MataError) -> None:
        """End both sides: the consumer is no longer authorised."""
        self.refusal = why
        if self._call is not None:
            self._call.cancel()

    async def answers(self, channel: Any, first: bytes, context: Any) -> AsyncIterator[bytes]:
        """Yield what the server answers, until either side ends or a message is refused."""
        method = channel.stream_stream(f"/{SERVICE}/{STREAM_METHOD}")
        if self.refusal is not None:
            return
        call = method(self._outgoing(first, context), metadata=self._metadata)
        self._call = call
        self._server.begin()
        try:
            async for answer in call:
                yield answer
        except asyncio.CancelledError:
            if self.refusal is None:  # else it is the call that was cancelled, by ``end``
                raise
        finally:
            self._server.end()
            call.cancel()

    async def _outgoing(self, message: Any, context: Any) -> AsyncIterator[bytes]:
        """Yield what is sent; a message that is refused ends the stream after those before it."""
        try:
            while message is not grpc.aio.EOF:
                yield self._admit(message)
                self._share.give_back()
                message = await context.read()
                if message is not grpc.aio.EOF:
                    self._share.take(len(message))
        except MataError as error:
            self.refusal = error
