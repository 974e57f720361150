"""A client that is closed while others of its program still use it: they are told, at once."""

from __future__ import annotations

import asyncio
import contextlib
import io
import threading
from typing import TYPE_CHECKING

import pytest
from aiohttp import web
from api_stand_in import BOXES, KEY, StandIn, picture
from client_cases import collect

from mataserver_client import AsyncClient, ConnectionFailed, transport
from mataserver_client.patience import Patience

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

JOB = (
    b'{"id":"1","kind":"infer","owner":"a","state":"running","stage":"","progress":1,"message":"",'
    b'"spec":{},"result":null,"error":null,"attempt":1,"created_at":1,"started_at":1,'
    b'"finished_at":null,"expires_at":null,"bytes_used":0}'
)
EVENT = {
    "/v1/jobs/1/events": b"event: job\ndata: " + JOB + b"\n\n",
    "/v1/infer": b'event: token\ndata: {"text": "one"}\n\n',
}


async def ask(client):
    yield await client.health()


async def send(client):
    yield await client.send_file(__file__)


WAYS = {
    "answer": ask,
    "upload": send,
    "text": lambda client: client.generate("acme/words", picture(1)),
    "job": lambda client: client.follow_job("1"),
}


class Beginning:
    """A server whose every answer begins and never ends."""

    def __init__(self) -> None:
        self.begun = asyncio.Event()

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        await response.write(EVENT.get(request.path, b"{"))
        self.begun.set()
        return await asyncio.Event().wait()

    @contextlib.asynccontextmanager
    async def serve(self) -> AsyncIterator[str]:
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", self._answer)
        runner = web.AppRunner(app, access_log=None, handler_cancellation=True)
        await runner.setup()
        try:
            await web.TCPSite(runner, "127.0.0.1", 0).start()
            yield f"http://127.0.0.1:{runner.addresses[0][1]}"
        finally:
            await runner.cleanup()


@pytest.mark.parametrize("way", WAYS)
async def test_who_waits_for_the_rest_of_an_answer_is_told(way):
    """The library forgets an answer that is being read; its reader waited for ever."""
    server = Beginning()
    async with asyncio.timeout(30), server.serve() as url, AsyncClient(url) as client:
        reading = asyncio.create_task(collect(WAYS[way](client)))
        await server.begun.wait()
        await client.__aexit__()
        with pytest.raises(ConnectionFailed, match="The client is closed"):
            await reading


@pytest.mark.parametrize("way", ["infer", "upload", "infer_raw", "health"])
async def test_who_waits_for_a_turn_is_told(way, monkeypatch):
    """It was ``RuntimeError: the client is closed: use it in a with statement``."""
    monkeypatch.setattr(transport, "MOST_REQUESTS", 1)
    server, given = Beginning(), () if way == "health" else ("acme/words", picture(1))
    async with asyncio.timeout(30), server.serve() as url, AsyncClient(url) as client:
        calls = [asyncio.create_task(getattr(client, way)(*given)) for _ in range(3)]
        await server.begun.wait()
        await client.__aexit__()
        for call in calls:
            with pytest.raises(ConnectionFailed, match="The client is closed"):
                await call


class Slow(io.BytesIO):
    """A file that is read for as long as the test wants."""

    def __init__(self) -> None:
        super().__init__(picture(1))
        self.begun, self.goes_on = threading.Event(), threading.Event()

    def read(self, size: int | None = -1) -> bytes:
        self.begun.set()
        self.goes_on.wait(30)
        return super().read(size)


@pytest.mark.parametrize("way", ["infer", "generate"])
async def test_who_reads_its_image_is_told(way):
    """A request that was not sent yet is none of a closed client's."""
    image = Slow()
    async with asyncio.timeout(30), Beginning().serve() as url, AsyncClient(url) as client:
        asked = getattr(client, way)("acme/words", image)
        call = asyncio.create_task(asked if way == "infer" else collect(asked))
        await asyncio.to_thread(image.begun.wait, 30)
        await client.__aexit__()
        image.goes_on.set()
        with pytest.raises(ConnectionFailed, match="The client is closed"):
            await call


async def test_who_waits_for_another_try_is_told():
    """A job is followed over breaks; a client that is closed between two tries is no break."""
    async with asyncio.timeout(30), AsyncClient("http://127.0.0.1:9") as client:
        patience = Patience()
        pausing = asyncio.create_task(patience.repeat(client.health))
        await asyncio.sleep(0.2)
        await client.__aexit__()
        with pytest.raises(ConnectionFailed, match="The client is closed"):
            await pausing


@pytest.mark.parametrize("way", ["text", "job"])
async def test_who_goes_on_reading_later_is_told(way):
    """It was the library's ``RuntimeError: Connection closed.``."""
    async with asyncio.timeout(30), Beginning().serve() as url:
        async with AsyncClient(url) as client:
            items = WAYS[way](client)
            await anext(items)
        with pytest.raises(ConnectionFailed, match="The client is closed"):
            await anext(items)


async def test_a_stream_of_a_session_that_stays_is_not_tried_again():
    """A stream with a session of its own ends with that; one of the caller's is told."""
    stand_in, came = StandIn(), asyncio.Event()

    async def frames():
        yield picture(1)
        await asyncio.Event().wait()

    async def read(client):
        async for _ in client.stream(await client.create_session(BOXES), frames()):
            came.set()

    async with asyncio.timeout(30), stand_in.serve(), AsyncClient(stand_in.url, KEY) as client:
        reading = asyncio.create_task(read(client))
        await came.wait()
        await client.__aexit__()
        with pytest.raises(ConnectionFailed, match="The client is closed"):
            await reading
    assert not stand_in.deleted


async def test_who_goes_on_reading_a_stream_later_is_told():
    """Frames that stay without an answer are no end of all of them."""
    async with StandIn().serve() as stand_in, AsyncClient(stand_in.url, KEY) as client:
        begun, unread = (client.stream(BOXES, [picture(1), picture(2)]) for _ in range(2))
        await anext(begun)
        await client.__aexit__()
        for stream in (begun, unread):
            with pytest.raises(ConnectionFailed, match="The client is closed"):
                await anext(stream)


async def test_a_call_that_begins_later_is_told():
    """It was told of a call under way."""
    async with StandIn().serve() as stand_in:
        async with AsyncClient(stand_in.url, KEY) as client:
            await client.health()
        with pytest.raises(ConnectionFailed, match="The client is closed"):
            await client.health()


async def test_a_client_that_is_opened_again_is_open():
    """What was closed before says nothing of it."""
    async with StandIn().serve() as stand_in:
        client = AsyncClient(stand_in.url, KEY)
        for _ in range(2):
            async with client:
                stream = client.stream(BOXES, [picture(1), picture(2)])
                assert len(await collect(stream)) == 2


@pytest.mark.parametrize("way", ["break", "return", "raise"])
async def test_a_stream_that_is_left_as_the_last_thing_is_closed_once(way):
    """The loop closes what nobody holds any more, at the same moment as the client's end does."""
    stand_in, closing = StandIn(), []

    async def leave():
        async with AsyncClient(stand_in.url, KEY) as client:
            async for _ in client.stream(BOXES, [picture(1)] * 9):
                if way == "return":
                    return
                if way == "raise":
                    raise ValueError("of the caller")
                break

    def note(loop, coroutine, **options):
        task = asyncio.Task(coroutine, loop=loop, **options)
        if type(coroutine).__name__ == "async_generator_athrow":  # the loop's own, of aclose()
            closing.append(task)
        return task

    async with asyncio.timeout(30), stand_in.serve():
        asyncio.get_running_loop().set_task_factory(note)
        with contextlib.suppress(ValueError):
            await leave()
        assert await asyncio.gather(*closing) == [None] * len(closing)
    assert closing
    assert len(stand_in.deleted) == 1


async def test_a_stream_whose_frames_are_all_answered_ends_after_its_client():
    """Nothing is missing then: its list has no further frame."""
    async with StandIn().serve() as stand_in:
        async with AsyncClient(stand_in.url, KEY) as client:
            stream = client.stream(BOXES, [picture(1), picture(2)])
            assert [(await anext(stream)).frame_id for _ in range(2)] == [0, 1]
        assert await collect(stream) == []
