"""A port of gRPC, whichever plugin opens it: the server's own limits, turns to send, the drain.

It needs grpcio, which is an extra of the plugins that speak gRPC.
"""

from __future__ import annotations

import asyncio
import contextlib
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
    ("grpc.so_reuseport", 0),  # a port that is taken is an error
    ("grpc.http2.bdp_probe", 0),  # what is not asked for stays with its sender
    ("grpc.max_concurrent_streams", 128),
    ("grpc.server_handshake_timeout_ms", 10_000),
    ("grpc.max_connection_idle_ms", 300_000),
)
_SMALL = 1 << 16
"""Bytes of an answer that counts as read at once."""


class RpcPort:
    """Answers calls by some generic handlers while it is entered, until the server begins to stop.

    server:   whose limits hold: a message as large as a body, a quarter of the connections that
              HTTP's clients have, messages that take a quarter of what may be in flight, and
              answers that take as much.
    stopping: is set when the server begins to stop; calls under way then have ``drain_timeout``.
    port:     where it listens, 0 for a free port; the port itself once it is entered.
    """

    def __init__(self, server: Server, stopping: asyncio.Event, port: int) -> None:
        self._limits = server
        self._stopping = stopping
        self._turns = MessageTurns(server.max_inflight // (4 * server.max_body))
        self._unread = 0
        self._handlers: tuple[Any, ...] = ()
        self._server: Any = None
        self._draining: asyncio.Task[None] | None = None
        self.port = port

    def serve(self, *handlers: Any) -> Self:
        """Have calls answered by generic handlers of gRPC, once it is entered."""
        self._handlers = handlers
        return self

    async def __aenter__(self) -> Self:
        """Listen. Raises ``MataError`` when it cannot."""
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
        await self._server.start()
        self._draining = asyncio.create_task(self._drain())
        return self

    async def _drain(self) -> None:
        """Take no more calls once the server stops; those under way have ``drain_timeout``."""
        await self._stopping.wait()
        await self._server.stop(self._limits.drain_timeout)

    async def __aexit__(self, *exc: object) -> None:
        """Wait for the calls that are under way."""
        if self._draining is not None and self._stopping.is_set():
            await self._draining
        else:  # the start failed, or only this part ends
            await self._server.stop(None)
            if self._draining is not None:
                self._draining.cancel()

    async def read(self, context: Any, share: Share, caller: Callable[[], Awaitable[str]]) -> bytes:
        """Read the message of a call by whoever may send it; its bytes are counted in ``share``.

        Not from gRPC's iterator: one that is not read to its end keeps its last message for good.

        caller: tells who calls, before anything of what they send is read.

        Raises ``TooSlow``, ``BadRequest`` for a call without one, ``Unavailable``, and as
        ``caller``.
        """
        try:
            async with asyncio.timeout(self._limits.body_timeout):
                who = await caller()
                async with self._turns.taken(who):
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

        gRPC keeps what is not read for as long as its client likes: all of that together is no
        more than a quarter of what may be in flight, or one answer. Raises ``Unavailable``.
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


class MessageTurns:
    """``count`` turns to read a message, at least one.

    A message's size is known only when it is here and has taken its memory. So a few are read at a
    time, and of one caller half of these: whoever sends nothing, and so keeps its turns for the
    whole time that a message may take, shuts out nobody else.
    """

    def __init__(self, count: int) -> None:
        self._all = asyncio.Semaphore(max(1, count))
        self._each = max(1, count // 2)
        self._own: WeakValueDictionary[str, asyncio.Semaphore] = WeakValueDictionary()

    @contextlib.asynccontextmanager
    async def taken(self, who: str) -> AsyncIterator[None]:
        """Hold a turn, after waiting for it."""
        own = self._own.get(who)
        if own is None:
            own = self._own[who] = asyncio.Semaphore(self._each)
        async with own, self._all:
            yield
