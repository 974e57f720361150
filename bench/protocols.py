"""What an image of raw pixels costs the server by each protocol that can carry it.

Run as ``python bench/protocols.py``; it prints a Markdown table. The model does nothing, so what is
left is the way of the pixels: read, parse, hand over, answer. Bodies are made beforehand; the ways
take turns, so that a machine whose speed drifts favours none; every figure is a median. CPU time is
that of the server's whole process tree.
"""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import importlib.metadata
import json
import os
import platform
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc
import numpy as np
import psutil
import pybase64
import uvloop

from mataserver import Backend, DetectResult, config, hookimpl
from mataserver import plugins as plugin_host
from mataserver.app import running
from mataserver.testing import installed
from mataserver_oip.rpc.messages import TYPES
from mataserver_oip.rpc.server import SERVICE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from mataserver import LoadContext, ModelSpec

SIDE = 1000
ROUNDS = int(os.environ.get("ROUNDS", "7"))
SECONDS = 1.0  # of one turn: the kernel counts CPU time in hundredths
LENGTH = "Inference-Header-Content-Length"
PATH = "/v2/models/nothing/infer"


class Nothing:
    """Finds nothing, without a look at the pixels."""

    def predict(self, images: Sequence[Any], params: Sequence[Any]) -> list[DetectResult]:
        """Return an empty answer for each image."""
        del params
        return [DetectResult([])] * len(images)


def load(spec: ModelSpec, context: LoadContext) -> Nothing:
    """Load nothing."""
    del spec, context
    return Nothing()


@hookimpl
def backends() -> list[Backend]:
    """Return the one backend."""
    return [Backend(name="nothing", task="detect", source="pip", load=load)]


def serve(directory: Path) -> None:
    """Serve the model that does nothing over HTTP and gRPC; print both ports."""
    entry = {"task": "detect", "source": "pip", "pulled_at": time.time()}
    registry = {"version": 1, "models": {"nothing": entry}}
    (directory / "model_registry.json").write_text(json.dumps(registry))
    settings = config.load(
        port=0,
        auth_mode="none",
        data_dir=str(directory),
        log_level="warning",
        plugins={"oip": {"grpc_port": 0}},
    )
    point = importlib.metadata.EntryPoint("nothing", "protocols", plugin_host.GROUP)
    plugins = plugin_host.discover(settings, [point, *installed("oip")])

    def announce(url: str, composed: Any) -> None:
        print(url.rpartition(":")[2], composed.hosting.peer("oip").grpc_port, flush=True)

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(running.run(settings, announce, plugins))


@contextlib.contextmanager
def server() -> Iterator[tuple[psutil.Process, int, int]]:
    """Run the server; give its process, and its ports for HTTP and gRPC."""
    with tempfile.TemporaryDirectory() as directory:
        command = [sys.executable, __file__, directory]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        try:
            rest, rpc = map(int, process.stdout.readline().split())
            yield psutil.Process(process.pid), rest, rpc
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait()


def tensor(**more: Any) -> dict[str, Any]:
    """Return the input of a request."""
    return {"name": "image", "datatype": "UINT8", "shape": [SIDE, SIDE, 3], **more}


def wanted(given: dict[str, Any], *, binary: bool) -> bytes:
    """Return the JSON of a request that asks for one small output."""
    outputs = [{"name": "count", "parameters": {"binary_data": binary}}]
    return json.dumps({"inputs": [given], "outputs": outputs}, separators=(",", ":")).encode()


def rest_ways(port: int, pixels: np.ndarray) -> dict[str, tuple[Callable[[], None], int]]:
    """Return what sends the pixels over REST, and how many bytes that is."""
    connection = http.client.HTTPConnection("127.0.0.1", port)
    raw = pixels.tobytes()
    head = wanted(tensor(parameters={"binary_data_size": len(raw)}), binary=True)
    ppm = b"P6\n%d %d\n255\n" % (SIDE, SIDE) + raw
    encoded = {"name": "image", "datatype": "BYTES", "shape": [1]}
    bodies = {
        "REST, binary tensor": (head + raw, {LENGTH: str(len(head))}),
        "REST, JSON numbers": (wanted(tensor(data=pixels.ravel().tolist()), binary=False), {}),
        "REST, a PPM in base64": (
            wanted({**encoded, "data": [pybase64.b64encode(ppm).decode()]}, binary=False),
            {},
        ),
    }

    def ask(body: bytes, headers: dict[str, str]) -> None:
        connection.request("POST", PATH, body, headers)
        answer = connection.getresponse()
        if answer.read() and answer.status != 200:
            raise SystemExit(f"a request failed: {answer.status}")

    return {
        name: (lambda body=body, headers=headers: ask(body, headers), len(body))  # type: ignore[misc]
        for name, (body, headers) in bodies.items()
    }


def rpc_ways(port: int, pixels: np.ndarray) -> dict[str, tuple[Callable[[], None], int]]:
    """Return what sends the pixels over gRPC, and how many bytes that is."""
    channel = grpc.insecure_channel(f"127.0.0.1:{port}")
    method = channel.unary_unary(f"/{SERVICE}/ModelInfer")
    made: dict[str, tuple[Callable[[], None], int]] = {}
    for name in ("gRPC, raw bytes", "gRPC, a list of numbers"):
        message = TYPES["ModelInferRequest"](model_name="nothing")
        image = message.inputs.add(name="image", datatype="UINT8", shape=pixels.shape)
        message.outputs.add(name="count")
        if "raw" in name:
            message.raw_input_contents.append(pixels.tobytes())
        else:
            image.contents.uint_contents.extend(pixels.ravel().tolist())
        data = message.SerializeToString()
        made[name] = (lambda data=data: method(data), len(data))  # type: ignore[misc]
    return made


def tree_cpu(process: psutil.Process) -> float:
    """Return the CPU seconds of a process and its descendants so far."""
    total = 0.0
    for each in [process, *process.children(recursive=True)]:
        times = each.cpu_times()
        total += times.user + times.system
    return total


def measure(process: psutil.Process, ask: Callable[[], None]) -> tuple[float, float]:
    """Return milliseconds of the server's CPU and of the round trip, per request."""
    cpu, begun, count = tree_cpu(process), time.perf_counter(), 0
    while (spent := time.perf_counter() - begun) < SECONDS:
        ask()
        count += 1
    return (tree_cpu(process) - cpu) / count * 1e3, spent / count * 1e3


def main() -> None:
    """Measure and print."""
    pixels = np.random.default_rng(1).integers(0, 256, (SIDE, SIDE, 3), np.uint8)
    with server() as (process, rest, rpc):
        ways = {**rest_ways(rest, pixels), **rpc_ways(rpc, pixels)}
        for ask, _ in ways.values():
            ask()
        rounds = [
            {name: measure(process, ask) for name, (ask, _) in ways.items()} for _ in range(ROUNDS)
        ]
    print(
        f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}, ",
        end="",
    )
    print(f"{SIDE}x{SIDE} pixels = {pixels.nbytes / 1e6:.1f} MB, median of {ROUNDS} rounds\n")
    print("| way | sent | server's CPU | round trip | CPU over binary |\n|---|---|---|---|---|")
    for name, (_, size) in ways.items():
        cpu = statistics.median(each[name][0] for each in rounds)
        trip = statistics.median(each[name][1] for each in rounds)
        over = statistics.median(each[name][0] / each["REST, binary tensor"][0] for each in rounds)
        print(f"| {name} | {size / 1e6:.1f} MB | {cpu:.1f} ms | {trip:.1f} ms | {over:.1f} |")


if __name__ == "__main__":
    if len(sys.argv) > 1:
        serve(Path(sys.argv[1]))
    else:
        main()
