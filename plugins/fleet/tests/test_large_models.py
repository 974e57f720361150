"""Model files that are larger than a memory or a message; LARGE_MB=3000 makes them as large."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import re
import subprocess
import sys
import types
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web
from commands_client import client, url
from fleet_client import Client
from fleet_server import FleetServer
from stand_in_triton import stand_ins
from test_models import CONFIG, form, push

from mataserver import Client as Synchronous
from mataserver import MataError
from mataserver_fleet.fleet_client import FleetClient
from mataserver_fleet.model_push import folder_of
from mataserver_fleet.model_push import push as pushed
from mataserver_fleet.triton_answers import TritonError
from mataserver_fleet.triton_client import MAX_MODEL_BYTES, Address, TritonClient

__all__ = ["client", "url"]

LARGE_MB = int(os.environ.get("LARGE_MB", "96"))
ROOM_MB = 48
"""What a process may take more than before: pieces, and far less than the file."""


def sparse(path, size, *marks):
    """Make a file of so many bytes that takes no disk but where it is marked."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        for mark in marks:
            file.seek(mark)
            file.write(b"mark")
        file.truncate(size)


def folder(root, name, size):
    """Make the folder of a model whose weights have so many bytes."""
    sparse(root / name / "1" / "model.onnx", 1000)
    sparse(root / name / "1" / "weights.bin", size, 0, size // 2, size - 4)
    (root / name / "config.pbtxt").write_text(CONFIG)
    (root / name / "labels.txt").write_text("milk\n")
    return root / name


def peak(pid):
    """Return the most megabytes that a process has had in memory so far."""
    return most_of(Path(f"/proc/{pid}/status").read_text())


def most_of(status):
    """Return the most megabytes that a process had in memory, of what its status tells."""
    return int(re.search(r"VmHWM:\s+(\d+) kB", status)[1]) / 1000


COMMAND = """
import runpy
from pathlib import Path
try:
    runpy.run_module("mataserver", run_name="__main__", alter_sys=True)
finally:
    print(Path("/proc/self/status").read_text())
"""


def commanded(server, *words):
    """Run a command to its end; return the most megabytes that it had in memory.

    It tells so itself: what the system tells of a child counts its parent's before it began, too.
    """
    done = subprocess.run(
        [sys.executable, "-c", COMMAND, "fleet", *words, "--url", server.url],
        env={**os.environ, "MATA_SERVER_API_KEY": server.key},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return most_of(done.stdout)


def drained(read):
    """Return what answers a push as a Triton without room, once it has read all of it."""

    async def answer(request):
        async for piece in request.content.iter_any():
            read.append(len(piece))
        return web.json_response({"error": "no room"}, status=400)

    return answer


async def test_a_large_file_takes_no_memory(tmp_path):
    """Of the command, of the server that keeps it, lays it for one Triton and sends it another."""
    shared = tmp_path / "shared"
    shared.mkdir()
    settings = {"probe": 0.1, "max_model_mb": 2 * LARGE_MB, "shared_folders": [str(shared)]}
    size = LARGE_MB * 1_000_000
    async with stand_ins(2) as (sharing, sent), aiohttp.ClientSession() as http:
        with FleetServer(tmp_path / "home", settings) as server:
            asked = Client(http, server)
            command = "models", "push"
            least = await asyncio.to_thread(
                commanded, server, *command, str(folder(tmp_path, "small", 1000))
            )
            begun = peak(server.pid)
            most = await asyncio.to_thread(
                commanded, server, *command, str(folder(tmp_path, "large", size))
            )
            assert most - least < ROOM_MB, "the command"
            assert peak(server.pid) - begun < ROOM_MB, "taking it in"
            sharing.repository, read = shared, []
            sent.faults = {"/large/load": drained(read)}
            for name, port, more in (
                ("sharing", sharing.port, {"path": str(shared)}),
                ("sent", sent.port, {}),
            ):
                body = {"name": name, "host": "127.0.0.1", "port": port, **more}
                await asked.made("/api/tritons", body)
            status, told = await asked.ask("POST", "/api/models/large/load")
            assert (status, [each["status"] for each in told["tritons"]]) == (502, ["ok", "failed"])
            if size < MAX_MODEL_BYTES:
                assert "no room" in told["detail"]
                assert sum(read) > 4 * size // 3
            else:
                assert ("share" in told["detail"], read) == (True, [])
            assert peak(server.pid) - begun < ROOM_MB, "giving it to Tritons"
        with (shared / "large" / "1" / "weights.bin").open("rb") as laid:
            found = hashlib.file_digest(laid, "sha256").hexdigest()
        with (tmp_path / "large" / "1" / "weights.bin").open("rb") as given:
            assert found == hashlib.file_digest(given, "sha256").hexdigest()


@pytest.mark.parametrize("grpc_port", [None, 1])
async def test_what_no_message_holds(tmp_path, grpc_port):
    """A larger model is refused before a byte is sent, with what to do instead."""
    sparse(tmp_path / "a", MAX_MODEL_BYTES // 2)
    sparse(tmp_path / "b", MAX_MODEL_BYTES // 2 + 2)
    settings = types.SimpleNamespace(timeout=1.0, load_timeout=1.0)
    ctx = types.SimpleNamespace(http=None, settings=settings)
    triton = TritonClient(ctx, Address("t", "127.0.0.1", 1, grpc_port=grpc_port))
    with pytest.raises(TritonError) as told:
        await triton.load("m", {}, {"1/a": tmp_path / "a", "1/b": tmp_path / "b"})
    assert str(told.value) == (
        "Its files are 2.1 GB, and a Triton can be sent 2.1 GB at most: register it with the path "
        "of a repository that it shares"
    )
    assert told.value.answered, "it is no fault of the Triton, and not tried again"


class Breaking:
    """A server's client whose connection breaks before one of its requests; it counts bytes."""

    def __init__(self, client, after):
        self._client, self._left, self.sent = client, after, 0

    def request(self, method, path, value=None, *, data=None, **more):
        """Ask the server."""
        self._left -= method == "POST"
        if not self._left and method == "POST":
            raise MataError("the connection broke")
        self.sent += len(data or b"")
        return self._client.request(method, path, value, data=data, **more)


async def test_a_push_that_breaks_goes_on(client, tmp_path):
    """What was taken is not sent again, of the same file, nor of one that another version has."""
    root, piece = folder(tmp_path, "shelf", 50_000), 10_000

    def run(after=0):
        with Synchronous(client.server.url, client.server.key) as real:
            breaking = Breaking(real, after)
            try:
                return pushed(FleetClient(breaking), "shelf", folder_of(root), piece), breaking.sent
            except MataError as error:
                return str(error), breaking.sent

    await push(client, "shelf", {})
    told, _ = await asyncio.to_thread(run, 6)
    assert told == "the connection broke"
    told, sent = await asyncio.to_thread(run)
    assert told == ["added version 1 to shelf"]
    assert 20_000 < sent < 30_000, "three of five pieces were there"
    sparse(root / "2" / "model.onnx", 1001)
    (root / "2" / "weights.bin").write_bytes((root / "1" / "weights.bin").read_bytes())
    _, sent = await asyncio.to_thread(run)
    assert sent < 5_000
    weights = root / "3" / "weights.bin"
    sparse(root / "3" / "model.onnx", 1002)
    sparse(weights, 50_000, 7)
    assert (await asyncio.to_thread(run, 6))[0] == "the connection broke"
    sparse(weights, 50_000, 40_000)
    assert (await asyncio.to_thread(run))[0][-1] == "added version 3 to shelf"
    _, model = await client.ask("GET", "/api/models/shelf")
    (kept,) = [each for each in model["versions"][0]["files"] if each["path"] == "3/weights.bin"]
    assert kept["digest"] == hashlib.sha256(weights.read_bytes()).hexdigest()


async def test_files_by_their_digests(client):
    """A version names files that were kept; what is not here, or is no digest, is told."""
    await push(client, "shelf", {"config.pbtxt": CONFIG, "model.onnx": b"1"})
    path, digest = "/api/models/shelf/versions", hashlib.sha256(b"weights").hexdigest()
    named = {"digests": json.dumps({"2/weights.bin": digest})}
    status, told = await client.ask("POST", path, data=form({"2/model.onnx": b"2"}, **named))
    assert (status, told["error"]) == (
        409,
        "2/weights.bin: no file of this digest is here; send it first",
    )
    piece = {"offset": 0, "check": digest, "more": "true"}
    status, told = await client.ask("POST", path, data=form({"w.bin": b"weights"}, **piece))
    assert (status, told) == (202, {"status": "ok", "offset": 7, "digest": digest})
    for _ in range(2):  # kept from one to the next
        status, told = await client.ask("POST", path, data=form({"model.onnx": b"2"}, **named))
        named = {"digests": json.dumps({"3/weights.bin": digest}), "version": "3"}
        assert (status, told["status"]) == (201, "ok"), told
    for wrong in ("[", "[]", '{"a": "b"}', '{"a": 1}'):
        refused = await client.ask("POST", path, data=form({"model.onnx": b"3"}, digests=wrong))
        assert refused[0] == 422, wrong
    wrong = {"offset": 0, "check": digest, "more": "yes"}
    assert (await client.ask("POST", path, data=form({"w": b"weights"}, **wrong)))[0] == 422
    for name in ("../w", "/w"):
        named = {"digests": json.dumps({name: digest})}
        refused = await client.ask("POST", path, data=form({"model.onnx": b"3"}, **named))
        assert refused[0] == 400, name
