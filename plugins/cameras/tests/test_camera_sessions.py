"""Cameras as sources of sessions: over RTSP, HTTP and from files, on a real server."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal

import aiohttp
import numpy as np
import psutil
import pytest
from aiohttp import web

from camera_peers import (
    PATH,
    POINTS,
    film,
    is_reader,
    readers,
    ready,
    red,
    results,
    serving,
    snapshot,
    told,
)
from camera_sources import BOX, HEIGHT, WIDTH, rtsp
from conftest import picture
from mataserver import testing
from mataserver.http.stream import MAX_VIEWERS
from mataserver.http.stream_channel import PING_WINDOW
from stream_peers import (
    CLOSE,
    TEXT,
    RawPeer,
    closed_with,
    eventually,
    metric,
    server_apart,
    session_info,
)

pytestmark = pytest.mark.long

LABEL = f"{WIDTH}x{HEIGHT}"
SILENT = "The camera gives no frames: it sent nothing for too long"


async def test_a_camera_over_rtsp(data_dir):
    """Results come as for a client's own frames, and the session tells of its camera."""
    async with rtsp() as camera, serving(data_dir) as http:
        name = await film(http, camera.url())
        async with http.ws_connect(f"/v1/stream/{name}") as ws:
            first, *_, last = await results(ws, 4)
            assert first["detections"][0]["label"] == LABEL
            box = first["detections"][0]["bbox"]
            assert np.abs(np.array(box) - BOX).max() <= 2
            assert first["session_id"] == name
            assert last["frame_id"] > first["frame_id"]
            assert last["inference_ms"] >= 0
            info = await session_info(http, name)
            assert info["connected"]
            # One may wait and one be in the model.
            assert 0 <= info["frames"] - info["results"] - info["dropped"] <= 2
            assert info["camera"] == {
                "source": f"rtsp://127.0.0.1:{camera.port}",
                "state": "connected",
                "reconnects": 0,
                "damaged": 0,
                "viewers": 1,
                "fps": None,
                "always": False,
                "problem": None,
            }
            assert await metric(http, "mataserver_frames_received_total") >= info["frames"]


async def test_a_camera_that_loses_frames(data_dir):
    """What refers to a lost frame shows what was not there: it is left out, and counted."""
    async with rtsp() as camera, serving(data_dir) as http:
        camera.lost = {4}
        name = await film(http, camera.url())
        async with http.ws_connect(f"/v1/stream/{name}") as ws:
            numbers = [each["frame_id"] for each in await results(ws, 12)]
            # Of each nine frames that arrive the first four are whole.
            assert {number % 9 for number in numbers} <= {0, 1, 2, 3}

            async def counted():
                # What is damaged may be told a moment before the whole frame behind it.
                info = await session_info(http, name)
                return info if info["camera"]["damaged"] == info["frames"] // 9 * 5 else None

            info = await eventually(counted)
            damaged = info["camera"]["damaged"]
            assert info["camera"]["state"] == "connected"
            assert damaged > 0
            assert info["frames"] == info["results"] + info["dropped"]
            assert await metric(http, "mataserver_camera_frames_damaged_total") >= damaged


async def test_a_camera_of_which_no_frame_is_whole(data_dir):
    """It does not go dark in silence: its state says why, and it is connected again."""
    async with rtsp() as camera, serving(data_dir, camera_timeout=1.0) as http:
        name = await film(http, camera.url())
        async with http.ws_connect(f"/v1/stream/{name}") as ws:
            said = SILENT
            while said == SILENT:  # a machine that stands still for a second is told so: once more
                camera.lost = frozenset()
                await results(ws, 2)
                camera.lost = {0}
                while "type" not in (message := await ws.receive_json(timeout=30)):
                    pass
                said = message["detail"]
            assert said == (
                "The camera gives no frames: its frames arrive damaged: parts of them are lost"
            )
            info = (await session_info(http, name))["camera"]
            assert info["damaged"] > 0
            camera.lost = frozenset()
            await results(ws, 2)
            info = (await session_info(http, name))["camera"]
            assert (info["state"], info["problem"]) == ("connected", None)


async def test_a_file_is_played_over_and_over(data_dir, video):
    """A file is played at its own speed, and begins anew at its end; MessagePack works too."""
    async with serving(data_dir, camera_paths=[str(video.parent)]) as http:
        name = await film(http, video, fps=1000)
        url = f"/v1/stream/{name}"
        async with http.ws_connect(url, protocols=["mata.v1.msgpack"]) as ws:
            message = await ws.receive(timeout=30)
            assert message.type is aiohttp.WSMsgType.BINARY
        async with http.ws_connect(url) as ws:
            begun = asyncio.get_running_loop().time()
            found = await results(ws, 15)
            assert asyncio.get_running_loop().time() - begun > 13 / 25
        assert found[-1]["frame_id"] >= 14
        assert {each["detections"][0]["label"] for each in found} == {LABEL}
        assert (await session_info(http, name))["camera"]["source"] == video.name


async def test_a_snapshot_shows_the_box(data_dir, video):
    """The snapshot is the newest frame with its box drawn, though nobody is connected."""
    async with serving(data_dir, camera_paths=[str(video)]) as http:
        name = await film(http, video, model="fake-track")
        pixels, headers = await snapshot(http, name)
        assert pixels.shape == (HEIGHT, WIDTH, 3)
        assert int(headers["X-Frame-Id"]) >= 0
        assert headers["Cache-Control"] == "no-store"
        inside = pixels[BOX[1] + 6 : BOX[3] - 6, BOX[0] + 6 : BOX[2] - 6]
        assert red(inside).mean() > 0.9
        plain, _ = await snapshot(http, await film(http, video, model="fake-ocr"))
        # The edges of the box: red in the frame, of the label's colour in the snapshot.
        edge = np.s_[BOX[1] + 4 : BOX[3] - 4, BOX[0] : BOX[0] + 1]
        assert red(plain[edge]).mean() > 0.5
        assert not red(pixels[edge]).any()
        assert (await session_info(http, name))["camera"]["viewers"] == 0


async def test_the_camera_comes_back(data_dir):
    """A camera that restarts is connected again; viewers are told once, and results go on."""
    async with rtsp() as camera, serving(data_dir) as http:
        name = await film(http, camera.url(), model="fake-track")
        async with http.ws_connect(f"/v1/stream/{name}") as ws:
            (before,) = await results(ws, 1)
            await camera.stop()
            while "type" not in (message := await ws.receive_json(timeout=30)):
                before = message
            assert message["detail"].startswith("The camera gives no frames: ")
            assert set(message) == {"type", "detail"}

            async def failed():
                return (await session_info(http, name))["camera"]["state"] == "failed"

            await eventually(failed)
            assert await told(http, 404, f"{PATH}/{name}/snapshot")
            await camera.start()
            (after,) = await results(ws, 1)
        assert after["frame_id"] > before["frame_id"]
        tracks = [each["detections"][0]["track_id"] for each in (before, after)]
        assert tracks[1] > tracks[0]
        assert (await session_info(http, name))["camera"]["reconnects"] == 1
        assert await metric(http, "mataserver_camera_reconnects_total") == 1


async def test_a_camera_that_hangs_is_given_up(data_dir):
    """A camera that keeps its connection and sends nothing is connected anew, by a new reader."""
    async with rtsp() as camera, serving(data_dir, camera_timeout=1.0) as http:
        name = await film(http, camera.url())
        async with http.ws_connect(f"/v1/stream/{name}") as ws:
            await results(ws, 1)
            (first,) = readers()
            camera.silent = True
            while "type" not in (message := await ws.receive_json(timeout=30)):
                pass
            assert message["detail"] == SILENT
            camera.silent = False
            await results(ws, 1)
            (second,) = readers()
        assert second.pid != first.pid
        assert camera.plays >= 2


async def test_a_reader_that_stands_still_is_replaced(data_dir, video):
    """A reader that neither answers nor ends is killed, and another follows."""
    async with serving(data_dir, camera_paths=["/"], camera_timeout=1.0) as http:
        name = await film(http, video)
        async with http.ws_connect(f"/v1/stream/{name}") as ws:
            await results(ws, 1)
            (first,) = readers()
            first.suspend()
            while "type" not in await ws.receive_json(timeout=30):
                pass
            await results(ws, 1)
            (second,) = readers()
        assert second.pid != first.pid


@pytest.mark.parametrize("user", ["user:wrong-secret", ""])
async def test_the_password_is_nowhere(data_dir, user, caplog):
    """A wrong password is told as such; answers, metrics, logs and the process list hide it."""
    async with rtsp(password="right-secret") as camera, serving(data_dir) as http:
        name = await film(http, camera.url(user))
        detail = await told(http, 404, f"{PATH}/{name}/snapshot")
        expected = "it refused the user name or the password"
        assert detail == f"The camera gives no frames: {expected}"
        info = await session_info(http, name)
        assert (info["camera"]["state"], info["camera"]["problem"]) == ("failed", expected)
        async with http.get("/metrics") as response:
            said = json.dumps(info) + detail + await response.text() + caplog.text
        assert "secret" not in said
        assert "user:" not in said
        assert caplog.messages
        good = await film(http, camera.url("user:right-secret"))
        async with http.ws_connect(f"/v1/stream/{good}") as ws:
            await results(ws, 1)
            commands = [" ".join(reader.cmdline()) for reader in readers()]
        assert commands
        assert "secret" not in "".join(commands)


async def test_a_slow_viewer_holds_up_nobody(data_dir, video):
    """Two viewers of one camera: one reads nothing and misses results, the other misses none."""
    async with serving(data_dir, camera_paths=["/"]) as http:
        name = await film(http, video)
        url = str(http._base_url / f"v1/stream/{name}") + "?token=test-key"
        async with (
            RawPeer.connected(url, receive_buffer=2048) as slow,
            http.ws_connect(f"/v1/stream/{name}") as ws,
        ):
            found = await results(ws, 30)
            assert (await session_info(http, name))["camera"]["viewers"] == 2
            numbers = [each["frame_id"] for each in found]
            missed = found[-1]["dropped"] - found[0]["dropped"]
            assert numbers[-1] - numbers[0] == len(numbers) - 1 + missed
            async with http.delete(f"{PATH}/{name}") as response:
                assert response.status == 204
            assert await closed_with(ws) == 1000
            kinds = []
            while (received := await slow.receive())[0] != CLOSE:
                kinds.append(received[0])
            assert kinds.count(TEXT) == PING_WINDOW


async def test_a_viewer_sends_no_frames(data_dir, video):
    """A frame sent to a camera's session is answered by an error, and a text ping by its pong."""
    async with serving(data_dir, camera_paths=["/"]) as http:
        name = await film(http, video)
        async with http.ws_connect(f"/v1/stream/{name}") as ws:
            await ws.send_bytes(b"frame")
            await ws.send_json({"type": "ping"})
            said = []
            while len(said) < 2:
                message = await ws.receive_json(timeout=30)
                said += [message] if "type" in message else []
            error = {"type": "error", "detail": "the session has a camera: it takes no frames"}
            assert said == [error, {"type": "pong"}]


async def test_the_reader_ends_with_the_session(data_dir, video):
    """Deleting the session ends its reader, whose socket is told so."""
    async with serving(data_dir, camera_paths=["/"]) as http:
        name = await film(http, video)
        async with http.ws_connect(f"/v1/stream/{name}") as ws:
            await results(ws, 1)
            assert len(readers()) == 1
            async with http.delete(f"{PATH}/{name}") as response:
                assert response.status == 204
            assert await closed_with(ws) == 1000
        assert readers() == []
        assert await told(http, 404, f"{PATH}/{name}/snapshot")


async def test_the_reader_ends_with_the_server(tmp_path, video):
    """A server that is killed leaves no reader behind."""
    camera = {"name": "door", "source": str(video), "model": "fake-detect", "always": True}
    with (
        contextlib.suppress(AssertionError),
        server_apart(tmp_path, "cameras", plugins={"cameras": {"cameras": [camera]}}) as apart,
    ):

        async def reading():
            return [p for p in apart.process.children(recursive=True) if is_reader(p)]

        (reader,) = await eventually(reading)
        os.kill(apart.process.pid, signal.SIGKILL)

        async def gone():
            return not reader.is_running() or reader.status() == psutil.STATUS_ZOMBIE

        await eventually(gone)
    assert "Traceback" not in (tmp_path / "server.log").read_text()


async def test_a_reader_that_is_killed(tmp_path, video):
    """A reader that dies between two frames is replaced, also on the event loop of ``serve``."""
    camera = {"name": "door", "source": str(video), "model": "fake-detect", "fps": 4}
    with server_apart(tmp_path, "cameras", plugins={"cameras": {"cameras": [camera]}}) as apart:
        async with apart.http() as http:
            await eventually(lambda: ready(http))
            async with http.ws_connect("/v1/stream/door") as ws:
                await results(ws, 2)
                (reader,) = [p for p in apart.process.children(recursive=True) if is_reader(p)]
                reader.kill()
                while "type" not in (message := await ws.receive_json(timeout=30)):
                    pass
                assert message["detail"] == "The camera gives no frames: its reader died"
                await results(ws, 2)
                assert (await session_info(http, "door"))["camera"]["reconnects"] == 1


async def test_the_server_stops(data_dir, video):
    """A viewer of a server that stops is told so, and no reader is left."""
    async with aiohttp.ClientSession(headers={"Authorization": "Bearer test-key"}) as http:
        async with testing.serving(
            data_dir,
            entry_points=POINTS,
            engine="thread",
            plugins={"cameras": {"camera_paths": ["/"]}},
        ) as served:
            asked = {"model": "fake-detect", "source": str(video)}
            async with http.post(served.url + PATH, json=asked) as response:
                ws = await http.ws_connect((await response.json())["ws_url"])
            await results(ws, 1)
            closing = asyncio.create_task(closed_with(ws))
        assert await closing == 1001
    assert readers() == []


async def test_too_many_viewers(data_dir, video):
    """One viewer more than the limit is closed with 1008, the others are not touched."""
    async with serving(data_dir, camera_paths=["/"]) as http, contextlib.AsyncExitStack() as stack:
        url = f"/v1/stream/{await film(http, video)}"
        sockets = [
            await stack.enter_async_context(http.ws_connect(url)) for _ in range(MAX_VIEWERS)
        ]
        assert await closed_with(await http.ws_connect(url)) == 1008
        await results(sockets[0], 1)


async def test_a_camera_over_http(data_dir):
    """A stream of JPEGs over HTTP, as cheap cameras give it, is read too."""

    async def stream(request):
        kind = "multipart/x-mixed-replace; boundary=frame"
        response = web.StreamResponse(headers={"Content-Type": kind})
        await response.prepare(request)
        jpeg = picture(form="JPEG")
        head = f"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: {len(jpeg)}\r\n\r\n"
        with contextlib.suppress(ConnectionError):
            while True:
                await response.write(head.encode() + jpeg + b"\r\n")
                await asyncio.sleep(0.02)
        return response

    camera = web.Application()
    camera.router.add_get("/video", stream)
    runner = web.AppRunner(camera, handler_cancellation=True)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        async with serving(data_dir) as http:
            port = runner.addresses[0][1]
            name = await film(http, f"http://127.0.0.1:{port}/video")
            async with http.ws_connect(f"/v1/stream/{name}") as ws:
                (found, _) = await results(ws, 2)
            assert found["detections"][0]["label"] == "64x48"
    finally:
        await runner.cleanup()


async def test_a_model_that_fails(data_dir, video):
    """A failure of the model is told to viewers and to whoever asks for a snapshot."""
    async with serving(data_dir, camera_paths=["/"]) as http:
        name = await film(http, video, params={"behave": "raise"})
        async with http.ws_connect(f"/v1/stream/{name}") as ws:
            message = await ws.receive_json(timeout=30)
            assert set(message) == {"type", "detail", "frame_id"}
            assert message["detail"].startswith("The model failed")
        detail = await told(http, 500, f"{PATH}/{name}/snapshot")
        assert detail.startswith("The model failed")
