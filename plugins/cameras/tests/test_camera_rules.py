"""Which cameras a server reads: those of its configuration, and what clients may name."""

from __future__ import annotations

import contextlib

import msgspec
import pytest

from api_answers import refused
from camera_peers import (
    PATH,
    film,
    ready,
    results,
    serving,
    snapshot,
    told,
)
from camera_sources import HEIGHT, WIDTH, make_video
from mataserver import ConfigError
from mataserver.http.stream import MAX_VIEWERS
from mataserver_cameras.messages import FrameMessage
from stream_peers import (
    closed_with,
    eventually,
    metric,
    session_info,
)


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("rtsp://127.0.0.1/x", "this host is not one of camera_hosts"),
        ("/etc/passwd", "this path is not under one of camera_paths"),
        ("file:///etc/passwd", "expected rtsp://"),
        ("", "source"),
        ("rtsp://" + "x" * 3000, "source"),
        (5, "source"),
    ],
)
async def test_sources_that_are_refused(data_dir, source, said):
    """What is no source, or not allowed, is 422; no session is left, and no address is repeated."""
    async with serving(data_dir, camera_hosts=["10.0.0.0/24"]) as http:
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


async def test_a_device_that_is_not_there(data_dir):
    """A camera of this machine is opened as Video4Linux does it, and its absence is told."""
    async with serving(data_dir, camera_paths=["/dev/video99"]) as http:
        name = await film(http, "/dev/video99")
        detail = await told(http, 404, f"{PATH}/{name}/snapshot")
        assert detail == "The camera gives no frames: there is no such file or device"
        assert (await session_info(http, name))["camera"]["source"] == "/dev/video99"


async def test_one_caller_has_a_share_of_the_viewers(data_dir, video):
    """Of a camera of the configuration, which others want to see, too; its own is its alone."""
    door = {"name": "door", "source": str(video), "model": "fake-detect"}
    share = 2 / MAX_VIEWERS
    settings = {"api_keys": ["first-key", "other-key"], "caller_share": share}
    async with (
        serving(data_dir, cameras=[door], camera_paths=["/"], **settings) as http,
        contextlib.AsyncExitStack() as stack,
    ):

        async def look(key, name="door"):
            shown = {"Authorization": f"Bearer {key}"}
            return await stack.enter_async_context(
                http.ws_connect(f"/v1/stream/{name}", headers=shown)
            )

        async def begun():
            async with http.get(PATH, headers={"Authorization": "Bearer first-key"}) as response:
                return await response.json()

        await eventually(begun)
        for key in settings["api_keys"]:
            seen = [await look(key) for _ in range(2)]
            refused = await look(key)
            assert await closed_with(refused) == 1008
            await results(seen[0], 1)
        await seen[0].close()
        await results(await look(key), 1)
        own = await film(http, video)
        for _ in range(3):
            await results(await look(settings["api_keys"][0], own), 1)


async def test_frames_that_are_too_large(data_dir, video):
    """The limit of pixels holds for cameras, before a frame is encoded."""
    async with serving(data_dir, camera_paths=["/"], max_pixels=1000) as http:
        name = await film(http, video)
        detail = await told(http, 404, f"{PATH}/{name}/snapshot")
        assert detail.endswith("its frames are larger than 1000 pixels")


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
        assert await ready(http)
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
        why = {"camera door": "Model not found: org/later"}

        async def waiting():
            async with http.get("/ready") as response:
                return response.status == 503 and (await response.json())["waiting"] == why

        await eventually(waiting)
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


@pytest.mark.parametrize("size", [-1, 1 << 40])
def test_a_reader_cannot_have_the_server_wait_for_any_number_of_bytes(size):
    """A frame of a size that no JPEG has is no message of a reader."""
    line = msgspec.json.encode({"type": "given", "count": 1, "size": size})
    with pytest.raises(msgspec.ValidationError):
        msgspec.json.decode(line, type=FrameMessage)
