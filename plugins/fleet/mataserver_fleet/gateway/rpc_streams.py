"""Streams of gRPC messages between a consumer and one server."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import grpc

from mataserver import MataError
from mataserver_fleet.gateway.rpc_forwarding import SERVICE, upstream_metadata

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from mataserver import Share
    from mataserver_fleet.gateway.rpc import Caller, RpcGateway
    from mataserver_fleet.gateway.sequences import Destination

STREAM_METHOD = "ModelStreamInfer"


class ServerStream:
    """One stream of messages to a server, each looked at before it is sent.

    share: holds the bytes of the message that is on its way.
    """

    def __init__(
        self, rpc: RpcGateway, caller: Caller, destination: Destination, share: Share
    ) -> None:
        self._rpc = rpc
        self._caller = caller
        self._pin = destination
        self._share = share
        self._call: Any = None
        self.refusal: MataError | None = None

    def end(self, why: MataError) -> None:
        """End both sides: who calls may do so no more."""
        self.refusal = why
        if self._call is not None:
            self._call.cancel()

    async def answers(self, channel: Any, first: bytes, context: Any) -> AsyncIterator[bytes]:
        """Yield what the server answers, until either side ends or a message is refused."""
        method = channel.stream_stream(f"/{SERVICE}/{STREAM_METHOD}")
        if self.refusal is not None:
            return
        metadata = upstream_metadata(self._pin.target, self._caller.consumer)
        call = method(self._outgoing(first, context), metadata=metadata)
        self._call = call
        self._rpc.count_stream(self._pin.target, 1)
        try:
            async for answer in call:
                yield answer
        except asyncio.CancelledError:
            if self.refusal is None:  # else it is the call that was cancelled, by ``end``
                raise
        finally:
            self._rpc.count_stream(self._pin.target, -1)
            call.cancel()

    async def _outgoing(self, message: Any, context: Any) -> AsyncIterator[bytes]:
        """Yield what is sent; a message that is refused ends the stream after those before it."""
        try:
            while message is not grpc.aio.EOF:
                yield self._rpc.admit_message(self._caller, self._pin, message)
                self._share.give_back()
                message = await context.read()
                if message is not grpc.aio.EOF:
                    self._share.take(len(message))
        except MataError as error:
            self.refusal = error
