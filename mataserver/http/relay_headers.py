"""The headers forwarded between front-ends: all but those of the connection."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final
from urllib.parse import unquote_plus

import aiohttp
from aiohttp import hdrs
from multidict import CIMultiDict

from mataserver.frontends.identity_assertions import ASSERTION_HEADER

if TYPE_CHECKING:
    from collections.abc import Mapping

    from aiohttp import ClientHandlerType, web

MAX_BODY = 16_000_000
"""Bytes that are read of an answer that is not streamed."""
LOGGED_BYTES = 300
"""Bytes of a rejection that are logged."""
_HOP_BY_HOP: Final = frozenset(
    {
        *("connection", "keep-alive", "proxy-connection", "te", "trailer", "transfer-encoding"),
        *("upgrade", "proxy-authenticate", "proxy-authorization"),
    }
)
"""Connection-specific headers (RFC 9110, section 7.6.1)."""
_NOT_FORWARDED: Final = _HOP_BY_HOP | {
    *("authorization", "x-api-key", "cookie", "x-csrf-token"),  # replaced by the assertion
    *("origin", "referer"),  # checked here
    *("host", "forwarded", "x-request-id", ASSERTION_HEADER.lower()),  # set again
    *("accept-encoding", "content-encoding", "content-length", "expect"),  # of the original body
}
_PREFIXES: Final = ("x-forwarded-", "sec-")
_REGENERATED: Final = _HOP_BY_HOP | {
    "date",
    "server",
    "content-length",
    "server-timing",
    "x-request-id",
}


class UpgradeRefusedError(aiohttp.ClientError):
    """A front-end's non-WebSocket answer to a request for a WebSocket."""

    def __init__(self, status: int, headers: CIMultiDict[str], body: bytes) -> None:
        super().__init__(f"{status}: {body[:LOGGED_BYTES]!r}")
        self.status = status
        self.headers = headers
        self.body = body


class AnswerTooLongError(aiohttp.ClientError):
    """An answer too long to be a list of resources."""


async def raise_refused_upgrade(
    request: aiohttp.ClientRequest, handler: ClientHandlerType
) -> aiohttp.ClientResponse:
    """Raise ``UpgradeRefusedError`` with the answer that aiohttp would hide; follow no redirect."""
    answer = await handler(request)
    if hdrs.UPGRADE in request.headers and answer.status != 101:
        try:
            body = await read_body(answer)
        finally:
            answer.close()
        raise UpgradeRefusedError(answer.status, forwarded_answer(answer), body)
    return answer


async def read_body(answer: aiohttp.ClientResponse) -> bytes:
    """Return an answer's body. Raises ``AnswerTooLongError``, and aiohttp's errors."""
    body = bytearray()
    async for chunk in answer.content.iter_any():
        body += chunk
        if len(body) > MAX_BODY:
            answer.close()
            raise AnswerTooLongError(f"it answers with more than {MAX_BODY} bytes")
    return bytes(body)


def forwarded_request(request: web.Request) -> CIMultiDict[str]:
    """Return the request's headers that are forwarded to another front-end."""
    dropped = _connection_options(request.headers)
    given: CIMultiDict[str] = CIMultiDict()
    for name, value in request.headers.items():
        low = name.lower()
        if (
            low in _NOT_FORWARDED
            or low in dropped
            or low.startswith(_PREFIXES)
            or not _is_text(value)
        ):
            continue
        given.add(name, value)
    return given


def forwarded_answer(answer: aiohttp.ClientResponse) -> CIMultiDict[str]:
    """Return the answer's headers that are forwarded to the client, duplicates included."""
    dropped = _connection_options(answer.headers)
    found = ((name, value) for name, value in answer.headers.items() if name.lower() not in dropped)
    return CIMultiDict((name, value) for name, value in found if name.lower() not in _REGENERATED)


def without_token(request: web.Request) -> str:
    """Return a WebSocket's path and unmodified query, without ``?token=``."""
    url = request.rel_url
    given = (each for each in url.raw_query_string.split("&") if each)
    query = "&".join(each for each in given if unquote_plus(each.partition("=")[0]) != "token")
    return f"{url.raw_path}?{query}" if query else url.raw_path


def _connection_options(headers: Mapping[str, str]) -> set[str]:
    """Return the headers that ``Connection`` names as its own."""
    return {each.strip().lower() for each in headers.get(hdrs.CONNECTION, "").split(",")}


def _is_text(value: str) -> bool:
    """Whether a value can be forwarded: it must be valid UTF-8."""
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True
