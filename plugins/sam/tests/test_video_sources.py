"""Where videos come from: downloads, base64 and paths, and what of each is refused."""

from __future__ import annotations

import base64
import os

import pytest
import pytest_asyncio
from aiohttp import web
from aiohttp.test_utils import TestServer

pytestmark = pytest.mark.asyncio(loop_scope="module")

START = "/api/v1/video/session/start"
SESSIONS = "/api/v1/video/sessions"
COUNT = 8
BOX = {"type": "box", "box": [0.5, 0.5, 0.4, 0.4], "label": True}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def api(video_api, video_server):
    """Calls a server."""
    async with (
        video_server(allow_private_addresses=True) as served,
        video_api.Client(served) as called,
    ):
        yield called


@pytest.fixture(scope="module")
def in_base64(video_path):
    """The video in base64."""
    return base64.b64encode(video_path.read_bytes()).decode()


async def test_a_video_is_downloaded(api, video_path):
    """``video_url`` is fetched, over a redirect too, and nothing is left on the disk."""

    async def video(_request):
        return web.FileResponse(video_path)

    async def leads(_request):
        raise web.HTTPFound("/video")

    app = web.Application()
    app.router.add_get("/video", video)
    app.router.add_get("/leads", leads)
    async with TestServer(app) as origin:
        answer = await api.ok("POST", START, {"video_url": str(origin.make_url("/leads"))})
        assert answer["video_info"]["total_frames"] == COUNT
        status, answer = await api.ask("POST", START, {"video_url": str(origin.make_url("/none"))})
        assert (status, answer) == (400, {"detail": "video_url: the server answered 404"})
    for each in (await api.ok("GET", SESSIONS))["sessions"]:
        await api.ok("DELETE", f"/api/v1/video/session/{each['session_id']}")


async def test_private_addresses_are_refused(video_api, video_server, video_path):
    """By default a server downloads nothing from its own network."""

    async def video(_request):
        return web.FileResponse(video_path)

    app = web.Application()
    app.router.add_get("/video", video)
    async with TestServer(app) as origin, video_server() as server, video_api.Client(server) as api:
        for host in ("127.0.0.1", "localhost", "[::1]"):
            body = {"video_url": f"http://{host}:{origin.port}/video"}
            status, answer = await api.ask("POST", START, body)
            assert status == 400
            assert answer["detail"].startswith("video_url: ")
        assert await api.total() == 0


async def test_nothing_stays_on_the_disk(video_api, video_server, in_base64, tmp_path):
    """The file of a session is gone as soon as the session is there, or was refused.

    What a server that was killed left behind goes with the next start; other servers' files stay.
    """
    folder = tmp_path / "sam" / "videos"
    folder.mkdir(parents=True)
    (folder / f"{os.getppid()}-other").touch()
    (folder / f"{2**22 + 1}-dead").touch()
    (folder / f"{os.getpid()}-mine").touch()
    async with video_server(tmp_path) as server, video_api.Client(server) as api:
        await api.ok("POST", START, {"video_base64": in_base64, "session_id": "a"})
        assert (await api.ask("POST", START, {"video_base64": "AAAA"}))[0] == 400
        assert [each.name for each in folder.iterdir()] == [f"{os.getppid()}-other"]
        here = "/api/v1/video/session/a"
        await api.ok("POST", f"{here}/prompt", {"frame_index": 7, "prompts": [BOX]})


async def test_paths_outside_are_refused(api, video_folder, video_path, movies):
    """Neither a path elsewhere, nor one with dots, nor a link out of the directory is read."""
    (video_folder / "elsewhere").mkdir()
    outside = movies.write(video_folder / "elsewhere" / "secret.mp4", 3, "mpeg4")
    link, inner, fifo = (
        video_folder / "roots" / name for name in ("link.mp4", "inner.mp4", "fifo.mp4")
    )
    link.symlink_to(outside)
    inner.symlink_to(video_path)
    os.mkfifo(fifo)
    refused = [
        outside,
        link,
        fifo,
        video_folder / "roots" / ".." / "elsewhere" / "secret.mp4",
        video_folder / "roots",
        video_folder / "roots" / "missing.mp4",
        "/etc/passwd",
        "moving.mp4",
        "a\0b",
        "x" * 4_000,
    ]
    for each in refused:
        status, answer = await api.ask("POST", START, {"video_path": str(each)})
        assert status == 400, each
        told = (
            "video_path: there is no such file in the directories that "
            "plugins.sam.video_roots names"
        )
        assert answer == {"detail": told}
    async with api.session(inner) as one:
        assert (await one.status())["total_frames"] == COUNT


async def test_large_videos_are_refused(video_api, video_server, video_path, in_base64):
    """A video over a limit of bytes, frames or seconds is refused, and no session is left."""
    cases = {
        "max_video_mb": (1e-3, {"video_base64": in_base64}, "larger than 0.001 MB"),
        "max_frames": (COUNT - 1, {"video_path": str(video_path)}, "more than 7 frames"),
        "max_video_seconds": (0.5, {"video_path": str(video_path)}, "longer than 0.5 s"),
    }
    settings = {name: value for name, (value, *_) in cases.items()}
    for name, (_, body, said) in cases.items():
        async with (
            video_server(**{name: settings[name]}) as server,
            video_api.Client(server) as api,
        ):
            status, answer = await api.ask("POST", START, body)
            assert status == 400
            assert said in answer["detail"]
            assert await api.total() == 0


async def test_a_video_of_just_the_largest_size(video_api, video_server, video_path):
    """The limit is the file's, and neither base64's padding nor its lines: one byte less is 400."""
    size = video_path.stat().st_size
    text = base64.encodebytes(video_path.read_bytes()).decode()
    for most, status in ((size, 200), (size - 1, 400)):
        async with (
            video_server(max_video_mb=most / 1e6) as server,
            video_api.Client(server) as api,
        ):
            answer = await api.ask("POST", START, {"video_base64": text})
            assert answer[0] == status, answer


async def test_bad_videos_are_refused(api, video_path):
    """What is no base64, no video or half a video is refused with 400."""
    whole = video_path.read_bytes()
    half = base64.b64encode(whole[: len(whole) // 2]).decode()
    cases = {
        "not base64!": "video_base64 is not valid base64",
        "": "video_base64 is empty",
        "data:video/mp4;base64,": "video_base64 is empty",
        base64.b64encode(b"no video at all").decode(): "The video cannot be read",
        half: "The video cannot be read",
    }
    for given, said in cases.items():
        status, answer = await api.ask("POST", START, {"video_base64": given})
        assert (status, answer["detail"]) == (400, said)
    uri = "data:video/mp4;base64," + base64.b64encode(whole).decode()
    await api.ok("POST", START, {"video_base64": uri, "session_id": "uri"})
    await api.ok("DELETE", "/api/v1/video/session/uri")
    assert await api.total() == 0


async def test_no_video_directories(video_api, video_server, video_path):
    """Without ``video_roots`` no path is read."""
    async with video_server(video_roots=[]) as server, video_api.Client(server) as api:
        assert (await api.ask("POST", START, {"video_path": str(video_path)}))[0] == 400
