"""gRPC under load and abuse: budgets, messages that blow up, clients that read or send nothing."""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
import sys

import aiohttp
import grpc
import numpy as np
import psutil
import pytest
from rpc_calls import KEY, PNG, THREADS, call, infer, refused
from tritonclient.grpc import service_pb2
from tritonclient.utils import InferenceServerException

from api_answers import until
from conftest import picture
from mataserver import testing
from mataserver_oip.rpc.server import SERVICE
from triton_clients import grpc_port, triton

SETTINGS = {**THREADS, "body_timeout": 0.3}


@pytest.fixture
async def server(data_dir):
    """A server that speaks gRPC too."""
    async with testing.serving(data_dir, **SETTINGS) as served:
        yield served


@pytest.fixture
async def channel(server):
    """A channel to it."""
    async with grpc.aio.insecure_channel(f"127.0.0.1:{grpc_port(server)}") as made:
        yield made


async def test_bytes_that_are_no_message(channel):
    """What protobuf cannot read is an invalid argument."""
    assert await refused(channel, "ModelInfer", b"\xff\xff\xff") == (
        "INVALID_ARGUMENT",
        "The message cannot be read",
    )


async def test_a_compressed_message_cannot_blow_up(data_dir):
    """The limit counts what a message holds, not what was sent; small compressed ones are fine."""
    async with (
        testing.serving(data_dir, **THREADS, max_body_mb=0.5) as served,
        triton("grpc-aio", served) as client,
    ):
        zipped = {"compression_algorithm": "gzip"}
        small = await client.infer("fake-detect", client.encoded(PNG), **zipped)
        assert small.as_numpy("count").tolist() == [1]
        large = client.pixels(np.zeros((1_000, 1_000, 3), np.uint8))
        with pytest.raises(InferenceServerException) as told:
            await client.infer("fake-detect", large, **zipped)
        assert told.value.status() == "StatusCode.RESOURCE_EXHAUSTED"


async def test_a_budget_that_is_used_up(data_dir):
    """Messages count as bytes in flight, and what does not fit is not available now."""
    async with (
        testing.serving(data_dir, **THREADS, max_body_mb=0.2, max_inflight_mb=0.2) as served,
        triton("grpc-aio", served) as client,
    ):
        large = client.encoded(PNG + bytes(150_000))
        slow = asyncio.create_task(client.infer("fake-detect", large, parameters={"seconds": 0.5}))
        budget = served.composed.budget
        await until(lambda: budget.taken > 150_000)
        with pytest.raises(InferenceServerException, match="Too many request bytes") as told:
            await client.infer("fake-detect", large)
        assert told.value.status() == "StatusCode.UNAVAILABLE"
        await slow
        assert budget.taken == 0


async def test_one_budget_for_every_protocol(data_dir):
    """A body, a message of a WebSocket that still comes and a call take of the same bytes."""
    settings = {**THREADS, "max_body_mb": 0.2, "max_inflight_mb": 0.3}
    async with (
        testing.serving(data_dir, **settings) as served,
        triton("grpc-aio", served) as client,
        aiohttp.ClientSession(served.url, headers=served.headers) as http,
    ):
        budget = served.composed.budget
        host, port = served.url.removeprefix("http://").split(":")
        async with http.post("/v1/sessions", json={"model": "fake-detect"}) as response:
            session = (await response.json())["session_id"]
        writers = []
        for head, sent in (
            ("POST /v1/infer?model=fake-detect", "Content-Length: 150000"),
            (f"GET /v1/stream/{session}", f"Upgrade: websocket\r\nConnection: Upgrade\r\n{WS}"),
        ):
            reader, writer = await asyncio.open_connection(host, int(port))
            lines = [f"{head} HTTP/1.1", "Host: localhost", "Content-Type: image/png", sent]
            lines += [f"{name}: {value}" for name, value in served.headers.items()]
            writer.write("\r\n".join([*lines, "", ""]).encode())
            writers.append(writer)
        await reader.readuntil(b"\r\n\r\n")
        writers[0].write(bytes(100_000))
        await until(lambda: budget.taken >= 100_000)
        writers[1].write(b"\x02\xff" + (150_000).to_bytes(8, "big") + bytes(4 + 100_000))
        await until(lambda: budget.taken >= 200_000)
        large = client.encoded(PNG + bytes(110_000))
        with pytest.raises(InferenceServerException, match="Too many request bytes"):
            await client.infer("fake-detect", large)
        query = {"model": "fake-detect"}
        picture = {"data": PNG + bytes(110_000), "headers": {"Content-Type": "image/png"}}
        async with http.post("/v1/infer", params=query, **picture) as response:
            assert response.status == 503
        for writer in writers:
            writer.transport.abort()
        await until(lambda: budget.taken == 0)
        assert (await client.infer("fake-detect", large)).as_numpy("count").tolist() == [1]
        async with http.post("/v1/infer", params=query, **picture) as response:
            assert response.status == 200


WS = "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="


def http2(kind, payload, flags=0, stream=1):
    """Return a frame of HTTP/2."""
    head = len(payload).to_bytes(3, "big") + bytes((kind, flags)) + stream.to_bytes(4, "big")
    return head + payload


@contextlib.asynccontextmanager
async def unread_call(port, request):
    """Ask for an answer, of which gRPC may send 64 kB: nobody says that more is wanted."""
    path = f"/{SERVICE}/ModelInfer".encode()
    fields = {b"content-type": b"application/grpc", b"te": b"trailers"}
    fields[b"authorization"] = KEY[0][1].encode()
    header = b"\x83\x86\x04%c%b\x01\x01a" % (len(path), path)
    for name, value in fields.items():
        header += b"\x00%c%b%c%b" % (len(name), name, len(value), value)
    message = request.SerializeToString()
    data = b"\0" + len(message).to_bytes(4, "big") + message
    _, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + http2(4, b"", stream=0))
    writer.write(http2(1, header, flags=4) + http2(0, data, flags=1))
    try:
        yield
    finally:
        writer.transport.abort()


async def test_answers_that_nobody_reads(data_dir):
    """They count until their client reads them or is gone, and are a part of all at most."""
    chosen = {"max_body_mb": 8, "max_inflight_mb": 8}
    request = service_pb2.ModelInferRequest(model_name="fake-depth")
    image = request.inputs.add(name="image", datatype="BYTES", shape=[1])
    image.contents.bytes_contents.append(picture(640, 480))
    async with (
        testing.serving(data_dir, **THREADS, **chosen) as served,
        grpc.aio.insecure_channel(
            f"127.0.0.1:{grpc_port(served)}", (("grpc.max_receive_message_length", -1),)
        ) as channel,
    ):
        port, budget = grpc_port(served), served.composed.budget
        async with unread_call(port, request):
            await until(lambda: budget.taken > 1_200_000, 20)
            with pytest.raises(grpc.aio.AioRpcError, match="Too many answers wait") as told:
                await call(channel, "ModelInfer", request, timeout=20)
            assert told.value.code() is grpc.StatusCode.UNAVAILABLE
            assert told.value.trailing_metadata().get("retry-after") == "1"
            assert list((await call(channel, "ModelInfer", infer())).outputs)
        await until(lambda: budget.taken == 0, 20)
        assert list((await call(channel, "ModelInfer", request, timeout=20)).outputs)
        await until(lambda: budget.taken == 0, 20)


async def test_a_client_that_goes_away(server, channel):
    """A call whose client cancels it, or has no patience, gives its budget back."""
    request = infer()
    request.parameters["seconds"].double_param = 0.3
    assert (await refused(channel, "ModelInfer", request, timeout=0.1))[0] == "DEADLINE_EXCEEDED"
    await until(lambda: server.composed.budget.taken == 0)
    answer = await call(channel, "ModelInfer", infer())
    assert answer.outputs


async def test_strangers_who_send_nothing_shut_nobody_out(channel):
    """A public method is answered without its message; silent streams hold up no other call."""
    method = channel.stream_unary(f"/{SERVICE}/ServerLive")
    silent = [method() for _ in range(40)]
    answer = await call(channel, "ModelInfer", infer())
    assert answer.model_name == "fake-detect"
    for each in silent:
        assert await each.code() == grpc.StatusCode.OK


APART = """
import asyncio, sys
from pathlib import Path
from mataserver import MataError, testing
from conftest import POINTS
from triton_clients import GRPC, grpc_port
SETTINGS = {"entry_points": POINTS, "engine": "thread", **GRPC}
async def main():
    async with testing.serving(Path(sys.argv[1]), **SETTINGS) as served:
        print(grpc_port(served), flush=True)
        await asyncio.Event().wait()
asyncio.run(main())
"""


@contextlib.asynccontextmanager
async def apart(data_dir):
    """Run a server in a process of its own; yield a channel to it, and what tells its memory."""
    with subprocess.Popen(
        [sys.executable, "-c", APART, str(data_dir)],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(each for each in sys.path if each)},
    ) as process:
        try:
            port = int(process.stdout.readline())
            async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as made:
                await call(made, "ServerLive", b"", metadata=())
                yield made, lambda: psutil.Process(process.pid).memory_info().rss
        finally:
            process.kill()


async def test_what_a_stranger_sends_is_not_read(data_dir):
    """Large messages to a public method cost the server no memory; it answers all the same."""
    async with apart(data_dir) as (made, memory):
        before, large = memory(), bytes(31_000_000)
        calls = [call(made, "ServerLive", large, metadata=()) for _ in range(8)]
        for each in await asyncio.gather(*calls, return_exceptions=True):
            assert not isinstance(each, grpc.aio.AioRpcError) or each.code().name == "OK"
        assert memory() - before < 25e6


async def test_what_was_refused_is_not_kept(data_dir):
    """A large message that is refused leaves nothing in memory, whatever it is refused for."""
    async with apart(data_dir) as (made, memory):
        before = memory()
        request = infer("nobody")
        request.inputs[0].contents.bytes_contents[0] = bytes(31_000_000)
        for _ in range(8):
            assert (await refused(made, "ModelInfer", request))[0] == "NOT_FOUND"
            assert (await refused(made, "ModelInfer", bytes(31_000_000)))[0] == "INVALID_ARGUMENT"
        assert memory() - before < 250e6  # 16 messages of 31 MB were sent


async def test_one_caller_keeps_no_other_from_reading(data_dir):
    """Whoever has a key and sends nothing holds half of the turns to read, not all."""
    keys = ["test-key", {"key": "other-key", "name": "other"}]
    settings = {**THREADS, "body_timeout": 5.0, "api_keys": keys}
    async with (
        testing.serving(data_dir, **settings) as served,
        grpc.aio.insecure_channel(f"127.0.0.1:{grpc_port(served)}") as made,
    ):
        silent = [made.stream_unary(f"/{SERVICE}/ModelInfer")(metadata=KEY) for _ in range(20)]
        await asyncio.sleep(0.3)
        other = (("authorization", "Bearer other-key"),)
        answer = await call(made, "ModelInfer", infer(), metadata=other, timeout=3.0)
        assert answer.model_name == "fake-detect"
        for each in silent:
            each.cancel()
