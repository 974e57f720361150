"""Requests whose head is known: they pass by aiohttp's parser and its application.

Such a request is a look-up, and its body goes to the handler as it came. Nothing of ours is
skipped: the key is asked for, bytes count in the budget, a slow body is refused, the request has an
id and is counted, a server that drains closes the connection, and who leaves is not worked for.

What such a cache may get wrong is where a message ends. So a head is looked for only where aiohttp
waits for a request and every byte of the messages before is accounted for, from the connection's
first. A connection of which that is not sure is aiohttp's for good, and so is every request that is
unusual in any way: aiohttp gets it as it came.

This knows attributes of aiohttp that are not public, and is used with the releases only that it was
tried with.
"""

from __future__ import annotations

import asyncio
import contextvars
import time
from typing import TYPE_CHECKING, Any, cast

import aiohttp
from aiohttp import hdrs
from aiohttp.helpers import rfc822_formatted_time
from aiohttp.http_writer import StreamWriter
from aiohttp.streams import EMPTY_PAYLOAD

from mataserver.errors import TooSlow, Unavailable
from mataserver.http import codec
from mataserver.http.heads import KnownRoute, is_of
from mataserver.http.middleware import LEFT, REQUEST_ID, new_id, require_room
from mataserver.http.protocol import Conversation, unsign
from mataserver.http.routing import ROUTE

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from aiohttp import web

    from mataserver.contract.handles import Encoded
    from mataserver.contract.web import Share
    from mataserver.http.backlog import Portion
    from mataserver.http.heads import Claim, HeadCache, Known, KnownClaim, Repeat
    from mataserver.http.middleware import Edge

TRIED = frozenset({"3.14.5"})
"""The releases of aiohttp that this was tried with: what is not public changes in any of them."""
LONGEST = 2_048
"""Bytes of a head that is looked at."""
EARLY = 1 << 16
"""Bytes behind a request that is being answered which are read before it is."""
_END = b"\r\n\r\n"
_LENGTH = b"\r\ncontent-length: "
_UNSURE = (b"\r\ntransfer-encoding", b"\r\nupgrade", b"\r\ncontent-length")
"""Lines of a head, in lower case, with which a message ends elsewhere than a plain one does."""
_ANSWER = (
    "HTTP/1.1 200 OK\r\nContent-Type: %s\r\nServer-Timing: %s, total;dur=%.3f\r\n"
    "X-Request-Id: %s\r\nContent-Length: %d\r\nDate: %s\r\n\r\n"
)


def known(version: str = aiohttp.__version__) -> bool:
    """Whether this was tried with a release of aiohttp."""
    return version in TRIED


def is_alone(edge: Edge, application: web.Application) -> bool:
    """Whether nothing but ``edge`` and ``unsign`` touches the requests of an application."""
    around = list(application.middlewares), list(application.on_response_prepare)
    return around == ([edge.middleware], [unsign])


def learn(request: web.Request, repeat: Repeat) -> None:
    """Have requests with the head of one that was answered be answered by ``repeat``."""
    conversation = request.protocol
    if isinstance(conversation, CachingConversation):
        conversation.learn(request, repeat)


class CachingConversation(Conversation):
    """A connection whose requests' heads may be known.

    ``_left`` are the bytes that the message under way is still to have: 0 between two messages,
    less where nobody knows.
    """

    __slots__ = ("_context", "_head", "_heads", "_hit", "_left")

    def __init__(
        self, server: web.Server, budget: Callable[[], Portion], *, cache: HeadCache, **options: Any
    ) -> None:
        super().__init__(server, budget, **options)
        self._heads = cache
        self._context = contextvars.copy_context()
        self._head: bytes | None = None
        self._hit: Hit | None = None
        self._left = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin; what is done for requests goes on in the context of now, as aiohttp's tasks."""
        self._context = contextvars.copy_context()
        super().connection_made(transport)

    def spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Begin what is done for one request: whoever writes into a pipe has another context."""
        return self._loop.create_task(work, context=self._context.copy())

    def data_received(self, data: bytes) -> None:
        """Take what the client sends."""
        if self._hit is not None:
            self._hit.receive(data)
            return
        if self._left > 0:
            self._pass(_rest(self._left, data))
        elif self._left == 0 and data and self._begin(data):
            return
        super().data_received(data)

    def _begin(self, data: bytes) -> bool:
        """Look at the beginning of a message; whether its head is known, and all is done."""
        self._head, is_idle = None, self._is_idle
        end = data.find(_END, 0, LONGEST) + len(_END)
        if end < len(_END):
            self._pass(-1)
            return False
        head = data[:end].lower()
        at = head.find(_LENGTH) + len(_LENGTH)
        digits = data[at : head.find(b"\r\n", at)] if at >= len(_LENGTH) else b""
        size = int(digits) if digits.isdigit() and len(digits) < 8 else 0
        if is_idle and size and not digits.startswith(b"0") and len(data) - end <= size:
            key = data[:at] + data[at + len(digits) : end]
            known = self._heads.find(key)
            if known is not None and size <= known.limit and self._take(known, data, end, size):
                return True
            self._head = key
        # A length of its own is the third of what makes an end unsure only where it is not read.
        unsure = any(line in head for line in (_UNSURE[:2] if size else _UNSURE))
        # A parser ends a CONNECT at its head, whatever length it tells.
        unsure = unsure or head.lstrip().startswith(b"connect ")
        self._pass(-1 if unsure else _rest(end + size, data))
        return False

    def _pass(self, left: int) -> None:
        """Note what is left of the message that aiohttp gets.

        Where nobody knows, what is answered next may be another request than the one whose head is
        here: none is learnt any more.
        """
        self._left = left
        if left < 0:
            self._head = None

    def _take(self, known: KnownRoute | KnownClaim, data: bytes, end: int, size: int) -> bool:
        """Answer a request whose head is known, unless there is no room for what is here of it."""
        share = self._budget()
        try:
            share.take(len(data) - end)
        except Unavailable:
            return False
        self._heads.hits += 1
        self.is_strangers = False
        kind = Hit if isinstance(known, KnownRoute) else known.claim.hit
        self._hit = kind(self, self._heads.edge, known, share)
        self._hit.begin(data, end, size)
        return True

    @property
    def _is_idle(self) -> bool:
        """Whether aiohttp waits for a request, and has nothing else to do on the connection."""
        waiter = self._waiter
        return (
            waiter is not None
            and not waiter.done()
            and not (self._messages or self._upgraded or self._close or self._force_close)
            and not (self._reading_paused or self._buffer_paused)
            and self._payload_parser is None
        )

    def learn(self, request: web.Request, repeat: Repeat) -> None:
        """Know the head of the request under way from now on."""
        head = self._head_of(request)
        if head is not None:
            self._heads.learn(head, request, repeat)

    def learn_claimed(self, request: web.Request, claim: Claim) -> None:
        """Know the head of the claimed request under way from now on."""
        head = self._head_of(request)
        if head is not None:
            self._heads.learn_claimed(head, request, claim)

    def _head_of(self, request: web.Request) -> bytes | None:
        """Return the head of the request under way, once; None where it may be another's."""
        head, self._head = self._head, None
        if head is None or request is not self._current_request or not is_of(head, request):
            return None
        return head

    def hand_over(self, data: bytes, left: int) -> None:
        """Leave a request to aiohttp of which ``data`` came, and ``left`` bytes are to come."""
        self._hit, self._left = None, left
        super().data_received(data)

    def go_on(self, early: bytes) -> None:
        """Take the next request, of which something may have come already."""
        self._hit = None
        if self.transport is None or self._close or self._force_close:
            return
        self._next_keepalive_close_time = self._loop.time() + self._keepalive_timeout
        if len(early) > EARLY:
            self.transport.resume_reading()
        if early:
            self.data_received(early)

    def give_up(self) -> None:
        """Close the connection: the request under way gets no answer."""
        self._hit = None
        self.force_close()

    def hang_up(self, *, at_once: bool) -> None:
        """Take no more requests, and close the connection unless that comes later."""
        self.close()
        if at_once and self.transport is not None:
            self.transport.close()

    def request(self, known: Known) -> web.Request | None:
        """Return a request whose head is known as aiohttp makes it; None once the client left."""
        if self._request_factory is None or self._task_handler is None:
            return None
        writer = StreamWriter(self, self._loop)
        made = self._request_factory(known.message, EMPTY_PAYLOAD, self, writer, self._task_handler)
        request = cast("web.Request", made)
        request._match_info = known.found  # noqa: SLF001
        if isinstance(known, KnownRoute):
            request[ROUTE] = known.route
        return request

    def connection_lost(self, exc: BaseException | None) -> None:
        """Stop what is done for the client."""
        hit, self._hit = self._hit, None
        if hit is not None:
            hit.abandon()
        super().connection_lost(exc)

    def _process_keepalive(self) -> None:
        """Close an idle connection: one whose request is known only seems to be idle."""
        if self._hit is not None:
            self._next_keepalive_close_time = self._loop.time() + self._keepalive_timeout
        super()._process_keepalive()


class Hit:
    """A request whose head is known: its body as it arrives, and its answer."""

    __slots__ = (
        "_begun", "_conversation", "_counted", "_early", "_edge", "_end", "_known", "_left",
        "_loop", "_pieces", "_released", "_share", "_task", "_timer",
    )  # fmt: skip

    def __init__(
        self, conversation: CachingConversation, edge: Edge, known: Known, share: Share
    ) -> None:
        self._begun = time.perf_counter()
        self._conversation = conversation
        self._edge = edge
        self._known: Any = known  # a ``KnownRoute``, but for a subclass
        self._share = share
        self._loop = asyncio.get_running_loop()
        self._pieces: list[bytes] = []
        self._end = self._left = 0
        self._early = b""
        self._task: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._counted = self._released = False
        edge.lifecycle.active += 1

    def begin(self, data: bytes, end: int, size: int) -> None:
        """Take what came first: ``end`` bytes of head, then a body of ``size`` or its beginning."""
        self._pieces.append(data)
        self._end, self._left = end, size - (len(data) - end)
        if self._left:
            self._timer = self._loop.call_later(self._known.seconds, self._expire)
        else:
            self._run()

    def receive(self, data: bytes) -> None:
        """Take what came then: more of the body, or what the client sends behind it."""
        if self._task is not None:
            self._wait_with(data)
            return
        more, left = data[: self._left], _rest(self._left, data)
        try:
            self._share.take(len(more))
        except Unavailable:
            self._release()
            self._conversation.hand_over(b"".join([*self._pieces, data]), left)
            return
        self._pieces.append(more)
        self._left -= len(more)
        if self._left:
            return
        if left:
            self._wait_with(data[len(more) :])
        self._run()

    def _wait_with(self, data: bytes) -> None:
        """Keep what belongs to the next request; read on while that is little."""
        self._early += data
        transport = self._conversation.transport
        if len(self._early) > EARLY and transport is not None:
            transport.pause_reading()

    def abandon(self) -> None:
        """Stop: the client has left. A task that has not begun would give nothing back."""
        if self._task is not None:
            self._task.cancel()
        if not self._counted:
            self._count(LEFT)
        self._release()

    def _expire(self) -> None:
        self._run(TooSlow(codec.TOO_SLOW))

    def _run(self, refusal: Exception | None = None) -> None:
        if self._timer is not None:
            self._timer.cancel()  # it is the body's, and not the model's
        self._task = self._conversation.spawn(self._respond(refusal))

    async def _respond(self, refusal: Exception | None) -> None:
        try:
            found = refusal or await self._found()
            if isinstance(found, Exception) or not self._leave(found):
                await self._send(found)
        except BaseException:
            self._conversation.give_up()
            raise
        finally:
            self._release()
        self._conversation.go_on(self._early)

    async def _found(self) -> Any:
        """Return what the handler answers, or what it raises."""
        try:
            return await self._work()
        except asyncio.CancelledError:
            if not self._counted:  # as who has left is
                self._count(Unavailable.status)
            raise
        except Exception as error:
            return error

    async def _work(self) -> Any:
        answer = await self._known.repeat.answer(self._body())
        require_room(self._edge.budget, len(answer.body))
        return answer

    def _body(self) -> bytes:
        """Return the whole body, and keep it no longer."""
        first, *others = self._pieces
        self._pieces = []
        if not others:
            return first[self._end :]
        return b"".join([memoryview(first)[self._end :], *others])

    def _leave(self, answer: Encoded) -> bool:
        """Send an answer in one piece; whether it was to be sent so."""
        conversation, body = self._conversation, answer.body
        transport = conversation.transport
        if transport is None or transport.is_closing() or conversation.writing_paused:
            return False
        if self._edge.lifecycle.draining or len(body) > codec.WHOLE:
            return False
        kind = codec.JSON if self._known.repeat.form == "json" else codec.MSGPACK
        spent, stages = self._count(200) * 1e3, codec.stages(answer)
        head = _ANSWER % (kind, stages, spent, new_id(), len(body), rfc822_formatted_time())
        transport.write(head.encode() + body)
        return True

    async def _send(self, found: Encoded | Exception) -> None:
        """Send an answer as the middleware and aiohttp do."""
        request = self._conversation.request(self._known)
        if request is not None:
            await self._deliver(request, found)

    async def _deliver(self, request: web.Request, found: Any) -> None:
        """Send what was found; an error, where it gives no answer or one that cannot be written."""
        try:
            try:
                finished = self._response(request, found)
                await self._write(request, finished)
            except ConnectionError:
                return
            except Exception as error:  # such as a plugin's form of errors, or a header's value
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
        """Return an answer as the middleware makes it."""
        request[REQUEST_ID] = new_id()
        if isinstance(found, Exception):
            response = self._edge.refuse(request, found)
        else:
            form, stages = self._known.repeat.form, codec.stages(found)
            response = codec.respond(found.body, form=form, timing=stages)
        self._counted = True
        return self._edge.finish(request, response, self._begun)

    def _count(self, status: int) -> float:
        """Count the request; return the seconds that it took."""
        self._counted = True
        spent = time.perf_counter() - self._begun
        self._edge.metrics.count(hdrs.METH_POST, self._known.label, str(status), spent)
        return spent

    def _release(self) -> None:
        """Give back what it holds, once."""
        if self._released:
            return
        self._released = True
        if self._timer is not None:
            self._timer.cancel()
        self._share.give_back()
        self._edge.lifecycle.active -= 1


def _rest(left: int, data: bytes) -> int:
    """Return what is left of a message behind ``data``: less than 0 where that holds more."""
    return max(-1, left - len(data))
