"""Requests with a known head: reception of the body, and the answer.

Such a request is a lookup, and its body goes to the handler as received. No check is skipped: the
key is authorized, bytes count in the budget, slow bodies are rejected, the request has an id and is
counted, a draining server closes the connection, and a disconnect cancels the work.

If the handler can start at once, and nothing fails, there is no task: the answer is written when
the worker's arrives.
"""

from __future__ import annotations

import asyncio
import time
import traceback
from typing import TYPE_CHECKING, Any

from aiohttp import hdrs
from aiohttp.helpers import rfc822_formatted_time

from mataserver.errors import TooSlow, Unavailable
from mataserver.http import bodies, codec, head_parsing
from mataserver.http.middleware import LEFT, new_id, require_room
from mataserver.http.routing import REQUEST_ID
from mataserver.serving.dispatch import RETRIABLE

if TYPE_CHECKING:
    from collections.abc import Callable

    from aiohttp import web

    from mataserver.contract.handles import Encoded
    from mataserver.http.head_cache import Known, Talk
    from mataserver.http.middleware import Edge
    from mataserver.http.unread_output import Portion

DROP = 1 << 12
"""Minimum bytes of a body's part that is kept without copying."""
_ANSWER = (
    "HTTP/1.1 200 OK\r\nContent-Type: %s\r\nServer-Timing: %s, total;dur=%.3f\r\n"
    "X-Request-Id: %s\r\nContent-Length: %d\r\nDate: %s\r\n\r\n"
)


class Leaving:
    """Sends the answer to a request with a known head."""

    __slots__ = ("_begun", "_conversation", "_counted", "_edge", "_known", "_left")

    def __init__(self, conversation: Talk, edge: Edge, known: Known) -> None:
        self._begun = time.perf_counter()
        self._conversation = conversation
        self._edge = edge
        self._known: Any = known  # a ``KnownRoute``, except in a subclass
        self._left = 0
        self._counted = False

    def _leave(self, answer: Encoded) -> bool:
        """Send an answer at once; return whether that was possible."""
        conversation, body = self._conversation, answer.body
        transport = conversation.transport
        if transport is None or transport.is_closing() or conversation.writing_paused:
            return False
        if self._edge.lifecycle.draining:
            return False
        kind = codec.JSON if self._known.repeat.form == "json" else codec.MSGPACK
        spent, stages = self._count(200) * 1e3, codec.stages(answer)
        head = _ANSWER % (kind, stages, spent, new_id(), len(body), rfc822_formatted_time())
        if len(body) <= codec.WHOLE:
            transport.write(head.encode() + body)
        else:
            transport.writelines((head.encode(), body))
        return True

    async def _send(self, found: Encoded | Exception) -> None:
        """Send an answer like the middleware and aiohttp do."""
        request = self._conversation.request(self._known)
        if request is not None:
            await self._deliver(request, found)

    async def _deliver(self, request: web.Request, found: Any) -> None:
        """Send a result; an error if there is no answer, or one that cannot be written."""
        try:
            try:
                finished = self._response(request, found)
                await self._write(request, finished)
            except ConnectionError:
                return
            except Exception as error:  # e.g. a plugin's error form, an invalid header value
                finished = self._conversation.handle_error(request, exc=error)
                await self._write(request, finished)
        except ConnectionError:
            return
        if not finished.keep_alive:
            self._conversation.hang_up(at_once=not self._left)

    async def _write(self, request: web.Request, finished: web.StreamResponse) -> None:
        await finished.prepare(request)
        await finished.write_eof()

    def _response(self, request: web.Request, found: Encoded | Exception) -> web.StreamResponse:
        """Return an answer in the form that the middleware produces."""
        request[REQUEST_ID] = new_id()
        if isinstance(found, Exception):
            response = self._edge.refuse(request, found)
        else:
            form, stages = self._known.repeat.form, codec.stages(found)
            response = codec.respond(found.body, form=form, timing=stages)
        self._counted = True
        return self._edge.finish(request, response, self._begun)

    def _count(self, status: int) -> float:
        """Count the request; return its duration in seconds."""
        self._counted = True
        spent = time.perf_counter() - self._begun
        self._edge.metrics.count(hdrs.METH_POST, self._known.label, str(status), spent)
        return spent


class Hit(Leaving):
    """A request with a known head: its body as it arrives, and its answer."""

    __slots__ = (
        "_answering", "_boundary", "_early", "_end", "_loop", "_pieces", "_released", "_share",
        "_task", "_timer", "_withdraw",
    )  # fmt: skip

    def __init__(self, conversation: Talk, edge: Edge, known: Known, share: Portion) -> None:
        super().__init__(conversation, edge, known)
        self._share = share
        self._loop = asyncio.get_running_loop()
        self._pieces: list[bytes | bytearray] = []
        self._end = 0
        self._boundary = self._early = b""
        self._task: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._withdraw: Callable[[], None] | None = None
        self._answering = self._released = False
        edge.lifecycle.active += 1

    def begin(self, data: bytes, head: head_parsing.Beginning) -> None:
        """Process the first data: the head, and the body or its beginning."""
        self._pieces.append(data)
        self._boundary, self._end = head.boundary, head.end
        self._left = head.size - (len(data) - head.end)
        if self._left:
            self._timer = self._loop.call_later(self._known.seconds, self._expire)
        else:
            self._run()

    def receive(self, data: bytes) -> None:
        """Process further data: of the body, or of the next request."""
        if self._answering:
            self._wait_with(data)
            return
        more, left = data[: self._left], head_parsing.rest(self._left, data)
        try:
            self._share.take(len(more))
        except Unavailable:
            self._release()
            self._conversation.hand_over(b"".join([*self._pieces, data]), left)
            return
        self._keep(more)
        self._left -= len(more)
        if self._left:
            return
        if left:
            self._wait_with(data[len(more) :])
        self._run()

    def _keep(self, more: bytes) -> None:
        """Buffer a part of the body; small parts are joined, to save memory."""
        last = self._pieces[-1]
        if len(more) >= DROP:
            self._pieces.append(more)
        elif isinstance(last, bytearray) and len(last) < head_parsing.EARLY:
            last += more
        else:
            self._pieces.append(bytearray(more))

    def _wait_with(self, data: bytes) -> None:
        """Buffer data of the next request; pause reading if it is much."""
        self._early += data
        self._share.hold(len(data))
        transport = self._conversation.transport
        if len(self._early) > head_parsing.EARLY and transport is not None:
            transport.pause_reading()

    def abandon(self) -> None:
        """Stop: the client has disconnected. Releases here, as a task may not have started."""
        if self._task is not None:
            self._task.cancel()
        withdraw, self._withdraw = self._withdraw, None  # breaks a cycle that would retain the body
        if withdraw is not None:
            withdraw()
        if not self._counted:
            self._count(LEFT)
        self._release()

    def _expire(self) -> None:
        self._run(TooSlow(bodies.TOO_SLOW))

    def _run(self, refusal: Exception | None = None) -> None:
        if self._timer is not None:
            self._timer.cancel()  # it limits the body, not the model
        self._answering = True
        if refusal is not None or not self._begin_answer():
            self._task = self._conversation.spawn(self._respond(refusal))

    def _begin_answer(self) -> bool:
        """Let the handler start without a task; return whether it did."""
        body, begin = self._body(), self._known.repeat.begin
        self._pieces, self._end = [body], 0
        try:
            self._withdraw = self._conversation.within(begin, body, self._boundary, self._take)
        except Exception as error:
            self._task = self._conversation.spawn(self._conclude(error))
            return True
        return self._withdraw is not None

    def _take(self, found: Encoded | Exception) -> None:
        """Answer with the result, at once if it is a plain answer."""
        self._withdraw = None
        if isinstance(found, RETRIABLE):
            self._task = self._conversation.spawn(self._respond(None))
            return
        self._pieces = []
        left = False
        if not isinstance(found, Exception):
            try:
                require_room(self._edge.budget, len(found.body))
                left = self._leave(found)
            except Exception as error:
                found = error
        if not left:
            self._task = self._conversation.spawn(self._conclude(found))
            return
        self._release()
        self._conversation.go_on(self._early)

    async def _respond(self, refusal: Exception | None) -> None:
        try:
            found = refusal or await self._found()
        except BaseException as error:
            self._give_up(error)
            self._release()
            raise
        await self._conclude(found)

    async def _conclude(self, found: Encoded | Exception) -> None:
        """Send the result, and continue with data that arrived meanwhile."""
        try:
            if isinstance(found, Exception) or not self._leave(found):
                await self._send(found)
        except BaseException as error:
            self._give_up(error)
            raise
        finally:
            self._release()
        self._conversation.go_on(self._early)

    async def _found(self) -> Any:
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
        require_room(self._edge.budget, len(answer.body))
        return answer

    def _body(self) -> bytes:
        """Return the whole body, and drop the buffer."""
        (first, *others), self._pieces = self._pieces, []
        if not others:
            return bytes(first[self._end :])
        return b"".join([memoryview(first)[self._end :], *others])

    def _give_up(self, error: BaseException) -> None:
        """Close the connection; clear the traceback's frames, which hold the body."""
        self._task = None
        traceback.clear_frames(error.__traceback__)
        self._conversation.give_up()

    def _release(self) -> None:
        """Release all resources, once."""
        if self._released:
            return
        self._released = True
        if self._timer is not None:
            self._timer.cancel()
        self._share.give_back()
        self._edge.lifecycle.active -= 1
