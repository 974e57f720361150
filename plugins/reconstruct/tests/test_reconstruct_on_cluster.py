"""A reconstruction on the nodes of a cluster: it finishes though the node under it is killed."""

from __future__ import annotations

import asyncio

import pytest
from serving_reconstruct import PLUGINS, QUICK, options, packed, session

from mataserver.testing import installed, serving
from stand_in_cluster import StandInCluster

pytestmark = pytest.mark.long

SOON = 120.0


@pytest.fixture
async def cluster(tmp_path):
    """Two nodes."""
    made = StandInCluster(tmp_path / "cluster")
    await made.open("one", "two")
    yield made
    await made.close()


async def until_written(folder, pattern):
    """Wait until a job has written something; look often, since stages are short."""
    async with asyncio.timeout(SOON):
        while not await asyncio.to_thread(lambda: any(folder.glob(pattern))):
            await asyncio.sleep(0.005)


@pytest.mark.timeout(300)
async def test_a_reconstruction_outlives_its_node(strip, tmp_path, cluster, monkeypatch):
    """The second attempt, on the other node, makes the model, and it comes over the wire."""
    nodes = tmp_path / "nodes"
    nodes.mkdir()
    monkeypatch.setenv("TMPDIR", str(nodes))
    chosen = options(jobs={"cluster": {"cpu": 1}, "shared_folder": False})
    engines, points = {"ray": cluster.engine()}, installed(*PLUGINS)
    async with (
        serving(tmp_path / "data", entry_points=points, engines=engines, **chosen) as served,
        session(served, "ada-key") as ask,
    ):
        job = await ask.upload(packed(strip), **QUICK)
        await until_written(nodes, "*/work/photos/*.jpg")
        (busy,) = [name for name, node in cluster.nodes.items() if node.pids]
        await cluster.kill(busy)
        done = await ask.ended(job, SOON)
        assert (done["stage"], done["registration_rate"]) == ("success", 1.0)
        assert (await ask("GET", f"/v1/jobs/{job}"))[1]["attempt"] == 2
        status, text = await ask("GET", f"/download/jobs/{job}/csv")
        assert (status, len(text.splitlines())) == (200, 7)
        status, clouds = await ask("GET", f"/download/jobs/{job}")
        assert (status, clouds[:2]) == (200, b"PK")
    assert not list(nodes.glob("mataserver-job-*/work"))
