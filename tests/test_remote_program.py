"""Child processes on the nodes of a cluster: as those here, and they end with the node."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time

import psutil
import pytest

from api_answers import until
from mataserver.config.needs import Needs
from mataserver.errors import OutOfMemory, Unavailable
from stand_in_cluster import StandInCluster

SOON = 20.0
MORE = 3_000_000


@pytest.fixture
async def cluster(tmp_path):
    """A node with four processors."""
    made = StandInCluster(tmp_path / "cluster")
    await made.open("one")
    yield made
    await made.close()


def obey(parent):
    """Do what each message says."""
    for message in parent.messages(dict):
        if message["do"] == "echo":
            parent.send({"said": message["what"], "pid": os.getpid(), "nice": os.nice(0)})
            print("printed", flush=True)  # noqa: T201 - goes where its errors go
            sys.stderr.write("last words\n")
        elif message["do"] == "much":
            parent.send({"much": "x" * 1000})
            sys.stderr.write("y" * MORE)
        elif message["do"] == "exit":
            os._exit(message["status"])
        elif message["do"] == "wait":
            signal.signal(signal.SIGTERM, lambda *_: os._exit(7))
            parent.send({"waits": True})
            time.sleep(600)


async def test_messages_signals_and_ends(cluster, tmp_path):
    """Messages go both ways, what it prints is in the log, signals reach it, its status is told."""
    engine = cluster.engine()
    async with engine.run_process(obey, nice=3, threads=1, log=tmp_path / "log") as child:
        messages = child.messages(dict)
        await child.send({"do": "echo", "what": "ä"})
        answer = await anext(messages)
        assert (answer["said"], answer["nice"]) == ("ä", min(19, os.nice(0) + 3))
        assert psutil.pid_exists(answer["pid"])
        await child.send({"do": "much"})
        assert len((await anext(messages))["much"]) == 1000
        await child.send({"do": "wait"})
        assert (await anext(messages))["waits"]
        child.signal(signal.SIGTERM)
        assert await child.wait() == 7
        assert await anext(messages, None) is None
        with pytest.raises(ConnectionError):
            await child.send({"do": "echo"})
    log = (tmp_path / "log").read_text()
    assert log.startswith("printed\nlast words\nyyy")
    assert log.count("y") == MORE
    assert not psutil.pid_exists(answer["pid"])


async def test_it_ends_with_its_context(cluster):
    """Killed with what it has started, and its place is free again."""
    engine = cluster.engine()
    needs = Needs(cpu=4)
    async with engine.run_process(obey, needs=needs) as child:
        await child.send({"do": "echo", "what": 1})
        pid = (await anext(child.messages(dict)))["pid"]
        await child.send({"do": "wait"})
    await until(lambda: not psutil.pid_exists(pid), SOON)
    async with engine.run_process(["sh", "-c", "echo said; exit 4"], needs=needs) as child:
        assert await child.output.read() == b"said\n"
        assert await child.wait() == 4


async def test_it_ends_with_its_node(cluster):
    """Its messages end, and its status says that it was killed."""
    engine = cluster.engine()
    async with engine.run_process(obey) as child:
        await child.send({"do": "wait"})
        messages = child.messages(dict)
        assert (await anext(messages))["waits"]
        await cluster.nodes["one"].kill()
        async with asyncio.timeout(SOON):
            assert await anext(messages, None) is None
            assert await child.wait() == -signal.SIGKILL


async def test_a_node_that_falls_silent_is_given_up(cluster):
    """Nobody waits for it for longer than ``ray_silence``."""
    engine = cluster.engine(silence=2.0)
    async with engine.run_process(obey) as child:
        await child.send({"do": "wait"})
        messages = child.messages(dict)
        assert (await anext(messages))["waits"]
        cluster.nodes["one"].stop()
        async with asyncio.timeout(SOON):
            assert await anext(messages, None) is None


async def test_without_room_or_cluster_there_is_no_child(cluster):
    """507 in a sentence after ``room`` seconds, 503 at once."""
    engine = cluster.engine(room=0.3)
    with pytest.raises(OutOfMemory, match="has room for 64 CPU"):
        async with engine.run_process(obey, needs=Needs(cpu=64)):
            pass
    await cluster.kill_head()
    with pytest.raises(Unavailable, match="out of reach"):
        async with engine.run_process(obey):
            pass
