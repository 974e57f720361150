"""``/v1/pulls``: what is being pulled, how far it is, what failed, and how to cancel it."""

from __future__ import annotations

import asyncio
import fcntl
import os
import threading

import pytest

from api_answers import until
from test_catalog import FILES, MODEL, hub, post  # noqa: F401 - the fixture

SIZE = sum(map(len, FILES.values()))
WANTED = {"model": MODEL, "task": "detect"}


async def pulls(http):
    """Return what is listed."""
    async with http.get("/v1/pulls") as response:
        assert response.status == 200
        return await response.json()


async def delete(http, model):
    """Cancel or forget a pull; return status and decoded body."""
    async with http.delete(f"/v1/pulls/{model}") as response:
        return response.status, await response.json()


async def held(hub, http):  # noqa: F811
    """Begin a pull that stops amid its file, and wait until it does."""
    hub.repos[MODEL].hold_at = 100_000
    task = asyncio.create_task(post(http, "/v1/models/pull", **WANTED))
    assert await asyncio.to_thread(hub.holding.wait, 20)
    return task


async def test_a_pull_is_listed_while_it_runs(hub, http):  # noqa: F811
    """With its progress; a second one of the same model does not change that, and none is left."""
    assert await pulls(http) == []
    first = await held(hub, http)

    async def progressing():
        return (await pulls(http))[0]["total_bytes"]

    assert await until(progressing, 20) is None
    (listed,) = await pulls(http)
    assert (listed["model"], listed["task"], listed["state"]) == (MODEL, "detect", "pulling")
    assert (listed["total_bytes"], listed["place"], listed["error"]) == (SIZE, 0, None)
    assert 0 <= listed["done_bytes"] < SIZE
    assert (await post(http, "/v1/models/pull", **WANTED))[0] == 409
    status, body = await delete(http, f"{MODEL}?state=failed")  # another's is not cancelled by it
    assert (status, body) == (404, {"detail": f"No pull of {MODEL} is failed"})
    assert (await delete(http, f"{MODEL}?state=over"))[0] == 422
    assert [each["state"] for each in await pulls(http)] == ["pulling"]
    hub.release()
    assert (await first)[0] == 202
    assert await pulls(http) == []


async def test_others_are_served_while_the_registry_is_locked(hub, http, data_dir):  # noqa: F811
    """Another program's lock, as a slow disk, keeps one pull waiting, and nobody else."""
    lock = os.open(data_dir / "model_registry.json.lock", os.O_RDWR | os.O_CREAT)
    fcntl.flock(lock, fcntl.LOCK_EX)
    given_back = threading.Timer(20, fcntl.flock, (lock, fcntl.LOCK_UN))
    given_back.start()
    try:
        pull = asyncio.create_task(post(http, "/v1/models/pull", **WANTED))

        async def downloaded():
            found = await pulls(http)
            return found and found[0]["done_bytes"] == SIZE

        await until(downloaded)
        for _ in range(20):
            assert len(await pulls(http)) == 1
            assert given_back.is_alive()
            await asyncio.sleep(0.05)
        assert not pull.done()
    finally:
        given_back.cancel()
        fcntl.flock(lock, fcntl.LOCK_UN)
        os.close(lock)
    assert (await pull)[0] == 202
    assert await pulls(http) == []


@pytest.mark.parametrize("events", [False, True])
async def test_a_pull_is_cancelled_by_anybody(events, hub, http):  # noqa: F811
    """The request that began it is told so; it is listed no more, and can be begun again."""
    if events:
        hub.repos[MODEL].hold_at = 100_000
        accept = {"Accept": "text/event-stream"}
        async with http.post("/v1/models/pull", json=WANTED, headers=accept) as response:
            assert await asyncio.to_thread(hub.holding.wait, 20)
            assert await delete(http, MODEL) == (200, {"status": "cancelled", "model": MODEL})
            text = await response.text()
        assert f'event: error\ndata: {{"detail":"The pull of {MODEL} was cancelled"' in text
    else:
        first = await held(hub, http)
        assert await delete(http, MODEL) == (200, {"status": "cancelled", "model": MODEL})
        assert await first == (409, {"detail": f"The pull of {MODEL} was cancelled"})

    async def over():
        return not await pulls(http)

    await until(over, 20)
    hub.release()
    hub.repos[MODEL].hold_at = None
    assert (await post(http, "/v1/models/pull", **WANTED))[0] == 202


async def test_a_failed_pull_is_listed(hub, http):  # noqa: F811
    """Until it is forgotten or pulled again; what never began, as the queue is full, is not."""
    status, body = await post(http, "/v1/models/pull", model="org/missing", task="detect")
    assert status == 400
    (listed,) = await pulls(http)
    assert (listed["model"], listed["state"]) == ("org/missing", "failed")
    assert listed["error"] == body["detail"]
    assert await delete(http, "org/missing") == (
        200,
        {"status": "forgotten", "model": "org/missing"},
    )
    assert await pulls(http) == []
    status, body = await delete(http, "org/missing")
    assert (status, body) == (
        404,
        {"detail": "No pull of org/missing is in progress or has failed"},
    )

    await post(http, "/v1/models/pull", model=MODEL, task="classify")  # another task than its own
    assert [each["state"] for each in await pulls(http)] == ["failed"]
    assert (await post(http, "/v1/models/pull", **WANTED))[0] == 202
    assert await pulls(http) == []


async def test_few_failures_are_kept(hub, http):  # noqa: F811
    """Of more than 32 the oldest is forgotten."""
    for number in range(34):
        await post(http, "/v1/models/pull", model=f"org/missing-{number}", task="unheard")
    names = [each["model"] for each in await pulls(http)]
    assert names == [f"org/missing-{number}" for number in range(2, 34)]
