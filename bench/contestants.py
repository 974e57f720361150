"""Who is measured: our server, the peers, and the loop without a server."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import msgspec

import exported
import load
import peers
import stub
from generator import Order, Outcome
from tree import Sleepless, Tree

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from question import Bodies, Question

HERE = Path(__file__).resolve().parent
START_TIMEOUT = 180.0
SAMPLE_EVERY = 0.5
STUBBED = {stub.VARIABLE: "1"}


@dataclass(frozen=True)
class Effort:
    """How long one measurement takes: seconds, or requests when ``count`` is not 0."""

    seconds: float
    count: int = 0


@dataclass(frozen=True)
class Sample:
    """One measurement: requests/s, CPU ms a request, latencies in ms, MB, the load's share."""

    rate: float
    cpu: float
    p50: float
    p99: float
    memory: float
    busy: float = 0.0


class Contestant(Protocol):
    """Someone who is measured."""

    def measure(self, question: Question, connections: int, effort: Effort) -> Sample:
        """Ask and return what it took. Raises ``LoadError`` when a request failed."""
        ...

    def close(self) -> None:
        """End it."""
        ...


def order(question: Question, bodies: Bodies, effort: Effort, connections: int, url: str) -> Order:
    """Return an order for the load."""
    path = bodies.path(question)
    needle, times = question.needle
    return Order(
        url=url,
        method="GET" if question.form == "health" else "POST",
        headers=question.headers,
        body=str(path or ""),
        needle=needle,
        times=times,
        connections=connections,
        seconds=effort.seconds,
        count=effort.count,
        frames=question.form == "frames",
    )


def free_port() -> int:
    """Return a port of the loopback that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def watched(tree: Tree) -> Iterator[None]:
    """Sample a tree's memory until the context ends."""
    over = threading.Event()

    def watch() -> None:
        while not over.wait(SAMPLE_EVERY):
            tree.sample_memory()

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield
    finally:
        over.set()
        watcher.join()
        tree.sample_memory()


class Server:
    """A server in a process of its own. It sleeps while it is not measured."""

    health = "/health"
    tree_type = Tree

    def __init__(
        self,
        command: Callable[[int], Sequence[str]],
        where: Callable[[str, Question], str],
        bodies: Bodies,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        port = free_port()
        self._where = where
        self._bodies = bodies
        self.base = f"http://127.0.0.1:{port}"
        self.process = subprocess.Popen(
            command(port),
            cwd=HERE,
            env={**os.environ, **(environment or {})},
            stdout=subprocess.DEVNULL,
            stderr=(bodies.folder / "server.log").open("ab"),
            start_new_session=True,
        )
        self.tree = self.tree_type(self.process.pid)
        try:
            self._wait()
        except BaseException:
            self.close()
            raise
        self.tree.sleep()

    def _wait(self) -> None:
        until = time.monotonic() + START_TIMEOUT
        while True:
            with (
                contextlib.suppress(OSError),
                urllib.request.urlopen(self.base + self.health) as it,
            ):
                it.read()
                return
            if self.process.poll() is not None or time.monotonic() > until:
                raise load.LoadError(f"{self.process.args!r} does not answer: {self._log()}")
            time.sleep(0.05)

    def _log(self) -> str:
        """Return the end of what the servers logged."""
        return (self._bodies.folder / "server.log").read_text(errors="replace")[-2000:]

    def measure(self, question: Question, connections: int, effort: Effort) -> Sample:
        """Ask and return what it took. Raises ``LoadError`` when a request failed."""
        with self.tree.awake():
            url = self.url(question)
            asked = self._adapted(order(question, self._bodies, effort, connections, url))
            self.tree.peak = 0.0
            with watched(self.tree):
                begun = self.tree.cpu()
                try:
                    done = load.put(asked)
                except load.LoadError as error:
                    ended = self.process.poll()
                    if ended is None:
                        raise
                    who, log = self.process.args, self._log()
                    raise load.LoadError(f"{error}: {who!r} ended with {ended}: {log}") from error
                cpu = self.tree.cpu() - begun
        it = done.outcome
        rate, each = it.requests / it.seconds, cpu / it.requests * 1e3
        return Sample(rate, each, it.p50, it.p99, self.tree.peak, done.busy)

    def _adapted(self, asked: Order) -> Order:
        """Return an order as this server takes it."""
        return asked

    def url(self, question: Question) -> str:
        """Return where a question is asked. Raises ``LoadError``."""
        try:
            return self._where(self.base, question)
        except OSError as error:
            raise load.LoadError(f"no session was to be had: {error}") from error

    def close(self) -> None:
        """End it and all its children."""
        self.tree.end()
        self.process.wait()


class Loops:
    """A program that reads orders and does them without a server, in processes side by side."""

    def __init__(
        self,
        command: Sequence[str],
        processes: int,
        bodies: Bodies,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        variables = {**os.environ, **(environment or {})}
        self._bodies = bodies
        self._loops = [
            subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=HERE, env=variables
            )
            for _ in range(processes)
        ]
        for each in self._loops:
            _line(each)

    def measure(self, question: Question, connections: int, effort: Effort) -> Sample:
        """Run the loop and return what it took. Raises ``LoadError`` when an answer is wrong."""
        del connections
        share = Effort(effort.seconds, -(-effort.count // len(self._loops)))
        asked = msgspec.json.encode(order(question, self._bodies, share, 1, "")) + b"\n"
        trees = [Tree(each.pid) for each in self._loops]
        begun = sum(tree.cpu() for tree in trees)
        with ThreadPoolExecutor(len(self._loops)) as pool:
            done = list(pool.map(lambda each: _run(each, asked), self._loops))
        cpu = sum(tree.cpu() for tree in trees) - begun
        requests = sum(each.requests for each in done)
        memory = sum(tree.sample_memory() for tree in trees)
        rate = requests / max(each.seconds for each in done)
        return Sample(rate, cpu / requests * 1e3, done[0].p50, done[0].p99, memory)

    def close(self) -> None:
        """End the loops."""
        for each in self._loops:
            each.communicate()


class Bare(Loops):
    """The loop of a model of ``bare``; with ``hop`` behind a socket and shared memory, in two."""

    def __init__(
        self,
        model: str,
        processes: int,
        threads: int,
        bodies: Bodies,
        *,
        hop: bool = False,
        stubbed: bool = False,
    ) -> None:
        program = "bare_hop.py" if hop else "bare.py"
        command = [sys.executable, str(HERE / program), model, str(threads)]
        super().__init__(command, processes, bodies, STUBBED if stubbed else None)


def _line(process: subprocess.Popen[bytes]) -> bytes:
    assert process.stdout is not None
    line = process.stdout.readline()
    if not line:
        raise load.LoadError("the loop ended")
    return line


def _run(process: subprocess.Popen[bytes], asked: bytes) -> Outcome:
    assert process.stdin is not None
    process.stdin.write(asked)
    process.stdin.flush()
    outcome = msgspec.json.decode(_line(process), type=Outcome)
    if outcome.failed:
        raise load.LoadError(f"the loop's answer is wrong: {outcome.example}")
    return outcome


def ours(
    bodies: Bodies, engine: str = "process", replicas: int = 1, *, stubbed: bool = False
) -> Server:
    """Start our server."""
    program = [sys.executable, str(HERE / "ours.py")]
    return Server(
        lambda port: [*program, str(port), engine, str(replicas)],
        served_by_ours,
        bodies,
        STUBBED if stubbed else None,
    )


def onnx(bodies: Bodies, replicas: int = 1) -> Server:
    """Start our server with the networks as ONNX."""
    exported.ensure()
    program = [sys.executable, str(HERE / "ours.py")]
    return Server(lambda port: [*program, str(port), "process", str(replicas)], _onnx, bodies)


def _onnx(base: str, question: Question) -> str:
    return f"{base}/v1/infer?model={question.model}-onnx"


def served_by_ours(base: str, question: Question) -> str:
    """Return the URL of a question at our server; that of frames is a new session's."""
    if question.form == "health":
        return f"{base}/health"
    if question.form == "frames":
        return _session(base, question.model)
    path = {"json": "/v1/infer", "form": "/v1/infer/upload"}.get(question.form)
    return base + (path or f"/v1/infer?model={question.model}")


def _session(base: str, model: str) -> str:
    """Create a session and return the URL of its WebSocket; the sessions before it are deleted."""
    headers = {"Content-Type": "application/json"}
    with urllib.request.urlopen(f"{base}/v1/sessions") as answer:
        for each in msgspec.json.decode(answer.read()):
            url = f"{base}/v1/sessions/{each['session_id']}"
            urllib.request.urlopen(urllib.request.Request(url, method="DELETE")).close()
    asked = urllib.request.Request(
        f"{base}/v1/sessions", msgspec.json.encode({"model": model}), headers
    )
    with urllib.request.urlopen(asked) as answer:
        return str(msgspec.json.decode(answer.read())["ws_url"])


def fastapi(
    bodies: Bodies,
    *,
    net: str = "",
    workers: int = 1,
    parallel: int = 0,
    threads: int = 1,
    stubbed: bool = False,
) -> Server:
    """Start FastAPI behind uvicorn."""
    program = [peers.python("fastapi"), "-m", "uvicorn", "peer_fastapi:app", "--workers"]
    quick = ["--loop", "uvloop", "--http", "httptools", "--no-access-log"]
    quick += ["--log-level", "warning", "--ws-per-message-deflate", "false"]
    variables = {"BENCH_NET": net, "BENCH_THREADS": str(threads), **(STUBBED if stubbed else {})}
    if parallel:
        variables["BENCH_PARALLEL"] = str(parallel)
    return Server(
        lambda port: [*program, str(workers), "--port", str(port), *quick],
        _fastapi,
        bodies,
        variables,
    )


def _fastapi(base: str, question: Question) -> str:
    if question.form == "health":
        return f"{base}/health"
    suffix = "" if question.form == "raw" else f"/{question.form}"
    return f"{base}/{question.model}{suffix}"


def floor(bodies: Bodies, *, stubbed: bool = False) -> Server:
    """Start the least that aiohttp can do."""
    program = [sys.executable, str(HERE / "floor.py")]
    variables = STUBBED if stubbed else None
    return Server(lambda port: [*program, str(port)], _floor, bodies, variables)


def _floor(base: str, question: Question) -> str:
    return f"{base}/{question.form}"


def hop(bodies: Bodies, *packed: str) -> Server:
    """Start the least that HTTP and isolation cost; a model that is named answers packed."""
    program = [sys.executable, str(HERE / "hop_http.py")]
    return Server(lambda port: [*program, str(port), *packed], _floor, bodies)


def litserve(
    bodies: Bodies,
    model: str,
    form: str = "any",
    workers: int = 1,
    threads: int = 1,
    *,
    stubbed: bool = False,
) -> Server:
    """Start LitServe."""
    arguments = [model, form, str(workers), str(threads)]
    program = [peers.python("litserve"), str(HERE / "peer_litserve.py")]
    variables = STUBBED if stubbed else None
    return Server(lambda port: [*program, str(port), *arguments], _litserve, bodies, variables)


def _litserve(base: str, question: Question) -> str:
    return f"{base}/health" if question.form == "health" else f"{base}/{question.model}"


class Triton(Server):
    """Triton with its Python backend; the model has so many processes, its instances."""

    health = "/v2/health/ready"
    tree_type = Sleepless

    def __init__(self, bodies: Bodies, instances: int = 1, *, stubbed: bool = False) -> None:
        folder = tempfile.mkdtemp(dir=bodies.folder)
        self._prefix = f"{Path(folder).name}-"
        program = [peers.python("triton"), str(HERE / "peer_triton.py")]
        super().__init__(
            lambda port: [*program, str(port), str(instances), folder, self._prefix],
            lambda base, question: f"{base}/v2/models/{question.model}/infer",
            bodies,
            STUBBED if stubbed else None,
        )

    def _adapted(self, asked: Order) -> Order:
        """Send the image as the model's one input."""
        headers = {"Content-Type": "application/octet-stream"}
        headers |= {"Inference-Header-Content-Length": "0"}
        return msgspec.structs.replace(asked, headers=headers)

    def close(self) -> None:
        """End it, and remove the shared memory that its backend leaves."""
        super().close()
        for path in Path("/dev/shm").glob(f"{self._prefix}*"):
            path.unlink(missing_ok=True)
