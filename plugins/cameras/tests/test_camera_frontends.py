"""Cameras of several front-ends: each is found, listed and streamed from all."""

from __future__ import annotations

import pytest

from camera_peers import POINTS, results
from conftest import FAKES, register
from stream_peers import closed_with, eventually
from test_frontends import front, sees

CAMERAS = "/v1/cameras"


@pytest.fixture
async def pair(tmp_path):
    """Two front-ends with cameras that know of each other."""
    register(tmp_path / "shared", {f"fake-{task}": task for task in FAKES})
    options = {"entry_points": POINTS, "plugins": {"cameras": {"camera_paths": ["/"]}}}
    async with front(tmp_path, "one", **options) as one, front(tmp_path, "two", **options) as two:
        for each in (one, two):
            await eventually(lambda each=each: sees(each, 2))
        yield one, two


async def test_a_camera_is_found_listed_and_streamed_from_every_front_end(pair, video):
    """What is told of it is the same for all but the address, which is that of who was asked."""
    one, two = pair
    asked = {"model": "fake-detect", "source": str(video), "fps": 50}
    async with one.http.post(CAMERAS, json=asked) as response:
        assert response.status == 201, await response.text()
        name = (await response.json())["camera_id"]
    for each in pair:
        url = f"{each.served.url.replace('http', 'ws')}{CAMERAS}/{name}/stream"
        async with each.http.get(f"{CAMERAS}/{name}") as response:
            told = await response.json()
            assert (response.status, told["camera_id"], told["ws_url"]) == (200, name, url)
        async with each.http.get(CAMERAS) as response:
            assert [(c["camera_id"], c["ws_url"]) for c in await response.json()] == [(name, url)]
    async with two.http.ws_connect(f"{CAMERAS}/{name}/stream") as ws:
        assert len(await results(ws, 2)) == 2
        async with two.http.delete(f"{CAMERAS}/{name}") as response:
            assert response.status == 204
        assert await closed_with(ws) == 1000
    for each in pair:
        async with each.http.get(CAMERAS) as response:
            assert await response.json() == []


async def test_a_front_end_without_cameras_has_none(tmp_path, video):
    """The list of another one is whole without it."""
    register(tmp_path / "shared", {f"fake-{task}": task for task in FAKES})
    options = {"entry_points": POINTS, "plugins": {"cameras": {"camera_paths": ["/"]}}}
    without = {"entry_points": POINTS, "plugins": {"disabled": ["cameras"]}}
    async with front(tmp_path, "one", **options) as one, front(tmp_path, "two", **without) as two:
        for each in (one, two):
            await eventually(lambda each=each: sees(each, 2))
        async with one.http.post(
            CAMERAS, json={"model": "fake-detect", "source": str(video)}
        ) as response:
            name = (await response.json())["camera_id"]
        async with one.http.get(CAMERAS) as response:
            assert response.status == 200, await response.text()
            assert [each["camera_id"] for each in await response.json()] == [name]
