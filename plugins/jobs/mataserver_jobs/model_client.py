"""How an ``infer`` job asks the server's model: a request for each item, or a stream for tracks."""

from __future__ import annotations

import asyncio
import base64
import http.client
import time
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol
from urllib.parse import urlsplit

import msgspec

from mataserver import MataError

if TYPE_CHECKING:
    from collections.abc import Callable

    from mataserver_jobs.kinds import Access

ANSWER_SECONDS = 900.0
RETRY_LIMIT_SECONDS = 900.0
"""How long requests are retried while the server is busy or reloads the model."""
PAUSE_SECONDS = 0.5
TRIES = 2
"""How often an item is sent whose answer is 500: another one may have killed the worker."""
LOADS = 5
"""How many loads in a row may kill the worker before the job fails: it concerns every item."""
TIMING = "timing"
"""The parameter of a tracker that counts frames or seconds."""
_LOAD_DEATH = "could not be loaded: its worker died"
"""What the server's 503 says then. One that says that it waits before the next load is no load."""
_ITEM_STATUSES = {400, 413, 500}
"""Statuses that concern one item; the others continue."""
_RETRY_STATUSES = {408, 429, 503}
_TRY_AGAIN_LATER = 1013
"""The close code of a stream whose frame found no room while it arrived."""


class Answer(NamedTuple):
    """The result of an item, or why there is none."""

    result: dict[str, Any] | None
    error: str = ""


class ModelClient(Protocol):
    """Asks about items in order."""

    def ask(self, image: bytes) -> Answer:
        """Return the answer for an item. Raises ``MataError`` for what all items would."""

    def close(self) -> None:
        """Let the model go."""


class RequestClient:
    """One request for each item. ``check`` raises when the job is to stop."""

    def __init__(
        self, access: Access, model: str, params: dict[str, Any], check: Callable[[], None]
    ) -> None:
        place = urlsplit(access.url).netloc
        self._headers = {
            "Authorization": f"Bearer {access.token}",
            "Content-Type": "application/json",
        }
        self._model = model
        self._params = params
        self._check = check
        self._connection = http.client.HTTPConnection(place, timeout=ANSWER_SECONDS)

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()

    def ask(self, image: bytes) -> Answer:
        """Ask until there is an answer."""
        body = {"model": self._model, "image": base64.b64encode(image).decode()}
        status, tries = 0, 0
        answer: dict[str, Any] = {}
        while tries < TRIES:
            status, answer = self.request("POST", "/v1/infer", body | {"params": self._params})
            if status == 200:
                return Answer(answer)
            tries += 1 if status == 500 else TRIES
        detail = str(answer.get("detail", ""))
        if status in _ITEM_STATUSES:
            return Answer(None, detail)
        raise MataError(detail or f"The server answered {status}")

    def request(self, method: str, path: str, value: object) -> tuple[int, dict[str, Any]]:
        """Send a request, again while the server is busy. Raises as ``check`` does.

        Raises ``TimeoutError`` when it was busy for too long, which costs the job an attempt, and
        ``MataError`` when loading the model killed its worker ``LOADS`` times.
        """
        begun, pause, deaths = time.monotonic(), PAUSE_SECONDS, 0
        while True:
            self._check()
            status, answer = self.send_once(method, path, value)
            if status not in _RETRY_STATUSES:
                return status, answer
            detail = str(answer.get("detail", ""))
            deaths += _LOAD_DEATH in detail
            if deaths == LOADS:
                raise MataError(detail)
            if time.monotonic() - begun > RETRY_LIMIT_SECONDS:
                raise TimeoutError("the server was busy for too long")
            time.sleep(pause)
            pause = min(2 * pause, 10.0)

    def send_once(self, method: str, path: str, value: object) -> tuple[int, dict[str, Any]]:
        """Send a request, None without a body; a server that cannot be reached is 503.

        An answer that is none of the server's, such as a proxy's page, is 502 at least.
        """
        body = None if value is None else msgspec.json.encode(value)
        try:
            self._connection.request(method, path, body, self._headers)
            response = self._connection.getresponse()
            data = response.read()
        except (OSError, http.client.HTTPException):
            self._connection.close()  # the next request reopens it
            return 503, {}
        try:
            return response.status, msgspec.json.decode(data, type=dict[str, Any]) if data else {}
        except (msgspec.DecodeError, UnicodeDecodeError):
            return max(response.status, http.HTTPStatus.BAD_GATEWAY), {}


class Stream:
    """One streaming session for all items: what a tracker remembers goes from each to the next."""

    def __init__(
        self, access: Access, model: str, params: dict[str, Any], check: Callable[[], None]
    ) -> None:
        self._requests = RequestClient(access, model, params, check)
        self._check = check
        self._session = self._make(model, params)
        self._runner = asyncio.Runner()
        self._runner.run(self._open(access))

    def _make(self, model: str, params: dict[str, Any]) -> str:
        """Make a session whose tracker, if it can, counts the frames unless asked otherwise.

        They are sent as fast as the model answers, and not as they were recorded.
        """
        tried = [params]
        if params.get(TIMING) is None:
            tried.insert(0, {**params, TIMING: "frames"})
        for given in tried:
            asked = {"model": model, "params": given}
            status, made = self._requests.request("POST", "/v1/sessions", asked)
            if status == 201:
                return str(made["session_id"])
            if not str(made.get("detail")).startswith(f"params.{TIMING}: "):
                break  # of another reason than that it has none, or one that counts otherwise
        raise MataError(str(made.get("detail", f"The server answered {status}")))

    async def _open(self, access: Access) -> None:
        import aiohttp

        headers = {"Authorization": f"Bearer {access.token}"}
        self._http = aiohttp.ClientSession(access.url, headers=headers)
        await self._connect()

    async def _connect(self) -> None:
        self._socket = await self._http.ws_connect(f"/v1/stream/{self._session}", max_msg_size=0)

    def ask(self, image: bytes) -> Answer:
        """Send a frame and wait for its answer; again while the server has no room for it.

        Raises as ``RequestClient.request`` does, and ``ConnectionError`` when the tracker's memory
        is lost: the job begins again.
        """
        begun, pause, deaths = time.monotonic(), PAUSE_SECONDS, 0
        while isinstance(answer := self._runner.run(self._ask(image)), str):
            self._check()
            deaths += _LOAD_DEATH in answer
            if deaths == LOADS:
                raise MataError(answer)
            if time.monotonic() - begun > RETRY_LIMIT_SECONDS:
                raise TimeoutError("the server was busy for too long")
            time.sleep(pause)
            pause = min(2 * pause, 10.0)
        return answer

    async def _ask(self, image: bytes) -> Answer | str:
        """Return the answer to a frame, or why the tracker was not given it for now."""
        from aiohttp import ClientError

        if self._socket.closed:
            try:
                await self._connect()
            except ClientError:  # busy, or restarting: as in ``send_once``
                return "the server cannot be reached"
        await self._socket.send_bytes(image)
        async with asyncio.timeout(ANSWER_SECONDS):
            return await self._receive()

    async def _receive(self) -> Answer | str:
        while True:
            message = await self._socket.receive()
            if not isinstance(message.data, str):
                if self._socket.close_code == _TRY_AGAIN_LATER:
                    return "the server has no room"
                raise ConnectionResetError("the stream has ended")
            value = msgspec.json.decode(message.data)
            if value.get("reset"):
                raise ConnectionResetError("the tracker's state is lost")
            if "type" not in value:
                return Answer(value)
            if value["type"] == "error":
                detail = str(value["detail"])
                return detail if "retry_after" in value else Answer(None, detail)

    def close(self) -> None:
        """End the session."""
        self._runner.run(self._end_session())
        self._runner.close()
        self._requests.send_once("DELETE", f"/v1/sessions/{self._session}", None)
        self._requests.close()

    async def _end_session(self) -> None:
        await self._socket.close()
        await self._http.close()
