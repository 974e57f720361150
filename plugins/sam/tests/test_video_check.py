"""A video is checked before the model is loaded for it."""

from __future__ import annotations

import base64

import aiohttp
import pytest
import pytest_asyncio

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.long]

START = "/api/v1/video/session/start"
UPLOAD = "/api/v1/video/session/upload"


@pytest_asyncio.fixture(loop_scope="module")
async def api(video_api, video_server):
    """Calls a server whose model is not loaded."""
    options = {"engine": "process", "max_frames": 8}
    async with video_server(**options) as served, video_api.Client(served) as called:
        yield called


async def refusals(api, files):
    """Return the answers to uploads, and to the same files in base64."""
    found = []
    for data in files:
        async with api.http.post(UPLOAD, data=data, headers={"Content-Type": "video/mp4"}) as told:
            found.append((told.status, (await told.json())["detail"]))
        body = {"video_base64": base64.b64encode(data).decode()}
        found.append(await api.ask("POST", START, body))
    return [(status, told["detail"] if isinstance(told, dict) else told) for status, told in found]


async def is_loaded(api):
    """Whether the model is in memory."""
    return (await api.ok("GET", "/models/info"))["image_model"]["loaded"]


async def test_a_file_that_is_no_video_does_not_load_the_model(api, video_path, long_video_path):
    """It is refused as by the model itself, at once; a video then loads it."""
    whole = video_path.read_bytes()
    files = [b"no video", whole[: len(whole) // 2], long_video_path.read_bytes()]
    early = await refusals(api, files)
    assert [status for status, _ in early] == [400] * 6
    assert early[4][1] == "The video has more than 8 frames"
    assert not await is_loaded(api)
    async with api.session(video_path) as session:
        assert (await session.status())["status"] == "ready"
        assert await is_loaded(api)
        assert await refusals(api, files) == early


async def test_a_check_that_fails_leaves_it_to_the_model(api, video_path, monkeypatch):
    """Where no process can check the video, the model's does."""
    from mataserver_sam import video_check

    monkeypatch.setattr(video_check, "__name__", "mataserver_sam.no_such_module")
    async with api.session(video_path) as session:
        assert (await session.status())["status"] == "ready"
    form = aiohttp.FormData()
    form.add_field("file", b"no video", filename="a.mp4")
    async with api.http.post(UPLOAD, data=form) as told:
        assert told.status == 400
