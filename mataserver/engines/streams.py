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
    from mataserver.engines.line import Line
    from mataserver.engines.work import Job

log = logging.getLogger("mataserver.worker")


class ChildStreams:
    """Method calls and open streams of one model; replies go to ``line``."""

    def __init__(self, line: Line, host: ModelHost) -> None:
        self._line = line
        self._host = host
        self._streams: dict[int, Iterator[Any]] = {}

    def call(self, message: wire.Call | wire.Open, parts: list[memoryview]) -> None:
        """Call a method and reply with its value, or open the stream of its items."""
        if isinstance(message, wire.Open):
            self._streams[message.id] = self._opened(parts)
        else:
            self._guarded(
                message.id, lambda: self._host.call(*payload.unpack(parts, plain_classes.anywhere))
            )

    def _opened(self, parts: list[memoryview]) -> Iterator[Any]:
        """Yield the requested items; a malformed request thus fails at the first item."""
        yield from self._host.stream(*payload.unpack(parts, plain_classes.anywhere))

    def generate(self, stream: int, job: Job) -> None:
        """Open the stream of a job's answer."""
        self._streams[stream] = self._host.generate(job)

    def advance(self, stream: int) -> None:
        """Reply with a stream's next item, or its end."""
        end = object()
        items = self._streams.get(stream, iter(()))
        value = self._guarded(stream, lambda: next(items, end), silent=end)
        if value is end or isinstance(value, Failure):
            self._streams.pop(stream, None)
        if value is end:
            self._line.reply(wire.Ended(stream))

    def cancel(self, stream: int) -> None:
        """Close a stream."""
        items = self._streams.pop(stream, None)
        if items is not None:
            items.close()  # type: ignore[attr-defined]

    def _guarded(self, request: int, function: Callable[[], Any], silent: object = None) -> Any:
        """Run ``function``, reply with its value or failure, and return either."""
        try:
            value = function()
            if value is not silent or silent is None:
                self._say(request, value)
        except MataError as error:
            failure = Failure.of(error)
            self._line.reply(wire.Raised(request, failure))
            return failure
        except Exception:
            log.exception("an answer could not be sent")
            failure = Failure(500, "The model returned something that cannot be sent")
            self._line.reply(wire.Raised(request, failure))
            return failure
        return value

    def _say(self, request: int, value: object) -> None:
        """Send the value of a call or a stream; a job's outcome is sent like a batch's."""
        if isinstance(value, Outcome):
            self._line.answer(request, [value])
        else:
            self._line.reply(
                wire.Returned(request), [(part,) for part in payload.pack(value).parts]
            )
