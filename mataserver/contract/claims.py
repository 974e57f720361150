"""Requests that a service claimed and that repeat: answered without HTTP's parser."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from aiohttp import web

    Take = Callable[["PlainAnswer | Unfinished"], None]


class RepeatedClaim(Protocol):
    """How a service answers requests that it claimed and that differ by their bodies alone.

    A body over ``limit`` bytes goes to what the service's ``claims`` gives, and so does one that
    takes more than some ``seconds`` to arrive.
    """

    @property
    def owner(self) -> str:
        """Whose the head is: who sends many different ones pushes out their own."""
        ...

    @property
    def limit(self) -> int:
        """Bytes of the largest body."""
        ...

    @property
    def seconds(self) -> float:
        """How long a body may take."""
        ...

    def is_current(self) -> bool:
        """Whether the service would claim it still, and answer so: key, rights, settings."""
        ...

    def responder(self) -> Responder:
        """Return what answers one that is current and has begun to arrive."""
        ...


class Responder(Protocol):
    """Answers one request whose head is known."""

    async def answer(self, request: web.Request, body: bytes) -> web.StreamResponse:
        """Answer a request, of which nothing is to be read."""
        ...

    def begin(
        self, head: web.Request, body: Sequence[bytes | memoryview], take: Take
    ) -> Callable[[], None] | None:
        """Begin to answer without a task; None where only ``answer`` can.

        ``head`` is a request with this head that came by this connection, perhaps one before; the
        body is in pieces. ``take`` is called later, once, unless the returned function took the
        request back before: the client has left.
        """
        ...

    def early(self, size: int) -> int | None:
        """Return how many bytes of a body of ``size`` must be here for ``open``; None for all."""
        ...

    def open(
        self,
        head: web.Request,
        size: int,
        body: Sequence[bytes | memoryview],
        take: Take,
        reading: Reading,
    ) -> BodySink | None:
        """Begin to answer without a task while a body of ``size`` bytes arrives.

        None where all of it must be here: then it is gathered for ``begin`` and ``answer``. The
        ``body`` is what has come of it, ``take`` and ``head`` are as for ``begin``; what answers
        before all has come is told by ``take`` as well, and the rest is read and dropped.
        """
        ...


class Reading(Protocol):
    """The connection by which a body arrives."""

    def pause(self) -> None:
        """Read no more of it for now."""
        ...

    def resume(self) -> None:
        """Read on."""
        ...


class BodySink(Protocol):
    """Takes a body while it arrives."""

    @property
    def held(self) -> int:
        """Bytes of it that are in memory now."""
        ...

    def receive(self, data: bytes) -> None:
        """Take what came next."""
        ...

    def expire(self) -> None:
        """Give the request up, and ``take`` why: no more of its body comes."""
        ...

    def withdraw(self) -> None:
        """Take the request back: the client has left."""
        ...


class PlainAnswer(NamedTuple):
    """An answer of status 200 to one: the fields of its header and its body."""

    fields: tuple[tuple[str, str], ...]
    body: bytes


class Unfinished(Protocol):
    """A request that was begun without a task and needs one."""

    async def finish(self, request: web.Request) -> web.StreamResponse:
        """Answer it, as ``Responder.answer``."""
        ...

    def withdraw(self) -> None:
        """Take it back where ``finish`` was not called."""
        ...
