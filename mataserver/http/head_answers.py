"""Sending of the answers to requests with a known head."""

from __future__ import annotations

import contextlib
import os
import time
from typing import TYPE_CHECKING, Any

import msgspec
from aiohttp import hdrs
from aiohttp.helpers import rfc822_formatted_time

from mataserver.contract.handles import Encoded
from mataserver.http import codec
from mataserver.http.common_headers import REQUEST_ID, new_request_id
from mataserver.http.protocol import CompleteResponse
from mataserver.http.request_warnings import warn

if TYPE_CHECKING:
    import asyncio

    from aiohttp import web

    from mataserver.http.head_cache import KnownHead
    from mataserver.http.head_connection import CachingConnection

_ANSWER = (
    "HTTP/1.1 200 OK\r\nContent-Type: %s\r\nServer-Timing: %s, total;dur=%.3f\r\n"
    "X-Request-Id: %s\r\nContent-Length: %d\r\nDate: %s\r\n\r\n"
)


def lasting(result: Any) -> Any:
    """Return a result that stays valid; a view of a worker's memory is copied."""
    if isinstance(result, Encoded):
        return msgspec.structs.replace(result, body=bytes(result.body))
    return result


def _write_long(transport: asyncio.WriteTransport, head: bytes, body: bytes | memoryview) -> None:
    """Write a head and a long body; what the socket takes at once is not copied.

    In this turn of the loop nothing else may have been written: uvloop keeps that until the turn
    ends, and its buffer does not show it. An answer comes in a later turn than the one before it,
    since a pipelined request is only begun then.
    """
    sent, sock = 0, transport.get_extra_info("socket")  # None in this process
    is_plain = sock is not None and transport.get_extra_info("sslcontext") is None
    # Not ``writelines``: a transport keeps what it could not send, and the body may be a view of
    # memory that its worker reuses.
    if is_plain and not transport.get_write_buffer_size():
        with contextlib.suppress(OSError):  # no room; or an error that the transport will meet, too
            sent = os.writev(sock.fileno(), (head, body))
    for piece in (head, body):
        if sent < len(piece):
            transport.write(bytes(piece[sent:]))
        sent = max(0, sent - len(piece))


class AnswerSender:
    """Sends the answer to a request with a known head."""

    __slots__ = ("_connection", "_counted", "_known", "_left", "_middleware", "_started_at")

    def __init__(self, connection: CachingConnection, known: KnownHead) -> None:
        self._started_at = time.perf_counter()
        self._connection = connection
        self._middleware = connection.heads.middleware
        self._known: Any = known  # its ``repeat`` is of the kind that the class answers by
        self._left = 0
        self._counted = False

    def _send_direct(self, answer: Any) -> bool:
        """Send an answer at once; return whether that was possible."""
        connection, body = self._connection, answer.body
        transport = connection.transport
        if transport is None or transport.is_closing() or connection.writing_paused:
            return False
        if self._middleware.lifecycle.is_draining or answer.warning:
            return False
        kind = codec.JSON if self._known.repeat.form == "json" else codec.MSGPACK
        spent, stages = self._count(200) * 1e3, codec.server_timing(answer)
        head = _ANSWER % (kind, stages, spent, new_request_id(), len(body), rfc822_formatted_time())
        if len(body) <= codec.SINGLE_WRITE_BYTES:
            transport.write(head.encode() + body)
        else:
            _write_long(transport, head.encode(), body)
        return True

    def _new_request(self) -> web.Request | None:
        """Return the request as handlers have it; None after a disconnect."""
        request = self._connection.request(self._known)
        if request is not None:
            request[REQUEST_ID] = new_request_id()
        return request

    async def _deliver(self, request: web.Request, found: Any) -> None:
        """Send a result as the middleware and aiohttp do.

        An error is sent if there is no answer, or one that cannot be written.
        """
        try:
            try:
                finished = self._finished(request, found)
                await self._write(request, finished)
            except ConnectionError:
                return
            except Exception as error:  # e.g. a plugin's error form, an invalid header value
                finished = self._connection.handle_error(request, exc=error)
                await self._write(request, finished)
        except ConnectionError:
            return
        if not finished.keep_alive:
            self._connection.end(at_once=not self._left)

    async def _write(self, request: web.Request, finished: web.StreamResponse) -> None:
        if isinstance(finished, CompleteResponse):
            await finished.send_direct(request)
        await finished.prepare(request)
        await finished.write_eof()

    def _response(self, request: web.Request, found: Any) -> web.StreamResponse:
        """Return the answer to a request that did not fail."""
        warn(request, found.warning)
        form, stages = self._known.repeat.form, codec.server_timing(found)
        return codec.respond(found.body, form=form, timing=stages)

    def _finished(self, request: web.Request, found: Any) -> web.StreamResponse:
        """Return an answer in the form that the middleware produces."""
        if isinstance(found, Exception):
            response: web.StreamResponse = self._middleware.refuse(request, found)
        else:
            response = self._response(request, found)
        self._counted = True
        return self._middleware.finish(request, response, self._started_at)

    def _count(self, status: int) -> float:
        """Count the request; return its duration in seconds."""
        self._counted = True
        spent = time.perf_counter() - self._started_at
        self._middleware.metrics.count(hdrs.METH_POST, self._known.label, str(status), spent)
        return spent
