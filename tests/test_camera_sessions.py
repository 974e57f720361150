"""Cameras as sources of sessions: over RTSP and from files, on a real server."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import os
import signal

import aiohttp
import numpy as np
import psutil
import pytest
from PIL import Image

from api_answers import problem, refused
from camera_sources import BOX, HEIGHT, WIDTH, make_video, rtsp
from mataserver import testing
from mataserver.config import ConfigError
from mataserver.http.channel import WINDOW
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

PATH = "/v1/sessions"
LABEL = f"{WIDTH}x{HEIGHT}"


@pytest.fixture(scope="session")
def video(tmp_path_factory):
    """A video of 10 frames at 25 a second."""
    return make_video(tmp_path_factory.mktemp("videos") / "shelf.mp4")


@contextlib.asynccontextmanager
async def serving(data_dir, **settings):
    """Run a server that lets clients film this machine; yield an HTTP session."""
    chosen = {"engine": "thread", "camera_hosts": ["127.0.0.0/8"], "camera_timeout": 5.0} | settings
    async with (
        testing.serving(data_dir, **chosen) as served,
        aiohttp.ClientSession(served.url, headers=served.headers) as http,
    ):
        yield http


async def film(http, source, model="fake-detect", **body):
    """Create a session with a camera; return its id."""
    asked = {"model": model, "source": str(source), **body}
    async with http.post(PATH, json=asked) as response:
        assert response.status == 201, await response.text()
        return (await response.json())["session_id"]


async def results(ws, count):
    """Return the next results of a socket; errors are passed over."""
    found = []
    while len(found) < count:
        message = await ws.receive_json(timeout=30)
        if "type" not in message:
            found.append(message)
    return found


async def snapshot(http, name):
    """Return the snapshot of a session as an array, with its headers."""
    async with http.get(f"{PATH}/{name}/snapshot") as response:
        data = await response.read()
        assert response.status == 200, data
        assert response.content_type == "image/jpeg"
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB")).astype(int), response.headers


async def told(http, status, path, method="GET"):
    """Ask for something that must be answered with the error ``status``; return the detail."""
    async with http.request(method, path) as response:
        return await problem(response, status)


def readers():
    """Return the processes of this server's cameras."""
    return [p for p in psutil.Process().children() if is_reader(p)]


def is_reader(process):
    """Whether a process reads a camera."""
    with contextlib.suppress(psutil.Error):
        return "mataserver.cameras.reader" in process.cmdline()
    return False


def red(pixels):
    """Return where an array is red."""
    return (pixels[..., 0] > 180) & (pixels[..., 1] < 90) & (pixels[..., 2] < 90)


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
            assert info["frames"] == info["results"] + info["dropped"]
            assert info["camera"] == {
                "source": f"rtsp://127.0.0.1:{camera.port}",
                "state": "connected",
                "reconnects": 0,
                "viewers": 1,
                "fps": None,
                "always": False,
                "problem": None,
            }
            assert await metric(http, "mataserver_frames_received_total") >= info["frames"]


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
            assert message["detail"] == "The camera gives no frames: it gave nothing for too long"
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


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("rtsp://127.0.0.1/x", "this host is not one of camera_hosts"),
        ("rtsp://localhost/x", "this host is not one of camera_hosts"),
        ("http://2130706433/x", "this host is not one of camera_hosts"),
        ("rtsp://10.0.0.7@169.254.169.254/x", "this host is not one of camera_hosts"),
        ("rtsp://evil\\@10.0.0.7/x", "not a valid URL"),
        ("rtsp://10.0.0.7#@169.254.169.254/", "not a valid URL"),
        ("rtsp://10.0.0.7:99999/", "not a valid URL"),
        ("rtsp://[::1/", "not a valid URL"),
        ("rtsp:///x", "not a valid URL"),
        ("/etc/passwd", "this path is not under one of camera_paths"),
        ("/srv/videos/../../etc/passwd", "this path is not under one of camera_paths"),
        ("/srv/videos-private/a.mp4", "this path is not under one of camera_paths"),
        ("/dev/video0", "this path is not under one of camera_paths"),
        ("/dev/mem", "only /dev/videoN"),
        ("/dev//mem", "only /dev/videoN"),
        ("file:///etc/passwd", "expected rtsp://"),
        ("concat:/etc/passwd", "expected rtsp://"),
        ("udp://10.0.0.7:1", "expected rtsp://"),
        ("shelf.mp4", "expected rtsp://"),
        ("rtsp://10.0.0.7/\n", "printable"),
        ("", "source"),
        ("rtsp://" + "x" * 3000, "source"),
        (5, "source"),
    ],
)
async def test_sources_that_are_refused(data_dir, source, said):
    """What is no source, or not allowed, is 422; no session is left, and no address is repeated."""
    allowed = {"camera_hosts": ["10.0.0.0/24"], "camera_paths": ["/srv/videos"]}
    async with serving(data_dir, **allowed) as http:
        asked = {"model": "fake-detect", "source": source}
        detail = await refused(http, 422, PATH, json=asked)
        assert said in detail
        assert "passwd" not in detail
        async with http.get(PATH) as response:
            assert await response.json() == []


async def test_a_link_out_of_an_allowed_folder(data_dir, video, tmp_path):
    """A symbolic link is followed before its path is looked at."""
    folder = tmp_path / "allowed"
    folder.mkdir()
    (folder / "link.mp4").symlink_to(video)
    async with serving(data_dir, camera_paths=[str(folder)]) as http:
        asked = {"model": "fake-detect", "source": str(folder / "link.mp4")}
        assert "camera_paths" in await refused(http, 422, PATH, json=asked)


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({"fps": 5}, "fps: only a session with a source takes it"),
        ({"source": "rtsp://127.0.0.1/", "stream": True}, "stream: a session with a source"),
        ({"source": "rtsp://127.0.0.1/", "fps": 0}, "fps"),
        ({"source": "rtsp://127.0.0.1/", "params": {"foo": 1}}, "params.foo"),
    ],
)
async def test_bodies_that_are_refused(data_dir, body, said):
    """Fields that make no sense together, or are out of range, are 422."""
    async with serving(data_dir) as http:
        assert said in await refused(http, 422, PATH, json={"model": "fake-detect", **body})


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda path: path.write_bytes(b"no video" * 100), "it is no video, or damaged"),
        (lambda path: make_video(path, audio=True), "it holds no video"),
        (lambda _path: None, "there is no such file or device"),
    ],
)
async def test_files_that_are_no_video(data_dir, tmp_path, make, said):
    """What is wrong with a source is told in a sentence without its path."""
    path = tmp_path / "odd.mp4"
    make(path)
    async with serving(data_dir, camera_paths=[str(tmp_path)]) as http:
        name = await film(http, path)
        detail = await told(http, 404, f"{PATH}/{name}/snapshot")
        assert detail == f"The camera gives no frames: {said}"


async def test_frames_that_are_too_large(data_dir, video):
    """The limit of pixels holds for cameras, before a frame is encoded."""
    async with serving(data_dir, camera_paths=["/"], max_pixels=1000) as http:
        name = await film(http, video)
        detail = await told(http, 404, f"{PATH}/{name}/snapshot")
        assert detail.endswith("its frames are larger than 1000 pixels")


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
            assert kinds.count(TEXT) == WINDOW


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
    with contextlib.suppress(AssertionError), server_apart(tmp_path, cameras=[camera]) as apart:

        async def reading():
            return [p for p in apart.process.children(recursive=True) if is_reader(p)]

        (reader,) = await eventually(reading)
        os.kill(apart.process.pid, signal.SIGKILL)

        async def gone():
            return not reader.is_running() or reader.status() == psutil.STATUS_ZOMBIE

        await eventually(gone)
    assert "Traceback" not in (tmp_path / "server.log").read_text()


async def test_a_camera_of_the_configuration(data_dir, video):
    """It has a session under its own name, which stays, and is inferred though nobody looks."""
    door = {"name": "door", "source": str(video), "model": "fake-detect", "always": True, "fps": 20}
    settings = {"cameras": [door], "max_sessions": 1, "session_ttl": 0.1}
    async with serving(data_dir, **settings) as http:

        async def inferred():
            async with http.get(PATH) as response:
                found = await response.json()
            return bool(found) and found[0]["session_id"] == "door" and found[0]["results"] > 3

        await eventually(inferred)
        info = await session_info(http, "door")
        assert not info["connected"]
        assert (info["camera"]["always"], info["camera"]["fps"]) == (True, 20.0)
        detail = await told(http, 409, f"{PATH}/door", "DELETE")
        assert detail == "door is a camera of the configuration: it cannot be deleted"
        async with http.post(PATH, json={"model": "fake-detect"}) as response:
            assert response.status == 201  # it does not count
        async with http.ws_connect("/v1/stream/door") as ws:
            await results(ws, 2)
        assert (await snapshot(http, "door"))[0].shape == (HEIGHT, WIDTH, 3)
        assert await metric(http, "mataserver_cameras") == 1


async def test_the_model_of_a_camera_is_not_here_yet(data_dir, video):
    """A camera whose model is not registered keeps ``/ready`` at 503 and says why."""
    camera = {"name": "door", "source": str(video), "model": "org/later", "task": "detect"}
    async with serving(data_dir, cameras=[camera]) as http:

        async def waiting():
            async with http.get("/ready") as response:
                return response.status == 503 and (await response.json())["waiting"]

        assert await eventually(waiting) == {"camera door": "Model not found: org/later"}
        assert await told(http, 404, f"{PATH}/door") == "Session not found: door"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"source": "shelf.mp4"}, "cameras[0]: source: expected"),
        ({"params": {"foo": 1}}, "cameras[0]: params.foo: unknown parameter"),
        ({"task": "ocr"}, "cameras[0]: task: fake-detect serves detect, not 'ocr'"),
        ({"name": "sess_1"}, "cameras[0].name"),
        ({"name": "a/b"}, "cameras[0].name"),
        ({"fps": 0}, "cameras[0].fps"),
        ({"colour": 1}, "colour"),
    ],
)
async def test_cameras_that_stop_the_start(data_dir, change, said):
    """A camera of the configuration that will never work stops the start, named with its place."""
    camera = {"name": "door", "source": "/srv/shelf.mp4", "model": "fake-detect"} | change
    with pytest.raises(ConfigError) as caught:
        async with serving(data_dir, cameras=[camera]):
            pass
    assert said in caught.value.detail


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"camera_hosts": ["10.0.0.0/99"]}, "camera_hosts[0]: not a network"),
        ({"camera_hosts": ["http://x/"]}, "camera_hosts[0]"),
        ({"camera_paths": ["videos"]}, "camera_paths[0]"),
        ({"cameras": [{"name": "a", "source": "/a", "model": "m"}] * 2}, "'a' is listed twice"),
    ],
)
async def test_settings_of_cameras_that_are_refused(data_dir, settings, said):
    """A setting that cannot mean anything is named."""
    with pytest.raises(ConfigError) as caught:
        async with serving(data_dir, **settings):
            pass
    assert said in caught.value.detail


async def test_a_session_without_a_camera_has_no_snapshot(http):
    """The snapshot of a session that its client feeds is 404."""
    async with http.post(PATH, json={"model": "fake-detect"}) as response:
        name = (await response.json())["session_id"]
    detail = await told(http, 404, f"{PATH}/{name}/snapshot")
    assert detail == f"{name} has no camera"


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
