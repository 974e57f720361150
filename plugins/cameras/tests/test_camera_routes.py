"""``/v1/cameras``: what clients open, list, look at and close, and what the configuration has."""

from __future__ import annotations

import asyncio
import contextlib
import io
import time

import aiohttp
import pytest
from PIL import Image

from api_answers import problem, refused
from camera_peers import PATH, POINTS, film, ready, results, serving, told
from camera_sources import HEIGHT, WIDTH
from markdown_pages import ROOT, rows
from mataserver import testing
from mataserver_cameras.registry import CameraRegistry
from stream_peers import closed_with, eventually

CAMERAS = "/v1/cameras"


async def opened(http, source, **body):
    """Open a camera; return what is told of it."""
    asked = {"model": "fake-detect", "source": str(source), **body}
    async with http.post(CAMERAS, json=asked) as response:
        assert response.status == 201, await response.text()
        return await response.json()


async def found(http, path=CAMERAS):
    """Return what a path tells."""
    async with http.get(path) as response:
        assert response.status == 200
        return await response.json()


async def test_a_camera_is_opened_seen_and_closed(data_dir, video):
    """Its picture and its results come by routes of its own, and its end is that of its session."""
    async with serving(data_dir, camera_paths=["/"]) as http:
        camera = await opened(http, video, fps=50)
        name = camera["camera_id"]
        assert (camera["source"], camera["state"], camera["fps"]) == (video.name, "idle", 50.0)
        assert (camera["configured"], camera["task"]) == (False, "detect")
        assert camera["ws_url"].endswith(f"{CAMERAS}/{name}/stream")
        assert (await found(http))[0] == await found(http, f"{CAMERAS}/{name}")
        async with http.ws_connect(f"{CAMERAS}/{name}/stream") as ws:
            first, second = await results(ws, 2)
            assert first["detections"][0]["label"] == f"{WIDTH}x{HEIGHT}"
            assert second["frame_id"] > first["frame_id"]
            assert (await found(http, f"{CAMERAS}/{name}"))["viewers"] == 1
            async with http.get(f"{CAMERAS}/{name}/picture") as response:
                assert response.content_type == "image/jpeg"
                assert int(response.headers["X-Frame-Id"]) >= second["frame_id"]
                assert Image.open(io.BytesIO(await response.read())).size == (WIDTH, HEIGHT)
            async with http.delete(f"{CAMERAS}/{name}") as response:
                assert response.status == 204
            assert await closed_with(ws) == 1000
        assert await found(http) == []
        assert "unknown parameter" in await told(http, 422, f"{CAMERAS}?model=fake-detect")
        for path in (f"{CAMERAS}/{name}", f"{CAMERAS}/{name}/picture"):
            assert await told(http, 404, path) == f"Camera not found: {name}"


async def test_a_camera_of_the_configuration_is_listed_and_stays(data_dir, video):
    """It is listed under its name, and 409 for whoever would close it."""
    door = {"name": "door", "source": str(video), "model": "fake-detect"}
    async with serving(data_dir, cameras=[door]) as http:
        await eventually(lambda: ready(http))
        (camera,) = await found(http)
        assert (camera["camera_id"], camera["configured"]) == ("door", True)
        assert await told(http, 409, f"{CAMERAS}/door", "DELETE")


async def test_cameras_are_listed_as_in_the_configuration(data_dir, video, monkeypatch):
    """First those of the configuration in its order, whichever opened first, then the others."""
    names = ["shelf", "door", "yard"]
    known = [{"name": name, "source": str(video), "model": "fake-detect"} for name in names]
    plain = CameraRegistry._open

    async def opening(registry, camera):
        while camera.name == "shelf" and len(registry.waiting) > 1:
            await asyncio.sleep(0.01)
        await plain(registry, camera)

    monkeypatch.setattr(CameraRegistry, "_open", opening)
    async with serving(data_dir, cameras=known, camera_paths=["/"]) as http:
        other = (await opened(http, video))["camera_id"]
        await eventually(lambda: ready(http))
        assert [each["camera_id"] for each in await found(http)] == [*names, other]


async def test_a_session_that_its_client_feeds_is_no_camera(data_dir):
    """It is not listed, and 404 below ``/v1/cameras``."""
    async with serving(data_dir) as http:
        async with http.post(PATH, json={"model": "fake-detect"}) as response:
            name = (await response.json())["session_id"]
        assert await found(http) == []
        assert await told(http, 404, f"{CAMERAS}/{name}") == f"Camera not found: {name}"


async def test_a_session_that_has_expired_is_in_no_list(data_dir, video):
    """Until it is removed, up to five seconds later, a list of the others is no 404."""
    own = {"cameras": {"camera_paths": ["/"]}}
    async with (
        testing.serving(data_dir, entry_points=POINTS, engine="thread", plugins=own) as served,
        aiohttp.ClientSession(served.url, headers=served.headers) as http,
    ):
        await opened(http, video)
        store = served.composed.sessions
        store._clock = lambda: time.monotonic() + 2 * store.ttl
        assert await found(http, PATH) == []
        assert await found(http) == []


@pytest.mark.parametrize(
    ("change", "status", "said"),
    [
        ({"source": "rtsp://10.1.2.3/x"}, 422, "this host is not one of camera_hosts"),
        ({"source": "/etc/passwd"}, 422, "this path is not under one of camera_paths"),
        ({"stream": True}, 422, "stream"),
        ({"fps": 0}, 422, "fps"),
        ({"params": {"foo": 1}}, 422, "params.foo"),
        ({"model": "nobody"}, 404, "Model not found: nobody"),
    ],
)
async def test_what_is_refused(data_dir, change, status, said):
    """What may not be named, or makes no sense, opens nothing."""
    asked = {"model": "fake-detect", "source": "rtsp://127.0.0.1/", **change}
    async with serving(data_dir) as http:
        assert said in await refused(http, status, CAMERAS, json=asked)
        assert await found(http) == []


async def test_cameras_belong_to_whoever_opened_them(data_dir, video):
    """Another key neither sees one nor its results; an admin does; without a key nobody does."""
    keys = [{"key": name, "name": name, "scopes": ["infer"]} for name in ("ann", "bob")]
    own = {"cameras": {"camera_paths": ["/"]}}
    async with contextlib.AsyncExitStack() as stack:
        enter = stack.enter_async_context
        served = await enter(
            testing.serving(
                data_dir,
                entry_points=POINTS,
                engine="thread",
                plugins=own,
                api_keys=[*keys, "test-key"],
            )
        )

        def client(key):
            headers = {"Authorization": f"Bearer {key}"} if key else {}
            return enter(aiohttp.ClientSession(served.url, headers=headers))

        ann, bob, admin, nobody = [await client(key) for key in ("ann", "bob", "test-key", "")]
        name = (await opened(ann, video))["camera_id"]
        assert await found(bob) == []
        assert [each["camera_id"] for each in await found(admin)] == [name]
        assert await told(bob, 404, f"{CAMERAS}/{name}/picture") == f"Camera not found: {name}"
        assert await closed_with(await bob.ws_connect(f"{CAMERAS}/{name}/stream")) == 4004
        assert await closed_with(await nobody.ws_connect(f"{CAMERAS}/{name}/stream")) == 4001
        async with nobody.get(CAMERAS) as response:
            assert await problem(response, 401)


async def test_a_source_of_a_session_is_deprecated(data_dir, video):
    """It is answered as ever, with a header that says so; a session without one has none."""
    async with serving(data_dir, camera_paths=["/"]) as http:
        asked = {"model": "fake-detect", "source": str(video)}
        async with http.post(PATH, json=asked) as response:
            assert response.headers["Deprecation"] == "@1795737600"
            assert set(await response.json()) == {"session_id", "ws_url"}
        async with http.post(PATH, json={"model": "fake-detect"}) as response:
            assert "Deprecation" not in response.headers
        name = await film(http, video)
        assert name in [each["camera_id"] for each in await found(http)]


async def test_the_routes_are_described(data_dir):
    """Each has its line on the plugin's page, and stands in the OpenAPI document."""
    async with serving(data_dir) as http:
        document = await found(http, "/openapi.json")
    told = {
        f"{method.upper()} {path}"
        for path, methods in document["paths"].items()
        for method in methods
        if path.startswith(CAMERAS)
    }
    page = (ROOT / "plugins" / "cameras" / "README.md").read_text()
    described = {row[0].strip("`") for row in rows(page, "route")}
    assert described == told | {f"GET {CAMERAS}/{{camera_id}}/stream"}
