"""Jobs on a real Ray cluster of this machine, whose nodes are killed, and that others use too.

``make test-ray`` runs it.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import time

import psutil
import pytest
from films import video
from serving_jobs import asking, lines, sent

from mataserver.config.needs import Needs
from mataserver.engines.worker_errors import WorkerDied
from mataserver.errors import OutOfMemory
from mataserver_ray.engine import RayEngine
from ray_nodes import RayNodes

pytestmark = pytest.mark.timeout(300)
SOON = 150.0
"""Seconds for what takes some on a machine with other work."""
FRAMES, CPU = 60, 2


@pytest.fixture(scope="module")
def nodes():
    """A head without room, and two nodes."""
    made = RayNodes(cpu=CPU)
    try:
        made.start_head()
        made.add("one")
        made.add("two")
        yield made
    finally:
        made.close()


async def under_the_job(nodes):
    """Return the name of the node on which a job's process is, as soon as there is one."""
    async with asyncio.timeout(SOON):
        while not (found := await asyncio.to_thread(_with_a_job, nodes)):
            await asyncio.sleep(0.1)
    [name] = found
    return name


def _with_a_job(nodes):
    found = []
    for name, node in nodes.nodes.items():
        for process in node.processes:
            with contextlib.suppress(psutil.NoSuchProcess):
                if "mataserver_jobs.child" in " ".join(process.cmdline()):
                    found.append(name)
    return found


@pytest.mark.parametrize("shared", [True, False], ids=["shared", "sent"])
async def test_a_video_outlives_the_node_under_it(nodes, tmp_path, shared):
    """The kill costs an attempt, and in the end every frame is there once, in its order."""
    chosen = {"cluster": {"cpu": 1}, "shared_folder": shared}
    engines = {"ray": RayEngine(nodes.address, room=SOON, silence=3.0)}
    async with asking(tmp_path / "data", jobs=chosen, engines=engines) as ask:
        path = await asyncio.to_thread(video, tmp_path / "v.mp4", FRAMES)
        params = json.dumps({"seconds": 0.1})
        job = await sent(ask, path, model="fake-detect", params=params)
        await ask.until(job, lambda shown: shown["progress"] > 5, SOON)
        busy = await under_the_job(nodes)
        await asyncio.to_thread(nodes.kill, busy)
        killed = time.monotonic()
        await ask.until(job, lambda shown: shown["attempt"] == 2, SOON)
        print(f"begun again after {time.monotonic() - killed:.1f} s")  # noqa: T201 - figures for whoever reads
        await asyncio.to_thread(nodes.add, f"{busy}x")
        done = await ask.ended(job, SOON)
        assert (done["state"], done["error"], done["attempt"]) == ("done", None, 2)
        found = await lines(ask, job)
        assert [line["index"] for line in found] == list(range(FRAMES))


async def test_what_is_on_the_cluster_is_told(nodes, tmp_path):
    """GET /v1/cluster has every node, and the metrics what they have: here of one name."""
    models = [{"model": "fake-detect", "engine": "ray"}]
    engines = {"ray": RayEngine(nodes.address, room=SOON)}
    async with asking(tmp_path / "data", models=models, engines=engines, guests=["ray"]) as ask:
        total = f"}} {CPU * len(nodes.nodes):.1f}"
        async with asyncio.timeout(SOON):
            while not [each for each in await cpus(ask, "total") if each.endswith(total)]:
                await asyncio.sleep(0.5)
        status, listed = await ask("GET", "/v1/cluster")
        assert (status, [node["state"] for node in listed]) == (200, ["alive"] * 3)
        assert sum(node["total"].get("CPU", 0) for node in listed) == CPU * len(nodes.nodes)


async def cpus(ask, kind):
    """Return the lines of the metrics about the nodes' processors."""
    start = f'mataserver_cluster_cpus{{kind="{kind}"'
    found = (await ask("GET", "/metrics"))[1].decode().splitlines()
    return [line for line in found if line.startswith(start)]


async def test_two_servers_share_a_cluster(nodes):
    """What one has the other does not get; a killed one frees it, and ends nothing of the other."""
    first, second = (RayEngine(nodes.address, room=SOON) for _ in range(2))
    await asyncio.to_thread(nodes.add, "both")
    there = {"name": "both"}
    try:
        async with second.run_process(["cat"], needs=Needs(cpu=0.5, labels=there)) as kept:
            async with first.run_process(["cat"], needs=Needs(cpu=1.5, labels=there)) as lost:
                impatient = RayEngine(nodes.address, room=2.0)
                with pytest.raises(OutOfMemory, match="the label name=both"):
                    async with impatient.run_process(["cat"], needs=Needs(labels=there)):
                        pass
                await impatient.close()
                psutil.Process(first.cluster._child.pid).kill()  # as the server's end has it
                async with asyncio.timeout(SOON):
                    assert await lost.wait() < 0
            needs = Needs(cpu=1.5, labels=there)
            async with second.run_process(["echo", "hi"], needs=needs) as child:
                assert await child.output.readline() == b"hi\n"
            await kept.send("still here")
            assert await kept.output.readline() == b'"still here"\n'
    finally:
        await first.close()
        await second.close()
        await asyncio.to_thread(nodes.kill, "both")


async def test_needs_that_ray_refuses(nodes, caplog):
    """They are told, with Ray's reason in the log: nobody waits for a node."""
    engine = RayEngine(nodes.address, room=SOON)
    try:
        with pytest.raises(WorkerDied, match="ended as it was started"):
            async with engine.run_process(["cat"], needs=Needs(labels={"a/b/c": "x"})):
                pass
        assert "Invalid label key" in caplog.text
    finally:
        await engine.close()
