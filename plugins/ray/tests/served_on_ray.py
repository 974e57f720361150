"""A server on a cluster of the test's own, and what is asked of it."""

from __future__ import annotations

import contextlib

import aiohttp
import pytest

from conftest import picture, register
from mataserver import testing
from stand_in_cluster import StandInCluster

POINTS = [testing.FAKE, *testing.installed("ray")]


@pytest.fixture(name="cluster")
async def cluster_fixture(tmp_path):
    """Two nodes with four processors each."""
    made = StandInCluster(tmp_path / "cluster")
    await made.open("one", "two")
    yield made
    await made.close()


@contextlib.asynccontextmanager
async def serving(cluster, tmp_path, **settings):
    """Run a server with one model on the cluster and one here."""
    register(tmp_path, {f"fake-{task}": task for task in ("detect", "ocr", "track")})
    (tmp_path / "mataserver.yaml").write_text(
        "models: [{model: fake-detect, engine: ray}, {model: fake-track, engine: ray}]"
    )
    engines = {"ray": cluster.engine(**settings)}
    async with (
        testing.serving(
            tmp_path, entry_points=POINTS, engine="thread", engines=engines, file=None
        ) as served,
        aiohttp.ClientSession(served.url, headers=served.headers) as http,
    ):
        yield http


async def ask(http, model="fake-detect", **params):
    """POST a picture raw; return status and decoded body."""
    headers = {"Content-Type": "image/png"}
    query = {"model": model, **{name: str(value) for name, value in params.items()}}
    async with http.post("/v1/infer", params=query, data=picture(), headers=headers) as response:
        return response.status, await response.json()


def busy_node(cluster):
    """Return the name of the node that has a worker."""
    (busy,) = [name for name, node in cluster.nodes.items() if node.pids]
    return busy


async def is_in_state(http, model, state):
    """Whether a model is in a state: "active" while it has something to do."""
    async with http.get(f"/v1/models/{model}") as response:
        return (await response.json())["state"] == state


async def ready(http):
    """Return the answer to whether the server is ready."""
    async with http.get("/ready") as response:
        return response.status, await response.json()
