"""A gRPC port for plugins: with the server's limits, fair reading, and its drain.

It needs grpcio, an extra of the plugins that speak gRPC.
"""

from __future__ import annotations

import asyncio
import contextlib
import warnings
from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING, Any, Self
from weakref import WeakValueDictionary

import grpc

from mataserver.errors import BadRequest, MataError, TooSlow, Unavailable

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from mataserver.contract.bodies import Share
    from mataserver.contract.service import Server

_OPTIONS = (
    ("grpc.max_send_message_length", -1),
    ("grpc.so_reuseport", 0),  # fail if the port is in use
    ("grpc.http2.bdp_probe", 0),  # keep flow control windows small: unread data stays at the sender
    ("grpc.max_concurrent_streams", 128),
    ("grpc.server_handshake_timeout_ms", 10_000),
    ("grpc.max_connection_idle_ms", 300_000),
)
_SMALL = 1 << 16
"""Answers up to this many bytes count as read at once."""
_FUNCTION = "RpcPort.read: caller is an asynchronous context manager now, and no function"


class RpcPort:
    """Serves generic gRPC handlers as a context manager, until the server begins to stop.

    server:   provides the limits: the message size is ``max_body``; connections are a quarter of
              HTTP's; messages being read, and unread answers, take a quarter of ``max_inflight``
              each.
    stopping: set when the server begins to stop; pending calls then have ``drain_timeout``.
    port:     where to listen, 0 for a free port; the actual port once entered.
    """

    def __init__(self, server: Server, stopping: asyncio.Event, port: int) -> None:
        self._limits = server
        self._stopping = stopping
        self._limiter = MessageLimiter(server.max_inflight // (4 * server.max_body))
        self._unread = 0
        self._handlers: tuple[Any, ...] = ()
        self._server: Any = None
        self._draining: asyncio.Task[None] | None = None
        self.port = port

    def serve(self, *handlers: Any) -> Self:
        """Set the generic gRPC handlers to serve."""
        self._handlers = handlers
        return self

    async def __aenter__(self) -> Self:
        """Listen. Raises ``MataError`` if that fails."""
        connections = max(1, self._limits.max_connections // 4)
        options = [
            *_OPTIONS,
            ("grpc.max_receive_message_length", self._limits.max_body),
            ("grpc.max_allowed_incoming_connections", connections),
        ]
        self._server = grpc.aio.server(options=options)
        self._server.add_generic_rpc_handlers(self._handlers)
        host = self._limits.host
        where = f"[{host}]:{self.port}" if ":" in host else f"{host}:{self.port}"
        try:
            self.port = self._server.add_insecure_port(where)
        except RuntimeError:
            raise MataError(f"cannot listen on {where} for gRPC") from None
        self._limits.rpc_connections.append(connections)
        await self._server.start()
        self._draining = asyncio.create_task(self._drain())
        return self

    async def _drain(self) -> None:
        """Reject new calls once the server stops; pending ones have ``drain_timeout``."""
        await self._stopping.wait()
        await self._server.stop(self._limits.drain_timeout)

    async def __aexit__(self, *exc: object) -> None:
        """Wait for the pending calls."""
        if self._draining is not None and self._stopping.is_set():
            await self._draining
        else:  # startup failed, or only this part ends
            await self._server.stop(None)
            if self._draining is not None:
                self._draining.cancel()

    async def read(
        self,
        context: Any,
        share: Share,
        caller: AbstractAsyncContextManager[str] | Callable[[], Awaitable[str]],
    ) -> bytes:
        """Read a call's message after authenticating the caller; count its bytes in ``share``.

        Does not use gRPC's iterator, which retains its last message if it is not exhausted.

        caller: gives the caller's identity, before anything that they send is read, and is left
                once the message has arrived: it should raise if they may no longer call. A function
                that returns the identity is deprecated: nothing asks again.

        Raises ``TooSlow``, ``BadRequest`` for a call without a message, ``Unavailable``, and as
        ``caller``.
        """
        if not isinstance(caller, AbstractAsyncContextManager):
            warnings.warn(_FUNCTION, DeprecationWarning, stacklevel=2)
            caller = _called(caller)
        try:
            async with asyncio.timeout(self._limits.body_timeout):
                async with caller as who, self._limiter.acquire(who):
                    share.check(1)
                    message: Any = await context.read()
        except TimeoutError:
            raise TooSlow("The message did not arrive in time") from None
        if message is grpc.aio.EOF:
            raise BadRequest("The call has no message")
        share.take(len(message))
        return bytes(message)

    def answer(self, context: Any, share: Share, size: int) -> None:
        """Count an answer of ``size`` bytes in ``share`` until its client has read it, or is gone.

        gRPC buffers unread answers for as long as the client likes, so their total is limited to a
        quarter of ``max_inflight``, or one answer. Raises ``Unavailable``.
        """
        if size <= _SMALL:
            return
        if self._unread and self._unread + size > self._limits.max_inflight // 4:
            raise Unavailable("Too many answers wait to be read", retry_after=1)
        share.take(size)
        self._unread += size

        def read(_context: object) -> None:
            self._unread -= size
            share.give_back()

        context.add_done_callback(read)


@contextlib.asynccontextmanager
async def _called(caller: Callable[[], Awaitable[str]]) -> AsyncIterator[str]:
    yield await caller()


class MessageLimiter:
    """``count`` slots for reading a message, at least one.

    A message's size is known only once it is in memory, so the number of concurrent reads is
    limited, and per caller to half of it: a caller that stalls for the whole timeout cannot block
    others.
    """

    def __init__(self, count: int) -> None:
        self._all = asyncio.Semaphore(max(1, count))
        self._each = max(1, count // 2)
        self._own: WeakValueDictionary[str, asyncio.Semaphore] = WeakValueDictionary()

    @contextlib.asynccontextmanager
    async def acquire(self, who: str) -> AsyncIterator[None]:
        """Wait for a slot and hold it."""
        own = self._own.get(who)
        if own is None:
            own = self._own[who] = asyncio.Semaphore(self._each)
        async with own, self._all:
            yield
