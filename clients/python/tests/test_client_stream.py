"""The client's streams against a stand-in server, with drops, failures and lost connections."""

from __future__ import annotations

import asyncio
import contextlib

import pytest
from api_stand_in import BOXES, DROP, FAIL, KEY, LOSE, MASKS, SILENT, Refusal, StandIn, picture
from client_cases import SOON, collect, connected, every, numbered, pictures, widths

from mataserver.errors import Conflict, MataError, NotFound
from mataserver_client import (
    AsyncClient,
    AuthenticationFailed,
    BadAnswer,
    ConnectionFailed,
    FrameError,
    asynchronous,
    mask_array,
)


@pytest.fixture(params=[False, True], ids=["json", "msgpack"])
async def client(request):
    async with connected(StandIn(), msgpack=request.param) as client:
        yield client


@pytest.mark.parametrize("source", [pictures, numbered], ids=["plain", "asynchronous"])
async def test_a_stream_answers_every_frame_and_deletes_its_session(client, source):
    """With a window of one, each frame gets its result, and nothing is left on the server."""
    items = await collect(client.stream(BOXES, source(5), confidence=0.5))
    assert widths(items) == every(5)
    assert await client.sessions() == []


async def test_a_stream_of_nothing_ends(client):
    """No frames, no results, no waiting."""
    assert await collect(client.stream(BOXES, [])) == []


async def test_msgpack_is_agreed_on_by_subprotocol():
    """MessagePack streams carry bytes for masks; JSON streams base64."""
    for packed, kind in ((True, bytes), (False, str)):
        async with connected(StandIn(), msgpack=packed) as client:
            (item,) = await collect(client.stream(MASKS, pictures(1)))
            assert isinstance(item.segments[0].mask, kind)
            assert mask_array(item.segments[0]).shape == (4, 1)


async def test_a_callers_session_is_kept_and_numbered_from_zero(client):
    """A given session outlives the stream, and its frames are numbered as in the source."""
    session = await client.create_session(BOXES)
    for target in (session, session.session_id):
        assert widths(await collect(client.stream(target, pictures(3), window=2))) == every(3)
    assert len(await client.sessions()) == 1
    with pytest.raises(ValueError, match="session is made"):
        client.stream(session, pictures(1), confidence=0.5)


async def test_dropped_frames_are_not_waited_for():
    """A camera sends on; the server drops all but the newest, and the stream still ends."""
    async with connected(StandIn(hold={0: 5})) as client:
        items = await collect(client.stream(BOXES, pictures(6), window=None))
    assert widths(items) == [(0, 1), (5, 6)]
    assert [item.dropped for item in items] == [4, 4]


async def test_open_streams_leave_connections_for_others():
    """However many streams there are: each begins, and requests are answered beside them."""
    end = asyncio.Event()

    async def frames():
        yield picture(1)
        await end.wait()

    async with asyncio.timeout(60), connected(StandIn()) as client:
        streams = [client.stream(BOXES, frames()) for _ in range(101)]
        items = await asyncio.gather(*map(anext, streams))
        assert widths(items) == every(1) * 101
        assert (await client.health()).status == "ok"
        end.set()


async def test_the_window_bounds_the_frames_on_their_way():
    """With a window of three the source is read no further than three frames ahead."""
    taken = []

    def source():
        for frame in pictures(8):
            taken.append(frame)
            yield frame

    async with connected(StandIn(hold={0: 2})) as client:
        seen = [
            (item.frame_id, len(taken)) async for item in client.stream(BOXES, source(), window=3)
        ]
    assert seen[0] == (0, 3)
    assert all(read <= number + 4 for number, read in seen)
    assert seen[-1] == (7, 8)


async def test_a_bad_frame_is_an_item_and_not_the_end(client):
    """A frame that is no image yields a FrameError with its number; the others their results."""
    frames = [picture(1), b"no picture", picture(3)]
    items = await collect(client.stream(BOXES, frames))
    assert items[1] == FrameError(1, "The image cannot be decoded")
    assert widths([items[0], items[2]]) == [(0, 1), (2, 3)]


async def test_unknown_messages_are_ignored():
    """Pongs and kinds of messages that are still to come do not disturb."""
    notices = ['{"type": "pong"}', '{"type": "news", "detail": "x"}']
    async with connected(StandIn(notices=notices)) as client:
        assert widths(await collect(client.stream(BOXES, pictures(2)))) == every(2)


async def test_an_error_without_a_frame_is_an_item():
    """An error message that names no frame is passed on and settles nothing."""
    notices = ['{"type": "error", "detail": "Not understood"}']
    async with connected(StandIn(notices=notices)) as client:
        items = await collect(client.stream(BOXES, pictures(1)))
    assert items[0] == FrameError(None, "Not understood")
    assert widths(items[1:]) == every(1)


NAMELESS = '{"schema_version": "mata.v1", "task": "detect", "model": "m", "timestamp": 0.0}'


@pytest.mark.parametrize("notice", ["<html>", '{"task": "detect"}', "[]", NAMELESS])
async def test_a_foreign_message_ends_the_stream(notice):
    """A message that is not of the API raises BadAnswer."""
    async with connected(StandIn(notices=[notice])) as client:
        with pytest.raises(BadAnswer):
            await collect(client.stream(BOXES, pictures(1)))


@pytest.mark.parametrize("packed", [False, True], ids=["json", "msgpack"])
@pytest.mark.parametrize("fault", [LOSE, DROP, 1001, 1011, 1012])
async def test_a_lost_connection_is_made_again(fault, packed):
    """After a broken or closed connection the stream goes on where it was, frame by frame."""
    stand_in = StandIn(faults={0: fault, 3: fault})
    async with connected(stand_in, msgpack=packed) as client:
        items = await collect(client.stream(BOXES, numbered(5), reconnect=SOON))
    assert widths(items) == every(5)
    assert stand_in.connections == 3
    assert len(stand_in.deleted) == 1


async def test_a_camera_goes_on_with_its_newest_frame():
    """Of several frames on a broken connection the newest alone is sent again."""
    stand_in = StandIn(hold={0: 9, 4: 0}, faults={3: LOSE})
    async with connected(stand_in) as client:
        items = await collect(client.stream(BOXES, pictures(4), window=None, reconnect=SOON))
    assert widths(items) == [(3, 4)]


async def test_tries_are_bounded_and_start_anew_after_a_result():
    """Only so many connections in a row may fail without a result between them."""
    stand_in = StandIn(faults=dict.fromkeys(range(2, 9), DROP))
    async with connected(stand_in) as client:
        stream, seen = client.stream(BOXES, pictures(9), reconnect=SOON), []
        with pytest.raises(ConnectionFailed, match="lost"):
            await collect(stream, into=seen)
    assert widths(seen) == every(2)
    assert stand_in.connections == 1 + SOON.tries


async def test_an_engine_failure_tells_the_frame_and_goes_on():
    """An error followed by 1011 yields the frame's error, then the session is tried again."""
    async with connected(StandIn(faults={1: FAIL})) as client:
        items = await collect(client.stream(BOXES, pictures(3), reconnect=SOON))
    assert items[1] == FrameError(1, "Engine failed", 1.0)
    assert widths([items[0], items[2]]) == [(0, 1), (2, 3)]


async def test_without_reconnect_a_lost_connection_is_an_error():
    """reconnect=False raises at the first loss and still deletes the session."""
    stand_in = StandIn(faults={1: DROP})
    async with connected(stand_in) as client:
        with pytest.raises(ConnectionFailed):
            await collect(client.stream(BOXES, pictures(3), reconnect=False))
    assert stand_in.connections == 1
    assert len(stand_in.deleted) == 1


@pytest.mark.parametrize(
    ("code", "kind", "status"),
    [
        (4001, AuthenticationFailed, 401),
        (4004, NotFound, 404),
        (1008, Conflict, 409),
        (1009, MataError, 413),
        (4999, BadAnswer, 502),
    ],
)
async def test_close_codes_become_exceptions(code, kind, status):
    """What the server closes for good raises the exception of its meaning, without another try."""
    stand_in = StandIn(greetings=[code])
    async with connected(stand_in) as client:
        with pytest.raises(kind) as caught:
            await collect(client.stream(BOXES, pictures(2), reconnect=SOON))
    assert caught.value.status == status
    assert stand_in.connections == 1


async def test_a_wrong_key_ends_a_stream():
    """The server's 4001 for a wrong token raises AuthenticationFailed."""
    stand_in = StandIn()
    async with connected(stand_in) as owner:
        session = await owner.create_session(BOXES)
        async with AsyncClient(stand_in.url, "wrong") as client:
            with pytest.raises(AuthenticationFailed):
                await collect(client.stream(session, pictures(1)))


async def test_a_session_that_the_old_connection_holds_is_tried_again():
    """1008 after a lost connection is the server's memory of that one, not somebody else."""
    stand_in = StandIn(faults={1: DROP}, greetings=[None, 1008, None])
    async with connected(stand_in) as client:
        items = await collect(client.stream(BOXES, pictures(3), reconnect=SOON))
    assert widths(items) == every(3)
    assert stand_in.connections == 3


async def test_a_proxy_that_says_503_meanwhile_is_waited_for():
    """A refused handshake during a restart is one of the tries."""
    stand_in = StandIn()
    async with connected(stand_in) as client:
        frames = numbered(3)
        seen = []
        async for item in client.stream(BOXES, frames, reconnect=SOON):
            seen.append(item)
            if item.frame_id == 1:
                stand_in.refusals.append(Refusal(503, b"restarting"))
                await next(iter(stand_in.streams.values())).socket.close(code=1012)
    assert widths(seen) == every(3)


async def test_an_unknown_model_fails_before_any_frame_is_taken():
    """The session is made first; without one the source stays untouched."""
    frames = iter(pictures(1))
    async with connected(StandIn()) as client:
        with pytest.raises(NotFound, match="acme/none"):
            await collect(client.stream("acme/none", frames))
    assert next(frames) == picture(1)


async def test_deleting_the_session_ends_the_stream():
    """A session deleted from elsewhere closes its stream in good order."""
    async with connected(StandIn()) as client:
        session = await client.create_session(BOXES)
        seen = []
        async for item in client.stream(session, pictures(50)):
            seen.append(item)
            if len(seen) == 2:
                await client.delete_session(session.session_id)
    assert 2 <= len(seen) < 50


@pytest.mark.parametrize("forgotten", [1, 2])
async def test_a_frame_without_an_answer_is_given_up_after_grace(forgotten):
    """A server that forgets a frame, be it the last, holds the stream no longer than the grace."""
    async with connected(StandIn(faults={forgotten: SILENT})) as client:
        items = await collect(client.stream(BOXES, pictures(3), grace=0.05))
    assert widths(items) == [pair for pair in every(3) if pair[0] != forgotten]


@pytest.mark.parametrize("asynchronous", [False, True])
async def test_a_failing_source_fails_the_stream(asynchronous):
    """What the iterable of frames raises reaches the caller, after the results before it."""

    def camera():
        yield picture(1)
        raise OSError("unplugged")

    async def network_camera():
        for frame in camera():
            yield frame

    stand_in = StandIn()
    seen = []
    async with connected(stand_in) as client:
        stream = client.stream(BOXES, network_camera() if asynchronous else camera())
        with pytest.raises(OSError, match="unplugged"):
            await collect(stream, into=seen)
    assert widths(seen) == every(1)
    assert len(stand_in.deleted) == 1


@pytest.mark.parametrize("close", [True, False], ids=["aclosing", "break"])
async def test_leaving_early_leaves_nothing_behind(close):
    """After aclosing, or a break and the client's end, socket, session and tasks are gone."""
    stand_in = StandIn()
    async with stand_in.serve():
        before = asyncio.all_tasks()
        async with AsyncClient(stand_in.url, KEY) as client:
            stream = client.stream(BOXES, numbered(9))
            async with contextlib.aclosing(stream) if close else contextlib.nullcontext():
                async for _ in stream:
                    break
            assert len(stand_in.deleted) == int(close)
        assert len(stand_in.deleted) == 1
        del stream
        names = {task.get_coro().__qualname__ for task in asyncio.all_tasks() - before}
        assert not {name for name in names if name.startswith(("FrameStream", "Source"))}


async def test_a_cancelled_reader_cleans_up():
    """Cancelling the task that reads a stream deletes the session."""
    stand_in = StandIn(faults={0: SILENT})
    async with connected(stand_in) as client:
        reader = asyncio.create_task(collect(client.stream(BOXES, pictures(2))))
        await asyncio.to_thread(stand_in.first_frame.wait, 10)
        reader.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reader
        assert len(stand_in.deleted) == 1


class Withholding(StandIn):
    """Makes sessions at once, and tells of them when it is allowed to."""

    async def _create(self, request):
        answer = await super()._create(request)
        self.first_frame.set()
        await self.allowed.wait()
        return answer


@pytest.mark.parametrize("answers", [True, False])
async def test_a_reader_that_is_cancelled_before_it_knows_its_session(answers, monkeypatch):
    """The session that was made meanwhile is deleted; an answer that never comes ends no later."""
    monkeypatch.setattr(asynchronous, "ANSWER_GRACE", 30.0 if answers else 0.05)
    stand_in = Withholding()
    stand_in.allowed = asyncio.Event()
    async with connected(stand_in) as client:
        reader = asyncio.create_task(collect(client.stream(BOXES, pictures(2))))
        await asyncio.to_thread(stand_in.first_frame.wait, 10)
        reader.cancel()
        if answers:
            stand_in.allowed.set()
        with pytest.raises(asyncio.CancelledError):
            await reader
        assert len(stand_in.deleted) == int(answers)


async def test_a_reader_that_is_cancelled_twice(monkeypatch):
    """The second cancellation ends the wait for the session's id, and the request for it."""
    monkeypatch.setattr(asynchronous, "ANSWER_GRACE", 30.0)
    stand_in = Withholding()
    stand_in.allowed = asyncio.Event()
    async with connected(stand_in) as client:
        reader = asyncio.create_task(collect(client.stream(BOXES, pictures(2))))
        await asyncio.to_thread(stand_in.first_frame.wait, 10)
        reader.cancel()
        await asyncio.sleep(0)
        reader.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reader
        making = {
            task
            for task in asyncio.all_tasks()
            if task.get_coro().__qualname__ == "AsyncClient._make"
        }
        await asyncio.wait({*making, asyncio.create_task(asyncio.sleep(0))}, timeout=10)
        assert all(task.done() for task in making)


async def test_closing_ends_a_stream_that_another_task_reads():
    """The client's end deletes the session; the other task is told, whose frames got no answer."""
    stand_in = StandIn(faults={0: SILENT})
    async with stand_in.serve():
        async with AsyncClient(stand_in.url, KEY) as client:
            reader = asyncio.create_task(collect(client.stream(BOXES, pictures(2))))
            await asyncio.to_thread(stand_in.first_frame.wait, 10)
        with pytest.raises(ConnectionFailed, match="The client is closed"):
            await reader
    assert len(stand_in.deleted) == 1


@pytest.mark.parametrize("window", [0, -1])
async def test_a_window_of_nothing_is_refused(window):
    """A window holds at least one frame."""
    with pytest.raises(ValueError, match="window"):
        AsyncClient().stream(BOXES, [], window=window)
