"""Server, past one machine: the nodes of a cluster, and the front-ends of a shared directory."""

from __future__ import annotations

import json

import aiohttp
import pytest
from console_pages import CHROMIUM, SQUARE, asked, served, shown

from stand_in_cluster import StandInCluster

pytestmark = [pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium"), pytest.mark.long]


@pytest.fixture
async def cluster(tmp_path):
    """Two nodes with four processors each."""
    made = StandInCluster(tmp_path / "cluster")
    await made.open("one", "two")
    yield made
    await made.close()


def node(name):
    """Return the script for what the page says of a node."""
    return f"document.querySelector('[data-node={name}]')?.innerText"


async def test_the_cluster(tmp_path, cluster):
    """Each node has its state, its room and what is on it; one that falls silent is told."""
    engine = cluster.engine(silence=2.0)
    models = [{"model": "fake-detect", "engine": "ray"}]
    async with (
        served(tmp_path, "ray", engines={"ray": engine}, models=models) as server,
        shown(server.url, tmp_path) as person,
    ):
        form = aiohttp.FormData({"model": "fake-detect"})
        form.add_field("file", SQUARE, filename="square.png")
        await asked(server, "POST", "/v1/infer/upload", data=form)
        await person.go("server")
        (busy,) = [name for name, each in cluster.nodes.items() if each.pids]
        (idle,) = set(cluster.nodes) - {busy}
        await person.until(f"{node(busy)}?.includes('fake-detect')")
        told = (await person.evaluate(node(busy))).splitlines()
        assert [line for line in told if line] == [
            busy, "fake-detect", "3 of 4 CPUs, 12.5 GB of 12.5 GB free", "alive",
        ]  # fmt: skip
        assert "fake-detect" not in await person.evaluate(node(idle))
        assert await person.faults() == []
        cluster.nodes[busy].stop()
        await person.until(f"{node(busy)}?.includes('silent') || {node(busy)}?.includes('lost')")
        await person.until(f"{node(busy)}?.includes('lost')")
        await cluster.kill_head()
        cards = "[...document.querySelectorAll('[aria-labelledby=cluster]')]"
        await person.until(f"{cards}.some((each) => each.innerText.includes('out of reach'))")
        assert not await person.evaluate("!!document.querySelector('[data-node]')")


async def test_the_front_ends(tmp_path):
    """This one and the others, whether they are alive and how many sessions they hold."""
    shared = tmp_path / "shared"
    async with (
        served(tmp_path, shared_dir=str(shared)) as server,
        shown(server.url, tmp_path) as person,
    ):
        other = {"address": "http://10.0.0.6:8110", "beat": 1, "sessions": 3}
        (shared / "frontends" / "abcd.json").write_text(json.dumps(other))
        await person.go("server")
        that = "document.querySelector('[data-frontend=abcd]')?.innerText"
        await person.until(f"{that}?.includes('silent')")
        assert "3 sessions" in await person.evaluate(that)
        await person.until(
            "[...document.querySelectorAll('[data-frontend]')].some((each) =>"
            " each.innerText.includes('this one') && each.innerText.includes('alive'))"
        )
        assert not await person.evaluate("!!document.querySelector('#cluster')")
        assert await person.faults() == []


async def test_one_machine(tmp_path):
    """A server without both shows neither, and is not asked for them."""
    async with served(tmp_path, "ray") as server, shown(server.url, tmp_path) as person:
        await person.go("server")
        await person.sees("Requests can be served.")
        await person.until("document.querySelectorAll('.chart').length >= 4")
        asked_for = await person.evaluate(
            "performance.getEntriesByType('resource').map((each) => each.name).join()"
        )
        assert "v1/cluster" not in asked_for
        assert "v1/frontends" not in asked_for
        assert not await person.evaluate("!!document.querySelector('#cluster, #front-ends')")
