"""The benchmarks: what the server costs beside the work that cannot be avoided.

Run as ``python bench/run.py``; it prints a Markdown table. Every figure is a median; the server and
the bare loop take turns, so that a machine whose speed drifts does not favour either.
"""

from __future__ import annotations

import contextlib
import http.client
import io
import os
import platform
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import numpy as np
import psutil
import simplejpeg
from PIL import Image

from noop import ANSWER

if TYPE_CHECKING:
    from collections.abc import Iterator

HERE = Path(__file__).resolve().parent
ROUNDS = int(os.environ.get("ROUNDS", "7"))
REQUESTS = 400


def jpeg() -> bytes:
    """Return a JPEG of 640x480 and about 60 KB: smooth shapes under noise, as a camera's."""
    noise = np.random.default_rng(1).normal(0, 9, (480, 640, 3))
    ramp = np.linspace(0, 200, 640)[None, :, None] + np.linspace(0, 50, 480)[:, None, None]
    pixels = np.clip(ramp + noise, 0, 255).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=80)
    return buffer.getvalue()


def bare_loop(image: bytes) -> float:
    """Return CPU milliseconds per image of decode and encode alone, in this process."""
    begun = time.process_time()
    for _ in range(REQUESTS):
        simplejpeg.decode_jpeg(image, colorspace="RGB")
        msgspec.json.encode(ANSWER)
    return (time.process_time() - begun) / REQUESTS * 1e3


def tree_cpu(server: psutil.Process) -> float:
    """Return the CPU seconds of a process and its descendants so far."""
    total = 0.0
    for process in [server, *server.children(recursive=True)]:
        times = process.cpu_times()
        total += times.user + times.system
    return total


def served(server: psutil.Process, port: int, image: bytes) -> float:
    """Return CPU milliseconds per raw-image request of the whole process tree, one connection."""
    connection = http.client.HTTPConnection("127.0.0.1", port)
    headers = {"Content-Type": "image/jpeg"}

    def ask() -> None:
        connection.request("POST", "/v1/infer?model=noop", image, headers)
        answer = connection.getresponse()
        body = answer.read()
        if answer.status != 200 or body.count(b'"label"') != 10:
            raise SystemExit(f"a request failed: {answer.status} {body[:200]!r}")

    ask()
    begun = tree_cpu(server)
    for _ in range(REQUESTS):
        ask()
    cost = (tree_cpu(server) - begun) / REQUESTS * 1e3
    connection.close()
    return cost


@contextlib.contextmanager
def noop_server(engine: str) -> Iterator[tuple[psutil.Process, int]]:
    """Run the server with the model that does nothing."""
    with tempfile.TemporaryDirectory() as directory:
        command = [sys.executable, str(HERE / "noop.py"), directory, engine]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        try:
            port = int(process.stdout.readline().rsplit(":", 1)[1])
            yield psutil.Process(process.pid), port
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait()


def start_to_first_answer() -> tuple[float, float]:
    """Return seconds from start to the first 200 of /v1/health, and the resident MB then."""
    with tempfile.TemporaryDirectory() as directory:
        port = 20_000 + os.getpid() % 20_000
        environment = {**os.environ, "MATA_SERVER_DATA_DIR": directory}
        command = [sys.executable, "-m", "mataserver", "serve", "--port", str(port)]
        begun = time.perf_counter()
        process = subprocess.Popen(
            command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        try:
            while True:
                with contextlib.suppress(OSError):
                    with urllib.request.urlopen(f"http://127.0.0.1:{port}/v1/health") as answer:
                        answer.read()
                    break
                time.sleep(0.002)
            seconds = time.perf_counter() - begun
            resident = psutil.Process(process.pid).memory_info().rss / 1e6
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait()
    return seconds, resident


def command_seconds(*arguments: str) -> float:
    """Return the wall seconds of a ``mataserver`` command."""
    command = [sys.executable, "-m", "mataserver", *arguments]
    begun = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - begun


def main() -> None:
    """Measure and print."""
    image = jpeg()
    rows: list[tuple[str, str, str]] = []
    version = statistics.median(command_seconds("--version") for _ in range(ROUNDS))
    rows.append(("`mataserver --version`", f"{version:.2f} s", "≤ 0.2 s"))
    with tempfile.TemporaryDirectory() as directory:
        os.environ["MATA_SERVER_DATA_DIR"] = directory
        listing = statistics.median(command_seconds("list") for _ in range(ROUNDS))
        rows.append(("`mataserver list`", f"{listing:.2f} s", "≤ 0.25 s"))
        del os.environ["MATA_SERVER_DATA_DIR"]
    starts = [start_to_first_answer() for _ in range(ROUNDS)]
    first, resident = (statistics.median(column) for column in zip(*starts, strict=True))
    rows.append(("start to the first 200", f"{first:.2f} s", "≤ 0.6 s"))
    rows.append(("resident with nothing loaded", f"{resident:.0f} MB", "≤ 70 MB"))
    for engine in ("process", "thread"):
        with noop_server(engine) as (server, port):
            served(server, port, image)
            bare_loop(image)
            pairs = [(served(server, port, image), bare_loop(image)) for _ in range(ROUNDS)]
        ours, bare = (statistics.median(column) for column in zip(*pairs, strict=True))
        ratio = statistics.median(a / b for a, b in pairs)
        name = f"CPU of a raw-image request, `{engine}`, over decode + encode"
        rows.append((name, f"{ours:.2f} ms / {bare:.2f} ms = {ratio:.2f}", "≤ 1.4"))
    print(
        f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}, ",
        end="",
    )
    print(f"JPEG of {len(image) / 1e3:.0f} KB, median of {ROUNDS} rounds\n")
    print("| what | measured | goal |\n|---|---|---|")
    for row in rows:
        print(f"| {' | '.join(row)} |")


if __name__ == "__main__":
    main()
