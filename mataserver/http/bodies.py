"""Reading of whole request bodies, within limits of size, time and the global budget."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from aiohttp import hdrs

from mataserver.errors import MataError, TooLarge, TooSlow
from mataserver.http.auth import PRINCIPAL
from mataserver.http.budget import BudgetShare
from mataserver.http.content_encoding import ENCODINGS, IDENTITY, Decompressor
from mataserver.http.revocation import check_not_revoked, revocable_wait

if TYPE_CHECKING:
    from aiohttp import web

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
    """Read the body; the limit applies to the decompressed size of a compressed one."""
    decompressor = _decompressor(request)
    found: list[bytes] = []
    size, loop = 0, asyncio.get_running_loop()
    try:
        async with asyncio.timeout(limits.seconds) as timer:
            while chunk := await request.content.readany():
                if limits.idle:  # a timeout between chunks instead of in total
                    timer.reschedule(loop.time() + limits.seconds)
                for piece in (chunk,) if decompressor is None else decompressor.feed(chunk):
                    size += len(piece)
                    share.cover(size, limits.size)
                    found.append(piece)
                    if decompressor is not None:
                        await asyncio.sleep(0)  # yields to other requests between pieces
    except TimeoutError:
        raise TooSlow(TOO_SLOW) from None
    if decompressor is not None:
        found.append(decompressor.finish())
    return found[0] if len(found) == 1 else b"".join(found)


def _decompressor(request: web.Request) -> Decompressor | None:
    """Return what decompresses the body; None if it is not compressed."""
    encoding = request.headers.get(hdrs.CONTENT_ENCODING, "").strip().lower()
    if encoding in IDENTITY:
        return None
    if encoding not in ENCODINGS:
        raise UnsupportedMediaType("Content-Encoding must be gzip, deflate or identity")
    return Decompressor(encoding)
