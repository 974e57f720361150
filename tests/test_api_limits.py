"""Limits: sizes, slowness, queues, bytes in flight, draining, and clients that go away."""

from __future__ import annotations

import asyncio
import itertools
import logging

import aiohttp
import psutil
import pytest

from api_answers import (
    answer,
    asking,
    connection,
    detail_of,
    exchange,
    head_of,
    infer,
    problem,
    refused,
    until,
)
from conftest import picture
from mataserver import testing

PNG = picture()
IMAGE = {"Content-Type": "image/png"}
JSON_HEAD = ("Content-Type: application/json",)
CHUNK = bytes(1_000_000)


async def metric(http, name):
    """Return the value of a metric without labels."""
    async with http.get("/metrics") as response:
        lines = (await response.text()).splitlines()
    return float(next(line.split()[1] for line in lines if line.startswith(f"{name} ")))


async def in_flight(http):
    """Return the bytes of request bodies that the server holds."""
    return await metric(http, "mataserver_body_bytes_in_flight")


# sizes


@pytest.mark.parametrize("head", [(), ("Expect: 100-continue",)], ids=["plain", "expect"])
@pytest.mark.parametrize(("slashes", "expected"), [(255, 401), (4_000, 404)])
async def test_a_path_of_thousands_of_steps(server, slashes, expected, head):
    """Is no route's, without a look at each of its steps; a model's name may have 255 slashes."""
    path = "/v1/models/" + "a/" * slashes + "a"
    lines = (f"GET {path} HTTP/1.1", "Host: localhost", *head, "", "")
    async with connection(server) as (reader, writer):
        writer.write("\r\n".join(lines).encode())
        status, _, body = await answer(reader)
    assert status == expected
    assert (body == b'{"detail":"Not found"}') is (expected == 404)


async def grown(server, head, sent):
    """Send a head and then chunks of a megabyte; return the answer and how much memory grew."""
    memory = psutil.Process().memory_info
    async with connection(server) as (reader, writer):
        writer.write(head)
        before = peak = memory().rss
        arriving = asyncio.create_task(answer(reader))
        for chunk in sent:
            if arriving.done():
                break
            writer.write(chunk)
            await writer.drain()
            peak = max(peak, memory().rss)
        return await arriving, peak - before


@pytest.mark.parametrize("path", ["/v1/infer", "/v1/infer/upload", "/v1/models/warmup"])
async def test_a_declared_large_body_is_413_at_once(server, path):
    """A Content-Length over the limit is 413 before a byte of the body is read."""
    kind = "multipart/form-data; boundary=B" if path.endswith("upload") else "application/json"
    head = head_of(server, path, f"Content-Type: {kind}", "Content-Length: 100000000")
    status, headers, body = await exchange(server, head)
    assert status == 413
    assert detail_of(body) == "The body is over the limit of 32000000 bytes"
    assert headers["connection"] == "close"


async def test_a_large_chunked_body_is_413_and_held_by_nobody(data_dir):
    """100 MB without a Content-Length are 413 at the limit, and memory does not grow by them."""
    async with (
        testing.serving(data_dir, engine="thread", max_body_mb=2) as served,
        aiohttp.ClientSession(served.url, headers=served.headers) as http,
    ):
        head = head_of(served, "/v1/infer", *JSON_HEAD, "Transfer-Encoding: chunked")
        chunks = itertools.repeat(b"%x\r\n%s\r\n" % (len(CHUNK), CHUNK), 100)
        (status, _, body), growth = await grown(served, head, chunks)
        assert status == 413
        detail_of(body)
        assert growth < 30e6
        assert await in_flight(http) == 0


async def test_the_body_limit_is_the_settings(data_dir):
    """A body of the limit's size passes it; one byte more is 413."""
    async with (
        testing.serving(data_dir, engine="thread", max_body_mb=0.001) as served,
        aiohttp.ClientSession(served.url, headers=served.headers) as http,
    ):
        for size, status in ((1000, 400), (1001, 413)):
            query = {"model": "fake-detect"}
            await refused(http, status, "/v1/infer", params=query, data=bytes(size), headers=IMAGE)
        # One that comes after its head is measured before it is there, and while it arrives.
        kind = "Content-Type: image/png"
        head = head_of(served, "/v1/infer?model=fake-detect", kind, "Content-Length: 1000")
        async with connection(served) as (reader, writer):
            writer.write(head + bytes(999))

            async def held():
                return await in_flight(http) == 999

            await until(held)
            writer.write(bytes(1))
            assert (await answer(reader))[0] == 400


async def test_a_slow_body_is_408(data_dir):
    """A body that does not arrive in time is 408, and the connection is closed."""
    async with (
        testing.serving(data_dir, engine="thread", body_timeout=0.2) as served,
        aiohttp.ClientSession(served.url, headers=served.headers) as http,
    ):
        head = head_of(served, "/v1/infer", *JSON_HEAD, "Content-Length: 100")
        status, headers, body = await exchange(served, head + b"{")
        assert (status, headers["connection"]) == (408, "close")
        assert detail_of(body) == "The body did not arrive in time"
        assert await in_flight(http) == 0


# queues


async def test_a_full_queue_is_503_with_retry_after(data_dir):
    """A model with too many requests waiting is 503 and says when to come back."""
    async with (
        testing.serving(data_dir, engine="thread", queue_limit=2) as served,
        aiohttp.ClientSession(served.url, headers=served.headers) as http,
    ):
        await infer(http, "fake-detect", PNG)

        async def ask():
            asked = asking("fake-detect", PNG, seconds=0.2)
            async with http.post("/v1/infer", json=asked) as response:
                if response.status == 503:
                    assert int(response.headers["Retry-After"]) >= 1
                    assert await problem(response, 503) == "The model's queue is full"
                return response.status

        answers = await asyncio.gather(*(ask() for _ in range(10)))
    assert set(answers) == {200, 503}


async def test_too_many_bytes_in_flight_are_503(data_dir):
    """Bodies that arrive at the same time share a budget; what is over it is 503."""
    async with (
        testing.serving(data_dir, engine="thread", max_inflight_mb=1, max_body_mb=1) as served,
        aiohttp.ClientSession(served.url, headers=served.headers) as http,
        connection(served) as (_, writer),
    ):
        writer.write(head_of(served, "/v1/infer", *JSON_HEAD, "Content-Length: 900001"))

        async def announced():
            return await in_flight(http) == 0

        await until(announced)  # what has not arrived takes no room
        writer.write(bytes(900_000))

        async def held():
            return await in_flight(http) == 900_000

        await until(held)
        query = {"model": "fake-detect"}
        sent = {"params": query, "data": bytes(200_000), "headers": IMAGE}
        async with http.post("/v1/infer", **sent) as response:
            assert response.headers["Retry-After"] == "1"
            assert await problem(response, 503) == "Too many request bytes are in flight"
        writer.transport.abort()

        async def free():
            return await in_flight(http) == 0

        await until(free)
        await refused(http, 400, "/v1/infer", **sent)


async def test_a_draining_server_takes_no_more_work(server, http):
    """While it shuts down inference and sessions are 503 with Retry-After, and it is not ready."""
    server.composed.lifecycle.stopping.set()
    bodies = {"/v1/infer": asking("fake-detect", PNG), "/v1/sessions": {"model": "fake-detect"}}
    for path, body in bodies.items():
        async with http.post(path, json=body) as response:
            assert response.headers["Retry-After"] == "5"
            assert response.headers["Connection"] == "close"
            assert await problem(response, 503) == "The server is shutting down"
    async with http.get("/ready") as response:
        assert response.status == 503
        assert (await response.json())["waiting"] == {"server": "draining"}


async def test_a_body_that_is_under_way_at_the_end_is_read_and_answered(data_dir):
    """A request whose body was half here when the server was told to stop is served."""
    serving = testing.serving(data_dir, engine="thread")
    server = await serving.__aenter__()
    async with connection(server) as (reader, writer):
        path = "/v1/infer?model=fake-detect"
        writer.write(
            head_of(server, path, "Content-Type: image/png", f"Content-Length: {len(PNG)}")
        )
        writer.write(PNG[:50])
        while not server.composed.budget.taken:
            await asyncio.sleep(0.01)
        stopping = asyncio.create_task(serving.__aexit__(None, None, None))
        while not server.composed.lifecycle.is_draining:
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.1)
        writer.write(PNG[50:])
        status, headers, body = await answer(reader)
        assert (status, headers["connection"]) == (200, "close")
        assert b'"64x48"' in body
    await stopping


# clients that go away


async def test_a_client_that_leaves_during_its_upload(server, http, caplog):
    """A connection that breaks amid a body leaves no bytes, no traceback and a sound server."""
    caplog.set_level(logging.WARNING)
    for _ in range(3):
        async with connection(server) as (_, writer):
            head = head_of(server, "/v1/infer", *JSON_HEAD, "Content-Length: 5000000")
            writer.write(head + bytes(2_000_000))
            await writer.drain()

            async def held():
                return await in_flight(http) > 0

            await until(held)
            writer.transport.abort()

    async def free():
        return await in_flight(http) == 0

    await until(free)
    await infer(http, "fake-detect", PNG)
    assert caplog.records == []


async def test_a_client_that_leaves_during_its_inference(server, http, caplog):
    """A client that does not wait for its answer troubles nobody."""
    caplog.set_level(logging.WARNING)
    await infer(http, "fake-detect", PNG)
    head = head_of(
        server,
        "/v1/infer?model=fake-detect&seconds=0.2",
        "Content-Type: image/png",
        f"Content-Length: {len(PNG)}",
    )
    async with connection(server) as (_, writer):
        writer.write(head + PNG)

        async def active():
            async with http.get("/v1/models/fake-detect") as response:
                return (await response.json())["state"] == "active"

        await until(active)
        writer.transport.abort()
    await infer(http, "fake-detect", PNG)
    assert await in_flight(http) == 0
    assert caplog.records == []


async def test_a_client_that_leaves_during_the_load_stops_no_load(data_dir):
    """The load goes on for the next client, and is not begun again."""
    settings = {"plugins": {"fake": {"load_seconds": 0.2}}}
    async with (
        testing.serving(data_dir, engine="thread", **settings) as served,
        aiohttp.ClientSession(served.url, headers=served.headers) as http,
    ):
        head = head_of(
            served,
            "/v1/infer?model=fake-detect",
            "Content-Type: image/png",
            f"Content-Length: {len(PNG)}",
        )
        async with connection(served) as (_, writer):
            writer.write(head + PNG)

            async def loading():
                async with http.get("/v1/models/fake-detect") as response:
                    return (await response.json())["state"] == "loading"

            await until(loading)
            writer.transport.abort()
        await infer(http, "fake-detect", PNG)
        async with http.get("/metrics") as response:
            line = 'mataserver_model_loads_total{model="fake-detect",outcome="ok"} 1.0'
            assert line in await response.text()
