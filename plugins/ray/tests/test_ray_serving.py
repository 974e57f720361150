"""A server whose models are on a cluster: the head and nodes die, requests do not."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import sys
from types import SimpleNamespace

import aiohttp
import psutil
import pytest
from served_on_ray import (
    POINTS,
    ask,
    busy_node,
    cluster_fixture,  # noqa: F401 - fixtures
    is_in_state,
    ready,
    serving,
)

from api_answers import until
from conftest import picture
from mataserver import testing
from mataserver_ray.broker_messages import Node
from mataserver_ray.gauges import MAX_NODES, OTHERS, ClusterGauges
from stand_in_cluster import MEMORY
from test_engine_contract import SOON

pytestmark = pytest.mark.long


async def test_a_server_outlives_the_head(cluster, tmp_path):
    """Without a head new models are 503 and /ready says why; what is here serves on."""
    async with serving(cluster, tmp_path, room=60.0) as http:
        assert (await ask(http))[0] == 200
        await cluster.kill_head()
        await until(lambda: _away(http), SOON)
        status, body = await ready(http)
        assert (status, body["waiting"]) == (503, {"ray": "The Ray cluster is out of reach"})
        assert (await ask(http, "fake-ocr"))[0] == 200
        assert (await ask(http))[0] == 200  # its worker is there, and nobody ended it
        async with asyncio.timeout(SOON):  # and not the minute that a node may take to have room
            refused = await ask(http, "fake-track")
        assert refused == (503, {"detail": "The Ray cluster is out of reach"})
        for node in cluster.nodes.values():
            node.signal(signal.SIGKILL)  # as Ray does after a minute
        await until(lambda: _refused(http), SOON)
        await cluster.start_head()
        await until(lambda: _served(http), SOON)
        assert (await ready(http))[0] == 200


async def _away(http):
    return (await ready(http))[0] == 503


async def _refused(http):
    return (await ask(http))[0] == 503


async def _served(http):
    return (await ask(http))[0] == 200


async def command(http, *arguments):
    """Run a command that asks the server; return its exit code and what it printed."""
    key = http.headers["Authorization"].removeprefix("Bearer ")
    asking = ("--url", str(http._base_url), "--api-key", key)
    running = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "mataserver", *arguments, *asking),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    printed, _ = await running.communicate()
    return running.returncode, printed.decode()


async def gauges(http):
    """Return what /metrics tells of the cluster."""
    async with http.get("/metrics") as response:
        lines = (await response.text()).splitlines()
    start = "mataserver_cluster_"
    return dict(line.removeprefix(start).split() for line in lines if line.startswith(start))


async def test_what_is_on_the_cluster_is_told(cluster, tmp_path):
    """GET /v1/cluster, /metrics, `cluster status`: nodes, room, workers; 503 without a head."""
    async with serving(cluster, tmp_path) as http:
        assert (await ask(http))[0] == 200
        async with http.get("/v1/cluster") as response:
            nodes = {node["name"]: node for node in await response.json()}
        busy = busy_node(cluster)
        (idle,) = set(cluster.nodes) - {busy}
        assert nodes[busy] == {
            "id": busy,
            "name": busy,
            "workers": ["fake-detect"],
            "state": "alive",
            "total": {"CPU": 4.0, "memory": MEMORY},
            "free": {"CPU": 3.0, "memory": MEMORY},
        }
        assert (nodes[idle]["free"]["CPU"], nodes[idle]["workers"]) == (4.0, [])
        await until(lambda: _is_told(http, f'cpus{{kind="free",node="{busy}"}}', "3.0"), SOON)
        told = await gauges(http)
        assert (told[f'workers{{node="{busy}"}}'], told["away"]) == ("1.0", "0.0")
        assert told[f'cpus{{kind="total",node="{idle}"}}'] == "4.0"
        assert float(told[f'memory_bytes{{kind="free",node="{idle}"}}']) == MEMORY
        assert told[f'gpus{{kind="total",node="{idle}"}}'] == "0.0"
        code, printed = await command(http, "cluster", "status")
        assert code == 0
        lines = {line.split()[0]: " ".join(line.split()[1:]) for line in printed.splitlines()}
        assert lines[busy] == "alive 3 of 4 0 of 0 12508 of 12508 fake-detect"
        assert lines["fake-detect:"] == "0 waiting"
        await cluster.kill_head()
        await until(lambda: _away(http), SOON)
        async with http.get("/v1/cluster") as response:
            assert response.status == 503
        assert (await gauges(http))["away"] == "1.0"
        await until(lambda: _only_away(http), SOON)
        code, printed = await command(http, "cluster", "status")
        assert (code, printed) == (1, "error: The Ray cluster is out of reach\n")


async def _is_told(http, name, value):
    return (await gauges(http)).get(name) == value


async def _only_away(http):
    """Whether nothing is told of nodes: what is not known is not made up."""
    return all("kind=" not in name for name in await gauges(http))


def test_the_nodes_in_the_metrics_are_bounded():
    """Several of one name are one, and those above a number are counted together."""
    gauges_of_many = ClusterGauges(SimpleNamespace)
    names = [f"n{number:04}" for number in range(MAX_NODES + 5)]
    gauges_of_many._nodes = [
        Node(f"{name}{twin}", name, "h", 1, {"CPU": 2.0}, {"CPU": 1.0})
        for name in names
        for twin in "ab"
    ]
    (cpus, gpus, _memory) = gauges_of_many._resources()
    amounts = {(each.labels["node"], each.labels["kind"]): each.value for each in cpus.samples}
    assert len(amounts) == 2 * (MAX_NODES + 1)
    assert (amounts["n0000", "total"], amounts["n0000", "free"]) == (4.0, 2.0)
    assert amounts[OTHERS, "total"] == 20.0
    assert {each.value for each in gpus.samples} == {0.0}


async def test_a_failed_listing_leaves_no_old_figures():
    """After any error nothing is told of nodes, and what is listed after it is told again."""
    found = [Node("n", "n", "h", 1, {"CPU": 2.0}, {"CPU": 1.0})]
    answers = asyncio.Queue()

    async def nodes():
        answer = await answers.get()
        if answer is None:
            raise RuntimeError("no list")
        return answer

    engine = SimpleNamespace(waiting=None, cluster=SimpleNamespace(nodes=nodes), workers=[])
    told = ClusterGauges(lambda: engine, every=0.0)
    listing = asyncio.create_task(told.keep_current())
    for answer in (found, None, None, found):
        answers.put_nowait(answer)
        await until(lambda: _amounts(told, 2 if answer else 0), SOON)  # noqa: B023 - awaited here
    listing.cancel()


async def _amounts(told, number):
    """Whether the cluster's gauges of processors have so many samples."""
    (cpus,) = [each for each in told.collect() if each.name == "mataserver_cluster_cpus"]
    return len(cpus.samples) == number


async def test_without_the_engine_there_is_no_cluster(tmp_path):
    """A server without a model on a cluster has no such route, and the command says why."""
    async with (
        testing.serving(tmp_path, entry_points=POINTS) as served,
        aiohttp.ClientSession(served.url, headers=served.headers) as http,
    ):
        async with http.get("/v1/cluster") as response:
            assert response.status == 404
        assert await gauges(http) == {}
        code, printed = await command(http, "cluster", "status")
        assert (code, printed) == (1, "error: the server has no model with the engine ray\n")


async def test_requests_survive_a_node(cluster, tmp_path):
    """A request on a node that ends is answered by another one; a poisonous one is not repeated."""
    async with serving(cluster, tmp_path) as http:
        assert (await ask(http))[0] == 200
        busy = busy_node(cluster)
        cluster.nodes[busy].halt()
        asked = asyncio.create_task(ask(http))
        await until(lambda: is_in_state(http, "fake-detect", "active"), SOON)
        await cluster.kill(busy)
        status, body = await asked
        assert (status, len(body["detections"])) == (200, 1)
        status, body = await ask(http, behave="exit")
        assert (status, "worker died" in body["detail"]) == (500, True)
        (left,) = cluster.nodes.values()
        assert len(left.pids) == 1


async def test_the_end_of_a_server(cluster, tmp_path):
    """What was accepted is answered, and no process of ours is left."""
    others = set(psutil.Process().children(recursive=True))
    async with contextlib.AsyncExitStack() as clients:
        async with serving(cluster, tmp_path) as served:
            http = aiohttp.ClientSession(str(served._base_url), headers=served.headers)
            await clients.enter_async_context(http)
            assert (await ask(http))[0] == 200
            slow = asyncio.create_task(ask(http, seconds=0.5))
            await until(lambda: is_in_state(http, "fake-detect", "active"), SOON)
            family = set(psutil.Process().children(recursive=True)) - others
        assert (await slow)[0] == 200
    assert len(family) >= 2
    _, alive = psutil.wait_procs(family, timeout=SOON)
    assert not alive


@contextlib.asynccontextmanager
async def streaming(http):
    """Open a stream of the tracker, and have its first frame answered: its state is somewhere."""
    async with http.post("/v1/sessions", json={"model": "fake-track"}) as response:
        made = await response.json()
    async with http.ws_connect(f"/v1/stream/{made['session_id']}") as stream:
        first = await frame(stream)
        assert (first["detections"][0]["track_id"], "reset" in first) == (1, False)
        yield stream


async def frame(stream):
    """Send a frame; return its answer."""
    await stream.send_bytes(picture())
    return await stream.receive_json(timeout=SOON)


async def test_a_frame_under_way_fails_with_its_node(cluster, tmp_path):
    """Its state is lost: the frame is 503 and not repeated, and the next answer says ``reset``."""
    async with serving(cluster, tmp_path) as http, streaming(http) as stream:
        busy = busy_node(cluster)
        cluster.nodes[busy].halt()
        await stream.send_bytes(picture())
        await until(lambda: is_in_state(http, "fake-track", "active"), SOON)
        await cluster.kill(busy)
        lost = await stream.receive_json(timeout=SOON)
        assert "lost" in lost["detail"]
        again = await frame(stream)
        assert (again["detections"][0]["track_id"], again["reset"]) == (1, True)


async def test_a_frame_after_its_node_is_answered_anew(cluster, tmp_path):
    """It is no error: another node answers it with a new state, and says ``reset``, once."""
    async with serving(cluster, tmp_path) as http, streaming(http) as stream:
        await cluster.kill(busy_node(cluster))
        await until(lambda: is_in_state(http, "fake-track", "unloaded"), SOON)
        again = await frame(stream)
        assert (again["detections"][0]["track_id"], again["reset"]) == (1, True)
        after = await frame(stream)
        assert (after["detections"][0]["track_id"], "reset" in after) == (2, False)
