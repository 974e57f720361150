"""A server's answer on its way to the client: as it comes, no faster than the client reads."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from aiohttp import web

from mataserver import WholeAnswer
from mataserver_fleet.gateway import headers
from mataserver_fleet.gateway.exchange import UpstreamFailure
from mataserver_fleet.gateway.http1 import MalformedError

if TYPE_CHECKING:
    from collections.abc import Callable

    from mataserver_fleet.gateway.exchange import UpstreamResponse

SMALL_RESPONSE_BYTES = 1 << 16
"""Bytes of an answer that is read whole before any of it is sent."""
CLIENT_CLOSED = 499
"""What is counted for a client that left amid its answer."""

log = logging.getLogger("mataserver.plugin.fleet")


async def relay(
    request: web.Request,
    answer: UpstreamResponse,
    server_timeout: float,
    client_timeout: float,
    count_sent: Callable[[int], None],
) -> tuple[web.StreamResponse, int]:
    """Answer a request with a server's answer; return the response, and the status that it counts.

    server_timeout: seconds that the server may pause; ``client_timeout``: that the client may.
    count_sent:     is told how many bytes were passed on.

    Raises ``UpstreamFailure`` while nothing was sent; after that the connection is cut.
    """
    fields, length = headers.response_headers(answer.fields), answer.length
    if length is not None and length <= SMALL_RESPONSE_BYTES:
        body = await read_body(answer, server_timeout)
        count_sent(len(body))
        whole = WholeAnswer(status=answer.status, headers=fields, body=body)
        whole.headers.setdefault("Content-Type", headers.BINARY)  # as aiohttp says of any
        return whole, answer.status
    response = web.StreamResponse(status=answer.status, headers=fields)
    if length is not None:
        response.content_length = length
    await response.prepare(request)
    if request.method == "HEAD":  # the server was asked by GET; what nobody gets is not read
        await response.write_eof()
        return response, answer.status
    try:
        await _stream(response, answer, server_timeout, client_timeout, count_sent)
        await response.write_eof()
    except (OSError, MalformedError) as error:
        # The client must not take a partial answer for a complete one.
        log.info("an answer was cut off: %s", type(error).__name__)
        transport = request.transport
        if transport is None or transport.is_closing():
            return response, CLIENT_CLOSED
        transport.abort()
        return response, UpstreamFailure.status
    return response, answer.status


async def read_body(
    answer: UpstreamResponse, server_timeout: float, max_bytes: int = SMALL_RESPONSE_BYTES
) -> bytes:
    """Return the body of an answer.

    Raises ``UpstreamFailure`` for one that does not come, or that is longer than ``max_bytes``.
    """
    try:
        if answer.is_complete:
            return await answer.chunk()
        pieces, left = [], max_bytes
        async with asyncio.timeout(server_timeout):
            while piece := await answer.chunk():
                pieces.append(piece)
                left -= len(piece)
                if left < 0:
                    raise UpstreamFailure("The server's answer is too long", sent=True, begun=True)
        return b"".join(pieces)
    except TimeoutError:
        stopped = "The server stopped amid its answer"
        raise UpstreamFailure(stopped, sent=True, begun=True, status=504) from None
    except (OSError, MalformedError) as error:
        ended = "The server ended the connection amid its answer"
        raise UpstreamFailure(ended, sent=True, begun=True) from error


async def _stream(
    response: web.StreamResponse,
    answer: UpstreamResponse,
    server_timeout: float,
    client_timeout: float,
    count_sent: Callable[[int], None],
) -> None:
    """Pass the body on. One timer serves both waits, since one follows the other."""
    loop = asyncio.get_running_loop()
    async with asyncio.timeout(server_timeout) as timer:
        while chunk := await answer.chunk():
            timer.reschedule(loop.time() + client_timeout)
            await response.write(chunk)
            count_sent(len(chunk))
            timer.reschedule(loop.time() + server_timeout)
