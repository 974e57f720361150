"""Service calls in a model's process: method calls, and streams of items.

A stream advances one item per ``Next``, so several can interleave and a slow reader delays only its
own.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from mataserver.engines import payload, plain_classes, wire
from mataserver.engines.work import Outcome
from mataserver.engines.worker_errors import Failure
from mataserver.errors import MataError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from mataserver.engines.host import ModelHost
    from mataserver.engines.server_connection import ServerConnection
    from mataserver.engines.work import Job

log = logging.getLogger("mataserver.worker")


class WorkerStreams:
    """Method calls and open streams of one model; replies go to ``connection``."""

    def __init__(self, connection: ServerConnection, host: ModelHost) -> None:
        self._connection = connection
        self._host = host
        self._streams: dict[int, Iterator[Any]] = {}

    def call(self, message: wire.Call | wire.OpenStream, parts: list[wire.Part]) -> None:
        """Call a method and reply with its value, or open the stream of its items."""
        if isinstance(message, wire.OpenStream):
            self._streams[message.id] = self._open(parts)
        else:
            self._reply_with(
                message.id,
                lambda: self._host.call(*payload.unpack(parts, plain_classes.resolve_trusted)),
            )

    def _open(self, parts: list[wire.Part]) -> Iterator[Any]:
        """Yield the requested items; a malformed request thus fails at the first item."""
        yield from self._host.stream(*payload.unpack(parts, plain_classes.resolve_trusted))

    def generate(self, stream: int, job: Job) -> None:
        """Open the stream of a job's answer."""
        self._streams[stream] = self._host.generate(job)

    def advance(self, stream: int) -> None:
        """Reply with a stream's next item, or its end."""
        items = self._streams.get(stream, iter(()))
        if not self._reply_with(stream, lambda: next(items)):
            self._streams.pop(stream, None)

    def cancel(self, stream: int) -> None:
        """Close a stream."""
        items = self._streams.pop(stream, None)
        if items is not None:
            items.close()  # type: ignore[attr-defined]

    def _reply_with(self, request: int, function: Callable[[], Any]) -> bool:
        """Reply with what ``function`` returns; return False if that is a failure or the end."""
        try:
            self._send_value(request, function())
        except StopIteration:
            self._connection.reply(wire.StreamEnded(request))
        except MataError as error:
            self._connection.reply(wire.RequestFailed(request, Failure.of(error)))
        except Exception:
            log.exception("an answer could not be sent")
            failure = Failure(500, "The model returned something that cannot be sent")
            self._connection.reply(wire.RequestFailed(request, failure))
        else:
            return True
        return False

    def _send_value(self, request: int, value: object) -> None:
        """Send the value of a call or a stream; a job's outcome is sent like a batch's."""
        if isinstance(value, Outcome):
            self._connection.send_outcomes(request, [value])
        else:
            self._connection.reply(
                wire.ValueReturned(request), [(part,) for part in payload.pack(value).parts]
            )
