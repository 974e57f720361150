"""The Python client against a stand-in server: answers, failures, streams and both colours."""

from __future__ import annotations

import asyncio
import contextlib
import io
import logging
import threading
import traceback
from concurrent.futures import ThreadPoolExecutor

import pytest
from api_stand_in import (
    BOXES,
    DEPTH,
    DROP,
    FAIL,
    KEY,
    LOSE,
    MASKS,
    SILENT,
    Refusal,
    StandIn,
    picture,
)
from hypothesis import given
from hypothesis import strategies as st

from mataserver.client import (
    AsyncClient,
    AuthenticationFailed,
    BadAnswer,
    Client,
    ConnectionFailed,
    FrameError,
    InferResponse,
    Reconnect,
    depth_array,
    mask_array,
    pixel_bytes,
)
from mataserver.client.failures import from_answer
from mataserver.client.flight import Flight
from mataserver.client.images import fields, media_type
from mataserver.errors import (
    BadRequest,
    Conflict,
    InvalidParams,
    MataError,
    NotFound,
    OutOfMemory,
    Unavailable,
)
from mataserver.results import Segment

SOON = Reconnect(tries=3, first_delay=0.0)


def pictures(count):
    """Frames that differ by their width: frame 0 is one pixel wide."""
    return [picture(index + 1) for index in range(count)]


def widths(items):
    """(number, width seen by the server) of every result."""
    return [(item.frame_id, round(item.detections[0].bbox[2])) for item in items]


def every(count):
    """What ``widths`` says when no frame is missing."""
    return [(index, index + 1) for index in range(count)]


@contextlib.asynccontextmanager
async def connected(stand_in, **options):
    """A client of a stand-in that serves on the test's own loop."""
    async with stand_in.serve(), AsyncClient(stand_in.url, KEY, **options) as client:
        yield client


@contextlib.contextmanager
def connected_plainly(stand_in, **options):
    """The same for the plain client; the stand-in serves from a thread."""
    with stand_in.serve_in_thread(), Client(stand_in.url, KEY, **options) as client:
        yield client


async def collect(stream, into=None):
    items = [] if into is None else into
    async for item in stream:
        items.append(item)
    return items


@pytest.fixture(params=[False, True], ids=["json", "msgpack"])
async def client(request):
    async with connected(StandIn(), msgpack=request.param) as client:
        yield client


async def test_models_are_listed_shown_and_moved(client):
    """Every method of the catalogue returns the struct of its answer."""
    assert (await client.health()).status == "ok"
    assert [info.model for info in await client.models()] == [BOXES, DEPTH, MASKS]
    assert (await client.model(BOXES)).task == "detect"
    assert (await client.pull("acme/new", "detect")).status == "pulled"
    assert (await client.warmup(BOXES)).status == "ready"
    assert (await client.unload(BOXES)).status == "not_loaded"
    assert [plugin["name"] for plugin in await client.plugins()] == ["fake"]


async def test_sessions_are_made_shown_and_deleted(client):
    """A session lives from create_session to delete_session."""
    session = await client.create_session(BOXES, confidence=0.5)
    assert session.ws_url.endswith(session.session_id)
    assert (await client.session(session.session_id))["model"] == BOXES
    assert len(await client.sessions()) == 1
    await client.delete_session(session.session_id)
    with pytest.raises(NotFound, match="Session not found"):
        await client.delete_session(session.session_id)


@pytest.mark.parametrize("way", ["infer", "upload", "infer_raw"])
async def test_an_image_goes_three_ways(client, way):
    """JSON, form and raw body give the same result and carry parameters."""
    response = await getattr(client, way)(BOXES, picture(7), confidence=0.5, prompts=["cat", "dog"])
    assert isinstance(response, InferResponse)
    assert response.detections[0].bbox == (0.0, 0.0, 7.0, 4.0)
    said = {"confidence": 0.5, "prompts": ["cat", "dog"]}
    assert response.output == (
        said if way == "infer" else {"confidence": "0.5", "prompts": "cat . dog"}
    )


async def test_an_image_is_bytes_a_path_or_a_file(client, tmp_path):
    """The image may come from memory, from a path, or from an open file."""
    path = tmp_path / "picture.png"
    path.write_bytes(picture(5))
    with path.open("rb") as file:
        for image in (bytearray(picture(5)), path, str(path), file, io.BytesIO(picture(5))):
            response = await client.infer(BOXES, image)
            assert response.detections[0].bbox[2] == 5.0
    with pytest.raises(TypeError, match="binary"):
        await client.infer(BOXES, io.StringIO("text"))
    with pytest.raises(TypeError, match="an image is bytes"):
        await client.infer(BOXES, 3)


async def test_pixels_become_arrays(client):
    """Depth maps and masks decode to arrays, from base64 and from bytes alike."""
    depth = depth_array(await client.infer(DEPTH, picture(3)))
    assert depth.dtype == "float32"
    assert depth.shape == (2, 3)
    assert depth.ravel().tolist() == pytest.approx([0.0, 0.2, 0.4, 0.6, 0.8, 1.0])
    mask = mask_array((await client.infer(MASKS, picture(6))).segments[0])
    assert mask.shape == (4, 6)
    assert mask[1, 0]
    assert mask.sum() == 1


def test_absent_or_wrong_pixels_are_refused():
    """Helpers for pixels raise ValueError where there are none or the size is wrong."""
    with pytest.raises(ValueError, match="no pixels"):
        mask_array(Segment("cat", 1.0, (0.0, 0.0, 1.0, 1.0)))
    with pytest.raises(ValueError, match="base64"):
        pixel_bytes("no base64!")
    answer = InferResponse(
        schema_version="mata.v1", task="depth", model="m", timestamp=0.0, depth_map=b"1234"
    )
    with pytest.raises(ValueError, match="4 bytes"):
        depth_array(answer)
    answer.depth_shape = (1, 2)
    with pytest.raises(ValueError, match="1 x 2"):
        depth_array(answer)


@pytest.mark.parametrize(
    ("data", "name"),
    [
        (b"\xff\xd8\xff\xe0", "image/jpeg"),
        (b"RIFF\0\0\0\nWEBPVP8 ", "image/webp"),
        (b"anything", "image/x-unknown"),
    ],
)
def test_media_types_come_from_the_first_bytes(data, name):
    """The declared media type is always an image's, known or not."""
    assert media_type(data) == name


def test_forms_spell_values_and_refuse_split_prompts():
    """Numbers and booleans are spelt as in JSON; a prompt that would be split is refused."""
    assert fields({"detail": 1, "flag": True, "prompts": "a . b", "language": "de"}) == {
        "detail": "1",
        "flag": "true",
        "prompts": "a . b",
        "language": "de",
    }
    assert fields({"prompts": ["a 2.5 m pole"]}) == {"prompts": "a 2.5 m pole"}
    with pytest.raises(InvalidParams, match="full stop"):
        fields({"prompts": ["st. bernard"]})


async def test_refusals_become_exceptions_with_the_detail(client):
    """The server's sentence and status arrive in the exception of that status."""
    with pytest.raises(NotFound, match="Model not found: acme/none") as caught:
        await client.model("acme/none")
    assert caught.value.status == 404
    with pytest.raises(InvalidParams, match="use 'confidence'"):
        await client.infer(BOXES, picture(1), threshold=0.5)
    with pytest.raises(BadRequest, match="decoded"):
        await client.upload(BOXES, b"no picture")


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, BadRequest),
        (401, AuthenticationFailed),
        (403, AuthenticationFailed),
        (409, Conflict),
        (413, MataError),
        (503, Unavailable),
        (507, OutOfMemory),
        (599, MataError),
    ],
)
def test_every_status_has_its_exception(status, kind):
    """The exception's type follows the status, which it keeps."""
    error = from_answer(status, {}, b'{"detail": "So it is."}')
    assert type(error) is kind
    assert (error.status, error.detail) == (status, "So it is.")


async def test_retry_after_arrives():
    """A busy server's Retry-After is in the exception."""
    busy = Refusal(503, b'{"detail": "Maximum concurrent sessions reached"}', {"Retry-After": "7"})
    async with connected(StandIn(refusals=[busy])) as client:
        with pytest.raises(Unavailable, match="Maximum") as caught:
            await client.create_session(BOXES)
    assert caught.value.retry_after == 7.0


@pytest.mark.parametrize(
    ("value", "seconds"),
    [("Wed, 21 Oct 2015 07:28:00 GMT", 0.0), ("soon", None), ("-3", None)],
)
def test_retry_after_may_be_a_date_or_nonsense(value, seconds):
    """A date in the past means now; what is neither a number nor a date means nothing."""
    assert from_answer(503, {"Retry-After": value}, b"").retry_after == seconds


@pytest.mark.parametrize("body", [b"<html>Bad gateway</html>", b"\xff\xfe", b"[1]", b'{"a": 1}'])
async def test_a_foreign_error_body_is_no_trouble(body):
    """An error without the API's detail names its status and repeats nothing of the body."""
    async with connected(StandIn(refusals=[Refusal(502, body)])) as client:
        with pytest.raises(MataError) as caught:
            await client.models()
    assert caught.value.detail == "The server answered 502 (Bad Gateway)"


@pytest.mark.parametrize(("status", "kind"), [(200, BadAnswer), (307, MataError)])
async def test_a_foreign_answer_is_refused(status, kind):
    """A page instead of an answer, or a redirect, is an error and not followed."""
    page = Refusal(status, b"<html>", {"Location": "http://127.0.0.1:9/elsewhere"})
    async with connected(StandIn(refusals=[page])) as client:
        with pytest.raises(kind):
            await client.health()


async def test_nobody_listening_is_a_failed_connection(unused_tcp_port):
    """A server that is not there raises ConnectionFailed naming host and port."""
    async with AsyncClient(f"http://127.0.0.1:{unused_tcp_port}") as client:
        with pytest.raises(ConnectionFailed, match=f"127.0.0.1:{unused_tcp_port}") as caught:
            await client.health()
    assert caught.value.status == 0


async def test_no_answer_in_time_is_a_failed_connection():
    """A server that accepts and says nothing raises ConnectionFailed after the timeout."""
    async with connected(StandIn(refusals=[Refusal(0, b"")]), timeout=0.05) as client:
        with pytest.raises(ConnectionFailed, match="in time"):
            await client.health()


async def test_a_wrong_or_missing_key_is_told_apart_by_status():
    """401 without a key, 403 with a wrong one, and health for everybody."""
    async with StandIn().serve() as stand_in:
        async with AsyncClient(stand_in.url) as client:
            assert (await client.health()).version == "0.1.0"
            with pytest.raises(AuthenticationFailed, match="Missing") as caught:
                await client.models()
            assert caught.value.status == 401
        async with AsyncClient(stand_in.url, "wrong") as client:
            with pytest.raises(AuthenticationFailed, match="Invalid") as caught:
                await client.models()
            assert caught.value.status == 403


@pytest.mark.parametrize("url", ["127.0.0.1:8110", "ftp://host", "http://"])
def test_a_url_that_is_none_is_refused(url):
    """The client wants an http or https URL with a host."""
    with pytest.raises(ValueError, match="url"):
        AsyncClient(url)


async def test_the_key_stays_out_of_messages_and_logs(caplog, unused_tcp_port):
    """Neither exceptions, tracebacks, logs nor repr ever show the key."""
    caplog.set_level(logging.DEBUG)
    told = []
    echo = Refusal(400, f'{{"detail": "bad request: /v1?token={KEY}"}}'.encode())
    handshake = Refusal(403, b"{}")
    stand_in = StandIn(refusals=[echo], faults={0: DROP, 1: DROP})
    async with connected(stand_in) as client:
        told.append(repr(client))
        for attempt in (
            client.models(),
            collect(client.stream(BOXES, pictures(1), reconnect=Reconnect(tries=1))),
        ):
            with pytest.raises(MataError) as caught:
                await attempt
            told += traceback.format_exception(caught.value)
        session = await client.create_session(BOXES)
        stand_in.refusals.append(handshake)
        with pytest.raises(AuthenticationFailed) as caught:
            await collect(client.stream(session, pictures(1)))
        told += traceback.format_exception(caught.value)
        assert caught.value.__context__ is None
    async with AsyncClient(f"http://127.0.0.1:{unused_tcp_port}", KEY) as client:
        with pytest.raises(ConnectionFailed) as caught:
            await collect(client.stream("sess_0123456789ab", pictures(1)))
        told += traceback.format_exception(caught.value)
    with pytest.raises(ValueError, match="ASCII") as refused:
        AsyncClient(api_key=KEY + "\n")
    told += traceback.format_exception(refused.value)
    assert KEY not in "".join(told)
    assert KEY not in caplog.text


async def numbered(count):
    for frame in pictures(count):
        yield frame


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


def test_an_answer_makes_room_for_all_before_it():
    """An answer settles its frame and those that it overtook; a resumed session sends one first."""
    flight = Flight(3, fresh=True)
    for _ in range(3):
        assert not flight.full
        flight.depart(b"frame")
    assert flight.full
    assert flight.land(1) == 1
    assert flight.pending == 1
    flight.crash()
    assert flight.full
    assert flight.land(9) == 2
    assert not flight.pending


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


@pytest.mark.parametrize("notice", ["<html>", '{"task": "detect"}', "[]"])
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
    assert items[1] == FrameError(1, "Engine failed")
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


async def test_a_closed_client_says_so():
    """Outside its with statement a client refuses to work."""
    client = AsyncClient()
    with pytest.raises(RuntimeError, match="closed"):
        await client.health()


@pytest.mark.parametrize("window", [0, -1])
async def test_a_window_of_nothing_is_refused(window):
    """A window holds at least one frame."""
    with pytest.raises(ValueError, match="window"):
        AsyncClient().stream(BOXES, [], window=window)


def test_delays_double_up_to_a_limit():
    """The pause between tries grows, and stops growing."""
    policy = Reconnect(first_delay=1.0, longest_delay=5.0)
    assert [policy.delay(attempt) for attempt in (0, 1, 2, 3, 10_000)] == [1.0, 2.0, 4.0, 5.0, 5.0]


@given(
    st.lists(st.tuples(st.integers(1, 6), st.booleans(), st.booleans()), max_size=8),
    st.integers(0, 50),
)
def test_numbers_survive_drops_and_lost_connections(rounds, counted_before):
    """Whatever is dropped or lost, an answer names the frame it belongs to, and the end is seen."""
    flight = Flight(None, fresh=counted_before == 0)
    server_count, sent = counted_before, 0
    on_server = {}

    def receive(index):
        nonlocal server_count
        on_server[server_count] = index
        server_count += 1

    for burst, breaks, arrives in rounds:
        for _ in range(1 if flight.full or flight._offset is None else burst):
            flight.depart(b"frame")
            if arrives or not breaks:
                receive(sent)
            sent += 1
        if breaks:
            flight.crash()
            receive(sent - 1)  # the newest is sent again, on its own
        answered = server_count - 1
        assert flight.land(answered) == on_server[answered] == sent - 1
        assert not flight.pending


def test_the_plain_client_does_what_the_other_does(tmp_path):
    """Every method works without an event loop, and streams are plain iterators."""
    path = tmp_path / "picture.png"
    path.write_bytes(picture(5))
    with connected_plainly(StandIn()) as client:
        assert client.health().status == "ok"
        assert len(client.models()) == 3
        assert client.model(BOXES).source == "hf"
        assert client.pull("acme/new", "depth").model == "acme/new"
        assert client.warmup(BOXES).status == "ready"
        assert client.unload(BOXES).status == "not_loaded"
        assert client.plugins() == [{"name": "fake", "status": "ok"}]
        for infer in (client.infer, client.upload, client.infer_raw):
            assert infer(BOXES, path, confidence=0.5).detections[0].label == "patch"
        session = client.create_session(BOXES, "detect")
        assert client.session(session.session_id) in client.sessions()
        client.delete_session(session.session_id)
        assert widths(client.stream(BOXES, iter(pictures(4)))) == every(4)
        with pytest.raises(NotFound):
            client.model("acme/none")


def test_every_method_of_one_client_is_one_of_the_other():
    """The two clients offer the same names with the same parameters."""
    import inspect

    def methods(kind):
        return {
            name: list(inspect.signature(method).parameters)
            for name, method in vars(kind).items()
            if not name.startswith("_") and name != "close"
        }

    assert methods(Client) == methods(AsyncClient)


def test_closing_leaves_no_thread_and_ends_open_streams():
    """After close() there is no thread, no session, and no way to go on."""
    before = set(threading.enumerate())
    stand_in = StandIn()
    with stand_in.serve_in_thread():
        serving = set(threading.enumerate())
        client = Client(stand_in.url, KEY)
        stream = client.stream(BOXES, iter(pictures(9)))
        assert next(stream).frame_id == 0
        client.close()
        client.close()
        assert set(threading.enumerate()) == serving
        assert len(stand_in.deleted) == 1
        with pytest.raises(RuntimeError, match="closed"):
            next(stream)
        with pytest.raises(RuntimeError, match="closed"):
            client.health()
    assert set(threading.enumerate()) == before


def test_leaving_a_plain_stream_early_deletes_its_session():
    """Dropping the iterator closes the stream at once."""
    stand_in = StandIn()
    with connected_plainly(stand_in) as client:
        for item in client.stream(BOXES, pictures(9)):
            assert item.frame_id == 0
            break
        assert len(stand_in.deleted) == 1


def test_closing_ends_a_call_in_another_thread():
    """A call that waits while the client is closed raises ConnectionFailed."""
    stand_in = StandIn(faults={0: SILENT})
    with stand_in.serve_in_thread(), ThreadPoolExecutor() as pool:
        client = Client(stand_in.url, KEY)
        reading = pool.submit(list, client.stream(BOXES, pictures(2)))
        stand_in.first_frame.wait(10)
        client.close()
        with pytest.raises(ConnectionFailed, match="closed"):
            reading.result()
        assert len(stand_in.deleted) == 1


def test_threads_share_a_plain_client():
    """Calls and streams from many threads do not get mixed up."""
    with connected_plainly(StandIn()) as client, ThreadPoolExecutor(4) as pool:
        singles = [pool.submit(client.infer, BOXES, picture(width)) for width in range(1, 9)]
        streams = [pool.submit(list, client.stream(BOXES, pictures(4))) for _ in range(3)]
        assert [call.result().detections[0].bbox[2] for call in singles] == list(range(1, 9))
        assert all(widths(call.result()) == every(4) for call in streams)
