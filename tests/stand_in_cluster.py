"""A cluster without Ray: nodes that greet, and runners that are processes of this machine.

The broker is the real one, in its own process, and so is everything on the wire. A test owns the
nodes: it kills them, has them fall silent and looks at what is on them.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import threading
import time
from pathlib import Path

import msgspec
import psutil

from mataserver.processes.child import run_process
from mataserver_ray.broker import Broker
from mataserver_ray.broker_messages import JoinedCluster, JoinRefused, Node
from mataserver_ray.engine import RayEngine
from mataserver_ray.file_store import FileStore
from mataserver_ray.node_runner import NodeRunner
from mataserver_ray.ray_cluster import RunnerLostError

HOST = "127.0.0.1"
MEMORY = 12_507_830_272.0


class Daemon:
    """What listens on a node, or on the head: greets, or is silent."""

    def __init__(self):
        self.port = 0
        self.silent = False
        self.gate = asyncio.Event()
        """Who comes is greeted once it is open; ``waiting`` counts those before it."""
        self.gate.set()
        self.waiting = 0
        self._server = None

    async def open(self):
        self._server = await asyncio.start_server(self._greet, HOST, self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def close(self):
        """Refuse whoever comes, as the kernel does once the process is gone."""
        server, self._server = self._server, None
        if server is not None:
            server.close()
            await server.wait_closed()

    async def _greet(self, reader, writer):
        with contextlib.suppress(OSError):
            await reader.read(64)
            if self.silent:
                await reader.read(64)  # until whoever waits gives up
            else:
                self.waiting += 1
                await self.gate.wait()
                self.waiting -= 1
                writer.write(b"\0\0\0\4\0\0\0\0\0")
            writer.close()
            await writer.wait_closed()


class StandInNode(Daemon):
    """A node: what greets, and the folder in which its runners note their processes."""

    def __init__(self, folder, name, cpu, labels, environment):
        super().__init__()
        self.environment = environment
        self.name, self.cpu, self.labels = name, cpu, labels
        self.folder = folder / name

    async def open(self):
        self.folder.mkdir(parents=True, exist_ok=True)
        await super().open()

    @property
    def pids(self):
        """The runners' processes, dead ones too."""
        return sorted(int(path.name) for path in self.folder.iterdir())

    def signal(self, number):
        for pid in self.pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)

    @property
    def is_halted(self):
        """Whether it has runners, and all of them stand still."""
        pids = self.pids
        return bool(pids) and all(
            psutil.Process(pid).status() == psutil.STATUS_STOPPED for pid in pids
        )

    async def kill(self):
        """End the node and everything on it."""
        await self.close()
        self.signal(signal.SIGKILL)

    def stop(self):
        """Have the node fall silent, as one does whose power is cut."""
        self.silent = True
        self.halt()

    def halt(self):
        """Have its runners stand still: what they are given is under way until the node ends."""
        self.signal(signal.SIGSTOP)
        for pid in self.pids:  # a thread may run on until another one has taken the signal
            with contextlib.suppress(psutil.NoSuchProcess):
                process = psutil.Process(pid)
                while process.status() not in {psutil.STATUS_STOPPED, psutil.STATUS_ZOMBIE}:
                    time.sleep(0.01)


class StandInCluster:
    """The test's end: the head and the nodes."""

    def __init__(self, folder):
        self.folder = Path(folder)
        self.head = Daemon()
        self.nodes = {}
        self.engines = []

    async def open(self, *names, cpu=4.0):
        self.folder.mkdir(parents=True, exist_ok=True)
        await self.head.open()
        for name in names:
            await self.add(name, cpu)

    async def add(self, name, cpu=4.0, *, environment=None, **labels):
        node = StandInNode(self.folder, name, cpu, labels, environment or {})
        self.nodes[name] = node
        await node.open()
        self.tell()
        return node

    def tell(self):
        """Write down what the broker is to know."""
        nodes = [
            {"name": n.name, "port": n.port, "cpu": n.cpu, "labels": n.labels}
            | {"environment": n.environment}
            for n in self.nodes.values()
        ]
        file = self.folder / "cluster.new"
        file.write_text(json.dumps({"head": self.head.port, "nodes": nodes}))
        file.rename(self.folder / "cluster.json")

    async def kill(self, name):
        await self.nodes.pop(name).kill()
        self.tell()

    async def kill_head(self):
        """End the head: nothing tells of a cluster any more."""
        await self.head.close()
        (self.folder / "cluster.json").unlink()

    async def start_head(self):
        await self.head.open()
        self.tell()

    def engine(self, **settings):
        """Return an engine on this cluster.

        Nodes greet in the test's own process, which may stand still for a second on a machine with
        other work: none is lost by silence for that.
        """
        made = RayEngine(
            str(self.folder), broker=broker, **{"room": 10.0, "silence": 8.0, **settings}
        )
        self.engines.append(made)
        return made

    async def close(self):
        for engine in self.engines:
            await engine.close()
        for node in self.nodes.values():
            node.signal(signal.SIGCONT)
            await node.close()
        await self.head.close()


# in the broker


class _Cluster:
    """The broker's end: starts runners where there is room."""

    def __init__(self, folder):
        self._folder = Path(folder)
        self._taken = {}

    def told(self):
        return json.loads((self._folder / "cluster.json").read_text())

    def nodes(self):
        return [
            Node(n["name"], n["name"], HOST, n["port"], *self.room(n)) for n in self.told()["nodes"]
        ]

    def room(self, node):
        """Return the whole and the free room of a node, all of its memory."""
        amounts = (node["cpu"], self.free(node))
        return ({"CPU": cpus, "memory": MEMORY} for cpus in amounts)

    def free(self, node):
        return node["cpu"] - sum(self._taken.get(node["name"], {}).values())

    def find(self, place):
        """Return where there is most room, a node to be avoided only if there is no other."""
        fit = [
            node
            for node in self.told()["nodes"]
            if self.free(node) >= place.cpu and place.labels.items() <= node["labels"].items()
        ]
        return min(fit, key=lambda n: (n["name"] in place.avoid, -self.free(n)), default=None)

    def take(self, node, place):
        self._taken.setdefault(node["name"], {})[place.token] = place.cpu

    def give(self, place):
        for taken in self._taken.values():
            taken.pop(place.token, None)

    def place(self, place):
        if "fault" in place.labels:
            raise KeyError(place.labels["fault"])
        return _Actor(self, place)

    def note(self, node, pid):
        (self._folder / node["name"] / str(pid)).touch()


class _Actor:
    """A runner in a process of its own."""

    def __init__(self, cluster, place):
        self._cluster, self._place = cluster, place
        self._child, self._messages = None, None
        self._stack = contextlib.AsyncExitStack()

    async def locate(self):
        while (node := self._cluster.find(self._place)) is None:
            await asyncio.sleep(0.02)  # as Ray does: silently, for ever
        self._cluster.take(node, self._place)
        running = run_process(runner, environment=node["environment"])
        self._child = await self._stack.enter_async_context(running)
        self._messages = self._child.messages(dict)
        self._cluster.note(node, self._child.pid)
        told = await self._next()
        for each in self._cluster.nodes():
            if each.id == node["name"]:
                return each, told["versions"]
        raise RunnerLostError("its node ended")

    async def listen(self, address, secret, goods, environment):
        given = {"address": address, "goods": msgspec.to_builtins(list(goods))}
        await self._child.send(given | {"secret": secret.hex(), "environment": environment})
        return (await self._next())["listening"]

    async def wait_closed(self):
        await self._next()

    async def _next(self):
        message = await anext(self._messages, None)
        if message is None:
            raise RunnerLostError("its process ended")
        return message

    def kill(self):
        self._cluster.give(self._place)
        if self._child is not None:
            self._child.signal(signal.SIGKILL)


def broker(parent):
    """Be the broker of the cluster whose folder the argument names."""
    cluster = _Cluster(parent.arguments[0])
    try:
        head = cluster.told()["head"]
    except OSError as error:
        parent.send(JoinRefused(type(error).__name__))
        return
    parent.send(JoinedCluster(HOST, head, "stand-in"))
    asyncio.run(Broker(parent, cluster).run())


# on a node


def runner(parent):
    """Be a runner: do what the messages of the stand-in say."""
    apart = os.environ.get("STAND_IN_APART")
    made = NodeRunner(FileStore(Path(apart), shared=False) if apart else None)
    halts = os.environ.get("STAND_IN_HALTS", "")
    halt_at(halts, "start")
    parent.send({"versions": made.describe()})
    for message in parent.messages(dict):
        secret = bytes.fromhex(message["secret"])
        environment = message["environment"]
        found = made.listen(message["address"], secret, message["goods"], environment)
        parent.send({"listening": found})
        halt_at(halts, "listening")
        threading.Thread(target=_tell_end, args=(made, parent), daemon=True).start()


def halt_at(wanted, moment):
    """Stand still at a moment, if that is wanted."""
    if wanted == moment:
        os.kill(os.getpid(), signal.SIGSTOP)


def _tell_end(made, parent):
    made.wait_closed()
    parent.send({"over": True})
