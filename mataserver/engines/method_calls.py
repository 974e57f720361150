"""Calls of a model's methods in a worker process, and streams of their items."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mataserver.engines import payload, plain_classes, wire
from mataserver.engines.worker_connection import MALFORMED, read_piece
from mataserver.engines.worker_errors import WorkerDied

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Sequence

    from mataserver.engines.work import Job, Outcome
    from mataserver.engines.worker_connection import Reply, WorkerConnection


class MethodCalls:
    """Method calls of services to one worker; ``is_alive()`` returns whether it still reads.

    package: the package of the model's loader; returned values may be instances of its classes.
    """

    def __init__(self, connection: WorkerConnection, is_alive: Callable[[], bool]) -> None:
        self._connection = connection
        self._is_alive = is_alive
        self.package = ""

    async def call(self, method: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Return a method's result. Raises what it raised, or ``WorkerDied``."""
        packed = payload.pack((method, args, kwargs))
        reply = await self._connection.send_request(
            wire.Call(self._connection.next_id()), packed.parts
        )
        return self._value(reply, packed)

    def stream(
        self, method: str, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> AsyncGenerator[Any]:
        """Yield the items of a generator method. Raises as ``call`` does."""
        packed = payload.pack((method, args, kwargs))
        opening = wire.OpenStream(self._connection.next_id())
        return self._items(opening, packed.parts, lambda reply: self._value(reply, packed))

    def generate(self, job: Job) -> AsyncGenerator[str | Outcome]:
        """Yield the text pieces of a job, then its outcome. Raises as ``call`` does."""
        opening = wire.Generate(self._connection.next_id(), wire.JobHeader(job.format, job.session))
        return self._items(opening, [job.image, job.params], read_piece)

    async def _items(
        self,
        opening: wire.OpenStream | wire.Generate,
        parts: Sequence[wire.Buffer],
        read: Callable[[Reply], Any],
    ) -> AsyncGenerator[Any]:
        """Open a stream and request its items one by one; cancel it in the worker when closed."""
        self._connection.send(opening, parts)
        try:
            while True:
                reply = await self._connection.send_request(wire.NextItem(opening.id))
                if isinstance(reply.message, wire.StreamEnded):
                    return
                yield read(reply)
        finally:
            if self._is_alive():
                self._connection.send(wire.CloseStream(opening.id))

    def _value(self, reply: Reply, packed: payload.PackedValue) -> Any:
        if not isinstance(reply.message, wire.ValueReturned):
            raise WorkerDied(MALFORMED)
        return payload.unpack(
            reply.parts, plain_classes.package_resolver(self.package, packed.classes)
        )
