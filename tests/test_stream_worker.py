"""Streams over a model that fails, dies, hangs, does not come back, or is flooded by others."""

from __future__ import annotations

import asyncio
import contextlib

import aiohttp
import pytest

from conftest import picture
from mataserver import testing
from own_processes import workers
from stream_peers import (
    LOADS_EXIT,
    PNG,
    behind_gate,
    closed_with,
    delete_session,
    eventually,
    infer,
    metric,
    model_state,
    no_connection,
    open_session,
    session_info,
    stream_tasks,
)


@contextlib.asynccontextmanager
async def serving(data_dir, engine, **settings):
    """Run a server; yield an HTTP session that carries its key."""
    async with (
        testing.serving(data_dir, engine=engine, **settings) as served,
        aiohttp.ClientSession(served.url, headers=served.headers) as http,
    ):
        yield http


@pytest.fixture
async def processes(data_dir):
    """An HTTP session with a server whose fake models run in child processes."""
    async with serving(data_dir, "process", infer_timeout=0.7) as http:
        yield http


async def exchange(ws, image=PNG):
    """Send a frame; return its answer."""
    await ws.send_bytes(image)
    return await ws.receive_json(timeout=20)


async def test_a_session_survives_the_death_of_its_worker(processes):
    """The frame's error message; then the next result starts afresh and says ``reset``, once."""
    http = processes
    async with http.ws_connect(f"/v1/stream/{await open_session(http, 'fake-track')}") as ws:
        for count in (1, 2, 3):
            assert (await exchange(ws))["detections"][0]["track_id"] == count
        for worker in workers():
            worker.kill()

        async def dead():
            return await model_state(http, "fake-track") == "unloaded"

        await eventually(dead)
        answer = await exchange(ws)
        assert (answer["frame_id"], answer["reset"]) == (3, True)
        assert answer["detections"][0]["track_id"] == 1
        answer = await exchange(ws)
        assert "reset" not in answer
        assert answer["detections"][0]["track_id"] == 2


async def test_a_worker_that_dies_with_the_frame(processes):
    """The frame that the worker died with is answered by an error; the socket stays open."""
    http = processes
    path = f"/v1/stream/{await open_session(http, 'fake-track', seconds=0.5)}"
    async with http.ws_connect(path) as ws:
        assert (await exchange(ws))["detections"][0]["track_id"] == 1
        await ws.send_bytes(PNG)

        async def active():
            return await model_state(http, "fake-track") == "active"

        await eventually(active)
        for worker in workers():
            worker.kill()
        error = await ws.receive_json(timeout=20)
        assert (error["type"], error["frame_id"]) == ("error", 1)
        assert "worker died" in error["detail"]
        answer = await exchange(ws)
        assert (answer["reset"], answer["detections"][0]["track_id"]) == (True, 1)


@pytest.mark.parametrize("behave", ["exit", "hang"])
async def test_every_frame_that_kills_its_worker_is_answered(processes, behave):
    """Frames that crash or hang the model are errors one after the other, then a pause, no 1011."""
    http = processes
    path = f"/v1/stream/{await open_session(http, 'fake-track', behave=behave)}"
    async with http.ws_connect(path) as ws:
        for number in range(5):
            answer = await exchange(ws)
            assert (answer["type"], answer["frame_id"]) == ("error", number)
        assert answer["detail"] == "The model's worker keeps dying"
        assert not ws.closed
        assert await infer(http, "fake-detect") == 200


@pytest.mark.parametrize("model", ["fake-detect", "fake-track"])
@pytest.mark.parametrize("behave", ["raise", "garbage", "nan", "memory"])
async def test_a_failing_model_is_an_error_then_1011(http, model, behave):
    """An inference that fails is told without its text, then the socket is closed with 1011."""
    if (model, behave) in {("fake-track", "garbage"), ("fake-track", "nan")}:
        behave = "raise"
    session_id = await open_session(http, model, behave=behave)
    async with http.ws_connect(f"/v1/stream/{session_id}") as ws:
        error = await exchange(ws)
        assert (error["type"], error["frame_id"]) == ("error", 0)
        assert "/" not in error["detail"]
        assert await closed_with(ws) == 1011
    await no_connection(http)
    assert (await session_info(http, session_id))["frames"] == 1


@pytest.fixture
async def gated(data_dir):
    """An HTTP session with a server that soon gives up hung models, and the gate of one."""
    async with behind_gate(data_dir, infer_timeout=0.3) as both:
        yield both


async def test_a_model_that_does_not_come_back_is_1011(gated):
    """When the worker is lost and the load fails, the frame's error is followed by 1011."""
    http, gate = gated
    async with http.ws_connect(f"/v1/stream/{await open_session(http, 'gated')}") as ws:
        error = await exchange(ws)  # nobody opens the gate: the worker is given up
        assert (error["type"], error["frame_id"]) == ("error", 0)
        gate.load_fails = True
        error = await exchange(ws)
        assert (error["type"], error["frame_id"]) == ("error", 1)
        assert "/" not in error["detail"]
        assert await closed_with(ws) == 1011


@pytest.fixture
async def fragile(data_dir):
    """An HTTP session with a server whose model ``fragile`` runs in a child process."""
    async with behind_gate(data_dir, engine="process") as (http, _):
        yield http


async def test_loads_that_kill_their_worker_are_delayed(fragile, data_dir):
    """The stream stays open, and from the third death on frames are refused without a load."""
    http = fragile
    async with http.ws_connect(f"/v1/stream/{await open_session(http, 'fragile')}") as ws:
        assert (await exchange(ws))["detections"][0]["track_id"] == 1
        (data_dir / LOADS_EXIT).touch()
        for worker in workers():
            worker.kill()

        async def dead():
            return await model_state(http, "fragile") == "unloaded"

        await eventually(dead)
        error = await exchange(ws)
        assert (error["type"], error["frame_id"]) == ("error", 1)
        assert "could not be loaded: its worker died" in error["detail"]
        details = [(await exchange(ws))["detail"] for _ in range(6)]
        assert details[-1] == "The model's worker keeps dying"
        (data_dir / LOADS_EXIT).unlink()

        async def served():
            return "detections" in await exchange(ws)

        await eventually(served)


async def test_a_flood_of_requests_does_not_shut_out_a_session(data_dir):
    """While requests overfill the model's queue and are refused, every frame gets its result."""
    async with serving(data_dir, "thread", queue_limit=4) as http:
        session_id = await open_session(http)
        statuses = set()
        stop = asyncio.Event()

        async def flood():
            while not stop.is_set():
                statuses.add(await infer(http, seconds=0.01))

        async with http.ws_connect(f"/v1/stream/{session_id}") as ws:
            tasks = [asyncio.create_task(flood()) for _ in range(30)]
            await eventually(lambda: asyncio.sleep(0, 503 in statuses))
            for number in range(10):
                answer = await exchange(ws)
                assert answer["frame_id"] == number
                assert "detections" in answer
            stop.set()
            await asyncio.gather(*tasks)
    assert statuses == {200, 503}


async def test_nothing_is_left_after_much_coming_and_going(http):
    """Sessions made, streamed, reconnected and deleted leave every gauge at zero."""
    for number in range(20):
        session_id = await open_session(http, "fake-track")
        for _ in range(2):
            async with http.ws_connect(f"/v1/stream/{session_id}") as ws:
                assert "detections" in await exchange(ws)
                if number % 2:
                    await ws.send_bytes(PNG)  # closed before it is answered
            await no_connection(http)
        assert await delete_session(http, session_id) == 204
    for name in ("sessions", "sessions_connected", "queue_length", "body_bytes_in_flight"):
        assert await metric(http, f"mataserver_{name}") == 0
    assert stream_tasks() == []


@pytest.mark.parametrize("engine", ["thread", "process"])
async def test_every_frame_of_a_broken_connection_is_counted(data_dir, engine):
    """Each frame that came is a result or dropped, also what the model had when its client left."""
    large = picture(3000, 2000)  # decoded for longer than its client stays
    async with serving(data_dir, engine) as http:
        session_id = await open_session(http)
        for count in (3, 6, 9):
            async with http.ws_connect(f"/v1/stream/{session_id}") as ws:
                for _ in range(3):
                    await ws.send_bytes(large)

            async def left(count=count):
                info = await session_info(http, session_id)
                return not info["connected"] and info["frames"] == count

            await eventually(left)
        info = await session_info(http, session_id)
        assert info["results"] + info["dropped"] == info["frames"]
        assert await metric(http, "mataserver_frames_dropped_total") == info["dropped"] > 0
