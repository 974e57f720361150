"""What a page needs of video sessions: frames as pictures, a video that is sent as a file."""

from __future__ import annotations

import asyncio
import base64
import io
import os

import aiohttp
import av
import numpy as np
import pytest
import pytest_asyncio
from PIL import Image

pytestmark = pytest.mark.asyncio(loop_scope="module")

UPLOAD = "/api/v1/video/session/upload"
COUNT = 8
BOX = {"type": "box", "box": [0.5, 0.5, 0.4, 0.4]}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def api(video_api, video_server):
    """Calls a server."""
    async with video_server(max_video_mb=1.0) as served, video_api.Client(served) as called:
        yield called


async def frame(one, number):
    """Return a frame as an array ``[H, W, 3]``."""
    path = f"/api/v1/video/session/{one.id}/frame/{number}"
    async with one.client.http.get(path) as answer:
        assert (answer.status, answer.content_type) == (200, "image/jpeg")
        assert answer.headers["Cache-Control"] == "no-store"
        return np.asarray(Image.open(io.BytesIO(await answer.read())))


async def test_every_frame_is_the_one_that_is_meant(api, movies, video_path):
    """Forward, backward and anywhere: the picture tells the number that was asked for."""
    async with api.session(video_path) as one:
        for number in (0, 1, 7, 6, 5, 0, 3, *range(COUNT)):
            assert movies.number(await frame(one, number)) == number
        path = f"/api/v1/video/session/{one.id}/frame/{COUNT}"
        assert await api.ask("GET", path) == (
            422,
            {"detail": "frame_index: the video has 8 frames, counted from 0"},
        )


async def test_a_look_does_not_wait_for_a_propagation(api, movies, long_video_path):
    """While a session tracks its frames can be looked at, and what is tracked stays the same."""
    async with api.session(long_video_path, BOX) as quiet:
        wanted = (await quiet.ok("POST", "/propagate", {"max_frames": 24}))["results"]
    async with api.session(long_video_path, BOX) as busy:
        tracking = asyncio.create_task(busy.ok("POST", "/propagate", {"max_frames": 24}))
        while (await busy.status())["frames_processed"] < 3:
            await asyncio.sleep(0.01)
        assert movies.number(await frame(busy, 59)) == 59
        assert not tracking.done()
        assert (await tracking)["results"] == wanted


async def test_large_frames_are_shown_smaller(api, movies, video_folder):
    """No side of a picture is longer than 1280 pixels; its proportions stay."""
    path = movies.write(video_folder / "roots" / "wide.mp4", 2, "mpeg4", size=(1920, 480))
    async with api.session(path) as one:
        assert (await frame(one, 1)).shape == (320, 1280, 3)


@pytest.mark.parametrize("how", ["as it is", "in a form"])
async def test_a_video_is_sent_as_a_file(api, video_path, how):
    """The body is the video, or a form holds it; its file is gone when the answer is here."""
    data: object = video_path.read_bytes()
    kind = {"Content-Type": "video/mp4"}
    if how == "in a form":
        data, kind = aiohttp.FormData(), {}
        data.add_field("file", video_path.read_bytes(), filename="moving.mp4")
    query = {"session_id": "sent"}
    async with api.http.post(UPLOAD, data=data, params=query, headers=kind) as answer:
        assert (answer.status, (await answer.json())["session_id"]) == (200, "sent")
    here = "/api/v1/video/session/sent"
    prompted = await api.ok("POST", f"{here}/prompt", {"frame_index": 7, "prompts": [BOX]})
    assert prompted["obj_id"] == [1]
    assert (await api.ok("DELETE", here))["status"] == "closed"


REFUSED = {
    "nothing": (b"", {}, 400, "The video is empty"),
    "no video": (b"no video at all", {}, 400, "The video cannot be read"),
    "too much": (bytes(1_000_001), {}, 413, ""),
    "an id with a space": (b"x", {"session_id": "a b"}, 422, "session_id"),
    "a misspelt parameter": (b"x", {"sesion_id": "a"}, 422, "did you mean session_id?"),
}


@pytest.mark.parametrize(("data", "query", "code", "said"), REFUSED.values(), ids=REFUSED)
async def test_uploads_that_are_refused(api, data, query, code, said):
    """Each says why, and leaves neither a session nor a file."""
    kind = {"Content-Type": "video/mp4"}
    async with api.http.post(UPLOAD, data=data, params=query, headers=kind) as answer:
        told = (await answer.json())["detail"]
        assert (answer.status, said in told) == (code, True), told
    assert await api.total() == 0


async def test_a_form_with_more_than_the_file_is_refused(api, video_path):
    """A session would open under another id than the one in the form."""
    for name, said in (("session_id", "; write it into the query"), ("gpu_ids", "")):
        data = aiohttp.FormData({name: "street"})
        data.add_field("file", video_path.read_bytes(), filename="street.mp4")
        async with api.http.post(UPLOAD, data=data) as answer:
            told = (await answer.json())["detail"]
            assert (answer.status, told) == (422, f"{name}: unknown field of the form{said}")
    assert await api.total() == 0


async def test_an_empty_field_beside_the_file_is_nothing(api, video_path):
    """A page's form sends every field, also those that were left empty."""
    data = aiohttp.FormData({"session_id": ""})
    data.add_field("file", video_path.read_bytes(), filename="street.mp4")
    async with api.http.post(UPLOAD, data=data) as answer:
        assert answer.status == 200
        assert "X-Warning" not in answer.headers


async def test_nothing_of_an_upload_stays(video_api, video_server, video_path, tmp_path):
    """The folder is empty after an upload, and what a server that was killed left goes."""
    folder = tmp_path / "sam" / "videos"
    left = folder / f"{os.getpid()}-mine"
    left.mkdir(parents=True)
    (left / ".x.part").touch()
    async with video_server(tmp_path) as server, video_api.Client(server) as api:
        assert list(folder.iterdir()) == []
        for data in (video_path.read_bytes(), b"no video"):
            async with api.http.post(UPLOAD, data=data) as answer:
                assert answer.status in {200, 400}
        assert list(folder.iterdir()) == []


async def test_videos_that_are_turned_off(video_api, video_server):
    """Where videos are turned off an upload is refused, and no model claims to know any."""
    async with video_server(video_enabled=False) as server, video_api.Client(server) as api:
        async with api.http.post(UPLOAD, data=b"x") as answer:
            assert (answer.status, "turned off" in (await answer.json())["detail"]) == (503, True)
        picture = io.BytesIO()
        Image.new("RGB", (32, 32)).save(picture, "PNG")
        data = {"image": _base64(picture.getvalue()), "prompts": [BOX]}
        await api.ok("POST", "/api/v1/image/segment", data)
        known = (await api.ok("GET", "/models/info"))["image_model"]["capabilities"]
        assert ("box_prompt" in known, "video_tracking" in known) == (True, False)


def _base64(data):
    """Return bytes as JSON carries them."""
    return base64.b64encode(data).decode()


async def test_a_video_with_what_was_tracked(api, video_path):
    """What a propagation told can be drawn into the video; wrong masks are refused, in words."""
    async with api.session(video_path, BOX) as one:
        tracked = (await one.ok("POST", "/propagate", {}))["results"]
        frames = {
            number: [{"id": each["id"], "mask": each["mask"]} for each in result["objects"]]
            for number, result in tracked.items()
        }
        body = {"frames": frames, "objects": {"1": {"name": "box", "colour": "#56b4e9"}}}
        path = f"/api/v1/video/session/{one.id}/video"
        async with api.http.post(path, json=body) as answer:
            assert (answer.status, answer.content_type) == (200, "video/mp4")
            with av.open(io.BytesIO(await answer.read())) as made:
                assert sum(1 for _ in made.decode(video=0)) == COUNT
        wrong = {"frames": {"0": [{"id": 1, "mask": "0"}]}}
        status, answer = await one.ask("POST", "/video", wrong)
        assert (status, answer["detail"][:10]) == (422, "frames[0]:")
        assert (await one.status())["status"] == "ready"
