"""The whole way: a model that was pushed is loaded, routed and asked, also while a Triton dies."""

from __future__ import annotations

import asyncio

import pytest
from aiohttp import web
from stand_in_fleet import until

INFER = "/gateway/shop/v2/models/m/infer"


@pytest.fixture
async def shop(fleets):
    """Two stand-ins that can be asked, the model on both, an application, and a key of it."""
    async with fleets(2) as fleet:
        for triton in fleet.tritons:
            triton.asked_by = []
            triton.faults = {"/m/infer": infer(triton), "/m/ready": ready(triton)}
        assert (await fleet.load())[0] == 200
        await fleet.client.made("/api/apps", {"name": "shop", "resend": True})
        await fleet.client.made("/api/apps/shop/routes/m")
        fleet.key = (await fleet.client.made("/api/apps/shop/consumers/till"))["key"]
        yield fleet


def infer(triton):
    """Return what answers an inference as Triton does: 400 for a model that it does not have."""

    async def answer(request):
        triton.asked_by.append(request.headers["X-Consumer-Username"])
        if "m" not in triton.models:
            return web.json_response({"error": "Request for unknown model"}, status=400)
        return web.json_response({"model_name": "m", "outputs": []})

    return answer


def ready(triton):
    """Return what tells whether the model is there."""

    async def answer(_request):
        return web.Response(status=200 if "m" in triton.models else 400)

    return answer


async def ask(fleet, **more):
    """Ask as a consumer; return status and answer."""
    return await fleet.client.ask(
        "POST", INFER, "", headers={"apikey": fleet.key}, data=b'{"inputs": []}', **more
    )


async def test_a_model_that_was_pushed_is_asked(shop):
    """It is asked with the answer that says that it is loaded, and no more when it is unloaded."""
    assert await ask(shop) == (200, {"model_name": "m", "outputs": []})
    assert {each for triton in shop.tritons for each in triton.asked_by} == {"till"}
    status, _ = await shop.client.ask("POST", "/api/models/m/unload", json={})
    assert status == 200
    assert (await ask(shop))[0] == 503


async def test_a_triton_dies_and_comes_back(shop):
    """No request fails; it gets its model back and is asked again."""
    stopped, found = asyncio.Event(), []

    async def load():
        while not stopped.is_set():
            found.append((await ask(shop))[0])

    workers = [asyncio.ensure_future(load()) for _ in range(4)]
    dying = shop.tritons[0]
    await until(lambda: after(dying, 5))
    await dying.die()
    await asyncio.sleep(0.3)
    dying.asked_by.clear()
    await dying.start()
    await until(lambda: after(dying, 5))
    assert "m" in dying.models
    stopped.set()
    await asyncio.gather(*workers)
    assert set(found) == {200}


async def after(triton, count):
    """Whether a stand-in was asked so often."""
    return len(triton.asked_by) >= count
