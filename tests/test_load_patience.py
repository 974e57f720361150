"""A load after an unload: it waits for whoever still uses the old worker, but not for ever."""

from __future__ import annotations

import asyncio
import contextlib

import aiohttp

from api_answers import asking, problem, until
from conftest import picture
from mataserver.testing import serving
from service_plugins import LAB, folder, plugin
from stream_peers import model_state

__all__ = ["folder", "plugin"]

ASKED = asking("lab", picture())


async def test_a_load_does_not_wait_for_ever_for_a_slow_reader(plugin, folder):
    """Who streams from an unloaded model keeps its worker; others get 503, and then the next."""
    async with (
        serving(folder, entry_points=[plugin(LAB)], engine="thread", load_timeout=0.3) as served,
        aiohttp.ClientSession(served.url, headers=served.headers) as http,
    ):
        service = served.service("lab")
        async with service.ctx.models.acquire("lab") as model:
            async with contextlib.aclosing(model.stream("numbers", 1_000_000)) as numbers:
                await anext(numbers)
                unload = http.post("/v1/models/unload", json={"model": "lab"})
                unloading = asyncio.create_task(unload)
                await until(lambda: is_unloaded(http))
                async with http.post("/v1/infer", json=ASKED) as response:
                    assert await problem(response, 503) == "The model is being unloaded"
                    assert response.headers["Retry-After"] == "5"
                assert [await anext(numbers), await anext(numbers)] == [1, 2]
                assert not unloading.done()
            async with await unloading as response:
                assert await response.json() == {"status": "unloaded", "model": "lab"}
        async with http.post("/v1/infer", json=ASKED) as response:
            assert response.status == 200


async def is_unloaded(http):
    """Whether the unload has begun."""
    return await model_state(http, "lab") == "unloaded"
