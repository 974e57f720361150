"""The connection to one server: address, key, encoding, and failures turned into exceptions."""

from __future__ import annotations

import asyncio
import contextlib
import io
import weakref
from concurrent.futures import ThreadPoolExecutor
from types import MappingProxyType
from typing import TYPE_CHECKING, NamedTuple, TypeVar
from urllib.parse import urlsplit

import aiohttp
import msgspec

from mataserver_client.failures import BadAnswer, ClosedMeanwhile, from_answer
from mataserver_client.unreachable import from_exception

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Mapping

    from mataserver_client.errors import MataError

MSGPACK = "application/msgpack"
SUBPROTOCOL = "mata.v1.msgpack"
CONNECT_TIMEOUT = 10.0
CLOSE_TIMEOUT = 5.0
HEARTBEAT = 30.0
MAX_MESSAGE_BYTES = 256 * 1024 * 1024
MOST_REQUESTS = 64
"""How many images are sent at once, and how many other requests; what may last is neither.

As many as a server lets wait for a model by default (``queue_limit``): more would be refused.
"""

_MOST_READERS = 4096
_PIECE = 1 << 20
_FOREIGN = "The server's answer is not one of this API"
T = TypeVar("T")


class Answer(NamedTuple):
    """A successful answer: its body, whether that is MessagePack, and its headers."""

    body: bytes
    msgpack: bool
    headers: Mapping[str, str] = MappingProxyType({})

    def decode(self, kind: type[T]) -> T:
        """Return the body as ``kind``. Raises ``BadAnswer``."""
        decode = msgspec.msgpack.decode if self.msgpack else msgspec.json.decode
        try:
            return decode(self.body, type=kind)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            raise BadAnswer(_FOREIGN) from None


class Transport:
    """One server and one key.

    Neither messages nor ``repr`` hold the key. ``timeout`` is in seconds, from the start of a
    request to the end of its answer. ``turns`` is for images: who waits for one holds nothing yet,
    and the time does not count. What is small has turns of its own, whose wait counts.
    """

    def __init__(
        self, url: str, api_key: str | None, *, timeout: float | None, msgpack: bool
    ) -> None:
        parts = urlsplit(url)
        if parts.scheme not in {"http", "https"} or not parts.hostname or parts.port == 0:
            raise ValueError("the server's url must be like http://127.0.0.1:8110")
        if parts.query or parts.fragment:
            raise ValueError("the server's url ends with its path")
        if api_key and parts.username is not None:
            raise ValueError(
                "the server's url names a user and an API key is given: both are sent in the "
                "header Authorization, so leave one out"
            )
        if timeout is not None and not timeout > 0:
            raise ValueError("the timeout must be above 0, or None for no limit")
        if api_key is not None and not (api_key.isascii() and api_key.isprintable()):
            raise ValueError("the API key must consist of printable ASCII characters")
        self.where = parts.netloc.rpartition("@")[2]
        self.msgpack = msgpack
        self._url = url.rstrip("/")
        self._key = api_key or None
        self._timeout = timeout
        self.turns = asyncio.Semaphore(MOST_REQUESTS)
        self._other_turns = asyncio.Semaphore(MOST_REQUESTS)
        self.closing = False
        """Whether its owner is closing the client: what fails then fails for that."""
        self._session: aiohttp.ClientSession | None = None
        self._answers: weakref.WeakSet[aiohttp.ClientResponse] = weakref.WeakSet()
        self._readers: ThreadPoolExecutor | None = None

    async def open(self) -> None:
        """Make the connections' pool; it belongs to the running event loop.

        It has no limit, as turns have: a stream that waits for another's end to have a connection
        waits for ever, and so would every request.
        """
        self.closing = False
        headers = {"Accept": f"{MSGPACK}, application/json;q=0.5"} if self.msgpack else {}
        if self._key:
            headers["Authorization"] = f"Bearer {self._key}"
        self.turns = asyncio.Semaphore(MOST_REQUESTS)
        self._other_turns = asyncio.Semaphore(MOST_REQUESTS)
        self._session = aiohttp.ClientSession(
            headers=headers,
            connector=aiohttp.TCPConnector(limit=0),
            timeout=aiohttp.ClientTimeout(total=self._timeout, sock_connect=CONNECT_TIMEOUT),
            cookie_jar=aiohttp.DummyCookieJar(),
        )

    async def close(self) -> None:
        """Close every connection; threads that read frames end with what they are reading.

        Who waits for the rest of an answer is told so: the library would let them wait for ever.
        """
        self.closing = True
        session, self._session = self._session, None
        readers, self._readers = self._readers, None
        if readers is not None:
            # Nobody waits for it here; the end of the event loop does. While the interpreter
            # ends, no call begins any more, and these threads have ended.
            with contextlib.suppress(RuntimeError):
                asyncio.get_running_loop().run_in_executor(None, readers.shutdown)
        for answer in self._answers:
            answer.content.set_exception(ClosedMeanwhile())
        if session is not None:
            await session.close()

    async def in_thread(self, function: Callable[[], T]) -> T:
        """Run what may block for as long as it likes, in a thread.

        Not in those of the event loop: they are few, and names and files are looked up there.
        """
        if self._readers is None:
            self._readers = ThreadPoolExecutor(_MOST_READERS, "mataserver-client-frames")
        return await asyncio.get_running_loop().run_in_executor(self._readers, function)

    async def request(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        data: bytes | aiohttp.FormData | None = None,
        content_type: str | None = None,
        headers: Mapping[str, str] | None = None,
        patient: bool = False,
        has_turn: bool = False,
    ) -> Answer:
        """Send a request and return its answer, in its turn unless it has one.

        ``patient`` waits without a limit, and takes nobody's turn meanwhile.

        Raises ``ConnectionFailed`` or the ``MataError`` that the status stands for.
        """
        if not path.startswith("/"):  # it would become a part of the host, which is sent the key
            raise ValueError("the path of a route begins with /")
        typed = {"Content-Type": content_type} if content_type else {}
        turn = contextlib.nullcontext() if patient or has_turn else self._other_turns
        try:
            async with (
                asyncio.timeout(None if patient else self._timeout),
                turn,
                _opened(self._session, closing=self.closing).request(
                    method,
                    self._url + path,
                    params=query,
                    data=_paced(data),
                    headers={**typed, **(headers or {})},
                    allow_redirects=False,  # the API has none, and they could lead the key astray
                    timeout=aiohttp.ClientTimeout(sock_connect=CONNECT_TIMEOUT),
                ) as response,
            ):
                self._answers.add(response)
                body = await response.read()
        except (TimeoutError, aiohttp.ClientError, OSError) as error:
            raise self._failure(error) from None
        if response.status >= 300:
            raise self._without_key(from_answer(response.status, response.headers, body))
        return Answer(body, response.content_type == MSGPACK, response.headers)

    async def events(
        self, method: str, path: str, data: bytes | None = None, *, silence: float | None = None
    ) -> AsyncGenerator[tuple[str, bytes], None]:
        """Send JSON, if any, and iterate over the Server-Sent Events of the answer: kind and data.

        ``silence`` is how many seconds may pass without one, ``timeout`` unless it is given.
        Closing the iterator hangs up, which stops the model. Raises as ``request`` does.
        """
        headers = {"Accept": "text/event-stream"}
        if data is not None:
            headers["Content-Type"] = "application/json"
        limit = aiohttp.ClientTimeout(
            total=None, sock_connect=CONNECT_TIMEOUT, sock_read=silence or self._timeout
        )
        try:
            async with _opened(self._session, closing=self.closing).request(
                method,
                self._url + path,
                data=data,
                headers=headers,
                allow_redirects=False,
                timeout=limit,
            ) as response:
                self._answers.add(response)
                if response.status >= 300:
                    body = await response.read()
                    raise self._without_key(from_answer(response.status, response.headers, body))
                if response.content_type != "text/event-stream":
                    raise BadAnswer(_FOREIGN)
                async for block in _event_blocks(response.content):
                    fields = dict(line.partition(b": ")[::2] for line in block.splitlines())
                    yield fields.get(b"event", b"").decode(), fields.get(b"data", b"")
        except (TimeoutError, aiohttp.ClientError, OSError) as error:
            raise self._failure(error) from None

    async def socket(self, path: str) -> aiohttp.ClientWebSocketResponse | MataError:
        """Open a WebSocket; a failure is returned, not raised.

        Raised from here it would carry the library's exception with it, which holds the URL and
        so the key.
        """
        try:
            return await _opened(self._session, closing=self.closing).ws_connect(
                self._url + path,
                params={"token": self._key} if self._key else None,
                protocols=(SUBPROTOCOL,) if self.msgpack else (),
                heartbeat=HEARTBEAT,
                max_msg_size=MAX_MESSAGE_BYTES,
                timeout=aiohttp.ClientWSTimeout(ws_close=CLOSE_TIMEOUT),
            )
        except aiohttp.WSServerHandshakeError as error:
            if error.status == 101:
                return BadAnswer("The server does not speak WebSocket here")
            return from_answer(error.status, error.headers or {}, b"")
        except (TimeoutError, aiohttp.ClientError, OSError) as error:
            return self._failure(error)

    def _failure(self, error: Exception) -> MataError:
        """Return why there is no answer, in words."""
        return ClosedMeanwhile() if self.closing else from_exception(error, self.where)

    def _without_key(self, error: MataError) -> MataError:
        """Blot the key out of a detail in which a server or a proxy repeats the request."""
        if self._key and self._key in error.detail:
            error.detail = error.detail.replace(self._key, "***")
            error.args = (error.detail,)
        return error

    def __repr__(self) -> str:
        return f"<Transport to {self.where}>"


def _opened(session: aiohttp.ClientSession | None, *, closing: bool) -> aiohttp.ClientSession:
    """Return the connections. Raises ``ClosedMeanwhile`` once they were closed."""
    if session is None:
        if closing:
            raise ClosedMeanwhile
        raise RuntimeError("the client is closed: use it in a with statement")
    return session


def _paced(data: bytes | aiohttp.FormData | None) -> io.BytesIO | bytes | aiohttp.FormData | None:
    """Return a body so that a large one is written in pieces, beside what else the loop does."""
    return io.BytesIO(data) if isinstance(data, bytes) and len(data) > _PIECE else data


async def _event_blocks(content: aiohttp.StreamReader) -> AsyncGenerator[bytes, None]:
    """Yield each event, of any length: a result may hold a whole depth map or many masks.

    The reader's own ``readuntil`` refuses what is over 128 KiB. An unfinished end is no event.
    """
    buffer = bytearray()
    async for piece in content.iter_any():
        searched = max(0, len(buffer) - 1)  # the empty line may straddle two pieces
        buffer += piece
        while (end := buffer.find(b"\n\n", searched)) >= 0:
            yield bytes(buffer[:end])
            del buffer[: end + 2]
            searched = 0
