"""gRPC channels to servers, opened to checked addresses and never to names.

gRPC would resolve a name itself, and again at each reconnect.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import grpc

from mataserver_fleet.gateway.connections import CONNECT_SECONDS
from mataserver_fleet.gateway.resolving import is_address
from mataserver_fleet.triton_rpc import place

if TYPE_CHECKING:
    from mataserver_fleet.gateway.resolving import AddressResolver
    from mataserver_fleet.gateway.snapshot import Target

GRACE_SECONDS = 60.0
"""Seconds that calls have to end on a channel to a server's previous address."""
MAX_ANSWER_BYTES = 1 << 29
"""Bytes of an answer by gRPC, which is in memory."""
_READY = grpc.ChannelConnectivity.READY
_FAILED = (grpc.ChannelConnectivity.TRANSIENT_FAILURE, grpc.ChannelConnectivity.SHUTDOWN)
_OPTIONS = [
    ("grpc.max_send_message_length", -1),
    # A server that comes back gets calls soon: gRPC's default back-off grows to two minutes.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 1_000),
    ("grpc.max_reconnect_backoff_ms", 1_000),
]


class ChannelPool:
    """One channel a server."""

    def __init__(self, resolver: AddressResolver) -> None:
        self._resolver = resolver
        self._channels: dict[str, Any] = {}
        self._closing: set[asyncio.Task[None]] = set()

    async def get(self, target: Target) -> Any:
        """Return the channel to a server. Raises ``OSError`` for one that is not permitted."""
        where = target.rpc_authority
        if where not in self._channels:
            addresses = await self._resolver.addresses(target)
            if where not in self._channels:  # unless another call opened it meanwhile
                target_, options = place(addresses, target.rpc, where)
                limit = ("grpc.max_receive_message_length", MAX_ANSWER_BYTES)
                options = [limit, *_OPTIONS, *options]
                self._channels[where] = grpc.aio.insecure_channel(target_, options)
        return self._channels[where]

    async def connected(self, target: Target) -> Any:
        """Return the channel to a server, with a connection: a call may reach it from now on.

        Raises ``OSError`` for one that cannot be reached: nothing was sent to it. That is known
        before a call alone. Afterwards a server's own words may be those of gRPC for one that was
        not reached, and it may have closed the connection behind them.
        """
        channel = await self.get(target)
        async with asyncio.timeout(CONNECT_SECONDS):
            while (state := channel.get_state(try_to_connect=True)) is not _READY:
                if state in _FAILED:
                    raise ConnectionError(f"{target.rpc_authority} cannot be reached")
                await channel.wait_for_state_change(state)
        return channel

    def is_connected(self, target: Target) -> bool:
        """Whether a server has a connection now."""
        channel = self._channels.get(target.rpc_authority)
        return channel is not None and channel.get_state() is _READY

    def renew(self, target: Target) -> None:
        """Resolve a server's name again for the next call, unless its address answers.

        Streams on a connection that works must not end because of a call that was refused.
        """
        if is_address(target.host) or self.is_connected(target):
            return
        channel = self._channels.pop(target.rpc_authority, None)
        if channel is not None:
            task = asyncio.ensure_future(channel.close(GRACE_SECONDS))
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)

    async def close(self) -> None:
        """End all of them."""
        for task in self._closing:
            task.cancel()
        await asyncio.gather(*self._closing, return_exceptions=True)
        for channel in self._channels.values():
            await channel.close()
