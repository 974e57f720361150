"""Claimed requests with a known head: the service gets only request and body.

The service has decided once that it claims such requests, on their credentials, and on what in the
head concerns others. Before each further request it confirms that this still holds, and again once
a body that came later than its head is there: nobody can hold one back to act after a revocation.
"""

from __future__ import annotations

import functools
from itertools import chain
from typing import TYPE_CHECKING, Any

from aiohttp.helpers import rfc822_formatted_time

from mataserver.contract.claims import PlainAnswer
from mataserver.http.budget import HIGH_WATER_BYTES
from mataserver.http.common_headers import BEGUN, new_request_id
from mataserver.http.handler_results import body_size
from mataserver.http.head_cache import MAX_EARLY
from mataserver.http.head_requests import KnownRequest
from mataserver.http.protocol import CompleteResponse
from mataserver.http.routing import CLAIMED

if TYPE_CHECKING:
    from aiohttp import web

    from mataserver.contract.claims import RepeatedClaim, Unfinished
    from mataserver.http.budget import BudgetShare
    from mataserver.http.head_cache import KnownHead
    from mataserver.http.head_connection import CachingConnection

_ANSWER = (
    "HTTP/1.1 200 OK\r\n%sX-Request-Id: %s\r\nServer-Timing: total;dur=%.3f\r\n"
    "Content-Length: %d\r\nDate: %s\r\n\r\n"
)
MAX_CACHED_FIELDS = 2_048
"""Maximum characters of header fields whose encoded lines are cached."""
_OWN = frozenset({
    "x-request-id", "server-timing", "content-length", "date", "connection", "set-cookie", "server",
})  # fmt: skip
"""Fields that the server sets itself, or that may be repeated."""


class ClaimedRequest(KnownRequest):
    """One such request."""

    __slots__ = ("_repeat", "_request", "_responder", "_unfinished")

    def __init__(self, connection: CachingConnection, known: KnownHead, share: BudgetShare) -> None:
        super().__init__(connection, known, share)
        self._repeat: RepeatedClaim = self._known.repeat
        self._responder = self._repeat.responder()
        self._unfinished: Unfinished | None = None

    def _begin_answer(self) -> bool:
        """Let the service start without a task; return whether that, or the general path, did."""
        if self._timer is not None and not self._repeat.is_current():  # the body came later
            self._hand_over()
            return True
        head = self._connection.shared_request(self._known)
        if head is None:
            return False
        first, *others = self._pieces
        body = (memoryview(first)[self._end :], *others)
        begin = self._responder.begin
        try:
            self._withdraw = self._connection.run_in_context(begin, head, body, self._finish)
        except Exception as error:
            self._settle(error)
            return True
        return self._withdraw is not None

    def _finish(self, result: PlainAnswer | Unfinished | Exception) -> None:
        """Answer with the result; by the service in a task if that is unfinished."""
        if isinstance(result, (PlainAnswer, Exception)):
            self._settle(result)
            return
        self._unfinished, self._withdraw = result, result.withdraw
        self._task = self._connection.spawn(self._respond(None))

    def _send_direct(self, result: PlainAnswer) -> bool:
        connection, fields = self._connection, result.fields
        is_short = sum(map(len, chain.from_iterable(fields))) <= MAX_CACHED_FIELDS
        lines = _encode_fields(fields) if is_short else None
        transport = connection.transport
        if transport is None or transport.is_closing() or connection.writing_paused:
            return False
        if (
            lines is None
            or len(result.body) > HIGH_WATER_BYTES
            or self._middleware.lifecycle.is_draining
        ):
            return False
        spent = self._count(200) * 1e3
        date = rfc822_formatted_time()
        head = _ANSWER % (lines, new_request_id(), spent, len(result.body), date)
        transport.write(head.encode() + result.body)
        return True

    def _expire(self) -> None:
        """Leave a slow body to the service's own timeout."""
        self._hand_over()

    def _hand_over(self) -> None:
        """Leave the request, and what came after it, to the general path."""
        self._release()
        connection, following = self._connection, self._next_data
        if len(following) > MAX_EARLY and connection.transport is not None:
            connection.transport.resume_reading()
        left = -1 if following else self._left
        connection.hand_over(b"".join([*self._pieces, following]), left)

    async def _respond(self, _refusal: Exception | None) -> None:
        self._withdraw = None  # from here on cancelling the task cancels the work
        request = self._new_request()
        try:
            if request is not None:
                self._request = request
                await self._deliver(request, await self._result())
            elif self._unfinished is not None:
                self._unfinished.withdraw()
                self._unfinished = None
        except BaseException as error:
            self._abort(error)
            raise
        finally:
            self._release()
        self._next()

    def _new_request(self) -> web.Request | None:
        request = super()._new_request()
        if request is not None:
            request[BEGUN] = self._started_at
            request[CLAIMED] = _claimed_marker
        return request

    async def _work(self) -> web.StreamResponse:
        unfinished, self._unfinished = self._unfinished, None
        if unfinished is not None:
            self._pieces = []  # the service has them; a reference cycle would retain them
            response = await unfinished.finish(self._request)
        else:
            response = await self._responder.answer(self._request, self._body())
        self._middleware.budget.require_room(body_size(response))
        return response

    def _response(self, _request: web.Request, result: Any) -> web.StreamResponse:
        if isinstance(result, PlainAnswer):
            return CompleteResponse(headers=list(result.fields), body=result.body)
        response: web.StreamResponse = result
        return response


@functools.lru_cache(256)
def _encode_fields(fields: tuple[tuple[str, str], ...]) -> str | None:
    """Return the encoded header fields; None if aiohttp should write them."""
    text = "".join(f"{name}: {value}\r\n" for name, value in fields)
    plain = text.count("\r") == text.count("\n") == len(fields) and "\0" not in text
    own = any(name.lower() in _OWN for name, _ in fields)
    return text if plain and not own else None


async def _claimed_marker(_request: web.Request) -> web.StreamResponse:
    """Mark a request as claimed; never called."""
    raise AssertionError
