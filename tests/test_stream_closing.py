"""Who may stream, how a socket ends, and what a session is afterwards."""

from __future__ import annotations

import asyncio
import contextlib
import time

import aiohttp
import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

from conftest import picture
from mataserver import testing
from mataserver.http import stream
from mataserver.library.plans import CACHE_SECONDS
from mataserver.library.registry import Registry
from stream_peers import (
    PNG,
    RawPeer,
    behind_gate,
    closed_with,
    delete_session,
    eventually,
    frame,
    gated_server,
    metric,
    model_state,
    no_connection,
    open_session,
    open_url,
    session_info,
    session_of,
    stream_tasks,
)

BINARY = 2


@contextlib.asynccontextmanager
async def serving(data_dir, **settings):
    """Run a server with threads; yield an HTTP session that carries its key."""
    async with (
        testing.serving(data_dir, engine="thread", **settings) as served,
        aiohttp.ClientSession(served.url, headers=served.headers) as http,
    ):
        yield http


@pytest.fixture
async def gated(data_dir):
    """An HTTP session with a server that has the gated model besides the fakes, and the gate."""
    async with behind_gate(data_dir) as both:
        yield both


async def refused_with(ws):
    """Return the code and the reason that a new socket is closed with."""
    message = await ws.receive(timeout=10)
    assert message.type is aiohttp.WSMsgType.CLOSE
    return message.data, message.extra


# who may stream


@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize(
    ("query", "header"),
    [
        ("", None),
        ("?token=wrong", None),
        ("?token=%C3%A4", None),
        ("", "Bearer wrong"),
        ("", "Basic dGVzdC1rZXk="),
    ],
)
async def test_without_the_key_4001(http, server, known, query, header):
    """A missing or wrong key is 4001 after the upgrade, whether the session exists or not."""
    session_id = await open_session(http) if known else "sess_000000000000"
    headers = {} if header is None else {"Authorization": header}
    async with (
        aiohttp.ClientSession(server.url, headers=headers) as stranger,
        stranger.ws_connect(f"/v1/stream/{session_id}{query}") as ws,
    ):
        assert await refused_with(ws) == (4001, "unauthorized")
    if known:
        assert not (await session_info(http, session_id))["connected"]


async def test_a_wrong_token_is_not_rescued_by_a_header(http, server):
    """Where both are there ``?token=`` counts: a wrong one is 4001."""
    session_id = await open_session(http)
    async with (
        aiohttp.ClientSession(server.url, headers=server.headers) as client,
        client.ws_connect(f"/v1/stream/{session_id}?token=wrong") as ws,
    ):
        assert await refused_with(ws) == (4001, "unauthorized")


async def test_4001_reaches_a_client_that_already_sends(http):
    """A client that streams before it looks still learns why it was refused."""

    async def flood(ws):
        while True:
            await ws.send(PNG)

    url = (await open_url(http)).replace("test-key", "wrong")
    async with connect(url, proxy=None) as ws:
        with pytest.raises(ConnectionClosed) as caught:
            await flood(ws)
    assert caught.value.rcvd.code == 4001


async def test_the_key_in_the_query_or_in_a_header(http, server):
    """The key is taken from ``?token=`` and from ``Authorization: Bearer``."""
    session_id = await open_session(http)
    for query, headers in (("?token=test-key", {}), ("", server.headers)):
        async with (
            aiohttp.ClientSession(server.url, headers=headers) as client,
            client.ws_connect(f"/v1/stream/{session_id}{query}") as ws,
        ):
            await ws.send_bytes(PNG)
            await ws.receive_json(timeout=10)
        await no_connection(http)


async def test_without_authentication_the_token_is_ignored(data_dir):
    """With ``auth_mode: none`` any token will do, and none."""
    async with (
        serving(data_dir, auth_mode="none") as http,
        http.ws_connect(f"/v1/stream/{await open_session(http)}?token=whatever") as ws,
    ):
        await ws.send_bytes(PNG)
        assert (await ws.receive_json(timeout=10))["frame_id"] == 0


async def test_an_unknown_session_is_4004(http):
    """A session that never was is 4004 after the upgrade."""
    async with http.ws_connect("/v1/stream/sess_000000000000") as ws:
        assert await refused_with(ws) == (4004, "invalid or expired session")


async def test_a_second_socket_is_1008(http):
    """A second socket on a session is closed with 1008; the first one goes on."""
    path = f"/v1/stream/{await open_session(http)}"
    async with http.ws_connect(path) as first:
        async with http.ws_connect(path) as second:
            assert (await refused_with(second))[0] == 1008
        await first.send_bytes(PNG)
        assert (await first.receive_json(timeout=10))["frame_id"] == 0


async def test_a_plain_request_is_400(http):
    """A GET that asks for no upgrade gets the API's JSON error."""
    async with http.get(f"/v1/stream/{await open_session(http)}") as response:
        assert response.status == 400
        assert list(await response.json()) == ["detail"]


# limits


async def test_too_many_sessions_are_503(data_dir):
    """Sessions over the limit are refused, connected or not; a deleted one makes room."""
    async with serving(data_dir, max_sessions=2) as http:
        first, _ = await open_session(http), await open_session(http)
        async with http.post("/v1/sessions", json={"model": "fake-detect"}) as response:
            assert response.status == 503
            detail = (await response.json())["detail"]
        assert detail == "Maximum concurrent sessions reached (limit: 2)"
        assert await delete_session(http, first) == 204
        await open_session(http)
        assert await metric(http, "mataserver_sessions") == 2


async def test_a_frame_of_the_limit_is_read_one_over_it_is_1009(data_dir):
    """A message may have as many bytes as a body; one byte more closes with 1009."""
    async with serving(data_dir, max_body_mb=0.3) as http:
        session_id = await open_session(http)
        async with http.ws_connect(f"/v1/stream/{session_id}") as ws:
            await ws.send_bytes(bytes(300_000))
            assert (await ws.receive_json(timeout=10))["type"] == "error"
            await ws.send_bytes(bytes(300_001))
            assert await closed_with(ws) == 1009
        assert (await session_info(http, session_id))["frames"] == 1


async def test_1009_reaches_a_client_that_still_sends(data_dir):
    """A client in the middle of a message that is far too large learns what was wrong."""
    async with (
        serving(data_dir, max_body_mb=1) as http,
        connect(await open_url(http), proxy=None) as ws,
    ):
        with contextlib.suppress(ConnectionClosed):
            await ws.send(bytes(60_000_000))
        with pytest.raises(ConnectionClosed) as caught:
            await ws.recv()
    assert (caught.value.rcvd.code, caught.value.rcvd.reason) == (1009, "message too big")


async def test_frames_share_the_budget_of_bytes_in_flight(data_dir):
    """A frame for which no budget is left is answered by an error; nothing stays counted."""
    padded = PNG + bytes(6_000)  # two of them are over the budget
    async with behind_gate(data_dir, max_inflight_mb=0.01, max_body_mb=0.01) as (http, gate):
        path = f"/v1/stream/{await open_session(http, 'gated')}"
        async with http.ws_connect(path) as ws:
            await ws.send_bytes(padded)
            await gate.inside()
            await ws.send_bytes(padded)
            error = await ws.receive_json(timeout=10)
            assert (error["type"], error["frame_id"]) == ("error", 1)
            assert "in flight" in error["detail"]
            gate.open(2)
            assert (await ws.receive_json(timeout=10))["frame_id"] == 0
            await ws.send_bytes(padded)
            assert (await ws.receive_json(timeout=10))["frame_id"] == 2

            async def nothing_held():
                return await metric(http, "mataserver_body_bytes_in_flight") == 0

            await eventually(nothing_held)


# the end, and what comes after


async def test_deleting_closes_with_1000_and_then_404(http):
    """DELETE closes the open socket with 1000; after it the session is gone for everyone."""
    session_id = await open_session(http)
    async with http.ws_connect(f"/v1/stream/{session_id}") as ws:
        await ws.send_bytes(PNG)
        await ws.receive_json(timeout=10)
        assert await delete_session(http, session_id) == 204
        assert await refused_with(ws) == (1000, "session deleted")
    assert await delete_session(http, session_id) == 404
    async with http.get(f"/v1/sessions/{session_id}") as response:
        assert response.status == 404
        assert (await response.json())["detail"] == f"Session not found: {session_id}"
    async with http.ws_connect(f"/v1/stream/{session_id}") as ws:
        assert (await refused_with(ws))[0] == 4004


async def test_reconnecting_resumes(http):
    """Within its time to live a session goes on: the tracker's state and the numbers of frames."""
    session_id = await open_session(http, "fake-track")
    for number in range(4):
        async with http.ws_connect(f"/v1/stream/{session_id}") as ws:
            await ws.send_bytes(PNG)
            answer = await ws.receive_json(timeout=10)
            assert answer["frame_id"] == number
            assert answer["detections"][0]["track_id"] == number + 1
            assert "reset" not in answer
        await no_connection(http)
    assert (await session_info(http, session_id))["frames"] == 4


async def test_sessions_have_states_of_their_own(http):
    """Two sessions on one tracker count each for itself; a third starts anew."""
    for count in (3, 2, 1):
        async with http.ws_connect(f"/v1/stream/{await open_session(http, 'fake-track')}") as ws:
            for number in range(count):
                await ws.send_bytes(PNG)
                answer = await ws.receive_json(timeout=10)
                assert answer["detections"][0]["track_id"] == number + 1


async def test_without_a_connection_a_session_expires(data_dir):
    """After its time to live a session without a socket is gone: 4004, 404, and out of the way."""
    async with serving(data_dir, session_ttl=0.3, max_sessions=1, keep_alive=0) as http:
        session_id = await open_session(http)

        async def gone():
            return await metric(http, "mataserver_sessions") == 0

        await eventually(gone)
        async with http.ws_connect(f"/v1/stream/{session_id}") as ws:
            assert (await refused_with(ws))[0] == 4004
        assert await delete_session(http, session_id) == 404
        assert await model_state(http, "fake-detect") == "unloaded"


async def test_an_idle_socket_is_closed_with_1000(data_dir):
    """A connected session does not expire, but without a frame for that long it is closed."""
    async with serving(data_dir, session_ttl=0.5) as http:
        session_id = await open_session(http)
        begun = time.monotonic()
        async with http.ws_connect(f"/v1/stream/{session_id}") as ws:
            assert await refused_with(ws) == (1000, "no frame for too long")
        assert time.monotonic() - begun >= 0.5
        assert (await session_info(http, session_id))["connected"] is False


async def test_a_session_holds_its_model(data_dir):
    """Keep-alive 0 unloads a model at once, not one that a session holds; DELETE lets it go."""
    async with serving(data_dir, keep_alive=0) as http:
        session_id = await open_session(http)
        assert await model_state(http, "fake-detect") == "ready"
        async with http.ws_connect(f"/v1/stream/{session_id}") as ws:
            await ws.send_bytes(PNG)
            await ws.receive_json(timeout=10)
        assert await model_state(http, "fake-detect") == "idle"
        await delete_session(http, session_id)

        async def unloaded():
            return await model_state(http, "fake-detect") == "unloaded"

        await eventually(unloaded)


async def test_unloading_under_a_session_resets_it(http):
    """A model stopped under a session is loaded again by the next frame, which says so."""
    session_id = await open_session(http, "fake-track")
    async with http.ws_connect(f"/v1/stream/{session_id}") as ws:
        for _ in range(2):
            await ws.send_bytes(PNG)
            await ws.receive_json(timeout=10)
        async with http.post("/v1/models/unload", json={"model": "fake-track"}) as response:
            assert (await response.json())["status"] == "unloaded"
        await ws.send_bytes(PNG)
        answer = await ws.receive_json(timeout=10)
        assert (answer["reset"], answer["detections"][0]["track_id"]) == (True, 1)
        await ws.send_bytes(PNG)
        assert "reset" not in await ws.receive_json(timeout=10)


async def test_a_model_that_was_removed_is_1011(http, data_dir):
    """A frame does not bring back a model that was removed from the registry."""
    async with http.ws_connect(f"/v1/stream/{await open_session(http)}") as ws:
        await ws.send_bytes(PNG)
        await ws.receive_json(timeout=10)
        Registry(data_dir / "model_registry.json").remove("fake-detect")
        await asyncio.sleep(CACHE_SECONDS)  # for so long the server believes what it saw last
        await ws.send_bytes(PNG)
        error = await ws.receive_json(timeout=10)
        assert (error["type"], error["frame_id"]) == ("error", 1)
        assert error["detail"].startswith("Model not found: fake-detect")
        assert await closed_with(ws) == 1011


@pytest.mark.parametrize("how", ["abort", "end", "close"])
async def test_a_client_that_vanishes_leaves_nothing(gated, how):
    """A client gone in the middle of a frame leaves no task and no count; the session resumes."""
    http, gate = gated
    url = await open_url(http, "gated")
    session_id = session_of(url)
    async with RawPeer.connected(url) as peer:
        await peer.send(frame(BINARY, PNG) * 3)
        await gate.inside()
        assert stream_tasks()
        if how == "abort":
            peer.abort()
        elif how == "close":
            await peer.send(frame(8, b"\x03\xe8"))
    await no_connection(http)
    assert stream_tasks() == []
    info = await session_info(http, session_id)
    assert (info["connected"], info["results"]) == (False, 0)
    gate.open(100)
    async with http.ws_connect(f"/v1/stream/{session_id}") as ws:
        await ws.send_bytes(picture(width=99))
        answer = await ws.receive_json(timeout=10)
    assert answer["detections"][0]["label"] == "99x48"
    assert answer["frame_id"] == info["frames"]
    assert await metric(http, "mataserver_body_bytes_in_flight") == 0


async def test_many_clients_that_vanish_leave_nothing(http):
    """Fifty resets in a row, some in the middle of a message, leave no socket and no task."""
    url = await open_url(http)
    for number in range(50):
        async with RawPeer.connected(url) as peer:
            await peer.send(frame(BINARY, PNG)[: -number or None])
            peer.abort()
        await no_connection(http)
    assert stream_tasks() == []
    assert (await session_info(http, session_of(url)))["connected"] is False


# the server goes


async def test_draining_answers_the_frame_under_way_then_1001(data_dir):
    """A server that stops answers the frame that is being inferred, then closes with 1001."""
    server = gated_server(data_dir)
    served, gate = await server.__aenter__()
    async with aiohttp.ClientSession(served.url, headers=served.headers) as http:
        busy = await http.ws_connect(f"/v1/stream/{await open_session(http, 'gated')}")
        idle = await http.ws_connect(f"/v1/stream/{await open_session(http, 'fake-ocr')}")
        await busy.send_bytes(PNG)
        await gate.inside()
        await busy.send_bytes(PNG)
        stopping = asyncio.create_task(server.__aexit__(None, None, None))
        assert await refused_with(idle) == (1001, "the server is shutting down")
        gate.open()
        assert (await busy.receive_json(timeout=10))["frame_id"] == 0
        assert await refused_with(busy) == (1001, "the server is shutting down")
        await stopping
    assert stream_tasks() == []


async def test_a_client_that_waits_for_the_server_to_hang_up(data_dir, monkeypatch):
    """Its goodbye is heard while the server stops: it is not kept until the time is over."""
    monkeypatch.setattr(stream, "CLOSE_TIMEOUT", 60.0)
    server = testing.serving(data_dir, engine="thread")
    served = await server.__aenter__()
    async with aiohttp.ClientSession(served.url, headers=served.headers) as http:
        async with connect(await open_url(http), proxy=None) as ws:
            await ws.send(PNG)
            await ws.recv()
            stopping = asyncio.create_task(server.__aexit__(None, None, None))
            async with asyncio.timeout(20):
                with pytest.raises(ConnectionClosed, match="1001"):
                    await ws.recv()
        await stopping
