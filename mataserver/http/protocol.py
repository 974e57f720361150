"""The protocol of one connection: aiohttp's, with error answers in the API's form.

Invalid HTTP never reaches a handler. The answer is JSON that repeats none of the input and names no
library that a scanner could look up.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, cast

from aiohttp import HttpVersion11, hdrs, web, web_fileresponse
from aiohttp.helpers import rfc822_formatted_time
from aiohttp.web_protocol import RequestHandler

from mataserver.errors import BadRequest, TooLarge
from mataserver.http import common_headers
from mataserver.http.paced_input import PacedInput, first_slice
from mataserver.http.relay_sockets import close_reason
from mataserver.http.unread_output import UnreadOutput
from mataserver.http.websocket_framing import FrameChecker

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable

    from aiohttp import StreamReader, WebSocketError

    from mataserver.http.budget import BudgetShare
    from mataserver.http.unread_output import AnonymousOutput
    from mataserver.http.websocket_framing import FrameHandler

_STATUS = 400
DETAIL = "The request is not valid HTTP"
_BODY = b'{"detail":"%b"}' % DETAIL.encode()
_OK = "HTTP/1.1 200 OK"
_CLOSE = 0x88
"""The first byte of a WebSocket's closing frame (RFC 6455, section 5.2)."""
MAX_FRAMING = 1_048_576
"""Bytes of chunks' sizes and extensions that a body may have beside ``_INPUT_PER_BYTE``."""
_INPUT_PER_BYTE = 8
"""Bytes read for each byte of a body; six, where each is a chunk of its own."""
FRAMING = "The body's chunks have more extensions than content"
_WITH_BODY = frozenset({hdrs.METH_GET, hdrs.METH_POST})
_FAILED = b'{"detail":"Internal server error"}'

# With asyncio's event loop files would be sent by the kernel (sendfile), past the transport's
# buffer, which shows whether a client reads: one that does not would never be given up. uvloop
# cannot send them so.
web_fileresponse.NOSENDFILE = True  # type: ignore[misc]

log = logging.getLogger("mataserver.http")


class UnsignedResponse(web.Response):
    """A response without the ``Server`` header."""

    async def _prepare_headers(self) -> None:
        await super()._prepare_headers()
        self.headers.popall(hdrs.SERVER, None)


class CompleteResponse(web.Response):
    """A response whose body is complete: head and body can be sent together."""

    async def send_direct(self, request: web.BaseRequest) -> None:
        """Send it, bypassing aiohttp's steps for streams, unless anything is unusual.

        aiohttp then finds it sent, and keeps the connection. Unusual responses, and broken
        connections, are left to aiohttp.
        """
        body = self._body
        if not isinstance(body, bytes) or not self._is_plain or not _is_plain(request):
            return
        headers, writer = self._headers, request.writer
        headers[hdrs.CONTENT_LENGTH] = str(len(body))
        headers[hdrs.DATE] = rfc822_formatted_time()
        try:
            await writer.write_headers(_OK, headers)
            await writer.write_eof(body)
        except ConnectionError:
            return
        self._eof_sent = self._keep_alive = True

    @property
    def _is_plain(self) -> bool:
        return (
            self._status == 200
            and self._reason == "OK"
            and self._keep_alive is None
            and self._payload_writer is None
            and not (self._cookies or self._compression or self._chunked or self._eof_sent)
            and hdrs.CONNECTION not in self._headers
        )


def _is_plain(request: web.BaseRequest) -> bool:
    return request.version == HttpVersion11 and request.keep_alive and request.method in _WITH_BODY


async def adjust_headers(request: web.Request, response: web.StreamResponse) -> None:
    """Remove an answer's ``Server`` header, with aiohttp's version; add what every answer has."""
    response.headers.popall(hdrs.SERVER, None)
    common_headers.complete(request, response)


def bad_request() -> UnsignedResponse:
    """Return the answer to invalid or unsupported HTTP."""
    return _closing_response(_BODY, _STATUS)


def _closing_response(body: bytes, status: int) -> UnsignedResponse:
    response = UnsignedResponse(body=body, status=status, content_type="application/json")
    response.force_close()
    return response


class HttpConnection(RequestHandler):
    """One connection; ``budget`` creates shares of the bytes in flight.

    A client that does not read its answers has ``patience`` seconds for each megabyte; one of
    ``anonymous`` less, if they exceed their limit together. ``is_anonymous`` says that the current
    request's caller is unknown.
    """

    __slots__ = (
        "_body", "_body_input", "_budget", "_fail", "_frame_checker", "_input", "_refused_socket",
        "_socket_owner", "_unread", "_wire", "is_anonymous",
    )  # fmt: skip

    def __init__(
        self,
        server: web.Server,
        budget: Callable[..., BudgetShare],
        patience: float,
        anonymous: AnonymousOutput,
        **options: Any,
    ) -> None:
        super().__init__(server, **options)
        self._budget = budget
        self._unread = UnreadOutput(budget(), patience, anonymous)
        self._input = PacedInput(self._process_input, self._pause_input, self._resume_input)
        self._wire: asyncio.Transport | None = None  # aiohttp's is None once it is closing
        self.is_anonymous = False
        self._frame_checker: FrameChecker | None = None
        self._fail: Callable[[WebSocketError], None] | None = None
        self._socket_owner: str | None = None
        self._refused_socket: tuple[web.BaseRequest | None, int, str] | None = None
        self._body: StreamReader | None = None
        self._body_input = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Start serving requests."""
        self._wire = cast("asyncio.Transport", transport)
        super().connection_made(transport)
        if self._task_handler is not None:
            self._task_handler.add_done_callback(self._limit_closing)

    def data_received(self, data: bytes) -> None:
        """Process data from the client, in slices if it takes long."""
        if data and self._input.is_waiting:
            self._input.append(data)
        else:
            self._process_input(data)

    def _process_input(self, data: bytes) -> None:
        if self._frame_checker is None and (end := first_slice(data)) < len(data):
            self._input.keep(data[end:])
            data = data[:end]
        super().data_received(data)
        if self._messages:
            self._end_broken_bodies()
        if self._frame_checker is None and self._current_request is not None:
            self._limit_framing(self._current_request.content, len(data))

    def _end_broken_bodies(self) -> None:
        """Tell who waits for a body that it is not valid HTTP: aiohttp's parser in C tells nobody.

        What follows a body that is not whole can only be the parser's error.
        """
        bodies = [body for _, body in self._messages]
        if self._current_request is not None:
            bodies.insert(0, self._current_request.content)
        for body in bodies[:-1]:
            if not body.is_eof() and body.exception() is None:
                self._lingering_time = 0.0  # nothing that arrives now is a part of it
                body.set_exception(BadRequest(DETAIL))

    def _limit_framing(self, body: StreamReader, size: int) -> None:
        """Refuse a body that is nearly all framing: what chunks' extensions hold is in no limit."""
        if body.is_eof() or body.exception() is not None:
            return
        if body is not self._body:
            self._body, self._body_input = body, 0
        self._body_input += size
        if self._body_input > MAX_FRAMING + _INPUT_PER_BYTE * body.total_bytes:
            self._lingering_time = 0.0  # what else arrives of it is not waited for
            body.set_exception(TooLarge(FRAMING))

    def _pause_input(self) -> None:
        if self.transport is not None and not self.transport.is_closing():
            self.transport.pause_reading()

    def _resume_input(self) -> None:
        if not self._reading_paused and not getattr(self, "_buffer_paused", False):
            self._resume_transport_reading()

    def _resume_transport_reading(self) -> None:
        """Read on, which aiohttp asks for, too: not before what was read is processed."""
        if self._input.is_waiting or self.transport is None or self.transport.is_closing():
            return
        self.transport.resume_reading()

    def _limit_closing(self, _task: asyncio.Task[None] | None = None) -> None:
        """Limit how long a connection that is closing waits for its client to read.

        A transport closes when its buffer is empty: never, if the client stops reading, and below
        the high-water mark writing was not paused.
        """
        if self._wire is not None and self._wire.is_closing():
            self._unread.begin(self._wire, anonymous=self.is_anonymous)

    def begin_websocket(
        self, fail: Callable[[WebSocketError], None], owner: str | None = None
    ) -> None:
        """Set a callback for invalid frames, and whose share the messages that arrive have."""
        self._fail, self._socket_owner = fail, owner

    def set_parser(self, parser: Any, data_received_cb: Callable[[], None] | None = None) -> None:
        """Check a WebSocket's frames before ``parser`` reads them."""
        share = self._budget(self._socket_owner)
        fail = self._fail or self._fail_websocket
        self._frame_checker = FrameChecker(parser, share, fail, self._input.keep)
        super().set_parser(self._frame_checker, data_received_cb)  # type: ignore[arg-type]
        if self._refused_socket is not None and self._refused_socket[0] is self._current_request:
            self.close_websocket(*self._refused_socket[1:])

    def on_frame(self, handler: FrameHandler | None) -> None:
        """Offer ``handler`` each WebSocket frame that is a whole message, see ``FrameChecker``."""
        if self._frame_checker is not None:
            self._frame_checker.handler = handler

    def ignore_messages(self) -> None:
        """Read a WebSocket's further messages without keeping them."""
        if self._frame_checker is not None:
            self._frame_checker.ignore()

    def pause_writing(self) -> None:
        """Pause writing: the client is slower than the server."""
        super().pause_writing()
        if self._wire is not None:
            self._unread.begin(self._wire, anonymous=self.is_anonymous)

    def resume_writing(self) -> None:
        """Resume writing: the client has read, not necessarily all if the connection closes."""
        if self._wire is None or not self._wire.is_closing():
            self._unread.end()
        super().resume_writing()

    def close_websocket(self, code: int, reason: str) -> None:
        """Close a WebSocket whose handler does not close it, if need be once that accepts it."""
        if self._frame_checker is None:
            self._refused_socket = self._current_request, code, reason
        elif self.transport is not None:
            payload = code.to_bytes(2, "big") + close_reason(reason)
            self.transport.write(bytes((_CLOSE, len(payload))) + payload)
            self.transport.close()
            self._limit_closing()

    def connection_lost(self, exc: BaseException | None) -> None:
        """Release the connection's resources."""
        self._wire = self._body = self._refused_socket = None
        self._input.end()
        self._unread.end()
        if self._frame_checker is not None:
            self._frame_checker.end()
        super().connection_lost(exc)

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,  # noqa: ARG002 - aiohttp's, which repeats the request
    ) -> web.StreamResponse:
        """Answer a request that did not reach a handler, or that failed after it."""
        left = self.transport is None or self.transport.is_closing()
        if status >= 500 and not (left and isinstance(exc, ConnectionError)):
            log.error("a request failed outside its handler", exc_info=exc)
        if request.writer.output_size > 0:
            raise ConnectionError("a part of the answer is sent already")
        return bad_request() if status == _STATUS else _closing_response(_FAILED, status)

    def _fail_websocket(self, error: WebSocketError) -> None:
        self.close_websocket(error.code, str(error))
