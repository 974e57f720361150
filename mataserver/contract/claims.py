"""Repeated requests claimed by a service: answered without parsing HTTP again."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from aiohttp import web

    Take = Callable[["PlainAnswer | Unfinished"], None]


class RepeatedClaim(Protocol):
    """How a service answers claimed requests that differ only in their bodies.

    A body over ``limit`` bytes, or one that takes longer than ``seconds`` to arrive, is handled by
    the service's ``claims`` instead.
    """

    @property
    def owner(self) -> str:
        """The owner of the head: the cache is limited per owner, so a flood evicts only its own."""

    @property
    def limit(self) -> int:
        """The maximum body size in bytes."""

    @property
    def seconds(self) -> float:
        """The timeout of a body in seconds."""

    def is_current(self) -> bool:
        """Whether the service would still claim and answer it so: key, scopes, settings.

        It is asked when the head arrives, and again when a later body is passed on; if it no longer
        is, the request, as far as it has arrived, is handled by the service's ``claims``.
        """

    def responder(self) -> Responder:
        """Return the responder for a current request that has begun to arrive."""


class Responder(Protocol):
    """Answers one request with a known head."""

    async def answer(self, request: web.Request, body: bytes) -> web.StreamResponse:
        """Answer a request without reading from it."""

    def begin(
        self, head: web.Request, body: Sequence[bytes | memoryview], take: Take
    ) -> Callable[[], None] | None:
        """Start answering without a task; return None if only ``answer`` can.

        ``head`` is a request with this head on this connection, possibly an earlier one; the body
        is in pieces. ``take`` is called later, once, unless the returned function was called first
        to cancel, because the client disconnected.
        """

    def early(self, size: int) -> int | None:
        """Return how many bytes of a body of ``size`` bytes ``open`` needs; None for all."""

    def open(
        self,
        head: web.Request,
        size: int,
        body: Sequence[bytes | memoryview],
        take: Take,
        reading: Reading,
    ) -> BodySink | None:
        """Start answering without a task while a body of ``size`` bytes arrives.

        Returns None if the whole body is needed: it is then buffered for ``begin`` and ``answer``.
        ``body`` is what has arrived so far; ``take`` and ``head`` are as for ``begin``. An early
        answer is also passed to ``take``; the rest of the body is then read and discarded.
        """


class Reading(Protocol):
    """Flow control of the connection that a body arrives on."""

    def pause(self) -> None:
        """Stop reading from the connection."""

    def resume(self) -> None:
        """Resume reading."""


class BodySink(Protocol):
    """Receives a body as it arrives."""

    @property
    def held(self) -> int:
        """Bytes of it in memory now."""

    def receive(self, data: bytes) -> None:
        """Receive the next bytes."""

    def expire(self) -> None:
        """Fail the request after a timeout: pass the error to ``take``."""

    def withdraw(self) -> None:
        """Cancel the request: the client disconnected."""


class PlainAnswer(NamedTuple):
    """An answer with status 200: its header fields and its body."""

    fields: tuple[tuple[str, str], ...]
    body: bytes


class Unfinished(Protocol):
    """A request that was started without a task and turned out to need one."""

    async def finish(self, request: web.Request) -> web.StreamResponse:
        """Answer it like ``Responder.answer``."""

    def withdraw(self) -> None:
        """Cancel it, if ``finish`` was not called."""
