"""The asynchronous client's requests against a stand-in server."""

from __future__ import annotations

import asyncio
import json
import logging
import re
import traceback

import pytest
from api_stand_in import BOXES, DEPTH, DROP, KEY, MASKS, Refusal, StandIn, picture
from client_cases import collect, connected, pictures

from mataserver.errors import (
    BadRequest,
    Conflict,
    InvalidParams,
    MataError,
    NotFound,
    OutOfMemory,
    Shortage,
    Unavailable,
)
from mataserver.results import Segment
from mataserver_client import (
    AsyncClient,
    AuthenticationFailed,
    BadAnswer,
    ConnectionFailed,
    InferResponse,
    Reconnect,
    depth_array,
    mask_array,
    pixel_bytes,
)
from mataserver_client.failures import from_answer
from mataserver_client.images import media_type


@pytest.fixture(params=[False, True], ids=["json", "msgpack"])
async def client(request):
    async with connected(StandIn(), msgpack=request.param) as client:
        yield client


async def test_a_route_without_a_method(client):
    """Any route is asked, with JSON or bytes; its answer has headers, and can be decoded."""
    answer = await client.request("GET", "/v1/health")
    assert answer.decode(dict)["status"] == "ok"
    assert "Content-Type" in answer.headers
    with pytest.raises(MataError):
        await client.request("POST", "/v1/models/warmup", {"model": "acme/unknown"})
    with pytest.raises(NotFound):
        await client.request("DELETE", "/v1/nothing", headers={"X-Other": "1"}, query={"a": "b"})
    with pytest.raises(NotFound):  # a large body is written in pieces, without a warning
        await client.request("PATCH", "/v1/nothing", data=bytes(3_000_000))


async def test_models_are_listed_shown_and_moved(client):
    """Every method of the catalogue returns the struct of its answer."""
    assert (await client.health()).status == "ok"
    assert [info.model for info in await client.models()] == [BOXES, DEPTH, MASKS]
    assert (await client.model(BOXES)).task == "detect"
    assert (await client.pull("acme/new", "detect")).status == "pulled"
    assert (await client.warmup(BOXES)).status == "ready"
    assert (await client.unload(BOXES)).status == "not_loaded"
    assert (await client.unload(BOXES, if_loading=True)).status == "ready"
    assert (await client.params(BOXES))["type"] == "object"
    assert (await client.pin(BOXES)).status == "pinned"
    assert (await client.unpin(BOXES)).status == "unpinned"
    assert (await client.remove(BOXES)).status == "removed"
    with pytest.raises(NotFound, match="Model not found"):
        await client.remove("acme/unknown")
    assert (await client.settings())[0]["name"] == "port"
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
        said if way == "infer" else {"confidence": "0.5", "prompts": '["cat","dog"]'}
    )


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
        (b"\0\0\0\x1cftypavif\0\0\0\0", "image/avif"),
        (b"\0\0\0\x1cftypheic\0\0\0\0", "image/heic"),
        (b"anything", "image/x-unknown"),
    ],
)
def test_media_types_come_from_the_first_bytes(data, name):
    """The declared media type is always an image's, known or not."""
    assert media_type(data) == name


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


def test_a_507_has_the_figures_that_the_server_knows():
    """Of a model that does not fit; a full disk and an older server tell none."""
    figures = {"device": "cuda:0", "needed_mb": 450.0, "free_mb": 0.0, "limit_mb": 900.0}
    body = json.dumps({"detail": "It does not fit.", **figures}).encode()
    assert from_answer(507, {}, body).shortage == Shortage(**figures)
    for body in (b'{"detail": "The disk is full"}', b"<html>", b'{"device": 3}'):
        assert from_answer(507, {}, body).shortage is None


async def test_retry_after_arrives():
    """A busy server's Retry-After is in the exception."""
    busy = Refusal(503, b'{"detail": "Maximum concurrent sessions reached"}', {"Retry-After": "7"})
    async with connected(StandIn(refusals=[busy])) as client:
        with pytest.raises(Unavailable, match="Maximum") as caught:
            await client.create_session(BOXES)
    assert caught.value.retry_after == 7.0


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("Wed, 21 Oct 2015 07:28:00 GMT", 0.0),
        ("soon", None),
        ("-3", None),
        ("9" * 5_000, 31_536_000.0),
        ("Fri, 31 Dec 9999 23:59:59 GMT", 31_536_000.0),
        ("Mon, 01 Jan 99999999999999999999 00:00:00 GMT", None),
    ],
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


async def test_a_foreign_answer_is_refused():
    """A page instead of an answer is an error, also instead of events."""
    page = Refusal(200, b"<html>", {"Content-Type": "text/html"})
    async with connected(StandIn(refusals=[page] * 2)) as client:
        with pytest.raises(BadAnswer, match="not one of this API"):
            await client.health()
        with pytest.raises(BadAnswer, match="not one of this API"):
            await collect(client.generate(BOXES, picture(5)))


@pytest.mark.parametrize(
    ("location", "said"),
    [
        (f"https://vision.example:8443/v1?token={KEY}", "https://vision.example:8443: is that"),
        ("/login", "answered 307 (Temporary Redirect)"),
        ("https://[", "answered 307 (Temporary Redirect)"),
    ],
)
async def test_a_redirect_is_not_followed(location, said):
    """It says where to, such as from http:// to https://, but nothing of the path."""
    page = Refusal(307, b"<html>", {"Location": location})
    async with connected(StandIn(refusals=[page])) as client:
        with pytest.raises(BadAnswer, match=re.escape(said)) as caught:
            await client.health()
    assert caught.value.status == 307
    assert KEY not in str(caught.value)


@pytest.mark.parametrize("status", [201, 401, 404, 503])
def test_only_a_redirect_points_elsewhere(status):
    """Any answer may have a Location: that of a 201 or of a sign-in page is not the server's."""
    error = from_answer(status, {"Location": "https://elsewhere.example/in"}, b"")
    assert "elsewhere" not in str(error)


@pytest.mark.parametrize(
    ("sent", "kind", "said"),
    [
        (b"SSH-2.0-OpenSSH_9.2\r\n", BadAnswer, "does not speak HTTP"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{}", ConnectionFailed, "is not whole"),
    ],
)
async def test_what_is_no_answer_of_a_server(sent, kind, said):
    """Something else listens there, or the answer breaks off: the connection did not fail."""

    async def answer(reader, writer):
        await reader.readuntil(b"\r\n\r\n")
        writer.write(sent)
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with server, AsyncClient(f"http://127.0.0.1:{port}") as client:
        with pytest.raises(kind, match=f"127.0.0.1:{port} {said}"):
            await client.health()


async def test_nobody_listening_is_a_failed_connection(unused_tcp_port):
    """A server that is not there raises ConnectionFailed naming host, port and the reason."""
    async with AsyncClient(f"http://127.0.0.1:{unused_tcp_port}") as client:
        said = re.escape(f"No connection to 127.0.0.1:{unused_tcp_port} (Connection refused)")
        with pytest.raises(ConnectionFailed, match=said) as caught:
            await client.health()
    assert caught.value.status == 0
    assert repr(AsyncClient("http://user:secret@[::1]:8110/x")) == "<AsyncClient of [::1]:8110>"


async def test_a_connection_that_is_closed_is_told_as_that():
    """A server that hangs up before it answers is told in words."""

    async def hang_up(reader, writer):
        await reader.readline()
        writer.close()

    server = await asyncio.start_server(hang_up, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with server, AsyncClient(f"http://127.0.0.1:{port}") as client:
        with pytest.raises(ConnectionFailed, match=r"\(closed without an answer\)"):
            await client.health()


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
            assert "api_key in its data_dir" in str(caught.value)
            assert "data_dir" not in caught.value.detail
        async with AsyncClient(stand_in.url, "wrong") as client:
            with pytest.raises(AuthenticationFailed, match="Invalid") as caught:
                await client.models()
            assert caught.value.status == 403


NO_URLS = ["127.0.0.1:8110", "ftp://host", "http://", "http://host:0", "http://host:99999"]


@pytest.mark.parametrize("url", [*NO_URLS, "http://host:abc"])
def test_a_url_that_is_none_is_refused(url):
    """The client wants an http or https URL with a host, and a port that there is."""
    with pytest.raises(ValueError, match=r"url|Port"):
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


async def test_a_closed_client_says_so():
    """Outside its with statement a client refuses to work."""
    client = AsyncClient()
    with pytest.raises(RuntimeError, match="closed"):
        await client.health()


@pytest.mark.parametrize("rest", [b"", b"event: result\ndata: {}"])
async def test_events_that_end_before_the_answer(rest):
    """What a proxy cuts off is no whole answer, and an unfinished event is none."""
    begun = b'event: token\ndata: {"text": "A cat"}\n\n' + rest
    cut = Refusal(200, begun, {"Content-Type": "text/event-stream"})
    found = []
    async with connected(StandIn(refusals=[cut])) as client:
        with pytest.raises(ConnectionFailed, match="ended before its answer"):
            await collect(client.generate(BOXES, picture(5)), found)
    assert found == ["A cat"]


async def test_queues_of_models_with_odd_names():
    """Names are written in the metrics with a backslash before quotes and backslashes."""
    lines = (
        b'mataserver_queue_length{model="plain"} 2.0\n'
        b'mataserver_queue_length{model="the \\"best\\" of C:\\\\"} 3.0\n'
    )
    told = Refusal(200, lines, {"Content-Type": "text/plain"})
    async with connected(StandIn(refusals=[told])) as client:
        assert await client.queues() == {"plain": 2, 'the "best" of C:\\': 3}
