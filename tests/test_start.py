"""What a server that has just started has in memory: what nobody has asked for is not there."""

from __future__ import annotations

import ctypes
import importlib.metadata
import json
import os
import select
import signal
import subprocess
import sys
import urllib.request
from collections import Counter
from typing import NamedTuple

import pytest

from mataserver.config import Settings
from mataserver.plugins.discovery import discover

PROGRAM = """
import atexit, gc, json, sys
def tell():
    context = sys.modules["aiohttp.connector"]._SSL_CONTEXT_VERIFIED
    certificates = context.cert_store_stats()["x509"]
    told = [gc.isenabled(), gc.get_freeze_count(), certificates, sorted(sys.modules)]
    print(json.dumps(told), flush=True)
atexit.register(tell)
from mataserver.cli import main
main(["serve", "--port", "0", "--config", sys.argv[1]])
"""
FRAMEWORKS = {"torch", "transformers", "cv2", "onnxruntime", "openvino", "pycolmap", "easyocr"}
HEAVY = {"numpy", "scipy", "PIL", "av", "grpc", "google.protobuf", "cryptography", "pydantic"}
HEAVY |= {"huggingface_hub", "networkx", "matplotlib", "pip", "pytest", "jinja2"}
HEAVY |= {"configparser", "statistics", "psutil", "argon2", "jwt"}
DATABASES = {"sqlalchemy", "alembic", "asyncpg", "aiosqlite"}
READ_LATER = {
    "mataserver_onnx.bundle",
    "mataserver_onnx.graph",
    "mataserver_onnx.layouts",
    "pyexpat",
}
READ_LATER |= {"mataserver_sam.index", "fractions"}
"""What reads a model's file or a video's, which a start does not."""
NOT_OURS = {"alembic", "asyncpg", "sqlalchemy.dialects.postgresql"}


class Started(NamedTuple):
    """What a server says of itself when it ends."""

    collecting: bool
    frozen: int
    certificates: int
    modules: set[str]


def started(folder, *plugins):
    """Start a server with some plugins, or all, ask for its health, and end it."""
    every = {point.name for point in importlib.metadata.entry_points(group="mataserver")}
    disabled = sorted(every - set(plugins)) if plugins else []
    config = folder / "mataserver.yaml"
    config.write_text(json.dumps({"plugins": {"disabled": disabled, "strict": True}}))
    environ = {**os.environ, "MATA_SERVER_DATA_DIR": str(folder / "data")}
    command = [sys.executable, "-c", PROGRAM, config]
    with subprocess.Popen(command, env=environ, cwd=folder, stdout=subprocess.PIPE) as process:
        try:
            assert select.select([process.stdout], [], [], 60)[0]
            url = process.stdout.readline().split()[4].decode()
            with urllib.request.urlopen(f"{url}/health", timeout=30) as answer:
                assert json.load(answer)["status"] == "ok"
            process.send_signal(signal.SIGINT)
            said = process.communicate(timeout=60)[0]
        finally:
            process.kill()
    collecting, frozen, certificates, modules = json.loads(said.splitlines()[-1])
    return Started(collecting, frozen, certificates, set(modules))


def test_the_page_and_the_protocols_need_no_array_and_no_database(tmp_path):
    """With the page, OpenAI's API and OIP alone, nothing that is heavy was imported."""
    modules = started(tmp_path, "console", "oip", "openai").modules
    guests = ("mataserver_console", "mataserver_oip", "mataserver_openai")
    assert {"aiohttp", *guests} <= modules
    assert not modules & (FRAMEWORKS | HEAVY | DATABASES)
    brought = (*guests, "mataserver_client")
    assert all(name.startswith(brought) for name in modules if name.startswith("mataserver_"))


@pytest.fixture(scope="module")
def second(tmp_path_factory):
    """What the second start with every plugin imported: the first one makes the tables."""
    folder = tmp_path_factory.mktemp("start")
    assert "alembic" in started(folder).modules
    return started(folder)


def test_every_plugin_starts_without_what_a_request_or_a_worker_brings(second):
    """Neither frameworks, arrays nor migrations are imported until something needs them."""
    modules = second.modules
    assert {"mataserver_fleet", "mataserver_hf", "mataserver_sam", "sqlalchemy"} <= modules
    assert not modules & (FRAMEWORKS | HEAVY | NOT_OURS | READ_LATER)


def test_without_a_driver_nothing_asks_it_for_gpus(second):
    """The library that asks NVIDIA's driver is imported by ``GET /health`` only if there is one."""
    try:
        ctypes.CDLL("libnvidia-ml.so.1")
    except OSError:
        assert "pynvml" not in second.modules
    else:
        assert "pynvml" in second.modules


def test_garbage_is_collected_once_the_server_listens(second):
    """The collector rests during the start, works afterwards, and leaves alone what was made."""
    assert second.collecting
    assert second.frozen > 10_000


def test_no_certificate_is_read_before_a_connection_needs_it(second):
    """The context that aiohttp makes when it is imported has none of the system's yet."""
    assert second.certificates == 0


@pytest.mark.parametrize("program", ["zygote", "worker_main"])
def test_a_process_of_models_has_no_event_loop(program):
    """It neither serves nor connects: asyncio, and OpenSSL with it, would be 3 MB in each."""
    told = f"import sys, mataserver.engines.{program}; print(*sys.modules)"
    ran = subprocess.run([sys.executable, "-c", told], capture_output=True, text=True, check=True)
    modules = set(ran.stdout.split())
    assert "mataserver.logs" in modules or "mataserver.engines.watchdog" in modules
    assert not modules & {"asyncio", "ssl", "aiohttp", "mataserver.app", "mataserver.http"}


def test_the_metadata_of_a_plugin_is_read_once(monkeypatch):
    """Each reading parses the whole file anew, and most of it is the description."""
    read = Counter()
    metadata = importlib.metadata.Distribution.metadata

    def counted(distribution):
        found = metadata.fget(distribution)
        read[found["Name"]] += 1
        return found

    monkeypatch.setattr(importlib.metadata.Distribution, "metadata", property(counted))
    points = importlib.metadata.entry_points(group="mataserver")
    chosen = [point for point in points if point.name in {"console", "oip", "openai"}]
    found = discover(Settings(), chosen, {}).found
    assert [each.name for each in found] == ["console", "oip", "openai"]
    assert read == {f"mataserver-{each.name}": 1 for each in found}
