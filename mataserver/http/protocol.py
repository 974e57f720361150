"""What serves one connection: aiohttp's protocol, whose own answers are the API's.

What is no HTTP never reaches a handler. It is answered in JSON, without repeating any of it, and
without the name of a library that a scanner could look up.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, cast

from aiohttp import HttpVersion10, HttpVersion11, hdrs, web
from aiohttp.helpers import rfc822_formatted_time
from aiohttp.web_protocol import RequestHandler

from mataserver.http.unread_output import Backlog
from mataserver.http.websocket_framing import Framing

if TYPE_CHECKING:
    from collections.abc import Callable

    from aiohttp import WebSocketError

    from mataserver.http.unread_output import Portion, Strangers
    from mataserver.http.websocket_framing import FrameReader, Take

_STATUS = 400
DETAIL = "The request is not valid HTTP"
_BODY = b'{"detail":"%b"}' % DETAIL.encode()
VERSIONS = frozenset({HttpVersion10, HttpVersion11})
"""Those of HTTP that this server speaks: the parser takes HTTP/0.9, whose requests have no headers,
and a line that says HTTP/2.0."""
_OK = "HTTP/1.1 200 OK"
_CLOSE = 0x88
"""The first byte of a WebSocket's closing frame (RFC 6455, section 5.2)."""
_LONGEST_REASON = 123
_WITH_BODY = frozenset({hdrs.METH_GET, hdrs.METH_POST})
_FAILED = b'{"detail":"Internal server error"}'

log = logging.getLogger("mataserver.http")


class Plain(web.Response):
    """An answer that does not tell what software gives it."""

    async def _prepare_headers(self) -> None:
        await super()._prepare_headers()
        self.headers.popall(hdrs.SERVER, None)


class Whole(web.Response):
    """An answer whose body is here: head and body may leave at once."""

    async def leave(self, request: web.BaseRequest) -> None:
        """Send it past aiohttp's steps for streams, unless anything about it is unusual.

        aiohttp finds it sent, and keeps the connection. What is unusual is left for aiohttp to
        send, and so is what meets a connection that broke.
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


def unsigned(application: web.Application) -> None:
    """Have no answer, stream or WebSocket name a library: aiohttp tells its release."""
    application.on_response_prepare.append(unsign)


async def unsign(_request: web.Request, response: web.StreamResponse) -> None:
    """Take aiohttp's name out of an answer."""
    response.headers.popall(hdrs.SERVER, None)


def refusal() -> Plain:
    """Return the answer to what is no HTTP that this server speaks."""
    return _plain(_BODY, _STATUS)


def _plain(body: bytes, status: int) -> Plain:
    response = Plain(body=body, status=status, content_type="application/json")
    response.force_close()
    return response


class Conversation(RequestHandler):
    """One connection; ``budget`` gives a share of the bytes in flight.

    A client that does not read what it was sent has ``patience`` seconds for each megabyte, and
    one of ``strangers`` no longer than others of them leave it room. ``is_strangers`` says that the
    request under way is of nobody known.
    """

    __slots__ = ("_backlog", "_budget", "_fail", "_framing", "is_strangers")

    def __init__(
        self,
        server: web.Server,
        budget: Callable[[], Portion],
        patience: float,
        strangers: Strangers,
        **options: Any,
    ) -> None:
        super().__init__(server, **options)
        self._budget = budget
        self._backlog = Backlog(budget(), patience, strangers)
        self.is_strangers = False
        self._framing: Framing | None = None
        self._fail: Callable[[WebSocketError], None] | None = None

    def on_failure(self, fail: Callable[[WebSocketError], None]) -> None:
        """Have ``fail`` told what is wrong with what the client of a WebSocket sends."""
        self._fail = fail

    def set_parser(self, parser: Any, data_received_cb: Callable[[], None] | None = None) -> None:
        """Look at the frames of a WebSocket before ``parser`` reads them."""
        reader = cast("FrameReader", parser)
        self._framing = Framing(reader, self._budget(), self._fail or self._give_up)
        super().set_parser(self._framing, data_received_cb)  # type: ignore[arg-type]

    def on_frame(self, take: Take | None) -> None:
        """Offer ``take`` each frame of a WebSocket that is a whole message, see ``Framing``."""
        if self._framing is not None:
            self._framing.take = take

    def ignore_messages(self) -> None:
        """Read on without keeping what a WebSocket's client sends."""
        if self._framing is not None:
            self._framing.ignore()

    def pause_writing(self) -> None:
        """Have what is written wait: the client is slower than the server."""
        super().pause_writing()
        if self.transport is not None:
            self._backlog.begin(self.transport, stranger=self.is_strangers)

    def resume_writing(self) -> None:
        """Go on: the client has read."""
        self._backlog.end()
        super().resume_writing()

    def end_socket(self, code: int, reason: str) -> None:
        """Close a WebSocket that whoever serves it does not close."""
        if self._framing is not None and self.transport is not None:
            said = code.to_bytes(2, "big") + reason.encode()[:_LONGEST_REASON]
            self.transport.write(bytes((_CLOSE, len(said))) + said)
            self.transport.close()

    def connection_lost(self, exc: BaseException | None) -> None:
        """Give back what the connection holds."""
        self._backlog.end()
        if self._framing is not None:
            self._framing.end()
        super().connection_lost(exc)

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,  # noqa: ARG002 - aiohttp's, which repeats the request
    ) -> web.StreamResponse:
        """Answer what did not get to a handler, or failed behind it."""
        left = self.transport is None or self.transport.is_closing()
        if status >= 500 and not (left and isinstance(exc, ConnectionError)):
            log.error("a request failed outside its handler", exc_info=exc)
        if request.writer.output_size > 0:
            raise ConnectionError("a part of the answer is sent already")
        return refusal() if status == _STATUS else _plain(_FAILED, status)

    def _give_up(self, _error: WebSocketError) -> None:
        if self.transport is not None:
            self.transport.abort()
