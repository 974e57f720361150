"""The gauges of a model that is loaded for two tasks: they tell of both workers."""

from __future__ import annotations

import asyncio
import importlib.metadata
import json

import aiohttp
import pytest

from conftest import picture
from mataserver import Backend, hookimpl, plugins, testing
from stream_peers import Gate, GatedModel, eventually, load_gated, metric

PNG = picture()


@hookimpl
def backends():
    """Return backends for one model's two tasks, behind the gate of the tests."""
    shared = {"source": "local", "accepts": lambda _: True, "params": testing.FakeParams}
    return [
        Backend(name=f"gated-{task}", task=task, load=load_gated, **shared)
        for task in ("detect", "track")
    ]


POINT = importlib.metadata.EntryPoint("both", __name__, plugins.GROUP)


@pytest.fixture
async def both(tmp_path):
    """A server with the model "both": the server, an HTTP session, the model's gate."""
    (tmp_path / "both").mkdir()
    GatedModel.gate = gate = Gate()
    entry = {"task": "detect", "source": "local", "pulled_at": 1.0, "path": str(tmp_path / "both")}
    registry = {"version": 1, "models": {"both": entry}}
    (tmp_path / "model_registry.json").write_text(json.dumps(registry))
    chosen = {"engine": "thread", "models": [{"model": "both", "max_batch": 1}]}
    async with (
        testing.serving(tmp_path, entry_points=[POINT], **chosen) as served,
        aiohttp.ClientSession(served.url, headers=served.headers) as http,
    ):
        try:
            yield served, http, gate
        finally:
            gate.open(1000)


async def detect(http):
    """Infer for the model's own task; return the status."""
    headers = {"Content-Type": "image/png"}
    async with http.post("/v1/infer?model=both", data=PNG, headers=headers) as response:
        return response.status


async def track(http):
    """Have one frame of a new session inferred; return its number."""
    asked = {"model": "both", "task": "track"}
    async with http.post("/v1/sessions", json=asked) as response:
        name = (await response.json())["session_id"]
    async with http.ws_connect(f"/v1/stream/{name}") as socket:
        await socket.send_bytes(PNG)
        return (await socket.receive_json())["frame_id"]


async def test_queues_of_both_tasks_are_counted(both):
    """Two batches of each worker are under way; the gauge tells of all that wait behind them."""
    _, http, gate = both
    async with asyncio.TaskGroup() as group:
        detected = [group.create_task(detect(http)) for _ in range(5)]
        await gate.inside(1)
        tracked = [group.create_task(track(http)) for _ in range(4)]
        await gate.inside(2)

        async def waiting():
            return await metric(http, "mataserver_queue_length") == 3 + 2

        await eventually(waiting)
        gate.open(1000)
    assert [each.result() for each in detected] == [200] * 5
    assert [each.result() for each in tracked] == [0] * 4
    assert await metric(http, "mataserver_queue_length") == 0


async def test_memory_of_both_tasks_is_counted(both):
    """The gauge is the sum of what both hold, and what one holds once the other is unloaded."""
    served, http, gate = both
    gate.open(2)
    assert (await detect(http), await track(http)) == (200, 0)
    pool = served.composed.pool
    alone = pool.status("both", "detect").memory
    assert alone > 0
    assert await metric(http, "mataserver_model_memory_bytes") == 2 * alone
    assert await metric(http, "mataserver_model_vram_bytes") == 0
    await pool.unload("both", "track")
    assert await metric(http, "mataserver_model_memory_bytes") == alone
    await pool.unload("both", "detect")
    assert await metric(http, "mataserver_model_memory_bytes") == 0
