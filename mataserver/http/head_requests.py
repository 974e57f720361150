"""Requests with a known head: reception of the body, and the answer.

Such a request is a lookup, and its body goes to the handler as received. No check is skipped: the
key is authorized, bytes count in the budget, slow bodies are rejected, the request has an id and is
counted, a draining server closes the connection, and a disconnect cancels the work.

If the handler can start at once, and nothing fails, there is no task: the answer is written when
the worker's arrives.
"""

from __future__ import annotations

import asyncio
import traceback
from typing import TYPE_CHECKING, Any

from mataserver.errors import TooSlow, Unavailable
from mataserver.http import bodies, head_cache
from mataserver.http.head_answers import AnswerSender, lasting
from mataserver.http.head_connection import CachingConnection
from mataserver.http.middleware import CLIENT_GONE
from mataserver.http.revocation import LateGrant
from mataserver.serving.dispatch import RETRIABLE

if TYPE_CHECKING:
    from collections.abc import Callable

    from aiohttp import web

    from mataserver.contract.handles import Encoded
    from mataserver.http.budget import BudgetShare
    from mataserver.http.head_cache import KnownHead
    from mataserver.http.infer_repeats import InferRepeat
    from mataserver.principals import Principal

MIN_UNCOPIED = 1 << 12
"""Minimum bytes of a body's part that is kept without copying."""


def learn(request: web.Request, repeat: InferRepeat, boundary: str = "") -> None:
    """Answer further requests with the head of this one by ``repeat``.

    ``boundary`` is that of a form.
    """
    connection = request.protocol
    if isinstance(connection, CachingConnection):
        head = connection.take_head(request, boundary)
        if head:
            connection.heads.learn(head, request, repeat, KnownRequest)


class KnownRequest(AnswerSender):
    """A request with a known head: its body as it arrives, and its answer.

    ``caller`` is the sender, unless a service authenticates it.
    """

    __slots__ = (
        "_answering", "_boundary", "_end", "_grant", "_loop", "_next_data", "_pieces",
        "_released", "_share", "_task", "_timer", "_withdraw", "caller",
    )  # fmt: skip

    def __init__(self, connection: CachingConnection, known: KnownHead, share: BudgetShare) -> None:
        super().__init__(connection, known)
        self.caller: Principal | None = None
        self._grant: LateGrant | None = None
        self._share = share
        self._loop = asyncio.get_running_loop()
        self._pieces: list[bytes | bytearray] = []
        self._end = 0
        self._boundary = self._next_data = b""
        self._task: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._withdraw: Callable[[], None] | None = None
        self._answering = self._released = False
        self._middleware.lifecycle.active += 1

    def begin(self, data: bytes, head: head_cache.RequestStart) -> None:
        """Process the first data: the head, and the body or its beginning."""
        self._pieces.append(data)
        self._boundary, self._end = head.boundary, head.end
        self._left = head.size - (len(data) - head.end)
        if self._left:
            self._timer = self._loop.call_later(self._known.seconds, self._expire)
            self._grant = LateGrant(self._middleware.gate.grants, self.caller)
        else:
            self._start_answer()

    def receive(self, data: bytes) -> None:
        """Process further data: of the body, or of the next request."""
        if self._answering:
            self._buffer_next(data)
            return
        more, left = data[: self._left], self._left - len(data)
        try:
            self._share.take(len(more))
        except Unavailable:
            self._release()
            self._connection.hand_over(b"".join([*self._pieces, data]), left)
            return
        self._buffer_body(more)
        self._left -= len(more)
        if self._left:
            return
        if left:
            self._buffer_next(data[len(more) :])
        self._start_answer()

    def _buffer_body(self, more: bytes) -> None:
        """Buffer a part of the body; small parts are joined, to save memory."""
        last = self._pieces[-1]
        if len(more) >= MIN_UNCOPIED:
            self._pieces.append(more)
        elif isinstance(last, bytearray) and len(last) < head_cache.MAX_EARLY:
            last += more
        else:
            self._pieces.append(bytearray(more))

    def _buffer_next(self, data: bytes) -> None:
        """Buffer data of the next request; pause reading if it is much."""
        self._next_data += data
        self._share.hold(len(data))
        if len(self._next_data) > head_cache.MAX_EARLY and self._connection.transport is not None:
            self._connection.transport.pause_reading()

    def abandon(self) -> None:
        """Stop: the client has disconnected. Releases here, as a task may not have started."""
        if self._task is not None:
            self._task.cancel()
        withdraw, self._withdraw = self._withdraw, None  # breaks a cycle that would retain the body
        if withdraw is not None:
            withdraw()
        if not self._counted:
            self._count(CLIENT_GONE)
        self._release()

    def _expire(self) -> None:
        self._start_answer(TooSlow(bodies.TOO_SLOW))

    def _start_answer(self, refusal: Exception | None = None) -> None:
        if self._timer is not None:  # the body came after its head
            self._timer.cancel()  # it limits the body, not the model
            if self._grant is not None:  # what is answered from here on is answered to its end
                refusal = self._grant.release() or refusal
        self._answering = True
        if refusal is not None or not self._begin_answer():
            self._task = self._connection.spawn(self._respond(refusal))

    def _begin_answer(self) -> bool:
        """Let the handler start without a task; return whether it did."""
        body, begin = self._body(), self._known.repeat.begin
        self._pieces, self._end = [body], 0
        try:
            self._withdraw = self._connection.run_in_context(
                begin, body, self._boundary, self._on_result
            )
        except Exception as error:
            self._settle(error)
            return True
        return self._withdraw is not None

    def _on_result(self, result: Encoded | Exception) -> None:
        """Answer with the result, or try again."""
        if isinstance(result, RETRIABLE):
            self._withdraw = None
            self._task = self._connection.spawn(self._respond(None))
        else:
            self._settle(result)

    def _settle(self, result: Any) -> None:
        """Answer with a result, at once if it is plain; its body may be valid only now."""
        self._withdraw = None
        self._pieces, left = [], False
        if not isinstance(result, Exception):
            try:
                self._middleware.budget.require_room(len(result.body))
                left = self._send_direct(result)
            except Exception as error:
                result = error
        if not left:
            self._task = self._connection.spawn(self._finish_request(lasting(result)))
            return
        self._release()
        self._next()

    async def _respond(self, refusal: Exception | None) -> None:
        try:
            result = refusal or await self._result()
        except BaseException as error:
            self._abort(error)
            self._release()
            raise
        await self._finish_request(result)

    async def _finish_request(self, result: Any) -> None:
        """Send the result, and continue with data that arrived meanwhile."""
        try:
            if isinstance(result, Exception) or not self._send_direct(result):
                request = self._new_request()
                if request is not None:
                    await self._deliver(request, result)
        except BaseException as error:
            self._abort(error)
            raise
        finally:
            self._release()
        self._next()

    def _next(self) -> None:
        """Process the next request."""
        self._connection.next_request(self._next_data)

    async def _result(self) -> Any:
        """Return the handler's answer, or its exception."""
        try:
            return await self._work()
        except asyncio.CancelledError:
            if not self._counted:  # a disconnect was counted already
                self._count(Unavailable.status)
            raise
        except Exception as error:
            return error

    async def _work(self) -> Any:
        answer = await self._known.repeat.answer(self._body(), self._boundary)
        self._middleware.budget.require_room(len(answer.body))
        return answer

    def _body(self) -> bytes:
        """Return the whole body, and drop the buffer."""
        (first, *others), self._pieces = self._pieces, []
        if not others:
            return bytes(first[self._end :])
        return b"".join([memoryview(first)[self._end :], *others])

    def _abort(self, error: BaseException) -> None:
        """Close the connection; clear the traceback's frames, which hold the body."""
        self._task = None
        traceback.clear_frames(error.__traceback__)
        self._connection.abort()

    def _release(self) -> None:
        if self._released:
            return
        self._released = True
        if self._timer is not None:
            self._timer.cancel()
        if self._grant is not None:
            self._grant.release()
        self._share.give_back()
        self._middleware.lifecycle.active -= 1
