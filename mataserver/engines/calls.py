"""Calls of a model's methods in a worker process, and streams of what they yield."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

from mataserver.engines import payload, plain_classes, wire
from mataserver.engines.accidents import WorkerDied
from mataserver.engines.replies import MALFORMED, read_piece

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Sequence

    from mataserver.engines.exchange import Exchange
    from mataserver.engines.replies import Reply
    from mataserver.engines.work import Job, Outcome


class Calls:
    """What services ask of one worker; ``is_alive()`` says whether it still listens.

    package: that of the model's loader, whose classes a returned value may have.
    """

    def __init__(self, exchange: Exchange, is_alive: Callable[[], bool]) -> None:
        self._exchange = exchange
        self._is_alive = is_alive
        self.package = ""

    async def call(self, method: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Return what a method gives. Raises what it raised, ``WorkerDied`` without a worker."""
        asked = payload.pack((method, args, kwargs))
        reply = await self._exchange.ask(wire.Call(self._exchange.next_id()), asked.parts)
        return self._value(reply, asked)

    async def stream(
        self, method: str, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> AsyncGenerator[Any]:
        """Iterate over what a generator method yields. Raises as ``call`` does."""
        asked = payload.pack((method, args, kwargs))
        opening = wire.Open(self._exchange.next_id())
        async with contextlib.aclosing(self._items(opening, asked.parts)) as replies:
            async for reply in replies:
                yield self._value(reply, asked)

    async def generate(self, job: Job) -> AsyncGenerator[str | Outcome]:
        """Iterate over the pieces of text of a job, then its outcome. Raises as ``call`` does."""
        opening = wire.Generate(self._exchange.next_id(), wire.JobHead(job.format, job.session))
        items = self._items(opening, [job.image, job.params])
        async with contextlib.aclosing(items) as replies:
            async for reply in replies:
                yield read_piece(reply)

    async def _items(
        self, opening: wire.Open | wire.Generate, parts: Sequence[wire.Part]
    ) -> AsyncGenerator[Reply]:
        """Open a stream and ask for one item after the other; cancelled when it is closed."""
        self._exchange.send(opening, parts)
        try:
            while True:
                reply = await self._exchange.ask(wire.Next(opening.id))
                if isinstance(reply.message, wire.Ended):
                    return
                yield reply
        finally:
            if self._is_alive():
                self._exchange.send(wire.Cancel(opening.id))

    def _value(self, reply: Reply, asked: payload.Packed) -> Any:
        if not isinstance(reply.message, wire.Returned):
            raise WorkerDied(MALFORMED)
        return payload.unpack(reply.parts, plain_classes.of_package(self.package, asked.classes))
