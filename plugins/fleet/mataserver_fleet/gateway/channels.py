"""Channels of gRPC to servers: to addresses that were checked, and not to names.

gRPC would resolve a name by itself, and again whenever it connects anew.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import grpc

from mataserver_fleet.gateway.resolving import is_address
from mataserver_fleet.triton_rpc import place

if TYPE_CHECKING:
    from mataserver_fleet.gateway.resolving import AddressResolver
    from mataserver_fleet.gateway.snapshot import Target

GRACE_SECONDS = 60.0
"""Seconds that calls have to end on a channel to where a server was before."""
_OPTIONS = [
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
    # A server that comes back is asked at once: gRPC's own patience grows to two minutes.
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
        """Return the channel to a server. Raises ``OSError`` for one that may not be asked."""
        where = target.rpc_authority
        if where not in self._channels:
            addresses = await self._resolver.addresses(target)
            if where not in self._channels:  # nobody was quicker
                target_, options = place(addresses, target.rpc, where)
                self._channels[where] = grpc.aio.insecure_channel(target_, [*_OPTIONS, *options])
        return self._channels[where]

    def renew(self, target: Target) -> None:
        """Look a server's name up again for the next call: it does not answer where it was."""
        if is_address(target.host):
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
