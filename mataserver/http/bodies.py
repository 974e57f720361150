"""Reading of whole request bodies, within limits of size, time and the global budget."""

from __future__ import annotations

import asyncio
import functools
from typing import TYPE_CHECKING

from aiohttp import hdrs

from mataserver.errors import MataError, TooLarge, TooSlow
from mataserver.http.auth import PRINCIPAL
from mataserver.http.budget import BudgetShare
from mataserver.http.content_encoding import ENCODINGS, IDENTITY, Decompressor
from mataserver.http.revocation import check_not_revoked, revocable_wait

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from aiohttp import web

    Chunks = Callable[[], Awaitable[bytes]]

    from mataserver.http.budget import Budget
    from mataserver.http.routing import BodyLimits
TOO_SLOW = "The body did not arrive in time"


class UnsupportedMediaType(MataError):
    """415: the route does not accept the content type."""

    status = 415


class BodyReader:
    """Reads the body; its share of the global budget is released when the context ends.

    A class, as ``asynccontextmanager`` would cost more than the rest. Raises ``TooLarge``,
    ``TooSlow``, ``UnsupportedMediaType`` for a content encoding other than gzip and deflate,
    ``BadRequest`` for a corrupt body, ``Unavailable`` if too much is in flight, and
    ``CredentialsRevoked`` if the credentials become invalid before the body is complete.
    """

    __slots__ = ("_limits", "_request", "_share")

    def __init__(self, request: web.Request, budget: Budget, limits: BodyLimits) -> None:
        self._request = request
        self._limits = limits
        caller = request.get(PRINCIPAL)
        self._share = BudgetShare(budget, caller and caller.id)

    async def __aenter__(self) -> bytes:
        """Return the whole body; the caller can free it by dropping it once decoded."""
        request, limit = self._request, self._limits.size
        content = request.content
        if content.is_eof() and hdrs.CONTENT_ENCODING not in request.headers:
            # The common case: the body has arrived, so neither timer nor coroutine is needed.
            check_not_revoked(request)
            found = content.read_nowait()
            self._share.cover(len(found), limit)
            return found
        expected = request.content_length
        if expected is not None and expected > limit:
            raise TooLarge(f"The body is over the limit of {limit} bytes")
        try:
            self._share.check(expected or 0)
            with revocable_wait(request) as wait:
                body = await wait.for_result(_read_in_time(request, self._limits, self._share))
                wait.check()  # the grant may end in the loop turn in which the last byte arrives
                return body
        except BaseException:
            self._share.give_back()
            raise

    async def __aexit__(self, *exc: object) -> None:
        """Release the share."""
        self._share.give_back()


async def _read_in_time(request: web.Request, limits: BodyLimits, share: BudgetShare) -> bytes:
    encoding = request.headers.get(hdrs.CONTENT_ENCODING)
    read = (
        _read if encoding is None else functools.partial(_read_compressed, encoding.strip().lower())
    )
    limit, seconds, idle = limits
    try:
        async with asyncio.timeout(seconds) as timer:
            chunks = request.content.readany
            return await read(
                _with_idle_timeout(chunks, timer, seconds) if idle else chunks, limit, share
            )
    except TimeoutError:
        raise TooSlow(TOO_SLOW) from None


def _with_idle_timeout(chunks: Chunks, timer: asyncio.Timeout, seconds: float) -> Chunks:
    """Restart a timer with each chunk: a timeout between chunks instead of in total."""

    async def awaited() -> bytes:
        chunk = await chunks()
        timer.reschedule(asyncio.get_running_loop().time() + seconds)
        return chunk

    return awaited


async def _read(chunks: Chunks, limit: int, share: BudgetShare) -> bytes:
    found, size = [], 0
    while chunk := await chunks():
        size += len(chunk)
        share.cover(size, limit)
        found.append(chunk)
    return found[0] if len(found) == 1 else b"".join(found)


async def _read_compressed(encoding: str, chunks: Chunks, limit: int, share: BudgetShare) -> bytes:
    """Read a compressed body; the limit applies to its decompressed size."""
    if encoding in IDENTITY:
        return await _read(chunks, limit, share)
    if encoding not in ENCODINGS:
        raise UnsupportedMediaType("Content-Encoding must be gzip, deflate or identity")
    decompressor, pieces, size = Decompressor(encoding), [], 0
    while chunk := await chunks():
        for piece in decompressor.feed(chunk):
            size += len(piece)
            share.cover(size, limit)
            pieces.append(piece)
            await asyncio.sleep(0)  # yields to other requests between pieces
    pieces.append(decompressor.finish())
    return b"".join(pieces)
